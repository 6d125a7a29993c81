"""Confusion, threshold and zero-shot figures hold the values that they were given, and nothing on them is cut off."""

import math

import numpy as np
import pytest

from fusionerlib import plots
from fusionerlib.datasets import coco, pascal
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.thresholds import ThresholdTable
from fusionerlib.plots.protocols import MOST_COLUMNS, MOST_ROWS
from tests.plots.test_plots import LONG, assert_nothing_clipped, heights


def shown(figure):
    """The shares (0-1) in the picture, the names of its rows, and those of its columns."""
    axes = figure.axes[0]
    labels = ([label.get_text() for label in ticks] for ticks in (axes.get_yticklabels(), axes.get_xticklabels()))
    return np.asarray(axes.images[0].get_array()) / 100, *labels


def frames(figure):
    """(row, column) of the cells with a frame."""
    return [(round(box.get_y() + 0.5), round(box.get_x() + 0.5)) for box in figure.axes[0].patches]


def test_confusion_holds_shares_of_each_row():
    matrix = np.array([[30, 10, 0], [0, 0, 0], [1, 996, 3]])
    names = ["background", "cow", LONG]
    figure = plots.confusion(matrix, rows=names, columns=["background", LONG, "dog"], unseen=[LONG, "dog"])
    share, rows, columns = shown(figure)
    np.testing.assert_allclose(share, [[0.75, 0.25, 0], [0.001, 0.996, 0.003]])
    # A class without a pixel has no shares; the others' own names are framed.
    assert rows == ["background", "a name that goes on… *"]
    assert columns == ["background", "a name that goes on… *", "dog *"]
    assert frames(figure) == [(0, 0), (1, 1)]
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["75", "25", "100"]
    assert [label.get_fontweight() for label in axes.get_xticklabels()] == ["normal", "bold", "bold"]
    assert axes.get_title(loc="left").endswith("* not seen in training")
    assert_nothing_clipped(figure)
    assert "*" not in plots.confusion(matrix, rows=names, columns=names).axes[0].get_title(loc="left")


@pytest.mark.parametrize("count", [3, 21])
def test_confusion_shows_every_name_of_a_small_test(count):
    names = ("background", *pascal.NAMES)[:count]
    matrix = np.random.default_rng(0).integers(0, 100, (count, count))
    figure = plots.confusion(matrix, rows=names, columns=names)
    share, rows, columns = shown(figure)
    assert rows == columns == list(names), "own names, in the order of the rows"
    np.testing.assert_allclose(share, matrix / matrix.sum(axis=1)[:, None])
    assert_nothing_clipped(figure)


def test_confusion_of_many_names_goes_from_the_best_found_to_the_worst_on_a_diagonal():
    names = ("background", *coco.NAMES)
    # The later a class, the more of it is its own; the rest is background but for one name's paint on "person".
    right = np.linspace(0.1, 0.98, len(names))
    matrix = np.diag(right)
    matrix[1:, 0] += 1 - right[1:]
    matrix[0, 1] += 1 - right[0]
    figure = plots.confusion(np.rint(matrix * 1e6).astype(int), rows=names, columns=names)
    share, rows, columns = shown(figure)
    assert len(rows) == MOST_ROWS and rows[0] == names[-1] and rows[-1] == names[0]
    assert columns[:MOST_ROWS] == rows and len(columns) == MOST_COLUMNS + 1
    assert columns[-1] == f"{len(names) - MOST_COLUMNS} other names"
    np.testing.assert_allclose(share.sum(axis=1), 1)
    # The diagonal exists: it falls from the first row to the last.
    own = np.diag(share)
    np.testing.assert_allclose(own, [right[names.index(name)] for name in rows], atol=1e-5)
    assert (np.diff(own) < 0).all()
    assert "25 of 81 classes, from the best found to the worst" in figure.axes[0].get_title(loc="left")
    assert_nothing_clipped(figure)


def test_confusion_refuses_what_does_not_fit():
    with pytest.raises(FusionerError, match="2 rows and 1 columns"):
        plots.confusion(np.ones((2, 2)), rows=["a", "b"], columns=["a"])
    with pytest.raises(FusionerError, match="no pixel"):
        plots.confusion(np.zeros((1, 1)), rows=["a"], columns=["a"])


def risk_rows():
    """As a run makes them: probabilities that know something of what is there."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, (60, 60))
    table = ThresholdTable(["cat", "dog"])
    own = np.stack([target == 1, target == 2])
    table.add(["cat", "dog"], np.clip(0.45 + 0.25 * own + rng.normal(0, 0.2, own.shape), 0, 1), target)
    return table.rows()


def test_risk_curve_holds_the_rows_and_both_thresholds():
    rows = risk_rows()
    figure = plots.risk_curve(rows[::-1], chosen=0.35)
    left, right = figure.axes
    thresholds = [row["threshold"] for row in rows]
    for line, key in zip(left.lines, ("miou", "coverage", "risk"), strict=False):
        np.testing.assert_allclose(line.get_xydata(), [(row["threshold"], row[key]) for row in rows])
    assert [line.get_xdata()[0] for line in left.lines[3:]] == [0.5, 0.35]
    labels = ["mIoU", "coverage", "risk", "fixed, 0.50", "calibrated, 0.35"]
    assert [text.get_text() for text in left.get_legend().get_texts()] == labels
    np.testing.assert_allclose(right.lines[0].get_xydata(), [(row["coverage"], row["risk"]) for row in rows])
    for line, threshold in zip(right.lines[1:], (0.5, 0.35), strict=True):
        row = rows[np.abs(np.array(thresholds) - threshold).argmin()]
        np.testing.assert_allclose(line.get_xydata(), [(row["coverage"], row["risk"])])
    for text in right.texts:
        row = rows[np.abs(np.array(thresholds) - float(text.get_text())).argmin()]
        assert text.xy == pytest.approx((row["coverage"], row["risk"]))
    assert {"0.1", "0.5", "0.9"} <= {text.get_text() for text in right.texts}
    assert_nothing_clipped(figure)
    assert len(plots.risk_curve(rows, chosen=None).axes[1].lines) == 2


def test_risk_curve_leaves_gaps_and_names_what_is_missing():
    rows = risk_rows()
    rows[-1]["risk"] = rows[-2]["risk"] = math.nan
    figure = plots.risk_curve(rows, chosen=0.5)
    assert "0.9" not in [text.get_text() for text in figure.axes[1].texts]
    assert_nothing_clipped(figure)
    with pytest.raises(FusionerError, match="no 'coverage'"):
        plots.risk_curve([{"threshold": 0.5, "miou": 0.1, "risk": 0.2}], chosen=None)
    with pytest.raises(FusionerError, match="no threshold"):
        plots.risk_curve([], chosen=None)


def test_triple_writes_the_three_values_of_each_setting():
    rows = [
        {"setting": "threshold 0.5", "seen": 0.5, "unseen": 0.25, "harmonic": 1 / 3},
        {"setting": "calibrated, 0.35", "seen": 0.55, "unseen": 0.3, "harmonic": 0.388},
    ]
    figure = plots.triple(rows)
    (axes,) = figure.axes
    assert heights(axes) == pytest.approx([0.5, 0.55, 0.25, 0.3, 1 / 3, 0.388])
    assert [text.get_text() for text in axes.texts] == ["0.50", "0.55", "0.25", "0.30", "0.33", "0.39"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["seen, S", "unseen, U", "harmonic mean"]
    assert axes.get_ylabel() == "mIoU"
    assert_nothing_clipped(figure)
    with pytest.raises(FusionerError, match="no 'harmonic'"):
        plots.triple([{"setting": "x", "seen": 0.5, "unseen": 0.25}])
    with pytest.raises(FusionerError, match="no setting"):
        plots.triple([])
