"""Figures of the protocols beyond mIoU: confusion between names, risk by background threshold, seen and unseen."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fusionerlib.errors import FusionerError
from fusionerlib.inference.overlay import short
from fusionerlib.plots.metrics import ablation_bars
from fusionerlib.plots.style import BLUE, COLUMN, GREEN, GREY, ORANGE, figure, style

MOST_ROWS, MOST_COLUMNS = 25, 32
"""Most true classes and predicted names in a confusion matrix: more would not be legible."""
FIXED = 0.5
"""The background threshold of the paper."""
RISK_KEYS = ("threshold", "miou", "coverage", "risk")


def confusion(
    matrix: Real[np.ndarray, "true predicted"],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    unseen: Collection[str] = (),
) -> Figure:
    """Confusion matrix: pixels of each true class (row) by predicted name (column), in percent of the row.

    rows, columns: the names of the matrix, "background" included where it has it. unseen: names that are set in bold
    with an asterisk. A frame marks the cell of the row's own name. Classes without a pixel are left out.
    Of more than 25 classes 25 are shown, from the one found best to the one found worst at equal steps. The columns
    are those of the shown classes, in the same order, then the others with the largest shares; of more than 32 columns
    the last one adds up the rest.
    Raises FusionerError where the names do not fit the matrix, and where it holds no pixel.
    """
    if matrix.shape != (len(rows), len(columns)):
        raise FusionerError(
            f"a {matrix.shape} matrix for {len(rows)} rows and {len(columns)} columns: pass a name for each"
        )
    there = [place for place in range(len(rows)) if matrix[place].sum() > 0]
    if not there:
        raise FusionerError("the confusion holds no pixel: evaluate at least one episode before plotting it")
    share = np.asarray(matrix, dtype=np.float64)[there]
    share, rows = share / share.sum(axis=1, keepdims=True), [rows[place] for place in there]
    title = "predicted as … (% of the class's pixels)"
    if len(rows) > MOST_ROWS:
        own = [share[place, columns.index(name)] if name in columns else 0.0 for place, name in enumerate(rows)]
        ranked = np.argsort([-value for value in own], kind="stable")
        kept = ranked[np.linspace(0, len(ranked) - 1, MOST_ROWS).round().astype(int)].tolist()
        title += f"\n{MOST_ROWS} of {len(rows)} classes, from the best found to the worst"
        share, rows = share[kept], [rows[place] for place in kept]
    share, columns = _fewer_columns(share, rows, columns)
    if unseen:
        title += "\n* not seen in training"
    with style():
        # Many names need the width of a page.
        result = figure(0.29 * len(columns) + 2.3, 0.27 * len(rows) + 2.1)
        axes = result.subplots()
        shown = axes.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
        ends: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(columns)), [_marked(name, unseen) for name in columns], **ends)
        axes.set_yticks(range(len(rows)), [_marked(name, unseen) for name in rows])
        for names, labels in ((columns, axes.get_xticklabels()), (rows, axes.get_yticklabels())):
            for name, label in zip(names, labels, strict=True):
                label.set_fontweight("bold" if name in unseen else "normal")
        axes.set_title(title, loc="left")
        axes.set_ylabel("true class")
        _write_shares(axes, share)
        for place, name in enumerate(rows):
            if name in columns:
                at = (columns.index(name) - 0.5, place - 0.5)
                axes.add_patch(Rectangle(at, 1, 1, fill=False, edgecolor=ORANGE, linewidth=1.2))
        result.colorbar(shown, shrink=0.8, aspect=30)
        return result


def _fewer_columns(
    share: Float[np.ndarray, "rows columns"], rows: Sequence[str], columns: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """``share`` with the rows' own names first, then the others: at most ``MOST_COLUMNS``, and one for the rest."""
    place = {name: index for index, name in enumerate(columns)}
    own = [place[name] for name in rows if name in place]
    others = sorted((index for index in range(len(columns)) if index not in own), key=lambda k: -share[:, k].max())
    if len(columns) <= MOST_COLUMNS:
        kept = [*own, *sorted(others)]
        return share[:, kept], [columns[index] for index in kept]
    kept = [*own, *others[: MOST_COLUMNS - len(own)]]
    rest = np.delete(share, kept, axis=1).sum(axis=1, keepdims=True)
    names = [columns[index] for index in kept]
    return np.hstack([share[:, kept], rest]), [*names, f"{len(columns) - len(kept)} other names"]


def _marked(name: str, unseen: Collection[str]) -> str:
    return f"{short(name, 20)} *" if name in unseen else short(name, 20)


def _write_shares(axes: Axes, share: np.ndarray) -> None:
    for row, column in np.ndindex(share.shape):
        # A share below half a percent stays empty, which is easier to read than a zero.
        if share[row, column] >= 0.005:
            colour = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", color=colour)


def risk_curve(rows: Sequence[Mapping[str, Any]], *, chosen: float | None) -> Figure:
    """mIoU, coverage and risk by background threshold (above), and risk against coverage (below).

    rows: from ``ThresholdTable.rows``, with threshold, miou, coverage (share of foreground pixels predicted as a name)
    and risk (share of the pixels predicted as a name that are wrong), all 0-1; NaN leaves a gap.
    chosen: the calibrated threshold, None where there is none.
    Raises FusionerError where a row lacks one of these keys, and where there is no row.
    """
    if not rows:
        raise FusionerError("there is no threshold to draw: pass a row for each")
    if missing := [key for row in rows for key in RISK_KEYS if key not in row]:
        raise FusionerError(f"a row has no {missing[0]!r}: expected {', '.join(RISK_KEYS)}, all 0-1")
    ordered = sorted(rows, key=lambda row: row["threshold"])
    thresholds, miou, coverage, risk = (np.array([row[key] for row in ordered], dtype=float) for key in RISK_KEYS)
    marks = [(FIXED, "fixed", GREY, 9)]
    if chosen is not None:
        marks.append((chosen, "calibrated", ORANGE, 6))
    with style():
        result = figure(COLUMN, 5.6)
        left, right = result.subplots(2, 1)
        for values, name, colour, dash in (
            (miou, "mIoU", BLUE, "-"),
            (coverage, "coverage", GREEN, "--"),
            (risk, "risk", "C3", ":"),
        ):
            left.plot(thresholds, values, dash, color=colour, label=name, linewidth=1.8)
        for threshold, name, colour, _ in marks:
            left.axvline(threshold, color=colour, linewidth=1, linestyle="-.", label=f"{name}, {threshold:.2f}")
        left.set(title="by threshold", xlabel="background threshold", xlim=(0, 1), ylim=(0, 1.02))
        left.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        right.plot(coverage, risk, color=BLUE, linewidth=1.4, marker=".", markersize=4)
        for threshold, name, colour, size in marks:
            at = (np.interp(threshold, thresholds, coverage), np.interp(threshold, thresholds, risk))
            right.plot(*at, "o", color=colour, markersize=size, label=f"{name}, {threshold:.2f}", linestyle="none")
        right.set(title="risk against coverage", xlabel="coverage: foreground pixels predicted as a name")
        right.set(ylabel="risk: predicted pixels that are wrong", xlim=(0, 1.05))
        right.set_ylim(0, min(1.02, 1.2 * max([0.05, *risk[~np.isnan(risk)].tolist()])))
        _annotate_tenths(right, thresholds, coverage, risk)
        right.legend(loc="best")
        for axes in (left, right):
            axes.grid(alpha=0.25)
        return result


def _annotate_tenths(axes: Axes, thresholds: np.ndarray, coverage: np.ndarray, risk: np.ndarray) -> None:
    """Write the thresholds 0.1, 0.2, ... 0.9 beside their points, except where they would overlap."""
    last: tuple[float, float] | None = None
    top = axes.get_ylim()[1]
    for tenth in range(1, 10):
        place = int(np.abs(thresholds - tenth / 10).argmin())
        x, y = float(coverage[place]), float(risk[place])
        if abs(thresholds[place] - tenth / 10) > 1e-6 or math.isnan(x) or math.isnan(y):
            continue
        # A label takes about a twelfth of the width and of the height.
        if last is None or max(abs(x - last[0]), abs(y - last[1]) / top) > 0.085:
            axes.annotate(f"{tenth / 10:.1f}", (x, y), (4, -9), textcoords="offset points")
            last = (x, y)


def triple(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The generalized zero-shot triple of the all-classes protocol as bars: mIoU of seen and of unseen names, and
    their harmonic mean.

    rows: dicts with setting (such as "threshold 0.5") and seen, unseen and harmonic (0-1).
    Raises FusionerError where a row lacks one of these keys, and where there is no row.
    """
    if not rows:
        raise FusionerError("there is no setting to draw: pass a row for each")
    names = {"seen": "seen, S", "unseen": "unseen, U", "harmonic": "harmonic mean"}
    if missing := [key for row in rows for key in ("setting", *names) if key not in row]:
        raise FusionerError(f"a row has no {missing[0]!r}: expected setting, {', '.join(names)}")
    bars = [
        {"setting": row["setting"], "metric": name, "value": row[key]} for row in rows for key, name in names.items()
    ]
    result = ablation_bars(bars, title="all-classes protocol")
    result.axes[0].set_ylabel("mIoU")
    return result
