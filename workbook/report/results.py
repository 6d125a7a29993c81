"""Nested results as tables, for the page of a run and for a terminal.

The JSON files of a run: metrics, one record a notebook, the data's, the profile, the checkpoint's config.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusionerlib.errors import FusionerError
from studies.published import HOLE


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


def read_metrics(folder: Path) -> dict[str, Any]:
    """``metrics.json`` of a run, {} where there is none yet. Raises FusionerError where it is no JSON object."""
    file = folder / "metrics.json"
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FusionerError(f"{file} is no JSON ({error}): remove it and run the notebooks again") from error
    if not isinstance(values, dict):
        raise FusionerError(f"{file} holds a {type(values).__name__}, not an object: remove it and run again")
    return values


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; {} where it is missing, broken or something else.

    For what is only told: a page with a hole in its summary is worth more than none, and it shows the file as it is.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def part(values: Any, *keys: str) -> dict[str, Any]:
    """The object at ``keys`` inside nested ones, {} where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def notebook_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records that notebooks wrote, by the notebook's name: those with a ``config``."""
    found = {file.stem: read_object(file) for file in sorted((folder / "records").glob("*.json"))}
    return {stem: record for stem, record in found.items() if part(record, "config")}


def run_settings(folder: Path) -> dict[str, Any]:
    """The sections of the run's config (pair, fusion, data, training), {} where nothing was trained."""
    trained = part(read_object(folder / "records" / "02_training.json"), "config", "run")
    return trained or part(read_object(folder / "checkpoint" / "config.json"), "run")


def record_files(folder: Path) -> list[Path]:
    """Every JSON file that says how the run came about, those of the top folder first, without the metrics."""
    top = sorted(file for file in folder.glob("*.json") if file.name != "metrics.json")
    found = [*top, folder / "checkpoint" / "config.json", *sorted((folder / "records").glob("*.json"))]
    return [file for file in found if file.is_file()]
