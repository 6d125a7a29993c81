"""The table of thresholds against the decision and the counts taken afresh at each threshold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.metrics import ClassCounts, decide
from fusionerlib.evaluation.queries import Query
from fusionerlib.evaluation.scoring import score, zero_shot
from fusionerlib.evaluation.thresholds import ThresholdTable

NAMES = ("cat", "dog", "cow", "sheep")


def episodes(seed: int, count: int = 3):
    """Random answers with ignored pixels; the names of each are a random part of NAMES in random order."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        names = tuple(rng.permutation(NAMES)[: rng.integers(1, 5)].tolist())
        target = rng.integers(0, len(names) + 1, (6, 7))
        target[rng.random((6, 7)) < 0.1] = 255
        # Some probabilities lie on the steps themselves, where "exceeds" matters.
        drawn = rng.integers(0, 101, (len(names), 6, 7)) / 100
        probabilities = np.where(rng.random(drawn.shape) < 0.5, drawn, rng.random(drawn.shape)).astype(np.float32)
        yield Query(number, names), probabilities, target


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), step=st.integers(0, 100))
def test_every_threshold_gives_the_figures_of_a_fresh_evaluation(seed: int, step: int) -> None:
    threshold, table, counts = step / 100, ThresholdTable(NAMES), ClassCounts()
    matrix, shown = np.zeros((5, 5), dtype=int), set()
    for query, probabilities, target in episodes(seed):
        table.add(query.names, probabilities, target)
        labels = decide(probabilities, threshold=threshold)
        counts.add(query.names, labels, target)
        place = [0, *(NAMES.index(name) + 1 for name in query.names)]
        for true, painted in zip(target.ravel(), labels.ravel(), strict=True):
            if true != 255:
                matrix[place[true], place[painted]] += 1
                shown |= {place[true]} - {0}
    np.testing.assert_array_equal(table.confusion(threshold), matrix)
    shown_names = [NAMES[k - 1] for k in shown]
    np.testing.assert_allclose(table.miou(threshold), counts.only(shown_names).miou, equal_nan=True)
    row = table.row(threshold)
    painted, named = matrix[:, 1:].sum(), matrix[1:].sum()
    assert row["coverage"] == pytest.approx(matrix[1:, 1:].sum() / named)
    wrong = sum(matrix[true, won] for true in range(5) for won in range(1, 5) if true != won)
    assert math.isnan(row["risk"]) if not painted else row["risk"] == pytest.approx(wrong / painted)


def test_the_best_threshold_is_the_one_that_separates() -> None:
    target = np.array([[1, 1, 0, 0]])
    table = ThresholdTable(["cat"])
    table.add(["cat"], np.array([[[0.335, 0.4, 0.3, 0.1]]]), target)
    assert 0.3 <= table.best() <= 0.33 and table.miou(table.best()) == 1
    assert table.best() == 0.33, "of equals the one nearest to the paper's 0.5"
    assert table.miou(0.5) == 0
    assert [row["threshold"] for row in table.rows(every=25)] == [0.25, 0.5, 0.75]


def test_scoring_fills_the_table_too() -> None:
    table = ThresholdTable(NAMES)
    result = score(episodes(5), present=lambda index: NAMES, table=table)
    assert result.counts.miou == pytest.approx(table.miou(0.5))


def test_the_zero_shot_triple_is_over_names() -> None:
    triple = zero_shot({"cat": 0.5, "dog": 0.5, "cow": 0.0}, unseen=["dog", "sheep"])
    assert triple == {"seen": pytest.approx(0.25), "unseen": pytest.approx(0.5), "harmonic": pytest.approx(1 / 3)}
    assert math.isnan(zero_shot({"cat": 1.0}, unseen=[])["harmonic"])


def test_what_can_not_be_asked_is_told() -> None:
    table = ThresholdTable(["cat"])
    with pytest.raises(FusionerError, match="'dog' is none of the table's 1 names"):
        table.add(["dog"], np.zeros((1, 2, 2)), np.zeros((2, 2), dtype=int))
    with pytest.raises(FusionerError, match=r"threshold 0.333.* multiple of 0.01"):
        table.miou(0.3333)
    with pytest.raises(FusionerError, match="nothing to calibrate"):
        table.best()
