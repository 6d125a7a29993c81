"""How a training run went."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.labels import label
from fusionerlib.plots.style import BLUE, figure, style

Series = tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]
"""Steps, and what was measured at them."""


def curves(history: Sequence[Mapping[str, Any]], *, metrics: Sequence[str] = ("miou",), smooth: int = 25) -> Figure:
    """Training loss (left) and validation metrics (right) over the steps; the loss alone where nothing was validated.

    history: dicts with ``step`` and any of ``loss`` and ``metrics``; a key may be missing or None in a row.
    smooth: the bold loss line is the mean over the last ``smooth`` rows; the faint one is what was measured.
    """
    if not history:
        raise FusionerError("the history is empty: train for at least one step before plotting it")
    measured = {metric: _series(history, metric) for metric in metrics}
    measured = {metric: series for metric, series in measured.items() if len(series[1])}
    with style():
        result = figure(8.4 if measured else 5.0, 3.0)
        left, *right = result.subplots(1, 2 if measured else 1, squeeze=False)[0]
        steps, loss = _series(history, "loss")
        left.plot(steps, loss, color=BLUE, alpha=0.3, linewidth=0.8, label="each step" if smooth > 1 else "loss")
        if smooth > 1 and len(loss) > 1:
            left.plot(steps, trailing_mean(loss, smooth), color=BLUE, label=f"mean of {smooth}")
            left.legend()
        left.set(title="training loss", xlabel="step", ylabel="loss")
        if len(loss):
            # A single wild first step must not flatten the rest.
            left.set_ylim(0, max(float(np.percentile(loss, 99)) * 1.15, 1e-9))
        for axes in right:
            _validation(axes, measured, limits=left.get_xlim())
        for axes in (left, *right):
            axes.grid(alpha=0.25)
        return result


def _validation(axes: Axes, measured: Mapping[str, Series], *, limits: tuple[float, float]) -> None:
    for metric, (steps, values) in measured.items():
        axes.plot(steps, values, marker="o", markersize=3.5, label=label(metric))
        axes.annotate(f"{values[-1]:.3f}", (steps[-1], values[-1]), (0, 6), textcoords="offset points", ha="right")
    axes.set_ylim(0, min(1.0, max(0.1, axes.get_ylim()[1] * 1.15)))
    axes.set(title="validation" if len(measured) > 1 else f"validation {label(next(iter(measured)))}", xlabel="step")
    axes.set_xlim(limits)
    if len(measured) > 1:
        axes.legend()


def trailing_mean(values: Float[np.ndarray, " rows"], width: int) -> Float[np.ndarray, " rows"]:
    """Mean over each value and the ``width`` - 1 before it (fewer at the start)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (total[ends] - total[starts]) / (ends - starts)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> Series:
    rows = [(row["step"], row[key]) for row in history if row.get(key) is not None]
    return np.array([step for step, _ in rows], dtype=float), np.array([value for _, value in rows], dtype=float)
