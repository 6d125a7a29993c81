"""Counts and scores against a second implementation that knows neither arrays nor histograms: sets of pixels."""

import math
from dataclasses import dataclass
from fractions import Fraction
from statistics import harmonic_mean

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchmetrics.functional.classification import multiclass_jaccard_index

from fusionerlib.evaluation import metrics
from fusionerlib.evaluation.metrics import ClassCounts

VOCABULARY = ("cat", "dog", "sofa", "bus", "tv monitor")
cases = settings(max_examples=200, deadline=None)


@dataclass
class Episode:
    """One question as ``ClassCounts`` takes it. masks: one a name, where they were drawn on their own."""

    names: tuple[str, ...]
    predicted: np.ndarray
    target: np.ndarray
    masks: np.ndarray | None = None

    def painted(self, k):
        """The pixels with the mask of name ``k``."""
        there = self.predicted == k + 1 if self.masks is None else self.masks[k]
        return {place for place in np.ndindex(self.target.shape) if there[place]}


@st.composite
def episode(draw, forms=("labels", "masks")):
    """Few names in any order; any label may be absent from either map, either may be empty, pixels are ignored."""
    names = tuple(draw(st.permutations(VOCABULARY))[: draw(st.integers(1, 4))])
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5))
    labels = range(len(names) + 1)
    found = draw(st.lists(st.sampled_from(labels), min_size=1, max_size=4))
    wanted = draw(st.lists(st.sampled_from([*labels, 255]), min_size=1, max_size=4))
    kind = draw(st.sampled_from([np.uint8, np.int32, np.int64]))
    predicted = draw(hnp.arrays(kind, shape, elements=st.sampled_from(found)))
    target = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from(wanted)))
    masks = draw(hnp.arrays(bool, (len(names), *shape))) if draw(st.sampled_from(forms)) == "masks" else None
    return Episode(names, predicted, target, masks)


def episodes(forms=("labels", "masks")):
    return st.lists(episode(forms), min_size=1, max_size=4)


def written(names, predicted, target):
    return Episode(names, np.array([predicted]), np.array([target], dtype=np.uint8))


EMPTY = [written(("cat", "dog"), [0, 0, 0], [1, 255, 1])]
ABSENT = [written(("dog", "cat"), [1, 1, 0], [2, 2, 0]), written(("bus",), [0, 0], [0, 0])]
IGNORED = [written(("cat",), [1, 0], [255, 255])]


def counted(asked):
    """What is tested: the episodes in one ``ClassCounts``."""
    counts = ClassCounts()
    for one in asked:
        if one.masks is None:
            counts.add(one.names, one.predicted, one.target)
        else:
            counts.add_masks(one.names, one.masks, one.target)
    return counts


def reference(asked):
    """By name [intersection, union, episodes], and ((I, U) of background, (I, U) of foreground), over all episodes."""
    found, wanted, times = {}, {}, {}
    # Background painted and there, foreground painted and there.
    sides = [set(), set(), set(), set()]
    for number, one in enumerate(asked):
        valid = {place for place in np.ndindex(one.target.shape) if one.target[place] != 255}
        painted, there = set(), set()
        for k, name in enumerate(one.names):
            mine = one.painted(k) & valid
            own = {place for place in valid if one.target[place] == k + 1}
            found.setdefault(name, set()).update((number, *place) for place in mine)
            wanted.setdefault(name, set()).update((number, *place) for place in own)
            times[name] = times.get(name, 0) + 1
            painted, there = painted | mine, there | own
        for side, places in zip(sides, (valid - painted, valid - there, painted, there), strict=True):
            side.update((number, *place) for place in places)
    by_name = {name: [len(found[name] & wanted[name]), len(found[name] | wanted[name]), times[name]] for name in times}
    return by_name, tuple((len(left & right), len(left | right)) for left, right in (sides[:2], sides[2:]))


def mean_ratio(pairs):
    """Exact mean of I / U over the pairs with a union, as a float; NaN where there is none."""
    ratios = [Fraction(inter, union) for inter, union in pairs if union]
    return float(sum(ratios) / len(ratios)) if ratios else math.nan


def same(value, expected):
    return value == pytest.approx(expected, rel=1e-12, abs=0, nan_ok=True)


def assert_equal(counts, by_name, sides):
    table = counts.table()
    found = [(row["name"], row["intersection"], row["union"], row["episodes"]) for row in table]
    assert found == [(name, *by_name[name]) for name in sorted(by_name)]
    assert all(same(row["iou"], mean_ratio([by_name[row["name"]][:2]])) for row in table)
    assert same(counts.miou, mean_ratio([row[:2] for row in by_name.values()]))
    assert same(counts.fb_iou, mean_ratio(sides))


@pytest.mark.parametrize("form", ["labels", "masks"])
@cases
@given(data=st.data())
def test_episodes_counted_as_sets_of_pixels(form, data):
    asked = data.draw(episodes(forms=(form,)))
    assert_equal(counted(asked), *reference(asked))


@cases
@given(episodes(), st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_merged_parts_are_the_counts_of_all_episodes(asked, part):
    groups = [[one for one, which in zip(asked, part, strict=False) if which == number] for number in range(3)]
    parts, merged = [counted(group) for group in groups], ClassCounts()
    for one in parts:
        assert merged.merge(one) is merged
    assert_equal(merged, *reference(asked))
    # What was merged from is left as it was.
    for one, group in zip(parts, groups, strict=True):
        assert_equal(one, *reference(group))


@cases
@given(episodes(), st.sets(st.sampled_from((*VOCABULARY, "never asked"))))
@example(EMPTY, {"cat"})
@example(ABSENT, {"cat", "bus"})
@example(IGNORED, {"cat"})
def test_only_some_names_keep_their_counts(asked, names):
    counts = counted(asked)
    by_name, sides = reference(asked)
    kept = counts.only(names)
    assert_equal(kept, {name: row for name, row in by_name.items() if name in names}, sides)
    kept.merge(counted(asked[:1]))
    assert_equal(counts, by_name, sides)


# (I, U) of a class or of a side
RATIO = st.integers(0, 10**12).flatmap(lambda union: st.tuples(st.integers(0, union), st.just(union)))


@cases
@given(st.lists(RATIO, max_size=7), st.lists(RATIO, min_size=2, max_size=2))
@example([(0, 0), (1, 2)], [(0, 0), (3, 4)])
@example([(0, 0)], [(0, 0), (0, 0)])
def test_means_of_ratios_are_exact_fractions(classes, sides):
    inter, union = np.array(classes, dtype=np.int64).reshape(-1, 2).T
    each = metrics.per_class_iou(inter, union)
    assert all(same(iou, mean_ratio([pair])) for iou, pair in zip(each.tolist(), classes, strict=True))
    assert same(metrics.miou(inter, union), mean_ratio(classes))
    assert same(metrics.fb_iou(*np.array(sides, dtype=np.int64).T), mean_ratio(sides))


@cases
@given(st.floats(0, 1), st.floats(0, 1))
@example(0.0, 0.0)
def test_harmonic_mean_is_that_of_the_standard_library(seen, unseen):
    # Sums and products of subnormal numbers have no digits left to compare.
    assume(all(value == 0 or value > 1e-100 for value in (seen, unseen)))
    assert metrics.harmonic_mean(seen, unseen) == pytest.approx(harmonic_mean([seen, unseen]), rel=1e-12)


@cases
@given(episodes(forms=("labels",)))
@example(EMPTY)
@example(ABSENT)
def test_iou_agrees_with_torchmetrics(asked):
    index = {name: place for place, name in enumerate(VOCABULARY, start=1)} | {"": 0}
    found, wanted, counts = [], [], counted(asked)
    for one in asked:
        number = {label: index[name] for label, name in enumerate(("", *one.names))} | {255: 255}
        found += [number[label] for label in one.predicted.ravel().tolist()]
        wanted += [number[label] for label in one.target.ravel().tolist()]
    assume(any(label != 255 for label in wanted))
    found, wanted = torch.tensor(found), torch.tensor(wanted)
    each = multiclass_jaccard_index(found, wanted, num_classes=len(index), average="none", ignore_index=255)
    # torchmetrics gives 0, not nothing, to a class without a pixel in either map.
    rated = {index[row["name"]]: row["iou"] for row in counts.table() if row["union"]}
    assert each[list(rated)].tolist() == pytest.approx(list(rated.values()), abs=1e-6)
    if rated:
        assert counts.miou == pytest.approx(each[list(rated)].mean().item(), abs=1e-6)
    painted, there = (found > 0).long(), torch.where(wanted == 255, 255, wanted.clamp(max=1))
    sides = multiclass_jaccard_index(painted, there, num_classes=2, average="none", ignore_index=255)
    kept = [side for side in (0, 1) if (((painted == side) | (there == side)) & (there != 255)).any()]
    assert counts.fb_iou == pytest.approx(sides[kept].mean().item(), abs=1e-6)
