"""Pieces of HTML. Every text of a run goes through ``escaped`` on its way: names are typed by users."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from fusionerlib.evaluation.metrics import metric_label
from studies.published import HOLE

FIGURE = re.compile(rf"[-+]?[\d.,]*( ± [\d.]+)?|{HOLE}|nan|True|False")
"""A cell of a column of numbers."""


def escaped(value: Any) -> str:
    """``value`` as text that is text wherever it stands, in an attribute too."""
    return html.escape(str(value))


def link(path: str, label: str) -> str:
    """A link to a file beside the page. Its name may hold anything, ``#`` and ``?`` too."""
    return f"<a href='{escaped(quote(path))}'>{escaped(label)}</a>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, ours: str = "") -> str:
    """A table whose first column names its rows; it scrolls by itself where the screen is narrower.

    ours: the end of the names of rows that are this run's own, which stand out; "" for no such rows.
    """
    rows = list(rows)
    # Words wrap and stand to the left, figures do neither: a long source must not push figures off a phone's screen.
    words = [place == 0 or not all(FIGURE.fullmatch(row[place]) for row in rows) for place in range(len(columns))]
    kinds = [" class='words'" if one else "" for one in words]
    head = "".join(f"<th scope='col'{kind}>{escaped(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
    lines = []
    for name, *cells in rows:
        mark = " class='ours'" if ours and name.endswith(ours) else ""
        told = "".join(f"<td{kind}>{escaped(cell)}</td>" for cell, kind in zip(cells, kinds[1:], strict=True))
        lines.append(f"<tr{mark}><th scope='row' class='words'>{escaped(name)}</th>{told}</tr>")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f"<div class='wide' tabindex='0'><table>{body}</table></div>"


def lines_table(lines: Sequence[Mapping[str, str]], *, ours: str = "") -> str:
    """A table of rows that are column to text, all with the same columns; see ``table``."""
    return table([metric_label(column) for column in lines[0]], [list(line.values()) for line in lines], ours=ours)


def facts(found: Mapping[str, str]) -> str:
    """Names and what is to be said of each, as a list."""
    told = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in found.items())
    return f"<dl>{told}</dl>"


def folded(summary: str, content: str, *, printed: bool = False) -> str:
    """``content`` (HTML) that is opened by a click on ``summary``. printed: on paper it is open."""
    kind = " class='printed'" if printed else ""
    return f"<details{kind}><summary>{escaped(summary)}</summary>{content}</details>"
