"""Charts of metrics: over training steps, by class, by setting, by kind of mosaic and by level of degradation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.metrics import metric_label
from fusionerlib.evaluation.mosaics import UNITS
from fusionerlib.inference.overlay import short
from fusionerlib.plots.style import BLUE, COLUMN, GREEN, GREY, LETTER, ORANGE, figure, legend_below, style, wrapped

Series = tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]
"""Steps, and the values at them."""
CURVE_METRICS = {"assignment": ("assignment", BLUE), "miou": ("mIoU", ORANGE)}
BAR_METRICS = {**CURVE_METRICS, "miou_permuted": ("mIoU permuted", GREEN)}
PREDICTED_AREAS = {
    "absent_painted": "of the image predicted as the absent name",
    "orphan_painted": "of the orphan tile predicted as any name",
}
PANELS_ACROSS = 2


def curves(history: Sequence[Mapping[str, Any]], *, metrics: Sequence[str] = ("miou",), smooth: int = 25) -> Figure:
    """Training loss (left) and validation metrics (right) by step; without validation only the loss.

    history: dicts with ``step`` and any of ``loss`` and ``metrics``; a key may be missing or None in a row.
    smooth: the bold line is the mean loss of the last ``smooth`` rows, the faint line the loss of each step.
    Raises FusionerError where ``history`` is empty.
    """
    if not history:
        raise FusionerError("the history is empty: train for at least one step before plotting it")
    measured = {metric: _series(history, metric) for metric in metrics}
    measured = {metric: series for metric, series in measured.items() if len(series[1])}
    with style():
        result = figure(COLUMN if measured else 0.7 * COLUMN, 2.5)
        left, *right = result.subplots(1, 2 if measured else 1, squeeze=False)[0]
        steps, loss = _series(history, "loss")
        left.plot(steps, loss, color=BLUE, alpha=0.3, linewidth=0.8, label="each step" if smooth > 1 else "loss")
        if smooth > 1 and len(loss) > 1:
            left.plot(steps, trailing_mean(loss, smooth), color=BLUE, label=f"mean of {smooth}")
            left.legend()
        left.set(title="training loss", xlabel="step", ylabel="loss")
        if len(loss):
            # The few largest losses, usually of the first steps, are cut off: they would flatten the curve.
            left.set_ylim(0, max(float(np.percentile(loss, 99)) * 1.15, 1e-9))
        for axes in right:
            _validation(axes, measured, limits=left.get_xlim())
        for axes in (left, *right):
            axes.grid(alpha=0.25)
        return result


def _validation(axes: Axes, measured: Mapping[str, Series], *, limits: tuple[float, float]) -> None:
    for metric, (steps, values) in measured.items():
        axes.plot(steps, values, marker="o", markersize=3.5, label=metric_label(metric))
        axes.annotate(f"{values[-1]:.3f}", (steps[-1], values[-1]), (0, 6), textcoords="offset points", ha="right")
    axes.set_ylim(0, min(1.0, max(0.1, axes.get_ylim()[1] * 1.15)))
    axes.set(
        title="validation" if len(measured) > 1 else f"validation {metric_label(next(iter(measured)))}", xlabel="step"
    )
    axes.set_xlim(limits)
    if len(measured) > 1:
        axes.legend()


def _series(history: Sequence[Mapping[str, Any]], key: str) -> Series:
    rows = [(row["step"], row[key]) for row in history if row.get(key) is not None]
    return np.array([step for step, _ in rows], dtype=float), np.array([value for _, value in rows], dtype=float)


def trailing_mean(values: Float[np.ndarray, " rows"], width: int) -> Float[np.ndarray, " rows"]:
    """Mean of each value and the ``width`` - 1 values before it (fewer at the start)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (total[ends] - total[starts]) / (ends - starts)


def per_class_bars(table: Sequence[Mapping[str, Any]], *, top: int = 10, bottom: int = 10) -> Figure:
    """IoU of the ``top`` best and the ``bottom`` worst classes, each with its number of episodes.

    table: rows of ``ClassCounts.table``; classes whose IoU is NaN are left out.
    Raises FusionerError where no class has an IoU.
    """
    rated = sorted((row for row in table if not math.isnan(row["iou"])), key=lambda row: (-row["iou"], row["name"]))
    if not rated:
        raise FusionerError("no class has an IoU: evaluate at least one episode before plotting it")
    if top + bottom >= len(rated):
        parts = [(f"all {len(rated)} classes", rated)]
    else:
        parts = [(f"best {top} of {len(rated)} classes", rated[:top])] if top else []
        zeros = sum(row["iou"] == 0 for row in rated)
        told = f" ({zeros} have IoU 0)" if zeros > bottom else ""
        parts += [(f"worst {bottom} of {len(rated)} classes{told}", rated[-bottom:])] if bottom else []
    mean = float(np.mean([row["iou"] for row in rated]))
    with style():
        sizes = [len(rows) + 2 for _, rows in parts]
        result = figure(COLUMN, 0.2 * sum(sizes) + 0.7)
        panels = result.subplots(len(parts), 1, squeeze=False, height_ratios=sizes, sharex=True)[:, 0]
        for axes, (title, rows) in zip(panels, parts, strict=True):
            places = range(len(rows))
            bars = axes.barh(places, [row["iou"] for row in rows], color=BLUE, height=0.7)
            axes.bar_label(bars, [f"{row['iou']:.2f}  ({row['episodes']})" for row in rows], padding=3)
            axes.set_yticks(places, [short(row["name"]) for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.axvline(
                mean, color=GREY, linestyle="--", linewidth=1, label=f"mean of all classes, {mean:.3f}", zorder=0
            )
            axes.set(title=title, xlim=(0, 1.3))
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_xlabel("IoU, in brackets how often the name was asked")
        legend_below(result, axes)
        return result


def ablation_bars(
    rows: Any,
    *,
    setting: str = "setting",
    metric: str = "metric",
    value: str = "value",
    chance: float | None = None,
    title: str = "",
) -> Figure:
    """Grouped bars: one group for each setting, one bar in it for each metric.

    rows: a pandas DataFrame or a sequence of dicts; ``setting``, ``metric`` and ``value`` name its columns. Rows with
    equal setting and metric (several seeds) become one bar of their mean, with their range as an error bar.
    chance: of assignment, a level drawn as a dashed line over the bars of the metrics of that name.
    Raises FusionerError where a column is missing.
    """
    records: list[Mapping[str, Any]] = rows.to_dict("records") if hasattr(rows, "to_dict") else list(rows)
    if missing := [key for key in (setting, metric, value) if not records or key not in records[0]]:
        raise FusionerError(f"the rows have no {missing[0]!r}: expected the columns {setting!r}, {metric!r}, {value!r}")
    settings = list(dict.fromkeys(row[setting] for row in records))
    metrics = list(dict.fromkeys(row[metric] for row in records))
    with style():
        width = 0.84 / len(metrics)
        room = (COLUMN - 0.6) / len(settings)
        upright = room * width < 4.5 * LETTER  # the numbers above neighbouring bars would touch
        result = figure(min(COLUMN, 1.6 + 0.9 * len(settings) * len(metrics)), 3.2)
        axes = result.subplots()
        highest = chance or 0.0
        for place, name in enumerate(metrics):
            for group, one in enumerate(settings):
                found = [float(row[value]) for row in records if row[setting] == one and row[metric] == name]
                if not found:
                    continue
                x, mean = group + (place - (len(metrics) - 1) / 2) * width, float(np.mean(found))
                spread = [[mean - min(found)], [max(found) - mean]] if len(found) > 1 else None
                written = metric_label(str(name))
                once = "_" if any(bar.get_label() == written for bar in axes.containers) else written
                bars = axes.bar(
                    x, mean, width * 0.94, yerr=spread, color=f"C{place}", label=once, error_kw={"capsize": 2}
                )
                axes.bar_label(bars, fmt="%.2f", padding=2, rotation=90 if upright else 0)
                highest = max([highest, *(level for level in found if not math.isnan(level))])
        if chance is not None:
            _chance(axes, chance, groups=len(settings), metrics=[str(name) for name in metrics], width=width)
        letters = max(8, int(room / LETTER) - 1)
        axes.set_xticks(range(len(settings)), [wrapped(str(one), letters, 3) for one in settings])
        axes.set_ylim(0, highest * (1.25 if upright else 1.15) or 1)
        axes.set_title(title)
        axes.set_ylabel(metric_label(str(metrics[0])) if len(metrics) == 1 else "share, 0 to 1")
        if len(metrics) > 1 or chance is not None:
            legend_below(result, axes)
        return result


def _chance(axes: Axes, chance: float, *, groups: int, metrics: Sequence[str], width: float) -> None:
    """A dashed line over the bars of assignment alone: chance is not a level of the other metrics."""
    places = [place for place, name in enumerate(metrics) if name.startswith("assignment")]
    if not places:
        return
    middle = (len(metrics) - 1) / 2
    left, right = (min(places) - middle - 0.5) * width, (max(places) - middle + 0.5) * width
    label = "chance of assignment"
    axes.hlines(
        [chance] * groups,
        [group + left for group in range(groups)],
        [group + right for group in range(groups)],
        color="black",
        linestyle="--",
        linewidth=1,
        label=label,
    )


def kind_bars(figures: Mapping[str, Mapping[str, float]], *, title: str = "") -> Figure:
    """A row of bars for each kind of mosaic: assignment (with chance), mIoU, and mIoU of the permuted control.

    figures: by kind, from ``MosaicResult.kind_figures``; predicted areas are written under the name of the kind.
    Raises FusionerError where ``figures`` is empty.
    """
    if not figures:
        raise FusionerError("there is no kind to draw: pass the figures of at least one")
    with style():
        result = figure(COLUMN, 0.78 * len(figures) + 0.9)
        axes = result.subplots()
        width = 0.84 / len(BAR_METRICS)
        for place, (key, (label, colour)) in enumerate(BAR_METRICS.items()):
            y = [group + (place - (len(BAR_METRICS) - 1) / 2) * width for group in range(len(figures))]
            bars = axes.barh(y, [one[key] for one in figures.values()], width * 0.94, color=colour, label=label)
            axes.bar_label(bars, fmt="%.2f", padding=2)
        for group, one in enumerate(figures.values()):
            label = "" if group else "chance of assignment"
            top = group - 1.5 * width
            look: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1.3}
            axes.vlines(one["chance"], top - 0.04, top + width, label=label, **look)
        axes.set_yticks(range(len(figures)), [_described(name, one) for name, one in figures.items()])
        axes.set(xlim=(0, 1.12), ylim=(len(figures) - 0.45, -0.55), title=title, xlabel="share, 0 to 1")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        legend_below(result, axes)
        return result


def _described(name: str, figures: Mapping[str, float]) -> str:
    lines = [wrapped(name, 24, 2)]
    lines += [
        wrapped(f"{figures[key]:.0%} {text}", 26, 3)
        for key, text in PREDICTED_AREAS.items()
        if not math.isnan(figures.get(key, math.nan))
    ]
    return "\n".join(lines)


def robustness(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel for each curve: assignment and mIoU (0-1) by level, the clean level first, in a grey band.

    rows: from ``robustness_curves``. Levels are equally spaced on the axis, whatever their values.
    Raises FusionerError where ``rows`` is empty.
    """
    if not rows:
        raise FusionerError("there is no curve to draw: evaluate at least one level first")
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    with style():
        down, across = -(-len(curves) // PANELS_ACROSS), min(PANELS_ACROSS, len(curves))
        result = figure(COLUMN, 2.1 * down + 0.4)
        panels = result.subplots(down, across, squeeze=False, sharey=True)
        for axes in panels.ravel()[len(curves) :]:
            axes.set_axis_off()
        for axes, curve in zip(panels.ravel(), curves, strict=False):
            _panel(axes, curve, [row for row in rows if row["curve"] == curve])
        handles, labels = panels[0, 0].get_legend_handles_labels()
        if down * across > len(curves):
            panels[-1, -1].legend(handles, labels, loc="center left")
        else:
            legend_below(result, panels[0, 0])
        return result


def _panel(axes: Axes, curve: str, rows: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(rows))
    for key, (label, colour) in CURVE_METRICS.items():
        values = [row[key] for row in rows]
        axes.plot(places, values, marker="o", markersize=4, color=colour, label=label)
        # Only the first and the last value are written: their difference is the loss.
        for place in (0, len(rows) - 1):
            best = max(rows[place][other] for other in CURVE_METRICS)
            if values[place] < best < values[place] + 0.12 and values[place] < 0.12:
                continue  # too little room between the other value and the axis
            # Not below a point near the axis: the tick labels are there.
            near = "bottom" if values[place] == best or values[place] < 0.12 else "top"
            axes.annotate(
                f"{values[place]:.2f}",
                (place, values[place]),
                (0, 4 if near == "bottom" else -4),
                textcoords="offset points",
                ha="center",
                va=near,
                color=colour,
            )
    axes.plot(places, [row["chance"] for row in rows], color=GREY, linestyle="--", linewidth=1, label="chance")
    clean = [place for place, row in enumerate(rows) if row["clean"]]
    for place in clean:
        axes.axvspan(place - 0.3, place + 0.3, color=GREY, alpha=0.15, linewidth=0, label="clean")
    # JPEG quality 100 stands for no compression.
    axes.set_xticks(places, ["none" if row["clean"] and curve == "JPEG" else f"{row['level']:g}" for row in rows])
    axes.set(title=curve, xlabel=UNITS.get(curve, "level"), ylim=(0, 1.05), xlim=(-0.5, len(rows) - 0.5))
    axes.grid(axis="y", alpha=0.25)
