"""The figure of the methods on the same mosaics."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from fusionerlib.errors import FusionerError
from fusionerlib.plots.metrics import CURVE_METRICS, PANELS_ACROSS
from fusionerlib.plots.style import COLUMN, GREY, figure, style, wrapped


def method_bars(figures: Mapping[str, Mapping[str, Mapping[str, float]]], *, title: str = "") -> Figure:
    """A panel for each test with two bars a method, assignment and mIoU (0-1), and a line at chance assignment.

    figures: by method and test, from ``study.evaluate_tests``. A method without figures of a test has no bar there.
    Raises FusionerError if there is no method.
    """
    tests = list(dict.fromkeys(test for own in figures.values() for test in own))
    if not tests:
        raise FusionerError("there is no method to draw: evaluate at least one first")
    height = 0.84 / len(CURVE_METRICS)
    with style():
        down, across = -(-len(tests) // PANELS_ACROSS), min(PANELS_ACROSS, len(tests))
        result = figure(COLUMN, down * (0.42 * len(figures) + 0.7) + 0.7)
        panels = result.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for place, axes in enumerate(panels.ravel()[len(tests) :], start=len(tests)):
            axes.set_axis_off()
            panels.ravel()[place - across].tick_params(labelbottom=True)
        for axes, test in zip(panels.ravel(), tests, strict=False):
            for place, (key, (label, colour)) in enumerate(CURVE_METRICS.items()):
                shown = {row: own[test][key] for row, own in enumerate(figures.values()) if test in own}
                y = [row + (place - (len(CURVE_METRICS) - 1) / 2) * height for row in shown]
                bars = axes.barh(y, list(shown.values()), height * 0.94, color=colour, label=label)
                # White boxes, so that the line at chance does not cross the numbers.
                paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
                axes.bar_label(bars, fmt="%.2f", padding=2, bbox=paper)
            chance = next(own[test]["chance"] for own in figures.values() if test in own)
            axes.axvline(chance, color=GREY, linestyle="--", linewidth=1, zorder=0, label="chance of assignment")
            axes.set_title(wrapped(test, 26, 2))
            axes.set_yticks(range(len(figures)), [wrapped(name, 16, 2) for name in figures])
            axes.set(xlim=(0, 1.25), ylim=(len(figures) - 0.45, -0.55))
        handles, labels = panels[0, 0].get_legend_handles_labels()
        result.legend(handles, labels, loc="outside lower center", ncols=3)
        if title:
            result.suptitle(title)
        return result
