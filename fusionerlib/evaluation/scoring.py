"""Evaluation: queries to probabilities to counts. Protocols differ only in their queries and in what is counted.

Answers at the images' own sizes, by sliding windows.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor

from fusionerlib import progress
from fusionerlib.datasets.scene import Scenes
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.evaluation.metrics import ClassCounts, decide, harmonic_mean
from fusionerlib.evaluation.queries import Query, present_queries
from fusionerlib.evaluation.thresholds import ThresholdTable
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.inference.windows import encode_windows, stride_of, window_logits
from fusionerlib.models import SegmentationModel
from fusionerlib.progress import each

RECORD_NAMES = {
    "seen": "seen_names",
    "combinations": "unseen_combinations",
    "objects": "unseen_objects",
    "novel": "novel_classes",
    "all": "all_classes",
    "validation": "validation",
}
"""What ``metrics.json`` calls the tests."""


Prediction = tuple[Query, Float[np.ndarray, "_ _ _"], Integer[np.ndarray, "_ _"]]
"""A query, its probabilities (names, height, width; 0-1), and the labels: k + 1 is ``query.truth[k]``, 255 ignored."""

MAPS = 64
"""Most logit maps made at once: more of them leave the processor's cache, at twice the time."""


def predict(
    model: SegmentationModel,
    scenes: StoredScenes,
    text_cache: TextEmbeddingCache,
    queries: Sequence[Query],
    *,
    batch: int = 16,
    quiet: bool = False,
) -> Iterator[Prediction]:
    """Each query with its probabilities (0-1) at the labels' size, and the labels by the query's names.

    In those labels k + 1 is ``query.truth[k]``, 0 everything else, 255 ignored. Scenes must share one grid and size.
    """
    text_cache.add(name for query in queries for name in query.names)
    device = model.device
    most = max((len(query.names) for query in queries), default=1)
    batch = max(1, min(batch, MAPS // most))
    parts = [queries[start : start + batch] for start in range(0, len(queries), batch)]
    shown = progress.bar("evaluation", total=len(queries), unit="scene", quiet=quiet)
    for part in parts:
        patches, labels = scenes.batch([query.scene for query in part])
        tokens, names_mask = text_cache.padded([query.names for query in part])
        with torch.no_grad():
            logits: Tensor = model(
                rearrange(patches, "b h w d -> b (h w) d").to(device),
                tokens.to(device),
                grid=(patches.shape[1], patches.shape[2]),
                size=(labels.shape[1], labels.shape[2]),
                names_mask=None if bool(names_mask.all()) else names_mask.to(device),
            )
        for query, target, maps in zip(part, labels.numpy(), logits.sigmoid().cpu().numpy(), strict=True):
            yield query, maps[: len(query.names)], relabelled(target, scenes.names(query.scene), query.truth)
        shown.update(len(part))
    shown.close()


def relabelled(labels: np.ndarray, names: Sequence[str], asked: Sequence[str]) -> np.ndarray:
    """Labels by ``names`` as labels by ``asked``: what is not asked becomes background, 255 stays."""
    table = np.zeros(256, dtype=np.int32)
    table[255] = 255
    for place, name in enumerate(names, start=1):
        if name in asked:
            table[place] = asked.index(name) + 1
    return table[labels]


@dataclass(frozen=True)
class Evaluation:
    """Counts by name over all queries, and each query's own score: mean IoU (0-1) over the names in its scene."""

    counts: ClassCounts
    scores: list[tuple[Query, float]]

    def figures(self) -> dict[str, int | float]:
        """The scalars, by the names that ``metrics.json`` uses."""
        return {"scenes": len(self.scores), "miou": self.counts.miou, "fb_iou": self.counts.fb_iou}

    @property
    def iou(self) -> dict[str, float]:
        """IoU (0-1) by name, of the names that have one."""
        return {row["name"]: row["iou"] for row in self.counts.table() if not math.isnan(row["iou"])}

    def extremes(self, count: int) -> list[Query]:
        """The ``count`` best queries, best first, then the ``count`` worst, worst last."""
        ranked = [query for query, _ in sorted(self.scores, key=lambda row: -row[1])]
        return ranked[:count] + ranked[max(count, len(ranked) - count) :]


def evaluate(
    model: SegmentationModel,
    scenes: StoredScenes,
    text_cache: TextEmbeddingCache,
    queries: Sequence[Query],
    *,
    threshold: float = 0.5,
    table: ThresholdTable | None = None,
    quiet: bool = False,
) -> Evaluation:
    """All ``queries`` answered and scored; the parameters of ``predict`` and ``score``."""
    predictions = predict(model, scenes, text_cache, queries, quiet=quiet)
    return score(predictions, present=scenes.names, threshold=threshold, table=table)


def score(
    predictions: Iterable[Prediction],
    *,
    present: Callable[[int], Sequence[str]],
    threshold: float = 0.5,
    table: ThresholdTable | None = None,
) -> Evaluation:
    """Argmax over each query's names, background at or under ``threshold``, counted by name.

    Only names that some scene shows (``present`` gives a scene's) are counted as classes; what was painted for the
    others still costs the classes whose pixels it took. table: gets every prediction too, for other thresholds.
    """
    counts, scores, shown = ClassCounts(), [], set[str]()
    for query, probabilities, target in predictions:
        episode, there = ClassCounts(), present(query.scene)
        episode.add(query.truth, decide(probabilities, threshold=threshold), target)
        scores.append((query, episode.only(there).miou))
        counts.merge(episode)
        shown.update(there)
        if table is not None:
            table.add(query.truth, probabilities, target)
    return Evaluation(counts.only(shown), scores)


def zero_shot(iou: Mapping[str, float], *, unseen: Collection[str]) -> dict[str, float]:
    """The generalized zero-shot triple from the IoU (0-1) of names asked together: the means over the ``seen`` and the
    ``unseen`` ones, and their ``harmonic`` mean. NaN where the test shows no name of a kind."""
    seen, novel = ([level for name, level in iou.items() if (name in unseen) == kind] for kind in (False, True))
    means = [float(np.mean(levels)) if levels else math.nan for levels in (seen, novel)]
    return {"seen": means[0], "unseen": means[1], "harmonic": harmonic_mean(*means)}


def validation(
    tests: Mapping[str, StoredScenes], text_cache: TextEmbeddingCache, *, scenes: int
) -> Callable[[SegmentationModel], dict[str, float]]:
    """What training calls at times: mIoU on ``scenes`` scenes of the test of *seen* names, asked for what they show.

    A data set without such a test is not validated on: its novel classes are for the end.
    """

    def validate(model: SegmentationModel) -> dict[str, float]:
        if "seen" not in tests:
            return {}
        queries = present_queries(tests["seen"])[:scenes]
        return {"miou": evaluate(model, tests["seen"], text_cache, queries, quiet=True).counts.miou}

    return validate


def predict_windows(
    model: SegmentationModel,
    scenes: Scenes,
    text_cache: TextEmbeddingCache,
    queries: Sequence[Query],
    *,
    visual: VisualEncoder,
    window: int,
    quiet: bool = False,
) -> Iterator[Prediction]:
    """``scoring.predict`` at the images' own sizes, window by window at the paper's stride.

    Questions about one scene that follow each other share the tower's work.
    """
    text_cache.add(name for query in queries for name in query.names)
    device = model.device
    scene, encoded, current = None, None, -1
    for query in each(queries, "sliding windows", total=len(queries), unit="question", quiet=quiet):
        if query.scene != current:
            scene, current = scenes[query.scene], query.scene
            pixels = torch.from_numpy(scene.image.copy()).to(device)
            encoded = encode_windows(visual, pixels, window=window, stride=stride_of(window))
        assert scene is not None and encoded is not None
        logits = window_logits(model, encoded, text_cache.tokens(query.names).to(device))
        yield query, logits.sigmoid().numpy(), relabelled(scene.labels, scene.names, query.truth)
