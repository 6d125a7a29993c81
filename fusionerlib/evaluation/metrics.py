"""Segmentation metrics: pure functions on pixel counts, and ``ClassCounts``, which adds counts up by class name.

A label map holds 0 for background and k + 1 for the k-th name; pixels whose target is 255 are ignored. Counts are
summed over all episodes before dividing (PASCAL-5i and COCO-20i protocol; Fusioner, BMVC 2022).
"""

import math
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, Integer, Real

from fusionerlib.datasets.scene import IGNORE
from fusionerlib.errors import FusionerError

BAND = 0.02
"""Width of the boundary band as a share of the image's diagonal (Cheng et al., CVPR 2021)."""
LABELS = {"miou": "mIoU", "fb iou": "FB-IoU"}


def metric_label(key: str) -> str:
    """The label of a metric in figures and tables: ``mosaic4.miou_permuted`` becomes "mosaic4: mIoU permuted"."""
    text = key.replace(".", ": ").replace("_", " ")
    for name, written in LABELS.items():
        text = re.sub(rf"\b{name}\b", written, text)
    return text


class MaskCounts(NamedTuple):
    """Pixel counts of a predicted mask against its target, and of the background of the one against the other's."""

    intersection: int
    union: int
    background_intersection: int
    background_union: int


def intersection_union(
    predicted: Integer[np.ndarray, "height width"],
    target: Integer[np.ndarray, "rows columns"],
    *,
    classes: int,
    ignore: int = IGNORE,
) -> tuple[Int64[np.ndarray, " classes"], Int64[np.ndarray, " classes"]]:
    """Pixels in the intersection and in the union of the two maps, for each label from 0 to ``classes`` - 1.

    classes: number of labels including background, so K names need K + 1. Pixels with target ``ignore`` do not count.
    Raises FusionerError where the maps differ in size or hold a label outside that range.
    """
    _same_size(predicted, target)
    # Flat and wide: on a uint8 map neither a comparison with 1000 classes nor bincount may wrap round.
    valid = target != ignore
    found, wanted = predicted[valid].astype(np.int64), target[valid].astype(np.int64)
    for role, labels in (("predicted", found), ("target", wanted)):
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise FusionerError(
                f"the {role} map holds labels {labels.min()} to {labels.max()}, expected 0 to {classes - 1}: "
                "pass classes = number of names + 1"
            )
    shared = np.bincount(found[found == wanted], minlength=classes)
    return shared, np.bincount(found, minlength=classes) + np.bincount(wanted, minlength=classes) - shared


def mask_counts(
    predicted: Bool[np.ndarray, "height width"],
    target: Bool[np.ndarray, "rows columns"],
    valid: Bool[np.ndarray, "height width"] | None = None,
) -> MaskCounts:
    """Counts of a predicted mask against its target over the ``valid`` pixels (default: all).

    Raises FusionerError where the masks differ in size.
    """
    _same_size(predicted, target)
    if valid is not None:
        _same_size(predicted, valid)
        predicted, target = predicted[valid], target[valid]
    both, either = int((predicted & target).sum()), int((predicted | target).sum())
    return MaskCounts(
        intersection=both,
        union=either,
        background_intersection=predicted.size - either,
        background_union=predicted.size - both,
    )


def per_class_iou(
    intersections: Real[np.ndarray, " classes"], unions: Real[np.ndarray, " classes"]
) -> Float[np.ndarray, " classes"]:
    """IoU = I / U of each class, 0-1; NaN for a class that neither occurs nor was predicted (U = 0)."""
    inter, union = np.asarray(intersections, dtype=np.float64), np.asarray(unions, dtype=np.float64)
    return np.divide(inter, union, out=np.full(union.shape, np.nan), where=union > 0)


def miou(intersections: Real[np.ndarray, " classes"], unions: Real[np.ndarray, " classes"]) -> float:
    """Mean IoU over the classes, 0-1. Classes with union 0 are left out; NaN where none is left."""
    iou = per_class_iou(intersections, unions)
    kept = iou[~np.isnan(iou)]
    return float(kept.mean()) if kept.size else math.nan


def fb_iou(intersections: Real[np.ndarray, "2"], unions: Real[np.ndarray, "2"]) -> float:
    """Foreground-background IoU, 0-1: the mean IoU of (background, foreground), counts summed over episodes."""
    return miou(intersections, unions)


def harmonic_mean(seen: float, unseen: float) -> float:
    """2SU / (S + U), the harmonic mean of the generalized zero-shot protocol; 0 where both are 0."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def decide(
    probabilities: Float[np.ndarray, "names height width"], *, threshold: float = 0.5
) -> Int32[np.ndarray, "height width"]:
    """Label map from probabilities (0-1): k + 1 for the name k with the highest probability, 0 for background.

    A pixel is background where no probability exceeds ``threshold`` (paper). A tie goes to the first name.
    """
    if not len(probabilities):
        return np.zeros(probabilities.shape[1:], dtype=np.int32)
    labels = probabilities.argmax(axis=0).astype(np.int32) + 1
    return np.where(probabilities.max(axis=0) > threshold, labels, np.int32(0))


def confusion_matrix(
    predicted: Integer[np.ndarray, "height width"], target: Integer[np.ndarray, "height width"], *, classes: int
) -> Int64[np.ndarray, "true predicted"]:
    """Pixels by true (row) and predicted label (column), each 0 to ``classes`` - 1; target 255 is ignored."""
    valid = target != IGNORE
    flat = target[valid].astype(np.int64) * classes + predicted[valid]
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def boundary_counts(
    predicted: Integer[np.ndarray, "height width"], target: Integer[np.ndarray, "height width"], *, classes: int
) -> tuple[Int64[np.ndarray, " classes"], Int64[np.ndarray, " classes"]]:
    """Intersections and unions of the boundary bands by label: boundary IoU (Cheng et al., CVPR 2021, eq. 1).

    The band of a mask are its pixels within d of its boundary or the image's, d being ``BAND`` of the diagonal and at
    least 1 (their code's rounding and square neighbourhood). Ignored pixels are taken out of both masks first. The
    counts of label 0 have no meaning.
    """
    width = max(1, round(BAND * math.hypot(*target.shape)))
    valid = target != IGNORE
    bands = []
    for labels in (predicted, target):
        kept = np.where(valid, labels, -1).astype(np.int16)
        bands.append(np.where(boundary_band(kept, width=width), kept, 0).astype(np.int64))
    return intersection_union(np.maximum(bands[0], 0), np.maximum(bands[1], 0), classes=classes, ignore=-1)


def boundary_band(labels: Integer[np.ndarray, "height width"], *, width: int) -> Bool[np.ndarray, "height width"]:
    """Pixels with another label, or the end of the image, within ``width`` rows and columns (a square window).

    For all labels at once: a window shows one label alone where its smallest and its largest are equal.
    """
    padded = np.pad(labels.astype(np.int16), width, constant_values=-2)
    return _window(padded, np.minimum, 2 * width + 1) != _window(padded, np.maximum, 2 * width + 1)


def permuted(labels: Integer[np.ndarray, "height width"], *, names: int) -> Integer[np.ndarray, "height width"]:
    """Control: name k gets the mask of name k - 1 (the first that of the last), so that no name keeps its own.

    The mIoU drops to about 0 for a model that distinguishes the names, and stays the same for one that only finds
    objects. Raises FusionerError for fewer than two names.
    """
    if names < 2:
        raise FusionerError(f"{names} name can't be permuted: the control needs at least 2 names")
    return np.where(labels > 0, labels % names + 1, labels).astype(labels.dtype)


def object_only(labels: Integer[np.ndarray, "height width"], *, names: int) -> Bool[np.ndarray, "names height width"]:
    """Control: every name gets the union of all predicted masks, for a mIoU of about 1 / names at best."""
    return np.repeat((labels > 0)[None], names, axis=0)


class ClassCounts:
    """Sums of intersections and unions by class *name*; episodes may ask for different names.

    The foreground of FB-IoU is the union of all names that an episode asks for; with one name that is the paper's
    definition.
    """

    def __init__(self) -> None:
        self._names: dict[str, np.ndarray] = {}
        self._foreground_background = np.zeros((2, 2), dtype=np.int64)

    def add(
        self,
        names: Sequence[str],
        predicted: Integer[np.ndarray, "height width"],
        target: Integer[np.ndarray, "rows columns"],
    ) -> None:
        """Add one episode. In both maps label k + 1 is ``names[k]``; pixels with target 255 are ignored.

        A name that the target does not show counts too: false positives enlarge its union.
        Raises FusionerError for repeated names, for maps of different size, and for labels beyond the names.
        """
        _check(names)
        inter, union = intersection_union(predicted, target, classes=len(names) + 1)
        self._add(names, inter[1:], union[1:], mask_counts(predicted > 0, target > 0, target != IGNORE))

    def add_masks(
        self,
        names: Sequence[str],
        predicted: Bool[np.ndarray, "names height width"],
        target: Integer[np.ndarray, "rows columns"],
    ) -> None:
        """Add one episode with one predicted mask a name; the masks may overlap. Raises as ``add`` does."""
        _check(names)
        if len(predicted) != len(names):
            raise FusionerError(f"{len(predicted)} masks for {len(names)} names: pass one mask a name")
        valid = target != IGNORE
        if valid.any() and target[valid].max() > len(names):
            raise FusionerError(f"the target holds label {target[valid].max()} but only {len(names)} names are given")
        each = [mask_counts(predicted[k], target == k + 1, valid)[:2] for k in range(len(names))]
        inter, union = np.array(each, dtype=np.int64).reshape(-1, 2).T
        self._add(names, inter, union, mask_counts(np.asarray(predicted.any(axis=0)), target > 0, valid))

    def _add(self, names: Sequence[str], inter: np.ndarray, union: np.ndarray, fb: MaskCounts) -> None:
        for name, i, u in zip(names, inter, union, strict=True):
            self._names[name] = self._names.get(name, np.zeros(3, dtype=np.int64)) + np.array([i, u, 1])
        self._foreground_background += ((fb.background_intersection, fb.intersection), (fb.background_union, fb.union))

    def merge(self, other: "ClassCounts") -> "ClassCounts":
        """Add the counts of ``other`` to these, in place; returns self."""
        for name, counts in other._names.items():
            self._names[name] = self._names.get(name, np.zeros(3, dtype=np.int64)) + counts
        self._foreground_background += other._foreground_background
        return self

    def only(self, names: Collection[str]) -> "ClassCounts":
        """A copy with the counts of ``names`` only. FB-IoU stays that of all episodes."""
        kept = ClassCounts()
        kept._names = {name: counts for name, counts in self._names.items() if name in names}
        kept._foreground_background = self._foreground_background.copy()
        return kept

    def table(self) -> list[dict[str, Any]]:
        """One row a name, sorted by name: name, intersection and union (pixels), iou (0-1 or NaN), episodes (how many
        asked for it)."""
        return [
            {"name": name, "intersection": i, "union": u, "iou": i / u if u else math.nan, "episodes": episodes}
            for name, (i, u, episodes) in sorted((name, counts.tolist()) for name, counts in self._names.items())
        ]

    @property
    def miou(self) -> float:
        """Mean IoU over the names, 0-1; names with union 0 are left out, NaN where none is left."""
        counts = np.array(list(self._names.values()), dtype=np.int64).reshape(-1, 3)
        return miou(counts[:, 0], counts[:, 1])

    @property
    def fb_iou(self) -> float:
        """Foreground-background IoU over all episodes, 0-1; NaN before the first."""
        return fb_iou(*self._foreground_background)


def _window(values: np.ndarray, least_or_most: np.ufunc, length: int) -> np.ndarray:
    """Minimum or maximum over windows of ``length`` x ``length``: windows double, so this takes log(length) passes."""
    for _ in range(2):
        covered = 1
        while covered < length:
            step = min(covered, length - covered)
            values = least_or_most(values[:-step], values[step:])
            covered += step
        values = values.T
    return values


def _check(names: Sequence[str]) -> None:
    if len(names) >= IGNORE:
        raise FusionerError(f"{len(names)} names in one episode: label {IGNORE} is the ignored one, so at most 254")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise FusionerError(f"the name {name!r} is given twice: ask for each name once")


def _same_size(predicted: np.ndarray, target: np.ndarray) -> None:
    if predicted.shape != target.shape:
        raise FusionerError(
            f"the predicted map is {predicted.shape} but the target is {target.shape} (height, width): "
            "resize the prediction to the target's size"
        )
