"""Figures of the benchmarks: targets, growth of cost, and the parts of a training step."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from fusionerlib.errors import FusionerError
from fusionerlib.plots.style import BLUE, COLUMN, GREEN, GREY, ORANGE, figure, style, wrapped

SIDES = {
    "reference": ("reference text", "reference tower", "reference fusion", "reference decoder"),
    "cached": ("reference tower", "reference fusion", "reference decoder"),
    "online": ("our tower", "our fusion", "our decoder", "our optimiser"),
    "stored": ("our fusion", "our decoder", "our optimiser"),
}
"""Parts of a step of each side, named as in benchmarks/training.py."""

COLOURS = {"text": GREY, "tower": GREEN, "fusion": BLUE, "decoder": ORANGE, "optimiser": "#bbbbbb"}
MARKERS = {"train": "o", "answer": "s", "tower": "^", "text": "D"}


def target_marks(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A row for each target, with how many times better than it the measured figure is (log axis; 1 is the target).

    rows: of ``tables.targets``. The figure itself stands beside its mark. Raises FusionerError where there is no row.
    """
    if not rows:
        raise FusionerError("no target was measured: run `make benchmarks` first")
    with style():
        result = figure(COLUMN, 0.9 + 0.36 * len(rows))
        axes = result.subplots()
        for place, row in enumerate(rows):
            value = row["median"] if row["fastest"] is None else row["fastest"]
            most, _, bound = row["target"].rpartition(" ")
            better = float(bound) / value if most == "at most" else value / float(bound)
            met = row["met"] == "yes"
            axes.plot([1, better], [place, place], color=BLUE if met else ORANGE, linewidth=2)
            axes.plot(better, place, "o" if met else "X", color=BLUE if met else ORANGE, markersize=6)
            text = f"{value:.3g} {row['unit']}\n({row['target']})"
            axes.annotate(text, (max(better, 1.0), place), (8, 0), textcoords="offset points", va="center")
        axes.axvline(1, color=GREY, linewidth=1, linestyle="--")
        axes.set_yticks(range(len(rows)), [wrapped(row["what"], 28) for row in rows])
        axes.set(
            xscale="log", ylim=(len(rows) - 0.4, -0.6), xlabel="times better than the target;\nleft of the line: missed"
        )
        axes.set_xlim(right=axes.get_xlim()[1] * 4)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        return result


def cost_growth(record: Mapping[str, Any], *, title: str = "") -> Figure:
    """Seconds against images, names, pixels and depth, a log-log panel each, with fitted powers in the legends.

    record: of benchmarks/scale.py.
    """
    colours = dict(zip(MARKERS, (ORANGE, BLUE, GREEN, GREY), strict=True))
    with style():
        across = min(2, len(record["axes"]))
        down = -(-len(record["axes"]) // across)
        result = figure(COLUMN, 2.7 * down)
        grid = result.subplots(down, across, squeeze=False, sharey=True)
        panels = grid.ravel()[: len(record["axes"])]
        for axes in grid.ravel()[len(panels) :]:
            axes.set_axis_off()
        for axes, (axis, found) in zip(panels, record["axes"].items(), strict=True):
            points = [int(point) for point in found["points"]]
            for part in (part for part in MARKERS if part in found["growth"]):
                seconds = [row[part] for row in found["points"].values()]
                label = f"{part}, power {found['growth'][part]:.2f}"
                axes.plot(points, seconds, MARKERS[part], ls="-", color=colours[part], markersize=4, label=label)
            axes.set(xscale="log", yscale="log", xlabel=axis)
            axes.set_xticks(points, [str(point) for point in points])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(color="#dddddd", linewidth=0.6)
            # The legend stands above the axes: inside them it would hide points.
            axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 1.0), borderpad=0)
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panels[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panels[0].yaxis.set_minor_locator(NullLocator())
        for axes in grid[:, 0]:
            axes.set_ylabel("seconds")
        if title:
            result.suptitle(title)
        return result


def step_parts(record: Mapping[str, Any], *, title: str = "") -> Figure:
    """Above: seconds an image of each side's parts (bars) and of the whole step (diamond). Below: each part's rate in
    percent of the machine's peak rates (matrix product, convolution, copy). record: of benchmarks/training.py."""
    parts = record["parts"]
    with style():
        result = figure(COLUMN, 6.2)
        left, right = result.subplots(2, 1, height_ratios=(2, 3))
        for row, (side, names) in enumerate(SIDES.items()):
            start = 0.0
            for name in names:
                kind = name.split()[-1]
                spent = sum(way["seconds"] for way in parts[name].values())
                left.barh(row, spent, left=start, color=COLOURS[kind], label=kind)
                start += spent
            whole = min(record["bmvc2022"]["seconds"][side])
            left.plot(whole, row, "D", color="black", markersize=5, label="whole step")
        left.set_yticks(range(len(SIDES)), list(SIDES))
        left.set(xlabel="seconds an image", ylim=(len(SIDES) - 0.4, -0.6))
        rows = [(f"{name}, {way}", found["reached"]) for name, ways in parts.items() for way, found in ways.items()]
        for kind, colour, marker in (("matmul", BLUE, "o"), ("convolution", ORANGE, "s"), ("copy", GREEN, "^")):
            shares = [100 * reached[f"of_{kind}"] for _, reached in rows]
            right.plot(shares, range(len(rows)), marker, color=colour, markersize=5, label=f"of {kind}", clip_on=False)
        right.set_yticks(range(len(rows)), [name for name, _ in rows])
        right.set(xlabel="% of the machine's measured peak", ylim=(len(rows) - 0.4, -0.6), xlim=(0, None))
        right.grid(axis="y", color="#dddddd", linewidth=0.6)
        for axes in (left, right):
            handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
            axes.legend(handles.values(), handles, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3)
        if title:
            result.suptitle(title)
        return result
