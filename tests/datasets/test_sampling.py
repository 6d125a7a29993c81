"""Names asked in training: what is present, what is absent, and that a step decides them alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusionerlib.datasets.sampling import NameSampler, SampleOrder

NAMES = [f"{colour} {noun}" for colour in ("red", "blue", "green") for noun in ("car", "ball", "dog")] + ["car", "tree"]


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(0, 4))
def test_sample_holds_the_first_name_and_no_name_that_could_be_true(seed: int, positives: int, negatives: int) -> None:
    present = ("red car", "blue ball", "green dog")
    sampler = NameSampler(NAMES, positives=positives, negatives=negatives, hard=0.5)
    names = sampler.draw("blue ball", present, np.random.default_rng(seed))
    assert names[0] == "blue ball" and len(set(names)) == len(names)
    absent = [name for name in names if name not in present]
    assert "car" not in absent  # the red car is a car
    assert len(names) - len(absent) <= positives
    assert len(names) <= positives + negatives and (negatives or len(names) <= positives)


def test_paper_sample_is_the_one_name() -> None:
    sampler = NameSampler(NAMES, positives=1, negatives=0, hard=0.0)
    assert sampler.draw("car", ("car", "tree"), np.random.default_rng(0)) == ("car",)


def test_hard_names_share_a_word() -> None:
    sampler = NameSampler(NAMES, positives=1, negatives=3, hard=1.0)
    for seed in range(20):
        absent = sampler.draw("red car", ("red car",), np.random.default_rng(seed))[1:]
        assert absent and all(set(name.split()) & {"red", "car"} for name in absent)


def test_steps_are_reproducible_and_epochs_complete() -> None:
    pairs = [(i, "car") for i in range(10)]
    sampler = NameSampler(NAMES, positives=1, negatives=2, hard=0.5)

    def order(seed: int) -> SampleOrder:
        return SampleOrder(pairs, [("car",)] * 10, sampler=sampler, batch=4, seed=seed)

    straight = [order(3).samples(step) for step in range(5)]
    one = order(3)
    assert [one.samples(step) for step in reversed(range(5))] == straight[::-1]
    scenes = [sample.scene for step in straight for sample in step]
    assert sorted(scenes[:10]) == sorted(scenes[10:]) == list(range(10))
    assert order(4).samples(0) != straight[0]


def test_balanced_samples_draw_every_name_alike() -> None:
    pairs = [(scene, "cat") for scene in range(90)] + [(scene, "dog") for scene in range(90, 100)]
    names = [("cat",)] * 90 + [("dog",)] * 10
    sampler = NameSampler(["cat", "dog"], positives=1, negatives=0, hard=0.0)
    orders = [SampleOrder(pairs, names, sampler=sampler, batch=20, seed=3, balanced=True) for _ in range(2)]
    drawn = [sample for step in range(20) for sample in orders[0].samples(step)]
    assert drawn[100:120] == orders[1].samples(5), "a step follows from its number alone"
    dogs = [sample.scene for sample in drawn if sample.names == ("dog",)]
    assert 160 <= len(dogs) <= 240 and set(dogs) == set(range(90, 100))
    assert all(pairs[sample.scene][1] == sample.names[0] for sample in drawn)
