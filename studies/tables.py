"""Tables in Markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Number = Callable[[int | float], str]


def one_decimal(value: int | float) -> str:
    """An int as it is, a float with one decimal."""
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def markdown_table(rows: Sequence[Mapping[str, Any]], *, number: Number = one_decimal) -> str:
    """A Markdown table with a column for every key of ``rows``; a sentence if there are no rows.

    number: formats numbers. A missing value, None and NaN are "-".
    """
    if not rows:
        return "Nothing was measured.\n"
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[key.replace("_", " ") for key in keys], ["---"] * len(keys)]
    lines += [[_cell(row.get(key), number) for key in keys] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any, number: Number) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)
