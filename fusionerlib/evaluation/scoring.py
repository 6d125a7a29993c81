"""From queries to predictions (the whole image resized, or sliding windows), and from predictions to counts.

All protocols share this code; they differ only in their queries and in which names are counted.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor

from fusionerlib import progress
from fusionerlib.datasets.scene import Scenes, labels_for
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.evaluation.metrics import ClassCounts, decide, harmonic_mean
from fusionerlib.evaluation.queries import Query, present_queries
from fusionerlib.evaluation.thresholds import ThresholdTable
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import TextEmbeddingCache, name_tokens, padded_name_tokens
from fusionerlib.inference.edges import Guide, enlarged
from fusionerlib.inference.requests import Edges
from fusionerlib.inference.windows import encode_windows, stride_of, window_logits
from fusionerlib.models import SegmentationModel
from fusionerlib.models.base import Size

Prediction = tuple[Query, Float[np.ndarray, "_ _ _"], Integer[np.ndarray, "_ _"]]
"""A query, its probabilities (names, height, width; 0-1), and its labels (height, width): k + 1 is
``query.target_names[k]``, 0 is everything else, 255 is ignored."""

MAX_MAPS = 64
"""Most logit maps in one batch: more of them leave the processor's cache and take twice the time."""


def predict(
    model: SegmentationModel,
    scenes: StoredScenes,
    text_cache: TextEmbeddingCache,
    queries: Sequence[Query],
    *,
    images: Scenes | None = None,
    batch: int = 16,
    quiet: bool = False,
) -> Iterator[Prediction]:
    """Answer ``queries`` from stored features of whole images; probabilities come at the size of the labels.

    images: the same scenes, whose pictures guide the edges (see ``inference.edges``); None enlarges bilinearly.
    batch: most queries that go through the model at once (fewer where they ask for many names). The scenes of a batch
    must have the same token grid and the same size. quiet: no progress bar.
    """
    text_cache.add(name for query in queries for name in query.names)
    device = model.device
    most = max((len(query.names) for query in queries), default=1)
    batch = max(1, min(batch, MAX_MAPS // most))
    parts = [queries[start : start + batch] for start in range(0, len(queries), batch)]

    @lru_cache(maxsize=MAX_MAPS)
    def guide_of(scene: int, grid: Size) -> Guide | None:
        return None if images is None else Guide.of(images[scene].image, grid)

    bar = progress.bar("evaluation", total=len(queries), unit="scene", quiet=quiet)
    for part in parts:
        patches, labels = scenes.batch([query.scene for query in part])
        tokens, names_mask = padded_name_tokens(model, text_cache, [query.names for query in part])
        grid, size = (patches.shape[1], patches.shape[2]), (labels.shape[1], labels.shape[2])
        with torch.no_grad():
            logits: Tensor = model(
                rearrange(patches, "b h w d -> b (h w) d").to(device),
                tokens.to(device),
                grid=grid,
                size=size if images is None else model.smallest_size(grid, size),
                names_mask=None if bool(names_mask.all()) else names_mask.to(device),
            )
        for query, target, maps in zip(part, labels.numpy(), logits.float().cpu(), strict=True):
            maps = maps[: len(query.names)]
            if images is not None:
                maps = enlarged(maps, size, guide=guide_of(query.scene, model.finest_grid(grid)))
            target = labels_for(target, scenes.names(query.scene), query.target_names)
            yield query, maps.sigmoid().numpy(), target
        bar.update(len(part))
    bar.close()


def predict_windows(
    model: SegmentationModel,
    scenes: Scenes,
    text_cache: TextEmbeddingCache,
    queries: Sequence[Query],
    *,
    visual: VisualEncoder,
    window: int,
    edges: Edges = "bilinear",
    quiet: bool = False,
) -> Iterator[Prediction]:
    """Answer ``queries`` by sliding windows (see ``inference.windows``), at the images' own sizes.

    visual: the frozen encoder; an image is encoded once for consecutive queries of the same scene. window: side of the
    windows in pixels; the stride is the paper's. edges: see ``inference.edges``. quiet: no progress bar.
    """
    text_cache.add(name for query in queries for name in query.names)
    device = model.device
    scene, encoded, current = None, None, -1
    for query in progress.each(queries, "sliding windows", total=len(queries), unit="question", quiet=quiet):
        if query.scene != current:
            scene, current = scenes[query.scene], query.scene
            pixels = torch.from_numpy(scene.image.copy()).to(device)
            encoded = encode_windows(visual, pixels, window=window, stride=stride_of(window))
        assert scene is not None and encoded is not None
        logits = window_logits(model, encoded, name_tokens(model, text_cache, query.names).to(device), edges=edges)
        yield query, logits.sigmoid().numpy(), labels_for(scene.labels, scene.names, query.target_names)


@dataclass(frozen=True)
class Evaluation:
    """What was counted over all queries.

    counts: intersections and unions by name. scores: each query with its own mean IoU (0-1) over the names that its
    scene shows; NaN where it has none.
    """

    counts: ClassCounts
    scores: list[tuple[Query, float]]

    def figures(self) -> dict[str, int | float]:
        """The scalars under their keys in ``metrics.json``: scenes (number of queries), miou and fb_iou (0-1)."""
        return {"scenes": len(self.scores), "miou": self.counts.miou, "fb_iou": self.counts.fb_iou}

    @property
    def queries(self) -> list[Query]:
        """All queries, in the order in which they were answered."""
        return [query for query, _ in self.scores]

    @property
    def iou(self) -> dict[str, float]:
        """IoU (0-1) by name. Names whose union is empty are left out."""
        return {row["name"]: row["iou"] for row in self.counts.table() if not math.isnan(row["iou"])}

    def extremes(self, count: int) -> list[Query]:
        """The ``count`` queries with the highest scores, best first, then the ``count`` lowest, worst last."""
        ranked = [query for query, _ in sorted(self.scores, key=lambda row: -row[1])]
        return ranked[:count] + ranked[max(count, len(ranked) - count) :]


def score(
    predictions: Iterable[Prediction],
    *,
    present: Callable[[int], Sequence[str]],
    threshold: float = 0.5,
    table: ThresholdTable | None = None,
) -> Evaluation:
    """Compare predictions with their labels at ``threshold`` (see ``metrics.decide``), counted by name.

    present: gives the names that a scene shows. Only names that some scene shows are counted as classes; false
    positives of the other names still reduce the IoU of the classes whose pixels they take.
    table: receives every prediction too, so that other thresholds can be evaluated later.
    """
    counts, scores, shown = ClassCounts(), [], set[str]()
    for query, probabilities, target in predictions:
        episode, there = ClassCounts(), present(query.scene)
        episode.add(query.target_names, decide(probabilities, threshold=threshold), target)
        scores.append((query, episode.only(there).miou))
        counts.merge(episode)
        shown.update(there)
        if table is not None:
            table.add(query.target_names, probabilities, target)
    return Evaluation(counts.only(shown), scores)


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
    """``predict``, then ``score``."""
    predictions = predict(model, scenes, text_cache, queries, quiet=quiet)
    return score(predictions, present=scenes.names, threshold=threshold, table=table)


def zero_shot(iou: Mapping[str, float], *, unseen: Collection[str]) -> dict[str, float]:
    """The generalized zero-shot triple of the all-classes protocol, from the IoU (0-1) by name.

    ``seen`` and ``unseen`` are the means over the names of training and over ``unseen`` (NaN where there is none),
    ``harmonic`` is 2SU / (S + U).
    """
    seen, novel = ([level for name, level in iou.items() if (name in unseen) == kind] for kind in (False, True))
    means = [float(np.mean(levels)) if levels else math.nan for levels in (seen, novel)]
    return {"seen": means[0], "unseen": means[1], "harmonic": harmonic_mean(*means)}


def validation(
    tests: Mapping[str, StoredScenes], text_cache: TextEmbeddingCache, *, scenes: int
) -> Callable[[SegmentationModel], dict[str, float]]:
    """A callback for training: mIoU on the first ``scenes`` scenes of the test ``seen``, asked for what they show.

    A data set without that test is not validated during training: its unseen classes are kept for the final test.
    """

    def validate(model: SegmentationModel) -> dict[str, float]:
        if "seen" not in tests:
            return {}
        queries = present_queries(tests["seen"])[:scenes]
        return {"miou": evaluate(model, tests["seen"], text_cache, queries, quiet=True).counts.miou}

    return validate
