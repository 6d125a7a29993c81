"""What a transfer study comes to: means over classes, spreads over seeds, each setting's gain over `modern`."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusionerlib.transfer.study import BASE, CLASSES

Row = Mapping[str, Any]

FIGURES = ("one", "absent", "all", "harmonic", "painted novel", "painted seen")
"""What a setting is told by, in percent; of ``absent`` and the painted shares less is better."""


def by_seed(rows: Iterable[Row], setting: str) -> dict[int, dict[str, float]]:
    """The figures (percent) of ``setting`` by seed: IoU averaged over the classes of all folds, the others over folds.

    A seed counts once it has every fold that any seed of the setting has. ``perfect`` is there for word maps.
    """
    found = [row for row in rows if row["setting"] == setting]
    folds = {row["fold"] for row in found}
    seeds = sorted({row["seed"] for row in found})
    complete = {seed: [row for row in found if row["seed"] == seed] for seed in seeds}
    return {seed: _figures(parts) for seed, parts in complete.items() if {row["fold"] for row in parts} == folds}


def _figures(rows: Sequence[Row]) -> dict[str, float]:
    kinds = [kind for kind in ("one", "absent", "all", "perfect") if all(kind in row for row in rows)]
    figures = {kind: 100 * _mean(level for row in rows for level in row[kind].values()) for kind in kinds}
    figures["harmonic"] = 100 * _mean(row["triple"]["harmonic"] for row in rows)
    for kind in ("novel", "seen"):
        figures[f"painted {kind}"] = 100 * _mean(row["painted"][kind] for row in rows)
    figures["parameters"] = rows[0]["parameters"]
    return figures


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row a setting, in the order of ``rows``: seeds, mean and spread (standard deviation over seeds) of one name,
    the means of the other ``FIGURES``, gain of one name and all names over ``modern`` with the same seeds, and
    trainable parameters."""
    base = by_seed(rows, BASE)
    table = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = by_seed(rows, setting)
        if not own:
            continue
        shared = [seed for seed in own if seed in base]
        row: dict[str, Any] = {"setting": setting, "seeds": len(own)}
        for figure in FIGURES:
            row[figure] = _mean(found[figure] for found in own.values())
            if figure in ("one", "all"):
                levels = [found[figure] for found in own.values()]
                row[f"{figure} spread"] = statistics.stdev(levels) if len(levels) > 1 else math.nan
                row[f"{figure} gain"] = _mean(own[seed][figure] - base[seed][figure] for seed in shared)
        row["parameters"] = int(next(iter(own.values()))["parameters"])
        table.append(row)
    return table


def by_class(rows: Sequence[Row], setting: str, kind: str) -> dict[str, float]:
    """IoU (percent) of ``setting`` by class, the mean over seeds; kind: one, absent, all or perfect."""
    parts = [row[kind] for row in rows if row["setting"] == setting and kind in row]
    return {
        name: 100 * _mean(part[name] for part in parts if name in part)
        for name in CLASSES
        if any(name in part for part in parts)
    }


def by_threshold(rows: Sequence[Row], setting: str) -> list[dict[str, Any]]:
    """The figures (percent) of ``setting`` at each threshold of its records, means over classes, folds and seeds."""
    own = [row for row in rows if row["setting"] == setting]
    levels = list(own[0]["at"]) if own else []
    table = []
    for level in levels:
        parts = [row["at"][level] for row in own]
        row: dict[str, Any] = {"threshold": level}
        for kind in ("one", "absent", "all"):
            row[kind] = 100 * _mean(value for part in parts for value in part[kind].values())
        for kind in ("novel", "seen"):
            row[f"painted {kind}"] = 100 * _mean(part["painted"][kind] for part in parts)
        table.append(row)
    return table


def _mean(values: Iterable[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return statistics.fmean(kept) if kept else math.nan
