"""The registry of encoders: rows of data (``rows/*.json``) and three verbs (list, get, add).

A name with a prefix (``timm:NAME``, ``hf:NAME``, ``open_clip:NAME/TAG``, ``vectors:FILE``) makes its row on the spot.

The registry for people and for machines: what can be paired, what it weighs, and what is on this machine.
"""

import difflib
import json
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module, resources
from typing import Any

from fusionerlib.encoders.base import EncoderSpec, LoadOptions, Precision, Role, TextEncoder, VisualEncoder
from fusionerlib.encoders.weights import present
from fusionerlib.errors import FusionerError
from fusionerlib.progress import size_text

PREFIXES: dict[tuple[Role, str], str] = {
    ("visual", "timm"): "fusionerlib.encoders.timm_models:row",
    ("visual", "open_clip"): "fusionerlib.encoders.clip:visual_row",
    ("text", "open_clip"): "fusionerlib.encoders.clip:text_row",
    ("text", "hf"): "fusionerlib.encoders.sentences:row",
    ("text", "vectors"): "fusionerlib.encoders.vectors:row",
}
"""``module:function`` that makes the row of ``PREFIX:REST`` from REST; none of them imports a heavy family."""


@cache
def _rows() -> dict[tuple[Role, str], EncoderSpec]:
    files = [file for file in resources.files(__package__).joinpath("rows").iterdir() if file.name.endswith(".json")]
    rows = [EncoderSpec.model_validate(row) for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    return {(row.role, row.name): row for row in rows}


def add_encoder(row: EncoderSpec) -> None:
    """Put ``row`` into the registry. Raises FusionerError where its role already has an encoder of that name."""
    if (row.role, row.name) in _rows():
        raise FusionerError(f"{row.role} encoder {row.name!r} is already registered: choose another name")
    _rows()[row.role, row.name] = row


def list_encoders(role: Role | None = None) -> list[EncoderSpec]:
    """All rows, visual ones first, by name; only those of ``role`` if it is given."""
    return sorted(
        (row for row in _rows().values() if role in (None, row.role)), key=lambda row: (row.role != "visual", row.name)
    )


def get_row(role: Role, name: str) -> EncoderSpec:
    """The row of an encoder. Raises FusionerError naming an unknown name and the known ones."""
    if (role, name) in _rows():
        return _rows()[role, name]
    prefix, colon, rest = name.partition(":")
    if colon and rest and (role, prefix) in PREFIXES:
        made: EncoderSpec = _function(PREFIXES[role, prefix])(rest)
        return made
    known = [row.name for row in list_encoders(role)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    free = ", ".join(f"{prefix}:..." for kind, prefix in PREFIXES if kind == role)
    raise FusionerError(
        f"unknown {role} encoder {name!r}: {hint}known: {', '.join(known)}, {free} (see `fusioner encoders`)"
    )


def load_visual(
    name: str,
    *,
    device: str = "cpu",
    weights: str = "",
    tokens: str = "",
    precision: Precision = "float32",
    compiled: bool = False,
) -> VisualEncoder:
    """The frozen visual encoder ``name`` on ``device``, in eval mode, without gradient buffers.

    weights: a file or folder in the published format; "" looks where `fusioner fetch` puts them. tokens: which of the
    row's ways of taking patch tokens, "" for the first. compiled: through ``torch.compile``.
    Raises FusionerError where the weights are not on this machine; nothing is ever downloaded here.
    """
    row = get_row("visual", name)
    how = LoadOptions(device=device, weights=weights, tokens=row.way(tokens), precision=precision, compiled=compiled)
    encoder: VisualEncoder = _function(row.loader)(row, how)
    return encoder


def load_text(
    name: str, *, device: str = "cpu", weights: str = "", tokens: str = "", precision: Precision = "float32"
) -> TextEncoder:
    """The frozen text encoder ``name``; parameters and errors as those of ``load_visual``."""
    row = get_row("text", name)
    how = LoadOptions(device=device, weights=weights, tokens=row.way(tokens), precision=precision)
    encoder: TextEncoder = _function(row.loader)(row, how)
    return encoder


def _function(path: str) -> Any:
    module, function = path.split(":")
    return getattr(import_module(module), function)


LINE = 120
"""Characters of a line."""

_COLUMNS: dict[str, Callable[[EncoderSpec], str]] = {
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


def rows_named(name: str, role: str = "") -> list[EncoderSpec]:
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


def table(rows: Sequence[EncoderSpec], columns: Sequence[str]) -> list[str]:
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


def _download(row: EncoderSpec) -> str:
    if not row.files:
        return "none"
    if not row.download:
        return "?"
    size = size_text(row.download)
    return size if all(file.bytes for file in row.files) else f"> {size}"
