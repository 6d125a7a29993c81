import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchmetrics.classification import MulticlassJaccardIndex

from fusionerlib.errors import FusionerError
from fusionerlib.evaluation import metrics
from fusionerlib.evaluation.metrics import ClassCounts
from fusionerlib.evaluation.mosaics import tiles_won

NAMES = ("cat", "dog", "sofa")


@st.composite
def label_maps(draw):
    """(predicted, target) with labels 0-3; the target has ignored pixels, and either may lack any label."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6))
    used = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    wanted = draw(st.lists(st.sampled_from([0, 1, 2, 3, 255]), min_size=1, max_size=5))
    dtype = draw(st.sampled_from([np.uint8, np.int32, np.int64]))
    predicted = draw(hnp.arrays(dtype, shape, elements=st.sampled_from(used)))
    return predicted, draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from(wanted)))


def brute_force(predicted, target, label):
    """Intersection and union of ``label`` as sets of places."""
    places = [place for place in np.ndindex(target.shape) if target[place] != 255]
    found = {place for place in places if predicted[place] == label}
    wanted = {place for place in places if target[place] == label}
    return len(found & wanted), len(found | wanted)


def test_counts_by_hand():
    predicted = np.array([[1, 1, 0], [2, 0, 2]])
    target = np.array([[1, 0, 0], [2, 2, 255]])
    inter, union = metrics.intersection_union(predicted, target, classes=4)
    assert inter.tolist() == [1, 1, 1, 0]
    assert union.tolist() == [3, 2, 2, 0]
    assert metrics.miou(inter[1:], union[1:]) == pytest.approx((1 / 2 + 1 / 2) / 2)
    np.testing.assert_array_equal(metrics.per_class_iou(inter, union), [1 / 3, 1 / 2, 1 / 2, math.nan])


@settings(deadline=None, max_examples=150)
@given(label_maps())
def test_counts_agree_with_brute_force(maps):
    predicted, target = maps
    inter, union = metrics.intersection_union(predicted, target, classes=4)
    for label in range(4):
        assert (inter[label], union[label]) == brute_force(predicted, target, label)
        if label:
            counts = metrics.mask_counts(predicted == label, target == label, target != 255)
            assert counts[:2] == brute_force(predicted, target, label)
            flipped = (predicted != label).astype(int), np.where(target == 255, 255, target != label)
            assert counts[2:] == brute_force(*flipped, 1)


@pytest.mark.parametrize("seed", range(4))
def test_miou_agrees_with_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    target = rng.choice([0, 1, 2, 3, 255], size=(5, 12, 9)).astype(np.uint8)
    predicted = np.where(rng.random(target.shape) < 0.6, np.where(target == 255, 0, target), rng.integers(0, 4))
    independent = MulticlassJaccardIndex(num_classes=4, average="none", ignore_index=255)
    counts = ClassCounts()
    for found, wanted in zip(predicted, target, strict=True):
        independent.update(
            torch.from_numpy(found[None].astype(np.int64)), torch.from_numpy(wanted[None].astype(np.int64))
        )
        counts.add(NAMES, found, wanted)
    assert counts.miou == pytest.approx(independent.compute()[1:].mean().item(), abs=1e-6)
    assert counts.table()[0]["iou"] == pytest.approx(independent.compute()[1].item(), abs=1e-6)


def test_labels_out_of_range_and_sizes_are_named():
    with pytest.raises(FusionerError, match="labels 7 to 7, expected 0 to 3"):
        metrics.intersection_union(np.full((2, 2), 7), np.zeros((2, 2), int), classes=4)
    with pytest.raises(FusionerError, match=r"\(2, 3\).*resize"):
        metrics.mask_counts(np.ones((2, 3), bool), np.ones((2, 2), bool))


def test_means_by_hand():
    assert metrics.miou(np.array([1, 0, 0]), np.array([2, 4, 0])) == pytest.approx(0.25)
    assert math.isnan(metrics.miou(np.array([0]), np.array([0])))
    assert metrics.fb_iou(np.array([30, 5]), np.array([40, 20])) == pytest.approx((0.75 + 0.25) / 2)
    assert metrics.harmonic_mean(0.6, 0.3) == pytest.approx(0.4)
    assert metrics.harmonic_mean(0.0, 0.0) == 0.0


def test_decide_threshold_ties_and_background():
    probabilities = np.array([[[0.5, 0.6, 0.7, 0.51]], [[0.4, 0.9, 0.7, 0.1]]])
    assert metrics.decide(probabilities).tolist() == [[0, 2, 1, 1]]
    assert metrics.decide(probabilities, threshold=0.7).tolist() == [[0, 2, 0, 0]]
    assert metrics.decide(np.zeros((0, 2, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]


def constant_tiles(values):
    """Probabilities (names, 4, 4) of a 2x2 mosaic that are constant on each tile: values[name][tile]."""
    return np.array(values, dtype=np.float32).reshape(-1, 2, 2).repeat(2, axis=1).repeat(2, axis=2)


def won(maps, tile_of_name):
    return tiles_won(maps, grid=2, own=[tile_of_name.index(tile) for tile in range(4)])


def test_assignment_by_hand():
    # Tile 0 is won by name 0, tile 1 by name 1; name 2 takes tile 3 from name 3 and ties with it on its own tile 2.
    maps = constant_tiles([[0.9, 0.1, 0.1, 0.1], [0.2, 0.8, 0.1, 0.1], [0.1, 0.1, 0.5, 0.7], [0.1, 0.1, 0.5, 0.6]])
    assert won(maps, [0, 1, 2, 3]) == [True, True, False, False]


def test_assignment_follows_the_shuffled_names():
    tile_of_name = [2, 0, 3, 1]
    maps = constant_tiles([[0.9 if tile == own else 0.1 for tile in range(4)] for own in tile_of_name])
    assert all(won(maps, tile_of_name))
    assert not any(won(maps, [0, 2, 1, 3]))


def test_assignment_sums_over_all_pixels():
    maps = constant_tiles([[0.3] * 4, [0.25] * 4, [0.2] * 4, [0.1] * 4])
    # The best single pixel does not win the tile (1.19 against 4 x 0.3), a little more of it does.
    maps[1, 0, 0] = 0.44
    assert won(maps, [0, 1, 2, 3]) == [True, False, False, False]
    maps[1, 0, 0] = 0.46
    assert won(maps, [0, 1, 2, 3]) == [False, False, False, False]


def test_all_equal_loses_everywhere():
    assert not any(won(constant_tiles([[0.5] * 4] * 4), [3, 2, 1, 0]))


def test_permuted_control_separates_words_from_objects():
    target = np.array([[1, 1, 2, 2], [0, 3, 3, 0]], dtype=np.uint8)
    right, control, objects = ClassCounts(), ClassCounts(), ClassCounts()
    right.add(NAMES, target, target)
    control.add(NAMES, metrics.permuted(target, names=3), target)
    objects.add_masks(NAMES, metrics.object_only(target, names=3), target)
    assert (right.miou, control.miou, objects.miou) == (1.0, 0.0, pytest.approx(1 / 3))
    assert right.fb_iou == control.fb_iou == objects.fb_iou == 1.0
    with pytest.raises(FusionerError, match="at least 2"):
        metrics.permuted(target, names=1)


def test_counts_sum_over_episodes_before_dividing():
    counts = ClassCounts()
    big = np.ones((10, 10), dtype=np.uint8)
    counts.add(["cat"], big, big)
    counts.add(["dog", "cat"], np.zeros((1, 2), np.uint8), np.array([[2, 1]], dtype=np.uint8))
    assert counts.miou == pytest.approx((100 / 101 + 0) / 2)
    assert [(row["name"], row["intersection"], row["union"], row["episodes"]) for row in counts.table()] == [
        ("cat", 100, 101, 2),
        ("dog", 0, 1, 1),
    ]


@settings(deadline=None, max_examples=60)
@given(st.lists(label_maps(), min_size=1, max_size=4), st.integers(0, 4))
def test_merge_equals_one_long_count(episodes, cut):
    whole, parts = ClassCounts(), (ClassCounts(), ClassCounts())
    for index, (predicted, target) in enumerate(episodes):
        whole.add(NAMES, predicted, target)
        masks = predicted == np.arange(1, 4)[:, None, None]
        parts[index < cut].add_masks(NAMES, masks, target)
    merged = parts[0].merge(parts[1])
    # repr, because NaN is not equal to itself
    assert repr(merged.table()) == repr(whole.table())
    assert repr(merged.fb_iou) == repr(whole.fb_iou)
    fb = np.array(
        [[brute_force(p > 0, np.where(t == 255, 255, t > 0), side) for side in (0, 1)] for p, t in episodes]
    ).sum(axis=0)
    expected = [inter / union for inter, union in fb if union]
    assert repr(whole.fb_iou) == repr(float(np.mean(expected)) if expected else math.nan)


def test_counts_refuse_repeated_names_and_unknown_labels():
    blank = np.zeros((2, 2), np.uint8)
    with pytest.raises(FusionerError, match="'cat' is given twice"):
        ClassCounts().add(["cat", "cat"], blank, blank)
    with pytest.raises(FusionerError, match="expected 0 to 1"):
        ClassCounts().add(["cat"], blank, blank + 2)
    with pytest.raises(FusionerError, match="label 2"):
        ClassCounts().add_masks(["cat"], np.zeros((1, 2, 2), bool), blank + 2)
    with pytest.raises(FusionerError, match="255 names"):
        ClassCounts().add([f"name {i}" for i in range(255)], blank, blank)
