"""Answers at the images' own sizes, by sliding windows."""

from collections.abc import Iterator, Sequence

import torch

from fusionerlib.datasets.scene import Scenes
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.evaluation.queries import Query
from fusionerlib.evaluation.scoring import Prediction, relabelled
from fusionerlib.frozen.words import WordTable
from fusionerlib.fusion.model import SegmentationModel
from fusionerlib.inference.sliding import encode_windows, window_logits
from fusionerlib.inference.windows import stride_of
from fusionerlib.progress import each


def predict_windows(
    model: SegmentationModel,
    scenes: Scenes,
    words: WordTable,
    queries: Sequence[Query],
    *,
    visual: VisualEncoder,
    window: int,
    quiet: bool = False,
) -> Iterator[Prediction]:
    """``scoring.predict`` at the images' own sizes, window by window at the paper's stride.

    Questions about one scene that follow each other share the tower's work.
    """
    words.add(name for query in queries for name in query.names)
    device = model.device
    scene, encoded, current = None, None, -1
    for query in each(queries, "sliding windows", total=len(queries), unit="question", quiet=quiet):
        if query.scene != current:
            scene, current = scenes[query.scene], query.scene
            pixels = torch.from_numpy(scene.image.copy()).to(device)
            encoded = encode_windows(visual, pixels, window=window, stride=stride_of(window))
        assert scene is not None and encoded is not None
        logits = window_logits(model, encoded, words.tokens(query.names).to(device))
        yield query, logits.sigmoid().numpy(), relabelled(scene.labels, scene.names, query.truth)
