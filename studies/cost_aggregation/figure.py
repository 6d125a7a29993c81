"""What each setting of a study gains over its base, beside what seeds alone make of the base."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from fusionerlib.errors import FusionerError
from fusionerlib.inference.overlay import short
from fusionerlib.plots.style import BLUE, GREY, ORANGE, figure, style


def gains(
    rows: Sequence[Mapping[str, Any]], *, figures: Mapping[str, str], spread: float = math.nan, title: str = ""
) -> Figure:
    """A row a setting with a dot for each of two ``figures`` (key of the gain: how it is called), largest gain on top.

    rows: dicts with ``setting`` and the gains, in points; NaN is left out. spread: standard deviation of the base over
    seeds, a grey band round zero. Raises FusionerError where there is no row.
    """
    shown = [row for row in rows if not all(math.isnan(row[key]) for key in figures)]
    if not shown:
        raise FusionerError("no setting has a gain to draw: run at least one beside the base")
    shown.sort(key=lambda row: sum(0.0 if math.isnan(row[key]) else row[key] for key in figures))
    with style():
        result = figure(7.0, 1.2 + 0.26 * len(shown))
        axes = result.subplots()
        if not math.isnan(spread):
            axes.axvspan(-spread, spread, color=GREY, alpha=0.18, linewidth=0, label="spread of seeds (1 sd)")
        axes.axvline(0, color=GREY, linewidth=1)
        for (key, name), colour, marker in zip(figures.items(), (BLUE, ORANGE), ("o", "s"), strict=True):
            axes.plot([row[key] for row in shown], range(len(shown)), marker, color=colour, label=name, markersize=5.5)
        axes.set_yticks(range(len(shown)), [short(str(row["setting"]), 34) for row in shown])
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("gain over the base, points of mIoU")
        axes.set_title(title)
        # Below the axes: inside them it would hide dots.
        result.legend(loc="outside lower center", ncols=3)
        return result
