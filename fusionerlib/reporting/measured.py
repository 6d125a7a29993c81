"""Nested results as tables, for the page of a run and for a terminal."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fusionerlib.reporting.published import HOLE


@dataclass(frozen=True)
class Table:
    """Rows of measured results that share their columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Nested results as tables: one row for every dict that holds numbers, neighbours of equal keys in one table."""
    found: list[Table] = []
    for name, values in _rows(metrics, ()):
        columns, cells = tuple(values), tuple(shown(value) for value in values.values())
        if found and found[-1].columns == columns:
            found[-1] = Table(columns, (*found[-1].rows, (name, cells)))
        else:
            found.append(Table(columns, ((name, cells),)))
    return found


def terminal_table(metrics: Mapping[str, Any], *, most: int = 24) -> str:
    """The results for a terminal, at most ``most`` rows; metrics.json holds the rest."""
    lines: list[str] = []
    rows = 0
    for table in tables(metrics):
        kept = table.rows[: max(0, most - rows)]
        rows += len(table.rows)
        if not kept:
            continue
        grid = [("", *table.columns), *((name, *cells) for name, cells in kept)]
        widths = [max(len(row[column]) for row in grid) for column in range(len(grid[0]))]
        for name, *cells in grid:
            right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
        lines.append("")
    if rows > most:
        lines.append(f"... and {rows - most} more rows in metrics.json")
    return "\n".join(lines).rstrip()


def shown(value: Any) -> str:
    """A number as a table shows it: three decimals below 100, thousands apart, a hole for NaN."""
    if isinstance(value, float):
        if math.isnan(value):
            return HOLE
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}" if value.is_integer() else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _rows(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[tuple[str, dict[str, Any]]]:
    leaves = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
    if any(not isinstance(value, str) for value in leaves.values()):
        yield ".".join(path) or "run", leaves
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _rows(value, (*path, str(name)))
