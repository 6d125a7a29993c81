"""How a training run went."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from fusionerlib.errors import FusionerError
from fusionerlib.plots.style import BLUE, GREY, figure, style


def curves(history: Sequence[Mapping[str, Any]], *, metrics: Sequence[str] = ("miou",), smooth: int = 25) -> Figure:
    """Training loss (left) and validation metrics (right) over the steps.

    history: dicts with ``step`` and any of ``loss`` and ``metrics``; a key may be missing or None in a row.
    smooth: the bold loss line is the mean over the last ``smooth`` rows; the faint one is what was measured.
    """
    if not history:
        raise FusionerError("the history is empty: train for at least one step before plotting it")
    with style():
        result = figure(8.4, 3.0)
        left, right = result.subplots(1, 2)
        steps, loss = _series(history, "loss")
        left.plot(steps, loss, color=BLUE, alpha=0.3, linewidth=0.8, label="each step" if smooth > 1 else "loss")
        if smooth > 1 and len(loss) > 1:
            left.plot(steps, trailing_mean(loss, smooth), color=BLUE, label=f"mean of {smooth}")
            left.legend()
        left.set(title="training loss", xlabel="step", ylabel="loss")
        if len(loss):
            # A single wild first step must not flatten the rest.
            left.set_ylim(0, max(float(np.percentile(loss, 99)) * 1.15, 1e-9))
        found = False
        for metric in metrics:
            steps, values = _series(history, metric)
            if len(values):
                found = True
                right.plot(steps, values, marker="o", markersize=3.5, label=metric)
                right.annotate(
                    f"{values[-1]:.3f}", (steps[-1], values[-1]), (0, 6), textcoords="offset points", ha="right"
                )
        if found:
            right.set_ylim(0, min(1.0, max(0.1, right.get_ylim()[1] * 1.15)))
        else:
            right.text(0.5, 0.5, "not validated yet", transform=right.transAxes, ha="center", color=GREY)
        right.set(title="validation" if len(metrics) > 1 else f"validation {metrics[0]}", xlabel="step")
        right.set_xlim(left.get_xlim())
        if len(metrics) > 1:
            right.legend()
        for axes in (left, right):
            axes.grid(alpha=0.25)
        return result


def trailing_mean(values: Float[np.ndarray, " rows"], width: int) -> Float[np.ndarray, " rows"]:
    """Mean over each value and the ``width`` - 1 before it (fewer at the start)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (total[ends] - total[starts]) / (ends - starts)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [(row["step"], row[key]) for row in history if row.get(key) is not None]
    return np.array([step for step, _ in rows], dtype=float), np.array([value for _, value in rows], dtype=float)
