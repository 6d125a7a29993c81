"""Scores of a segmenter on labelled images, with bootstrap intervals, and the paired difference of two segmenters.

``evaluate`` counts pixels for every image; all figures, their intervals and the comparisons are computed from these
counts alone. The images keep their own sizes: what is scored is what ``Segmenter.segment`` returns.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from fusionerlib import progress
from fusionerlib.datasets.names import unseen
from fusionerlib.datasets.scene import IGNORE, Scenes, labels_for, vocabulary
from fusionerlib.errors import FusionerError, nearest
from fusionerlib.evaluation.metrics import boundary_counts, confusion_matrix, mask_counts
from fusionerlib.evaluation.queries import absent_queries, single_queries
from fusionerlib.inference.requests import THRESHOLD, Threshold, checked_names, checked_threshold
from fusionerlib.inference.segmentation import Segmentation, best_names
from fusionerlib.inference.segmenter import Segmenter
from fusionerlib.name_forms import spelt_as

FIGURES = {
    "miou": "mIoU, all classes",
    "seen": "mIoU, names of training",
    "unseen": "mIoU, other names",
    "harmonic": "harmonic mean of the two",
    "boundary_iou": "boundary IoU, all classes",
    "pixel_accuracy": "pixel accuracy, all classes",
    "single_prompt_miou": "mIoU, single prompt",
    "absent_prompt_miou": "mIoU, absent prompt (control)",
    "absent_area": "predicted area, absent prompt",
}
"""The figures of ``Scores``, all 0-1, and their labels in tables."""
BY_TRAINING = ("seen", "unseen", "harmonic")
"""The figures over the names that training had or did not have."""
LEVEL = 0.95
"""Confidence level of all intervals."""
DRAWS = 2000
"""Resamples of the bootstrap."""
_AT_ONCE = 250
"""Resamples whose weights are in memory at once."""

Weights = Float[np.ndarray, "draws images"]
"""How often each image counts in each resample."""


class Interval(NamedTuple):
    """A figure with its interval at ``LEVEL``; NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ImageCounts:
    """Two numbers of pixels by image (row) and name (column), whose sums are divided: I and U of an IoU, as a rule."""

    intersections: Int64[np.ndarray, "images names"]
    unions: Int64[np.ndarray, "images names"]

    @classmethod
    def zeros(cls, images: int, names: int) -> "ImageCounts":
        """No pixel counted yet."""
        return cls(np.zeros((images, names), dtype=np.int64), np.zeros((images, names), dtype=np.int64))

    def ratios(self, weights: Weights) -> Float[np.ndarray, "draws names"]:
        """Weighted sum of the intersections divided by that of the unions, 0-1; NaN where the unions are empty."""
        return _divided(weights @ self.intersections.astype(float), weights @ self.unions.astype(float))


@dataclass(frozen=True)
class Scores:
    """What was counted on every image, and the figures computed from it.

    names: the names asked. keys: the images. shown: which names each image shows.
    all_classes, boundary: all names asked at once; the masks, and their boundary bands.
    single_prompt: each name that an image shows, asked alone. absent_prompt: a name that it does not show is asked in
        its place, and scored against the mask of the name that is there.
    absent_area: pixels predicted for a name that is asked alone and not there, and all labelled pixels of its images.
    accuracy: pixels with the right label, and all labelled pixels, by image.
    confusion: pixels by true (row) and predicted label (column) in ``all_classes``, background first.
    trained_names: the names of training; () where unknown, and then the figures by seen and unseen names are NaN.
    notes: what is to be said of the names (``Segmenter.notes``).

    A class counts where an image shows it. IoU is the sum of intersections over the images divided by that of unions.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    shown: Bool[np.ndarray, "images names"]
    all_classes: ImageCounts
    single_prompt: ImageCounts
    absent_prompt: ImageCounts
    boundary: ImageCounts
    absent_area: ImageCounts
    accuracy: Int64[np.ndarray, "images 2"]
    confusion: Int64[np.ndarray, "true predicted"]
    trained_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unseen(self) -> tuple[str, ...]:
        """The names asked that did not occur in training, under any of their synonyms; () where that is unknown."""
        return unseen(self.names, trained=self.trained_names) if self.trained_names else ()

    def draws(self, weights: Weights) -> dict[str, Float[np.ndarray, " draws"]]:
        """Every figure of ``FIGURES`` for every row of ``weights``; a row of ones gives the figures themselves."""
        iou = self.iou(self.all_classes, weights)
        new = np.array([name in self.unseen for name in self.names], dtype=bool)
        nothing = np.full(len(weights), math.nan)
        seen, novel = (_mean(iou[:, ~new]), _mean(iou[:, new])) if self.trained_names else (nothing, nothing)
        area = self.absent_area
        right, labelled = (weights @ self.accuracy.astype(float)).T
        return {
            "miou": _mean(iou),
            "seen": seen,
            "unseen": novel,
            "harmonic": np.where(seen + novel == 0, 0.0, _divided(2 * seen * novel, seen + novel)),
            "boundary_iou": _mean(self.iou(self.boundary, weights)),
            "pixel_accuracy": _divided(right, labelled),
            "single_prompt_miou": _mean(self.iou(self.single_prompt, weights)),
            "absent_prompt_miou": _mean(self.iou(self.absent_prompt, weights)),
            "absent_area": _divided(weights @ area.intersections.sum(axis=1), weights @ area.unions.sum(axis=1)),
        }

    def iou(self, counts: ImageCounts, weights: Weights) -> Float[np.ndarray, "draws names"]:
        """IoU (0-1) by name for every row of ``weights``; NaN for a name that no image with a weight shows."""
        return np.where(weights @ self.shown > 0, counts.ratios(weights), math.nan)

    @cached_property
    def figures(self) -> dict[str, Interval]:
        """Every figure of ``FIGURES`` with its bootstrap interval over images."""
        value, resampled = self.draws(np.ones((1, len(self.keys)))), self.resampled
        return {key: _interval(float(value[key][0]), resampled[key], len(self.keys)) for key in FIGURES}

    @cached_property
    def resampled(self) -> dict[str, Float[np.ndarray, " draws"]]:
        """Every figure on the resamples: they are the same ones for all ``Scores`` of as many images."""
        parts = [self.draws(weights) for weights in resamples(len(self.keys))]
        return {key: np.concatenate([part[key] for part in parts]) for key in FIGURES}

    @cached_property
    def resampled_iou(self) -> Float[np.ndarray, "draws names"]:
        """All-classes IoU by name on the resamples."""
        return np.concatenate([self.iou(self.all_classes, weights) for weights in resamples(len(self.keys))])

    @property
    def image_scores(self) -> Float[np.ndarray, " images"]:
        """Mean all-classes IoU over the names that an image shows, 0-1; NaN for one that shows none."""
        iou = _divided(self.all_classes.intersections.astype(float), self.all_classes.unions.astype(float))
        return _mean(np.where(self.shown, iou, math.nan))

    def classes(self) -> list[dict[str, Any]]:
        """One row a name: images that show it, seen in training (None if unknown), its scores and interval (0-1), and
        ``confused_with``, the label that most of its missed pixels have ("" where none is missed)."""
        one = np.ones((1, len(self.keys)))
        kinds = {
            "iou": self.all_classes,
            "boundary_iou": self.boundary,
            "single_prompt_iou": self.single_prompt,
            "absent_prompt_iou": self.absent_prompt,
        }
        values = {kind: self.iou(counts, one)[0] for kind, counts in kinds.items()}
        areas, labels = self.absent_area.ratios(one)[0], ("background", *self.names)
        rows = []
        for place, name in enumerate(self.names):
            missed = self.confusion[place + 1].copy()
            missed[place + 1] = 0
            spread = _interval(float(values["iou"][place]), self.resampled_iou[:, place], len(self.keys))
            rows.append(
                {
                    "name": name,
                    "images": int(self.shown[:, place].sum()),
                    "seen": name not in self.unseen if self.trained_names else None,
                    **{kind: float(value[place]) for kind, value in values.items()},
                    "low": spread.low,
                    "high": spread.high,
                    "absent_area": float(areas[place]),
                    "confused_with": labels[int(missed.argmax())] if missed.any() else "",
                }
            )
        return rows


def evaluate(
    segmenter: Segmenter,
    dataset: Scenes,
    *,
    names: Iterable[str] = (),
    threshold: Threshold = THRESHOLD,
    background: bool = True,
    seed: int = 0,
    quiet: bool = False,
) -> Scores:
    """Score ``segmenter`` on every image of ``dataset``.

    names: asked of every image; () for all names of the data set. Pixels of its other names count as background, and
        names that no image shows are distractors.
    threshold: 0-1, for all names or by name. background: False gives every pixel to one of the names in the all-classes
        figures, and pixels labelled as background do not count there.
    seed: of the absent names. quiet: no progress bar.
    Raises FusionerError for a data set without images, where it shows none of ``names``, and as ``segment`` does.
    """
    if not len(dataset):
        raise FusionerError("the data set has no image: give a folder with some, or another split")
    names = checked_against(names, dataset)
    notes, threshold = segmenter.notes(names), checked_threshold(threshold, names)
    count, images = len(names), len(dataset)
    shown, confusion = np.zeros((images, count), dtype=bool), np.zeros((count + 1, count + 1), dtype=np.int64)
    all_classes, single, absent, boundary, area = (ImageCounts.zeros(images, count) for _ in range(5))
    accuracy, keys = np.zeros((images, 2), dtype=np.int64), []
    # By image: the absent name that is asked in place of each name that is there.
    replaced: dict[int, list[tuple[str, str]]] = {}
    pairs = [(index, name) for index in range(images) for name in dataset.names(index) if name in names]
    for query in absent_queries(single_queries(pairs), present=dataset.names, vocabulary=names, seed=seed):
        replaced.setdefault(query.scene, []).append((query.names[0], query.scored_as[0]))
    for index in progress.each(range(images), "evaluation", total=images, unit="image", quiet=quiet):
        scene = dataset[index]
        keys.append(scene.key)
        target = labels_for(scene.labels, scene.names, names)
        valid = target != IGNORE
        shown[index] = np.bincount(target[valid], minlength=count + 1)[1:] > 0
        result = segmenter.set_image(scene.image).segment(names, threshold=threshold, background=background)
        predicted = result.labels

        wanted = target if background else np.where(target == 0, np.int32(IGNORE), target)
        matrix = confusion_matrix(predicted, wanted, classes=count + 1)
        confusion += matrix
        accuracy[index] = np.trace(matrix), matrix.sum()
        right = np.diag(matrix)
        all_classes.intersections[index] = right[1:]
        all_classes.unions[index] = (matrix.sum(axis=0) + matrix.sum(axis=1) - right)[1:]
        shared, either = boundary_counts(predicted, wanted, classes=count + 1)
        boundary.intersections[index], boundary.unions[index] = shared[1:], either[1:]

        for place in np.flatnonzero(shown[index]).tolist():
            mask = _alone(segmenter, result, names[place], threshold)
            counted = mask_counts(mask, target == place + 1, valid)
            single.intersections[index, place], single.unions[index, place] = counted[:2]
        for asked, there in replaced.get(index, ()):
            mask, place = _alone(segmenter, result, asked, threshold), names.index(there)
            if shown[index, place]:
                counted = mask_counts(mask, target == place + 1, valid)
                absent.intersections[index, place], absent.unions[index, place] = counted[:2]
            area.intersections[index, names.index(asked)] += int(mask[valid].sum())
            area.unions[index, names.index(asked)] += int(valid.sum())
    return Scores(
        names=names,
        keys=tuple(keys),
        shown=shown,
        all_classes=all_classes,
        single_prompt=single,
        absent_prompt=absent,
        boundary=boundary,
        absent_area=area,
        accuracy=accuracy,
        confusion=confusion,
        trained_names=segmenter.trained_names,
        notes=notes,
    )


def checked_against(names: Iterable[str], dataset: Scenes) -> tuple[str, ...]:
    """``names``, or all names of ``dataset`` for (). A name that it has in another form is spelt as it spells it.

    Raises FusionerError where ``dataset`` shows none of them, and for more than 254.
    """
    known = vocabulary(dataset)
    if not known:
        raise FusionerError("the data set shows no name: label some pixels, or give another folder or split")
    names = names if isinstance(names, str) else tuple(names)
    names = spelt_as(checked_names(names), known) if names else ()
    if names and not set(names) & set(known):
        raise FusionerError(f"the data set shows none of the {len(names)} names asked: {nearest(names[0], known)}")
    if len(chosen := tuple(names or known)) >= IGNORE:
        raise FusionerError(f"{len(chosen)} names: label maps hold at most {IGNORE - 1}, ask for fewer with names=")
    return chosen


def _alone(
    segmenter: Segmenter, result: Segmentation, name: str, threshold: Threshold
) -> Bool[np.ndarray, "height width"]:
    """The mask of ``name`` where it is the only name asked, with background."""
    least = threshold.get(name, THRESHOLD) if isinstance(threshold, Mapping) else threshold
    if not segmenter.model.names_independent:
        return np.asarray(segmenter.segment([name], threshold=least).labels > 0)
    place = result.names.index(name)  # no other name changes its logits
    best, _ = best_names(result.coarse[place : place + 1], result.image.shape[:2], guide=result.guide)
    return np.asarray((best.sigmoid() > least).numpy())


@dataclass(frozen=True)
class Comparison:
    """``other`` minus ``first`` on the same images. Raises FusionerError where names or images differ."""

    first: Scores
    other: Scores

    def __post_init__(self) -> None:
        if (self.first.names, self.first.keys) != (self.other.names, self.other.keys):
            raise FusionerError("scores of different names or images can't be paired: evaluate both on the same data")

    @cached_property
    def figures(self) -> dict[str, Interval]:
        """The difference of each figure with the interval of the paired bootstrap: both see the same resamples.

        The figures by names of training are NaN where the two were trained on different ones of the names asked: they
        are means over different names.
        """
        ours, theirs, nothing = self.other, self.first, Interval(math.nan, math.nan, math.nan)
        same_names = ours.unseen == theirs.unseen and bool(ours.trained_names) == bool(theirs.trained_names)
        return {
            key: _interval(
                ours.figures[key].value - theirs.figures[key].value,
                ours.resampled[key] - theirs.resampled[key],
                len(ours.keys),
            )
            if same_names or key not in BY_TRAINING
            else nothing
            for key in FIGURES
        }

    def classes(self) -> list[dict[str, Any]]:
        """One row a shown name, by falling difference of IoU: name, difference, low, high, better (see ``better``)."""
        one = np.ones((1, len(self.first.keys)))
        value = (self.other.iou(self.other.all_classes, one) - self.first.iou(self.first.all_classes, one))[0]
        spread = self.other.resampled_iou - self.first.resampled_iou
        rows = []
        for place in np.argsort(-value, kind="stable"):
            if not math.isnan(value[place]):
                found = _interval(float(value[place]), spread[:, place], len(self.first.keys))
                row = {"name": self.first.names[place], "difference": found.value, "low": found.low, "high": found.high}
                rows.append(row | {"better": better(found)})
        return rows

    def images(self, count: int = 10) -> list[dict[str, Any]]:
        """The ``count`` images with the largest differences of ``image_scores``: key, first, other, difference."""
        first, other = self.first.image_scores, self.other.image_scores
        difference = other - first
        order = [place for place in np.argsort(-np.abs(difference), kind="stable") if not math.isnan(difference[place])]
        return [
            {
                "key": self.first.keys[place],
                "first": float(first[place]),
                "other": float(other[place]),
                "difference": float(difference[place]),
            }
            for place in order[:count]
        ]


def better(difference: Interval, *, smaller_wins: bool = False) -> str:
    """ "other" or "first" where the interval lies on one side of 0, else "" (undecided).

    smaller_wins: for the figures of absent prompts, where less is better.
    """
    if difference.low > 0 or difference.high < 0:
        return "other" if (difference.low > 0) != smaller_wins else "first"
    return ""


def resamples(images: int, *, draws: int = DRAWS, seed: int = 0) -> Iterator[Weights]:
    """The weights of ``draws`` bootstrap resamples of ``images`` images with replacement, some hundred rows at a time.

    Equal arguments give equal resamples.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _AT_ONCE):
        rows = min(_AT_ONCE, draws - start)
        yield rng.multinomial(images, np.full(images, 1 / images), size=rows).astype(float)


def interval(resampled: Float[np.ndarray, " draws"], images: int, *, level: float = LEVEL) -> tuple[float, float]:
    """The expanded percentile interval (Hesterberg 2015, sec. 4.1.3) of a figure from its bootstrap ``resampled``.

    Plain percentiles are too narrow for few images by the factor sqrt((n - 1) / n) and for lack of Student's t; the
    tails are made as small as both require. NaN where fewer than two images are there, or no resample has a value.
    """
    kept = resampled[~np.isnan(resampled)]
    if images < 2 or not kept.size:
        return math.nan, math.nan
    z, dof = NormalDist().inv_cdf((1 + level) / 2), images - 1
    student = (  # quantile of Student's t (Abramowitz and Stegun 26.7.5)
        z
        + (z**3 + z) / (4 * dof)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * dof**3)
    )
    tail = NormalDist().cdf(-math.sqrt(images / dof) * student)
    low, high = np.quantile(kept, (tail, 1 - tail))
    return float(low), float(high)


def _interval(value: float, resampled: np.ndarray, images: int) -> Interval:
    return Interval(value, *interval(resampled, images))


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``, NaN where that is 0 or NaN."""
    return np.divide(above, below, out=np.full(np.shape(below), math.nan), where=below > 0)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where nothing is left."""
    kept = ~np.isnan(values)
    return _divided(np.where(kept, values, 0.0).sum(axis=-1), kept.sum(axis=-1).astype(float))
