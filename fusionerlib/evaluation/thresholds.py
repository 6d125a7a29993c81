"""What the background threshold decides: every pixel kept by true class, winning name and the winner's probability.

One pass over a test fills the table; mIoU, risk and the confusion between names at any threshold then cost nothing.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Integer

from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.metrics import IGNORE, per_class_iou

STEPS = 100
"""Thresholds are told apart in steps of 1 / STEPS."""


class ThresholdTable:
    """Pixel counts by (probability step, true class, winning class); class 0 is background, k + 1 is ``names[k]``.

    Fill it with the episodes of one test: of one name each, or of all names at once. A name that an episode does not
    ask for can't win there, and its pixels are background there, as everywhere in ``ClassCounts``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._place = {name: index for index, name in enumerate(self.names, start=1)}
        self._counts: Int64[np.ndarray, "steps true won"] = np.zeros(
            (STEPS + 1, len(self.names) + 1, len(self.names) + 1), dtype=np.int64
        )

    def add(
        self,
        names: Sequence[str],
        probabilities: Float[np.ndarray, "names height width"],
        target: Integer[np.ndarray, "height width"],
    ) -> None:
        """One episode: label k + 1 of ``target`` is ``names[k]``, 255 drops out; probabilities in 0-1.

        Raises FusionerError for a name that the table was not made for.
        """
        if unknown := [name for name in names if name not in self._place]:
            raise FusionerError(f"{unknown[0]!r} is none of the table's {len(self.names)} names: make it with all")
        place = np.array([0, *(self._place[name] for name in names)])
        valid = target != IGNORE
        best, winner = probabilities.max(axis=0)[valid], probabilities.argmax(axis=0)[valid] + 1
        # How many thresholds t / STEPS it exceeds, in its own precision, as ``decide`` compares: it is painted at
        # t / STEPS where that is more than t.
        step = np.searchsorted((np.arange(STEPS + 1) / STEPS).astype(best.dtype), best, side="left")
        flat = np.ravel_multi_index((step, place[target[valid]], place[winner]), self._counts.shape)
        self._counts += np.bincount(flat, minlength=self._counts.size).reshape(self._counts.shape)

    def confusion(self, threshold: float) -> Int64[np.ndarray, "true painted"]:
        """Pixels by true class (row) and painted class (column), background first, at ``threshold`` (0-1)."""
        step = self._step(threshold)
        matrix = self._counts[step + 1 :].sum(axis=0)
        matrix[:, 0] += self._counts[: step + 1].sum(axis=(0, 2))
        return matrix

    def iou(self, threshold: float) -> dict[str, float]:
        """IoU (0-1) by name, of the names with a labelled pixel."""
        matrix = self.confusion(threshold)
        shared, shown = np.diag(matrix)[1:], matrix.sum(axis=1)[1:]
        levels = per_class_iou(shared, shown + matrix.sum(axis=0)[1:] - shared)
        return {name: float(level) for name, level, pixels in zip(self.names, levels, shown, strict=True) if pixels}

    def miou(self, threshold: float) -> float:
        """Mean IoU over the names with a labelled pixel, 0-1; NaN where there is none."""
        levels = list(self.iou(threshold).values())
        return float(np.mean(levels)) if levels else math.nan

    def row(self, threshold: float) -> dict[str, float]:
        """threshold, miou; coverage: share of the named pixels that are painted; risk: share of painted ones that are
        wrong; painted: share of all pixels. All 0-1, NaN where there is nothing to divide by."""
        matrix = self.confusion(threshold)
        painted, named = matrix[:, 1:].sum(), matrix[1:].sum()
        right = np.trace(matrix) - matrix[0, 0]
        return {
            "threshold": threshold,
            "miou": self.miou(threshold),
            "coverage": float(matrix[1:, 1:].sum() / named) if named else math.nan,
            "risk": float(1 - right / painted) if painted else math.nan,
            "painted": float(painted / matrix.sum()) if matrix.sum() else math.nan,
        }

    def rows(self, *, every: int = 5) -> list[dict[str, Any]]:
        """``row`` at every ``every``-th step between 0 and 1: the risk curve."""
        return [self.row(step / STEPS) for step in range(every, STEPS, every)]

    def best(self) -> float:
        """The threshold of the largest mIoU, the one nearest to 0.5 of equals.

        Raises FusionerError where no episode showed any of the names.
        """
        scores = {step / STEPS: self.miou(step / STEPS) for step in range(1, STEPS)}
        if np.isnan(list(scores.values())).all():
            raise FusionerError("no scene shows any of the names: there is nothing to calibrate a threshold on")
        return max(scores, key=lambda threshold: (round(scores[threshold], 9), -abs(threshold - 0.5)))

    def _step(self, threshold: float) -> int:
        step = round(threshold * STEPS)
        if not 0 <= threshold <= 1 or abs(step / STEPS - threshold) > 1e-9:
            raise FusionerError(f"threshold {threshold}: expected a multiple of {1 / STEPS} between 0 and 1")
        return step
