"""The registry of encoders: list, get, load and add; and the listing that `fusioner encoders` prints.

A named encoder is an ``EncoderSpec`` in ``specs/*.json``. A name with a prefix (``timm:NAME``, ``hf:NAME``,
``open_clip:NAME/TAG``, ``vectors:FILE``) needs no entry: its spec is made from the name.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module, resources
from io import StringIO
from typing import Any

from fusionerlib.encoders.base import EncoderSpec, LoadOptions, Precision, Role, TextEncoder, Triple, VisualEncoder
from fusionerlib.encoders.weights import present
from fusionerlib.errors import FusionerError, nearest
from fusionerlib.progress import size_text

PREFIXES: dict[tuple[Role, str], str] = {
    ("visual", "timm"): "fusionerlib.encoders.timm_models:make_spec",
    ("visual", "open_clip"): "fusionerlib.encoders.clip:visual_spec",
    ("text", "open_clip"): "fusionerlib.encoders.clip:text_spec",
    ("text", "hf"): "fusionerlib.encoders.sentences:make_spec",
    ("text", "vectors"): "fusionerlib.encoders.vectors:make_spec",
}
"""``module:function`` that makes the spec of ``PREFIX:REST`` from REST. None of them imports timm, open_clip or
transformers."""


@cache
def _specs() -> dict[tuple[Role, str], EncoderSpec]:
    files = [file for file in resources.files(__package__).joinpath("specs").iterdir() if file.name.endswith(".json")]
    entries = [entry for file in files for entry in json.loads(file.read_text(encoding="utf-8"))]
    return {(spec.role, spec.name): spec for spec in map(EncoderSpec.model_validate, entries)}


def add_encoder(spec: EncoderSpec) -> None:
    """Put ``spec`` into the registry. Raises FusionerError where its role already has an encoder of that name."""
    if (spec.role, spec.name) in _specs():
        raise FusionerError(f"{spec.role} encoder {spec.name!r} is already registered: choose another name")
    _specs()[spec.role, spec.name] = spec


def list_encoders(role: Role | None = None) -> list[EncoderSpec]:
    """All registered specs, or those of ``role``: visual ones first, sorted by name."""
    chosen = (spec for spec in _specs().values() if role in (None, spec.role))
    return sorted(chosen, key=lambda spec: (spec.role != "visual", spec.name))


def get_spec(role: Role, name: str) -> EncoderSpec:
    """The spec of an encoder, by its name or by ``PREFIX:REST``. Raises FusionerError for an unknown name."""
    if (role, name) in _specs():
        return _specs()[role, name]
    prefix, colon, rest = name.partition(":")
    if colon and rest and (role, prefix) in PREFIXES:
        made: EncoderSpec = _imported(PREFIXES[role, prefix])(rest)
        return made
    prefixes = ", ".join(f"{prefix}:..." for kind, prefix in PREFIXES if kind == role)
    raise FusionerError(
        f"unknown {role} encoder {name!r}: {nearest(name, [spec.name for spec in list_encoders(role)])} "
        f"(`fusioner encoders` lists all; {prefixes} take any model of theirs)"
    )


def specs_named(name: str, role: str = "") -> list[EncoderSpec]:
    """The visual and the text spec of ``name``, or only that of ``role``. Raises FusionerError where there is none."""
    roles: list[Role] = ["visual", "text"]
    if role and role not in roles:
        raise FusionerError(f"unknown role {role!r}: expected visual or text")
    wanted = [kind for kind in roles if role in ("", kind)]
    prefix, colon, _ = name.partition(":")
    holding = [kind for kind in wanted if (kind, name) in _specs() or (colon and (kind, prefix) in PREFIXES)]
    if not holding:
        known = sorted({name for kind, name in _specs() if kind in wanted})
        raise FusionerError(f"unknown {role or 'visual or text'} encoder {name!r}: {nearest(name, known)}")
    return [get_spec(kind, name) for kind in holding]


def load_visual(
    name: str,
    *,
    device: str = "cpu",
    weights: str = "",
    tokens: str = "",
    precision: Precision = "float32",
    compiled: bool = False,
    mean: Triple | None = None,
    std: Triple | None = None,
) -> VisualEncoder:
    """The frozen visual encoder ``name`` on ``device``, in eval mode. Nothing is downloaded.

    tokens: one of the kinds that the encoder's spec lists, "" for the first. The other parameters are those of
    ``LoadOptions``. Raises FusionerError for an unknown name, and where the weights are not on this machine.
    """
    spec = get_spec("visual", name)
    options = LoadOptions(
        device=device,
        weights=weights,
        tokens=spec.resolve_tokens(tokens),
        precision=precision,
        compiled=compiled,
        mean=mean,
        std=std,
    )
    encoder: VisualEncoder = _imported(spec.loader)(spec, options)
    return encoder


def load_text(
    name: str, *, device: str = "cpu", weights: str = "", tokens: str = "", precision: Precision = "float32"
) -> TextEncoder:
    """The frozen text encoder ``name``; parameters and errors as those of ``load_visual``."""
    spec = get_spec("text", name)
    options = LoadOptions(device=device, weights=weights, tokens=spec.resolve_tokens(tokens), precision=precision)
    encoder: TextEncoder = _imported(spec.loader)(spec, options)
    return encoder


def _imported(path: str) -> Any:
    module, function = path.split(":")
    return getattr(import_module(module), function)


LINE = 120
"""Characters of a line of the listing."""

_COLUMNS: dict[str, Callable[[EncoderSpec], str]] = {
    "name": lambda spec: spec.name,
    "family": lambda spec: spec.family,
    "params": lambda spec: f"{spec.parameters / 1e6:.0f} M" if spec.parameters else "?",
    "width": lambda spec: str(spec.width or "?"),
    "patch": lambda spec: str(spec.stride or "?"),
    "tokens": lambda spec: ", ".join(spec.tokens),
    "pretraining": lambda spec: spec.pretraining,
    "licence": lambda spec: spec.licence,
    "download": lambda spec: _download(spec),
    "here": lambda spec: "yes" if present(spec) else "no",
}
_WRAPPED = {"family": 12, "tokens": 16, "pretraining": 18, "licence": 12}
"""Columns whose cells may take several lines, and their characters a line: the longest word of each fits."""
_PREFIXED = {
    "timm": "timm:NAME, any network of timm",
    "open_clip": "open_clip:NAME/TAG, any model of open_clip with a tag of its published weights",
    "hf": "hf:OWNER/NAME or hf:FOLDER, a network of transformers or sentence-transformers",
    "vectors": "vectors:FILE, a parquet table of names and embeddings",
}


def overview() -> str:
    """The listing that `fusioner encoders` prints, in lines of at most ``LINE`` characters."""
    prefixed = [f"{role:8}{_PREFIXED.get(prefix, f'{prefix}:...')}" for role, prefix in sorted(PREFIXES)]
    return "\n".join(
        [
            "Visual encoders (patch: side of a patch in pixels; tokens: the kinds it gives, the default first)",
            *table(list_encoders("visual"), list(_COLUMNS)),
            "",
            "Text encoders",
            *table(list_encoders("text"), [column for column in _COLUMNS if column != "patch"]),
            "",
            "Made from a name with a prefix",
            *prefixed,
            "",
            "`fusioner fetch NAME` downloads the weights that are not on this machine.",
        ]
    )


def records() -> list[dict[str, Any]]:
    """All specs as JSON objects, each with ``download`` (bytes, 0 if none or unknown) and ``present`` (bool)."""
    return [
        {**spec.model_dump(mode="json"), "download": spec.download, "present": present(spec)}
        for spec in list_encoders()
    ]


def table(specs: Sequence[EncoderSpec], columns: Sequence[str]) -> list[str]:
    """The lines of a plain-text table, headings first, at most ``LINE`` characters each."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for column in columns:
        drawn.add_column(column, no_wrap=column not in _WRAPPED, overflow="fold", max_width=_WRAPPED.get(column))
    for spec in specs:
        drawn.add_row(*(_COLUMNS[column](spec) for column in columns))
    console = Console(file=StringIO(), width=LINE, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(drawn)
    return [line.rstrip() for line in captured.get().splitlines()]


def _download(spec: EncoderSpec) -> str:
    if not spec.files:
        return "none"
    if not spec.download:
        return "?"
    size = size_text(spec.download)
    return size if all(file.bytes for file in spec.files) else f"> {size}"
