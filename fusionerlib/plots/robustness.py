"""How mosaics fare when they are made harder: their harder kinds, and the robustness curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.robustness import UNITS
from fusionerlib.plots.style import BLUE, GREEN, GREY, ORANGE, figure, style, wrapped

MEASURES = {"assignment": ("assignment", BLUE), "miou": ("mIoU", ORANGE)}
BARS = {**MEASURES, "miou_permuted": ("mIoU permuted", GREEN)}
PAINTED = {
    "absent_painted": "of the picture painted for the absent name",
    "orphan_painted": "of the orphan painted",
}
ACROSS = 3


def robustness(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel a curve: assignment and mIoU (0-1) at each level, the clean one first, in a grey band.

    rows: of ``robustness.robustness_curves``. Levels stand at equal distances, whatever their values.
    """
    if not rows:
        raise FusionerError("there is no curve to draw: measure at least one level first")
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    with style():
        down, across = -(-len(curves) // ACROSS), min(ACROSS, len(curves))
        result = figure(3.1 * across + 0.6, 2.6 * down)
        panels = result.subplots(down, across, squeeze=False, sharey=True)
        for axes in panels.ravel()[len(curves) :]:
            axes.set_axis_off()
        for axes, curve in zip(panels.ravel(), curves, strict=False):
            _panel(axes, curve, [row for row in rows if row["curve"] == curve])
        handles, labels = panels[0, 0].get_legend_handles_labels()
        if down * across > len(curves):
            panels[-1, -1].legend(handles, labels, loc="center left")
        else:
            result.legend(handles, labels, loc="outside right center")
        return result


def kind_bars(figures: Mapping[str, Mapping[str, float]], *, title: str = "") -> Figure:
    """A group of bars for each kind of mosaic: assignment, mIoU and mIoU permuted, with the chance of each kind.

    figures: of ``MosaicResult.kind_figures`` by kind; what was painted for an absent name stands under its kind.
    """
    if not figures:
        raise FusionerError("there is no kind to draw: pass the figures of at least one")
    with style():
        result = figure(max(5.0, 1.6 * len(figures) + 1.6), 3.3)
        axes = result.subplots()
        width = 0.84 / len(BARS)
        for place, (key, (label, colour)) in enumerate(BARS.items()):
            x = [group + (place - (len(BARS) - 1) / 2) * width for group in range(len(figures))]
            bars = axes.bar(x, [one[key] for one in figures.values()], width * 0.94, color=colour, label=label)
            axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7.5)
        for group, one in enumerate(figures.values()):
            label = "" if group else "chance of assignment"
            left = group - 1.5 * width
            axes.hlines(
                one["chance"], left - 0.04, left + width, color="black", linestyle=":", linewidth=1.3, label=label
            )
        axes.set_xticks(range(len(figures)), [_described(name, one) for name, one in figures.items()])
        axes.set(ylim=(0, 1.08), title=title)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return result


def _panel(axes: Axes, curve: str, rows: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(rows))
    for key, (label, colour) in MEASURES.items():
        values = [row[key] for row in rows]
        axes.plot(places, values, marker="o", markersize=4, color=colour, label=label)
        # The clean value and the last one, which say how much is lost.
        for place in (0, len(rows) - 1):
            best = max(rows[place][other] for other in MEASURES)
            if values[place] < best < values[place] + 0.12 and values[place] < 0.12:
                continue  # no room between the other value and the axis
            # Never below the axis, where the levels are written.
            near = "bottom" if values[place] == best or values[place] < 0.12 else "top"
            axes.annotate(
                f"{values[place]:.2f}",
                (place, values[place]),
                (0, 4 if near == "bottom" else -4),
                textcoords="offset points",
                ha="center",
                va=near,
                fontsize=7.5,
                color=colour,
            )
    axes.plot(places, [row["chance"] for row in rows], color=GREY, linestyle="--", linewidth=1, label="chance")
    clean = [place for place, row in enumerate(rows) if row["clean"]]
    for place in clean:
        axes.axvspan(place - 0.3, place + 0.3, color=GREY, alpha=0.15, linewidth=0, label="clean")
    # Quality 100 stands for no compression at all.
    axes.set_xticks(places, ["none" if row["clean"] and curve == "JPEG" else f"{row['level']:g}" for row in rows])
    axes.set(title=curve, xlabel=UNITS.get(curve, "level"), ylim=(0, 1.05), xlim=(-0.5, len(rows) - 0.5))
    axes.grid(axis="y", alpha=0.25)


def _described(name: str, figures: Mapping[str, float]) -> str:
    lines = [wrapped(name, 18, 3)]
    lines += [
        wrapped(f"{figures[key]:.0%} {text}", 24, 3)
        for key, text in PAINTED.items()
        if not math.isnan(figures.get(key, math.nan))
    ]
    return "\n".join(lines)
