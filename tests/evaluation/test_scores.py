"""Scores against independent writings: scikit-learn's confusion matrix, erosion by SciPy, simulated data sets."""

import math
from dataclasses import dataclass, field, replace
from statistics import harmonic_mean

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from sklearn.metrics import confusion_matrix as reference_matrix

from fusionerlib import FusionerError, Segmenter
from fusionerlib.datasets.scene import Scene, labels_for
from fusionerlib.evaluation import metrics
from fusionerlib.evaluation.scores import (
    FIGURES,
    Comparison,
    ImageCounts,
    Interval,
    Scores,
    better,
    evaluate,
    interval,
    resamples,
)
from tests.evaluation.drawn import CLASSES, Listed, drawn_scenes
from tests.inference.test_segmenter import make

NAMES = ("cat", "dog", "sofa")


def test_the_confusion_matrix_is_scikit_learns_on_200_random_cases() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        classes = int(rng.integers(2, 7))
        shape = tuple(rng.integers(1, 9, 2))
        target = rng.choice([*range(classes), 255], shape).astype(np.int32)
        predicted = rng.integers(0, classes, shape).astype(np.int32)
        found = metrics.confusion_matrix(predicted, target, classes=classes)
        kept = target != 255
        expected = np.zeros((classes, classes), dtype=int)
        if kept.any():
            expected = reference_matrix(target[kept], predicted[kept], labels=range(classes))
        assert (found == expected).all()
        shared, either = metrics.intersection_union(predicted, target, classes=classes)
        assert (np.diag(found) == shared).all()
        assert (found.sum(axis=0) + found.sum(axis=1) - np.diag(found) == either).all()


def eroded_band(mask: np.ndarray, width: int) -> np.ndarray:
    """The band as Cheng et al. write it: the mask without itself eroded ``width`` times by a 3 x 3 square."""
    return mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)


def test_boundary_counts_are_those_of_erosion_class_by_class() -> None:
    rng = np.random.default_rng(1)
    for case in range(60):
        height, width = rng.integers(1, 90, 2)
        coarse = rng.choice([0, 1, 2, 3, 255], (height // 11 + 1, width // 11 + 1))
        target = coarse.repeat(11, axis=0).repeat(11, axis=1)[:height, :width].astype(np.int32)
        predicted = np.where(rng.random(target.shape) < 0.02, rng.integers(0, 4, target.shape), target % 255)
        predicted = np.roll(predicted, int(rng.integers(0, 4)), axis=1).astype(np.int32)
        band = max(1, round(0.02 * math.hypot(height, width)))
        shared, either = metrics.boundary_counts(predicted, target, classes=4)
        for label in (1, 2, 3):
            valid = target != 255
            ours, theirs = (eroded_band((labels == label) & valid, band) for labels in (predicted, target))
            assert shared[label] == (ours & theirs).sum(), case
            assert either[label] == (ours | theirs).sum(), case


def test_a_shifted_square_loses_more_of_its_boundary_than_of_its_area() -> None:
    target = np.zeros((100, 100), dtype=np.int32)
    target[20:80, 20:80] = 1
    predicted = np.roll(target, 2, axis=1)
    shared, either = metrics.boundary_counts(predicted, target, classes=2)
    # d = round(0.02 * 141.4) = 3: rings of 60*60 - 54*54 = 684 pixels. They share the rows that are wholly in both
    # (2 * 3 * 58) and one column of each side (2 * 54).
    assert (shared[1], either[1]) == (456, 2 * 684 - 456)


def simulated(rng: np.random.Generator, images: int, truth: np.ndarray) -> Scores:
    """Images of different sizes; by image and name, I is about ``truth`` of U, with a spread of its own."""
    unions = rng.integers(200, 2000, (images, len(truth)))
    shares = rng.beta(truth * 4, (1 - truth) * 4, unions.shape)
    counts = ImageCounts(np.round(unions * shares).astype(np.int64), unions)
    return blank(images, tuple(f"name {k}" for k in range(len(truth))), all_classes=counts)


def blank(images: int, names: tuple[str, ...], **counted: ImageCounts) -> Scores:
    empty = ImageCounts.zeros(images, len(names))
    kinds = ("all_classes", "single_prompt", "absent_prompt", "boundary", "absent_area")
    return Scores(
        names=names,
        keys=tuple(map(str, range(images))),
        shown=np.ones((images, len(names)), dtype=bool),
        accuracy=np.zeros((images, 2), dtype=np.int64),
        confusion=np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64),
        **{kind: counted.get(kind, empty) for kind in kinds},
    )


@pytest.mark.parametrize("images", [12, 60])
def test_intervals_cover_the_true_miou_in_95_of_100_data_sets(images: int) -> None:
    truth = np.array([0.3, 0.55, 0.8])
    rng, weights = np.random.default_rng(2), np.concatenate(list(resamples(images, draws=1000)))
    inside = 0
    for _ in range(1500):
        low, high = interval(simulated(rng, images, truth).draws(weights)["miou"], images)
        inside += low <= truth.mean() <= high
    assert 0.93 <= inside / 1500 <= 0.97


def test_intervals_of_differences_cover_the_true_difference() -> None:
    images, truths = 40, (np.array([0.3, 0.55, 0.8]), np.array([0.4, 0.6, 0.8]))
    rng, weights = np.random.default_rng(3), np.concatenate(list(resamples(images, draws=1000)))
    inside = 0
    for _ in range(1000):
        first, other = (simulated(rng, images, truth).draws(weights)["miou"] for truth in truths)
        low, high = interval(other - first, images)
        inside += low <= 0.05 <= high
    assert 0.93 <= inside / 1000 <= 0.97


def test_sums_are_divided_in_every_resample() -> None:
    scores = simulated(np.random.default_rng(4), 7, np.array([0.2, 0.9]))
    weights = next(resamples(7, draws=5))
    assert (weights.sum(axis=1) == 7).all()
    for row, found in zip(weights, scores.draws(weights)["miou"], strict=True):
        picked = np.repeat(np.arange(7), row.astype(int))
        counts = scores.all_classes
        inter, union = counts.intersections[picked].sum(axis=0), counts.unions[picked].sum(axis=0)
        assert found == pytest.approx((inter / union).mean())


def test_two_planted_models_are_ranked_and_equal_ones_are_not() -> None:
    rng = np.random.default_rng(5)
    good, bad = (simulated(rng, 50, np.array(truth)) for truth in ([0.8, 0.5], [0.4, 0.5]))
    found = Comparison(bad, good)
    assert better(found.figures["miou"]) == "other"
    assert [row["better"] for row in found.classes()] == ["other", ""]
    assert better(Comparison(good, bad).figures["miou"]) == "first"
    same = Comparison(good, good).figures["miou"]
    assert same == (0.0, 0.0, 0.0) and better(same) == ""
    worst = found.images(3)
    assert [abs(row["difference"]) for row in worst] == sorted((abs(row["difference"]) for row in worst), reverse=True)
    with pytest.raises(FusionerError, match="different names or images"):
        Comparison(good, replace(bad, keys=tuple("x" * 50)))


def test_less_is_better_for_absent_prompts() -> None:
    assert better(Interval(0.2, 0.1, 0.3), smaller_wins=True) == "first"
    assert better(Interval(-0.2, -0.3, -0.1), smaller_wins=True) == "other"


@dataclass
class Drawn:
    """Scenes of coloured rectangles in memory."""

    scenes: list[Scene] = field(default_factory=drawn_scenes)
    fingerprint: str = "drawn"

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Scene:
        return self.scenes[index]

    def names(self, index: int) -> tuple[str, ...]:
        return self.scenes[index].names


@pytest.fixture(scope="module")
def packaged() -> Segmenter:
    return Segmenter.load("packaged")


def test_every_figure_is_the_one_written_out_by_hand(packaged: Segmenter) -> None:
    data = Drawn()
    scores = evaluate(packaged, data, quiet=True)
    names = scores.names
    assert set(names) == {name for scene in data.scenes for name in scene.names}
    inter, union, single, right, labelled = np.zeros(len(names)), np.zeros(len(names)), np.zeros((2, len(names))), 0, 0
    for scene in data.scenes:
        target = labels_for(scene.labels, scene.names, names)
        valid = target != 255
        found = packaged.set_image(scene.image).segment(names).labels
        right, labelled = right + (found == target)[valid].sum(), labelled + valid.sum()
        for k, name in enumerate(names):
            ours, theirs = (found == k + 1) & valid, target == k + 1
            inter[k], union[k] = inter[k] + (ours & theirs).sum(), union[k] + (ours | theirs).sum()
            if theirs.any():
                alone = packaged.segment([name]).masks[0] & valid
                single[:, k] += (alone & theirs).sum(), (alone | theirs).sum()
    assert scores.figures["miou"].value == pytest.approx((inter / union).mean())
    assert scores.figures["single_prompt_miou"].value == pytest.approx((single[0] / single[1]).mean(), abs=1e-4)
    assert scores.figures["pixel_accuracy"].value == pytest.approx(right / labelled)
    assert set(scores.figures) == set(FIGURES)
    for key in ("miou", "pixel_accuracy", "absent_area"):
        found = scores.figures[key]
        assert 0 <= found.low <= found.value <= found.high <= 1
    assert "zebra" not in names and scores.unseen == tuple(name for name in names if name == "armadillo")
    triple = [scores.figures[key].value for key in ("seen", "unseen", "harmonic")]
    novel = np.array([name == "armadillo" for name in names])
    assert triple[:2] == pytest.approx([(inter / union)[~novel].mean(), (inter / union)[novel].mean()])
    assert triple[2] == pytest.approx(harmonic_mean(triple[:2]))
    rows = {row["name"]: row for row in scores.classes()}
    assert rows["armadillo"]["seen"] is False and rows["cat"]["seen"] is True
    assert rows["cat"]["iou"] == pytest.approx(inter[names.index("cat")] / union[names.index("cat")])


def test_asked_names_may_be_fewer_or_absent_ones(packaged: Segmenter) -> None:
    scores = evaluate(packaged, Drawn(), names=["cat", "zebra"], quiet=True)
    assert scores.names == ("cat", "zebra") and not scores.shown[:, 1].any()
    rows = {row["name"]: row for row in scores.classes()}
    assert math.isnan(rows["zebra"]["iou"]), "no image shows it, so it is no class"
    assert rows["zebra"]["absent_area"] >= 0 or math.isnan(rows["zebra"]["absent_area"])
    with pytest.raises(FusionerError, match="shows none of the 1 names asked"):
        evaluate(packaged, Drawn(), names=["zebra"], quiet=True)
    with pytest.raises(FusionerError, match="no image"):
        evaluate(packaged, Drawn([]), quiet=True)


def test_without_background_every_labelled_pixel_of_a_name_gets_one(packaged: Segmenter) -> None:
    scores = evaluate(packaged, Drawn(), background=False, quiet=True)
    assert not scores.confusion[0].any() and not scores.confusion[:, 0].any()
    assert scores.confusion.sum() == sum(int(((s.labels > 0) & (s.labels != 255)).sum()) for s in Drawn().scenes)


def test_single_and_absent_prompts_are_asked_alone() -> None:
    segmenter, data = make(), Drawn()  # a model in which the names asked together change each other's masks
    scores = evaluate(segmenter, data, quiet=True)
    together = 0
    for index, scene in enumerate(data.scenes):
        target = labels_for(scene.labels, scene.names, scores.names)
        valid = target != 255
        segmenter.set_image(scene.image)
        (absent,) = set(CLASSES) - set(scene.names)  # three classes, two of them in each image
        wrong = segmenter.segment([absent]).masks[0] & valid
        for place, name in enumerate(scores.names):
            mask, alone = target == place + 1, segmenter.segment([name]).masks[0] & valid
            expected = [(alone & mask).sum(), (alone | mask).sum()] if mask.any() else [0, 0]
            single = scores.single_prompt
            assert [single.intersections[index, place], single.unions[index, place]] == expected
            together += int((alone & mask).sum() != scores.all_classes.intersections[index, place])
            control = scores.absent_prompt
            expected = [(wrong & mask).sum(), (wrong | mask).sum()] if mask.any() else [0, 0]
            assert [control.intersections[index, place], control.unions[index, place]] == expected
            area = scores.absent_area  # asked once for each of the two names that it replaces
            expected = [2 * wrong.sum(), 2 * valid.sum()] if name == absent else [0, 0]
            assert [area.intersections[index, place], area.unions[index, place]] == expected
    assert together, "asked together, the names give the same masks: this model tests nothing"
    assert scores.trained_names == () and math.isnan(scores.figures["seen"].value)


def test_names_are_matched_by_their_forms() -> None:
    segmenter, scenes = make(), drawn_scenes(3)
    data = Listed(scenes)
    plain = evaluate(segmenter, data, names=["cat", "dog"], threshold={"cat": 0.4}, quiet=True)
    other = evaluate(segmenter, data, names=["Cats", "a dog"], threshold={"A Cat": 0.4}, quiet=True)
    assert other.names == ("cat", "dog") and (other.confusion == plain.confusion).all() and plain.confusion.any()
    with pytest.raises(FusionerError, match="'cat' and 'Cats' are the same"):
        evaluate(segmenter, data, names=["cat", "Cats"], quiet=True)
    renamed = [
        replace(scene, names=tuple(name.replace("armadillo", "Cat") for name in scene.names)) for scene in scenes
    ]
    with pytest.raises(FusionerError, match="are the same to the text encoder"):
        evaluate(segmenter, Listed(renamed), quiet=True)
