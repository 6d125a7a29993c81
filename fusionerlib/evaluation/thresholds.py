"""The effect of the background threshold: one pass over a test gives mIoU, risk and confusion at every threshold."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Integer

from fusionerlib.datasets.scene import IGNORE
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.metrics import per_class_iou

STEPS = 100
"""Resolution of the threshold: multiples of 1 / STEPS."""


class ThresholdTable:
    """Pixel counts by (probability step of the best class, true class, best class).

    Class 0 is background, class k + 1 is ``names[k]``. Fill it with the queries of one test, single-prompt or
    all-classes. A name that a query does not ask for cannot be predicted there, and its pixels count as background,
    as in ``ClassCounts``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._place = {name: index for index, name in enumerate(self.names, start=1)}
        self._counts: Int64[np.ndarray, "steps true best"] = np.zeros(
            (STEPS + 1, len(self.names) + 1, len(self.names) + 1), dtype=np.int64
        )

    def add(
        self,
        names: Sequence[str],
        probabilities: Float[np.ndarray, "names height width"],
        target: Integer[np.ndarray, "height width"],
    ) -> None:
        """Add one query: probabilities in 0-1; label k + 1 of ``target`` is ``names[k]``, 255 is ignored.

        Raises FusionerError for a name that is not one of the table's.
        """
        if unknown := [name for name in names if name not in self._place]:
            raise FusionerError(f"{unknown[0]!r} is none of the table's {len(self.names)} names: make it with all")
        place = np.array([0, *(self._place[name] for name in names)])
        valid = target != IGNORE
        best, winner = probabilities.max(axis=0)[valid], probabilities.argmax(axis=0)[valid] + 1
        # The number of thresholds t / STEPS below the probability, compared in the probability's own precision as
        # ``decide`` does: the pixel is predicted as its best class at t / STEPS where that number exceeds t.
        step = np.searchsorted((np.arange(STEPS + 1) / STEPS).astype(best.dtype), best, side="left")
        # Counted over the query's own names: the table of all names has megabytes, and a test thousands of queries.
        own = (STEPS + 1, len(place), len(place))
        flat = np.ravel_multi_index((step, target[valid].astype(np.int64), winner), own)
        counts = np.bincount(flat, minlength=math.prod(own)).reshape(own)
        steps, true, best_of = np.nonzero(counts)
        np.add.at(self._counts, (steps, place[true], place[best_of]), counts[steps, true, best_of])

    def confusion(self, threshold: float) -> Int64[np.ndarray, "true predicted"]:
        """Pixels by true class (row) and predicted class (column), background first, at ``threshold`` (0-1)."""
        step = self._step(threshold)
        matrix = self._counts[step + 1 :].sum(axis=0)
        matrix[:, 0] += self._counts[: step + 1].sum(axis=(0, 2))
        return matrix

    def iou(self, threshold: float) -> dict[str, float]:
        """IoU (0-1) by name, of the names with at least one labelled pixel."""
        return self._iou(self.confusion(threshold))

    def miou(self, threshold: float) -> float:
        """Mean IoU (0-1) over the names with at least one labelled pixel; NaN where there is none."""
        return self._miou(self.confusion(threshold))

    def row(self, threshold: float) -> dict[str, float]:
        """A point of the risk curve, all values 0-1, NaN where the denominator is 0.

        coverage: share of the foreground pixels that are predicted as some name. risk: share of the pixels predicted
        as a name that are wrong. painted: the predicted area, as a share of all pixels. Also threshold and miou.
        """
        return self._row(threshold, self.confusion(threshold))

    def rows(self, *, every: int = 5) -> list[dict[str, Any]]:
        """The risk curve: ``row`` at every ``every``-th step between 0 and 1."""
        return [self._row(*point) for point in self._confusions(range(every, STEPS, every))]

    def best(self) -> float:
        """The threshold with the highest mIoU; of equal ones the nearest to 0.5.

        Raises FusionerError where no scene shows any of the names.
        """
        scores = {threshold: self._miou(matrix) for threshold, matrix in self._confusions(range(1, STEPS))}
        if np.isnan(list(scores.values())).all():
            raise FusionerError("no scene shows any of the names: there is nothing to calibrate a threshold on")
        return max(scores, key=lambda threshold: (round(scores[threshold], 9), -abs(threshold - 0.5)))

    def _confusions(self, steps: range) -> Iterator[tuple[float, Int64[np.ndarray, "true predicted"]]]:
        """Each threshold of ``steps``, rising, with its ``confusion``: one pass over the counts, not one for each."""
        matrix, last = self.confusion(steps.start / STEPS), steps.start
        for step in steps:
            fallen = self._counts[last + 1 : step + 1].sum(axis=0)
            matrix, last = matrix - fallen, step
            matrix[:, 0] += fallen.sum(axis=1)
            yield step / STEPS, matrix

    def _iou(self, matrix: Int64[np.ndarray, "true predicted"]) -> dict[str, float]:
        shared, shown = np.diag(matrix)[1:], matrix.sum(axis=1)[1:]
        levels = per_class_iou(shared, shown + matrix.sum(axis=0)[1:] - shared)
        return {name: float(level) for name, level, pixels in zip(self.names, levels, shown, strict=True) if pixels}

    def _miou(self, matrix: Int64[np.ndarray, "true predicted"]) -> float:
        levels = list(self._iou(matrix).values())
        return float(np.mean(levels)) if levels else math.nan

    def _row(self, threshold: float, matrix: Int64[np.ndarray, "true predicted"]) -> dict[str, float]:
        predicted, foreground = matrix[:, 1:].sum(), matrix[1:].sum()
        right = np.trace(matrix) - matrix[0, 0]
        return {
            "threshold": threshold,
            "miou": self._miou(matrix),
            "coverage": float(matrix[1:, 1:].sum() / foreground) if foreground else math.nan,
            "risk": float(1 - right / predicted) if predicted else math.nan,
            "painted": float(predicted / matrix.sum()) if matrix.sum() else math.nan,
        }

    def _step(self, threshold: float) -> int:
        step = round(threshold * STEPS)
        if not 0 <= threshold <= 1 or abs(step / STEPS - threshold) > 1e-9:
            raise FusionerError(f"threshold {threshold}: expected a multiple of {1 / STEPS} between 0 and 1")
        return step
