"""What a training that started from a checkpoint did to the names that the checkpoint already had."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fusionerlib.config import RunConfig
from fusionerlib.evaluation.queries import Query
from fusionerlib.evaluation.scoring import evaluate, predict
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel

POINTS = 3.0
"""Forgetting of more points (hundredths) than these is warned about."""


@dataclass(frozen=True)
class Forgetting:
    """The old names, those of the checkpoint that a training started from, before and after it.

    labelled: the old names that the images label. before, after: mIoU (0-1) over them, all names of the images asked
    at once; None without such a name.
    others: how many old names the images don't label. agreement: 1 minus the mean difference of their probabilities
    between checkpoint and trained model, over pixels and names, 0-1; None without such a name.
    images: how many were asked.
    """

    labelled: tuple[str, ...]
    before: float | None
    after: float | None
    others: int
    agreement: float | None
    images: int

    @property
    def points(self) -> float:
        """The larger of the two losses, in points: of mIoU, and of agreement. 0 where nothing was lost."""
        lost = [0.0]
        if self.before is not None and self.after is not None:
            lost.append(self.before - self.after)
        if self.agreement is not None:
            lost.append(1 - self.agreement)
        return 100 * max(lost)

    def figures(self) -> dict[str, Any]:
        """For a record: the fields and ``points``."""
        return {**asdict(self), "points": self.points}

    def report(self, run: RunConfig) -> str:
        """Lines for people: what was measured and, above ``POINTS``, a warning with what ``run`` can change."""
        lines = []
        if self.before is not None and self.after is not None:
            lines.append(
                f"old names that {self.images} images label ({_few(self.labelled)}): mIoU {self.before:.3f} before, "
                f"{self.after:.3f} after"
            )
        if self.agreement is not None:
            lines.append(
                f"{self.others} old names without a label here: probabilities agree with {run.training.init} to "
                f"{self.agreement:.1%}"
            )
        if self.points > POINTS:
            rehearsal = run.training.rehearsal
            more = f"rehearsal={2 * rehearsal:g}, now {rehearsal:g}" if rehearsal else "rehearsal=10, which is off"
            lines.append(
                f"warning: {self.points:.1f} points of the old names are forgotten, more than {POINTS:g}. If you need "
                f"them, train again in another folder with {more}, or with a smaller lr (now {run.training.lr:g}) or "
                "fewer steps"
            )
        return "\n".join(lines)


def measure_forgetting(
    before: SegmentationModel,
    after: SegmentationModel,
    scenes: StoredScenes,
    text_cache: TextEmbeddingCache,
    *,
    old_names: Sequence[str],
) -> Forgetting | None:
    """Compare two models of one pair of encoders on the old names, on the images of ``scenes``.

    None where there is no old name or no image.
    """
    images = range(len(scenes))
    asked = tuple(sorted({name for index in images for name in scenes.names(index)}))
    labelled = tuple(name for name in asked if name in set(old_names))
    others = tuple(sorted(set(old_names) - set(asked)))
    if not len(images) or not (labelled or others):
        return None
    scores: list[float | None] = [None, None]
    if labelled:
        queries = [Query(index, asked) for index in images]
        for number, model in enumerate((before, after)):
            iou = evaluate(model, scenes, text_cache, queries, quiet=True).iou
            scores[number] = math.fsum(iou.get(name, 0.0) for name in labelled) / len(labelled)
    agreement = None
    if others:
        queries = [Query(index, others) for index in images]
        pairs = zip(
            *(predict(model, scenes, text_cache, queries, quiet=True) for model in (before, after)), strict=True
        )
        apart = [float(np.abs(one - two).mean()) for (_, one, _), (_, two, _) in pairs]
        agreement = 1 - math.fsum(apart) / len(apart)
    return Forgetting(labelled, scores[0], scores[1], len(others), agreement, len(images))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
