"""The registry for people and for machines: what can be paired, what it weighs, and what is on this machine."""

import difflib
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from fusionerlib.encoders.registry import PREFIXES, get_row, list_encoders
from fusionerlib.encoders.row import EncoderRow, Role
from fusionerlib.encoders.weights import present
from fusionerlib.errors import FusionerError
from fusionerlib.progress import size_text

LINE = 120
"""Characters of a line."""

_COLUMNS: dict[str, Callable[[EncoderRow], str]] = {
    "name": lambda row: row.name,
    "family": lambda row: row.family,
    "params": lambda row: f"{row.parameters / 1e6:.0f} M" if row.parameters else "?",
    "width": lambda row: str(row.width or "?"),
    "patch": lambda row: str(row.stride or "?"),
    "tokens": lambda row: ", ".join(row.tokens),
    "pretraining": lambda row: row.pretraining,
    "licence": lambda row: row.licence,
    "download": lambda row: _download(row),
    "here": lambda row: "yes" if present(row) else "no",
}
_FOLDED = ("family", "tokens", "pretraining", "licence")
"""Columns whose cells may go on in the next line."""
_MADE_ON_THE_SPOT = {
    "timm": "timm:NAME, a network of timm",
    "open_clip": "open_clip:NAME/TAG, a model of open_clip with a tag of its published weights",
    "hf": "hf:OWNER/NAME or hf:FOLDER, a network of transformers or sentence-transformers",
    "vectors": "vectors:FILE, a parquet table of names and ready-made vectors",
}


def overview() -> str:
    """A table of rows for each role, in lines of at most ``LINE``, and the prefixes that make further ones."""
    visual, text = list_encoders("visual"), list_encoders("text")
    made = [f"{role:8}{_MADE_ON_THE_SPOT.get(prefix, f'{prefix}:...')}" for role, prefix in sorted(PREFIXES)]
    return "\n".join(
        [
            "Visual encoders (patch: pixels a token; tokens: the ways to take them, the default first)",
            *table(visual, list(_COLUMNS)),
            "",
            "Text encoders",
            *table(text, [column for column in _COLUMNS if column != "patch"]),
            "",
            "Made on the spot from a name with a prefix",
            *made,
            "",
            "`fusioner fetch NAME` downloads what is not here.",
        ]
    )


def records() -> list[dict[str, Any]]:
    """All rows as JSON objects, with ``download`` (bytes, 0 where not known or nothing) and ``present`` beside them."""
    return [
        {**row.model_dump(mode="json"), "download": row.download, "present": present(row)} for row in list_encoders()
    ]


def rows_named(name: str, role: str = "") -> list[EncoderRow]:
    """The visual and the text row of ``name``, or those of them that there are; only that of ``role`` if it is given.

    Raises FusionerError where there is none.
    """
    roles: list[Role] = ["visual", "text"]
    if role and role not in roles:
        raise FusionerError(f"unknown role {role!r}: expected visual or text")
    wanted = [kind for kind in roles if role in ("", kind)]
    prefix, colon, _ = name.partition(":")
    known = {kind: {row.name for row in list_encoders(kind)} for kind in wanted}
    holding = [kind for kind in wanted if name in known[kind] or (colon and (kind, prefix) in PREFIXES)]
    if not holding:
        near = difflib.get_close_matches(name, set().union(*known.values()), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FusionerError(f"unknown {role or 'visual or text'} encoder {name!r}: {hint}see `fusioner encoders`")
    return [get_row(kind, name) for kind in holding]


def table(rows: Sequence[EncoderRow], columns: Sequence[str]) -> list[str]:
    """Lines of at most ``LINE`` characters, headings first; the cells that may fold go on below where room is short."""
    grid = [list(columns), *([_COLUMNS[column](row) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*grid, strict=True)]
    words = [
        max(len(word) for cell in cells for word in cell.replace("-", "- ").split())
        for cells in zip(*grid, strict=True)
    ]
    folded = [index for index, column in enumerate(columns) if column in _FOLDED]
    while sum(widths) + 2 * (len(columns) - 1) > LINE:
        # Squeeze where it costs the fewest lines, the widest column of equal ones. Words break at hyphens.
        narrower = {index: [*widths[:index], widths[index] - 1, *widths[index + 1 :]] for index in folded}
        free = [index for index in folded if widths[index] > words[index]]
        if not free:
            break
        widths = narrower[min(free, key=lambda index: (len(_lines(grid, narrower[index])), -widths[index]))]
    return _lines(grid, widths)


def _lines(grid: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    lines = []
    for cells in grid:
        parts = [_folds(cell, width) for cell, width in zip(cells, widths, strict=True)]
        for depth in range(max(map(len, parts))):
            line = [part[depth] if depth < len(part) else "" for part in parts]
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return lines


@cache
def _folds(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width) or [""]


def _download(row: EncoderRow) -> str:
    if not row.files:
        return "none"
    if not row.download:
        return "?"
    size = size_text(row.download)
    return size if all(file.bytes for file in row.files) else f"> {size}"
