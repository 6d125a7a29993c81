"""The registry of encoders: rows of data (``rows/*.json``) and three verbs (list, get, add).

A name with a prefix (``timm:NAME``, ``hf:NAME``, ``open_clip:NAME/TAG``, ``vectors:FILE``) makes its row on the spot.
"""

import difflib
import json
from functools import cache
from importlib import import_module, resources
from typing import Any

from fusionerlib.encoders.base import TextEncoder, VisualEncoder
from fusionerlib.encoders.row import EncoderRow, Loading, Precision, Role
from fusionerlib.errors import FusionerError

PREFIXES: dict[tuple[Role, str], str] = {
    ("visual", "timm"): "fusionerlib.encoders.vision:row",
    ("visual", "open_clip"): "fusionerlib.encoders.clip:visual_row",
    ("text", "open_clip"): "fusionerlib.encoders.clip:text_row",
    ("text", "hf"): "fusionerlib.encoders.sentences:row",
    ("text", "vectors"): "fusionerlib.encoders.vectors:row",
}
"""``module:function`` that makes the row of ``PREFIX:REST`` from REST; none of them imports a heavy family."""


@cache
def _rows() -> dict[tuple[Role, str], EncoderRow]:
    files = [file for file in resources.files(__package__).joinpath("rows").iterdir() if file.name.endswith(".json")]
    rows = [EncoderRow.model_validate(row) for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    return {(row.role, row.name): row for row in rows}


def add_encoder(row: EncoderRow) -> None:
    """Put ``row`` into the registry. Raises FusionerError where its role already has an encoder of that name."""
    if (row.role, row.name) in _rows():
        raise FusionerError(f"{row.role} encoder {row.name!r} is already registered: choose another name")
    _rows()[row.role, row.name] = row


def list_encoders(role: Role | None = None) -> list[EncoderRow]:
    """All rows, visual ones first, by name; only those of ``role`` if it is given."""
    return sorted(
        (row for row in _rows().values() if role in (None, row.role)), key=lambda row: (row.role != "visual", row.name)
    )


def get_row(role: Role, name: str) -> EncoderRow:
    """The row of an encoder. Raises FusionerError naming an unknown name and the known ones."""
    if (role, name) in _rows():
        return _rows()[role, name]
    prefix, colon, rest = name.partition(":")
    if colon and rest and (role, prefix) in PREFIXES:
        made: EncoderRow = _function(PREFIXES[role, prefix])(rest)
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
    how = Loading(device=device, weights=weights, tokens=row.way(tokens), precision=precision, compiled=compiled)
    encoder: VisualEncoder = _function(row.loader)(row, how)
    return encoder


def load_text(
    name: str, *, device: str = "cpu", weights: str = "", tokens: str = "", precision: Precision = "float32"
) -> TextEncoder:
    """The frozen text encoder ``name``; parameters and errors as those of ``load_visual``."""
    row = get_row("text", name)
    how = Loading(device=device, weights=weights, tokens=row.way(tokens), precision=precision)
    encoder: TextEncoder = _function(row.loader)(row, how)
    return encoder


def _function(path: str) -> Any:
    module, function = path.split(":")
    return getattr(import_module(module), function)
