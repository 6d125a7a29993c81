"""A checkpoint is a folder of two files: ``model.safetensors`` and ``config.json``. Nothing is ever unpickled.

``config.json`` holds the sha256 of the weights and a digest of its own entries; ``load`` compares both.
``save`` writes one, ``load`` rebuilds its model, ``convert`` brings one of version 0.1 into today's format.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusionerlib import config
from fusionerlib.config import FusionConfig, RunConfig, checked
from fusionerlib.digests import SEAL, read_json, sha256_of, write_json
from fusionerlib.errors import FusionerError
from fusionerlib.files import PACKAGED as PACKAGED
from fusionerlib.files import replacing
from fusionerlib.models import SegmentationModel, build

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = 2
"""Number in ``config.json``. Format 1 (version 0.1) had other names of leaves, values and weights."""
ENTRIES = frozenset({"format", "run", "visual_width", "text_width", "trained_names", "parents", "examples", "sha256"})
"""Keys of ``config.json``, without its digest."""
LARGE = 4_096
"""Widest layer times depth from which on the shapes of a model are computed before memory for it is asked for."""
WIDEST = 1 << 20
"""Most channels of the tokens of an encoder."""

REMEDY = f'copy it again from the run that trained it, or delete its entry "{SEAL}" if you changed it on purpose'

RENAMED_LEAVES = {"likeness": "similarity", "evidence": "confidence_rescaling", "context": "guidance_channels"}
"""Leaves of format 1, and what they are called now."""
RENAMED_VALUES: dict[str, dict[str, str]] = {
    "kind": {"maps": "cost_aggregation", "similarity": "training_free"},
    "similarity": {"classes": "class_posteriors"},
    "visual_tokens": {"worded": "conse", "classes": "class_posteriors"},
    "text_tokens": {"classes": "class_posteriors"},
}
"""Values of format 1 by the leaf's name of today, and what they are called now."""
REMOVED_LEAVES = {"presence": False, "ema": None, "mosaics": None, "pastes": None}
"""Leaves of format 1 that are gone, with the only value that can be converted; None for any: they decided how a model
was trained, not what it computes."""
RENAMED_WEIGHTS = {"likeness.": "statistics.", "context.": "guidance."}
"""Prefixes of weights of format 1 and of today, of kind ``cost_aggregation``; the other kinds kept theirs."""


@dataclass(frozen=True)
class Parent:
    """A checkpoint that a training started from: what it was called there, and the sha256 of its weights."""

    checkpoint: str
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A model in eval mode, the run that trained it, and the names that it was trained on, its parents' included.

    parents: the checkpoint that training started from, then the one that that one's training started from, and so on.
    """

    model: SegmentationModel
    run: RunConfig
    trained_names: tuple[str, ...]
    parents: tuple[Parent, ...] = ()


def packaged_folder() -> Path:
    """The folder of the packaged checkpoint: ``config.json``, ``model.safetensors``, and a model card."""
    return Path(str(resources.files("fusionerlib") / "checkpoint"))


def save(
    directory: Path,
    *,
    model: SegmentationModel,
    run: RunConfig,
    trained_names: Sequence[str],
    parents: Sequence[Parent] = (),
    number_format: torch.dtype | None = None,
) -> None:
    """Write ``model`` and everything needed to rebuild it into ``directory`` (made if missing).

    parents: of the checkpoint.
    number_format: of the parameters, None for their own. Buffers keep theirs: running statistics of tokens are numbers
    so small that half precision would lose them.
    Raises FusionerError for weights that are not finite; nothing is written then.
    """
    description = {
        "format": FORMAT,
        "run": run.model_dump(mode="json"),
        "visual_width": model.visual_width,
        "text_width": model.text_width,
        "trained_names": sorted(trained_names),
        "parents": [asdict(parent) for parent in parents],
        "examples": list(model.example_names),
    }
    parameters = dict(model.named_parameters())
    tensors = {
        name: (tensor.to(number_format) if number_format and name in parameters else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    if broken := not_finite(tensors):
        raise FusionerError(f"{broken}: a model that is not finite is not saved; go on from an earlier checkpoint")
    _write(directory, tensors, description)


def load(directory: Path | str) -> Checkpoint:
    """The checkpoint in ``directory``.

    A checkpoint without digests (of a version before them) is loaded all the same. Raises FusionerError where a file is
    missing, damaged or of an unknown format, where weights and config do not belong together or a weight is not finite,
    and for a checkpoint of version 0.1, with the command that converts it.
    """
    directory = Path(directory)
    description = _description(directory)
    if "format" not in description:
        raise _no_config(directory, "it has no format")
    number = description["format"]
    if _is_format(number, 1):
        raise FusionerError(
            f"checkpoint {directory} is of version 0.1 (format 1), expected format {FORMAT}: convert it with "
            f"`fusioner convert {directory}`"
        )
    if not _is_format(number, FORMAT):
        raise FusionerError(
            f"checkpoint {directory} has format {number!r}, this version reads {FORMAT}: update fusioner if a newer "
            f"version wrote it, else copy {CONFIG} again from the run that trained it"
        )
    published = description.get("sha256")
    if odd := sorted(set(description) - ENTRIES):
        raise _no_config(directory, f"unknown entry {odd[0]!r}")
    weights = _weights(directory)
    checkpoint = _rebuilt(directory, description, weights)
    if published is not None and published != (found := weights_sha256(directory)):
        raise FusionerError(
            f"{directory / WEIGHTS} has sha256 {found}, {CONFIG} says {published}, so one of the two was damaged or "
            "comes from another run: copy both files again from where they were made, or train again"
        )
    if broken := not_finite(weights):
        raise FusionerError(
            f"{directory / WEIGHTS}: {broken}, so its training had diverged: use an earlier checkpoint, or train again "
            "with a lower lr"
        )
    return checkpoint


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of ``tensor`` is NaN or infinite."""
    if not tensor.is_floating_point():
        return True
    # A sum is many times faster to compute than a mask; only a finite one proves anything, as it may overflow.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Which of ``tensors`` holds NaN or infinity, with how many of them; "" where all are finite."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            count = int((~torch.isfinite(tensor)).sum())
            return f"{name} holds {count} of {tensor.numel()} numbers that are NaN or infinite"
    return ""


def _is_format(number: Any, expected: int) -> bool:
    # True == 1 and 2.0 == 2 in Python, and neither is what this library writes.
    return type(number) is int and number == expected


def convert(directory: Path | str, target: Path | str | None = None) -> Path:
    """Convert a checkpoint of version 0.1 (format 1) to today's format: same weights and logits, today's names.

    target: the folder to write, None for ``directory`` itself. Returns it. A conversion that was interrupted can be
    run again. Raises FusionerError as ``load`` does, and for a checkpoint that is not of format 1 or uses a setting
    that is gone; nothing is written then.
    """
    directory = Path(directory)
    target = directory if target is None else Path(target)
    description = _description(directory)
    if not _is_format(description.get("format"), 1):
        raise FusionerError(
            f"checkpoint {directory} has format {description.get('format')!r}, only format 1 (version 0.1) is "
            "converted: load it as it is"
        )
    weights = _weights(directory)
    try:
        kind = description["run"]["fusion"]["kind"]
        run = {section: _converted(leaves, directory) for section, leaves in description["run"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise _no_config(directory, repr(error)) from error
    if kind == "maps":
        weights = {_renamed(name): tensor for name, tensor in weights.items()}
    checkpoint = _rebuilt(directory, description | {"run": run}, weights)
    _write(target, weights, description | {"format": FORMAT, "run": checkpoint.run.model_dump(mode="json")})
    return target


def _converted(leaves: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """One section of a run of format 1 with today's names."""
    converted = {}
    for leaf, value in leaves.items():
        if leaf in REMOVED_LEAVES:
            if REMOVED_LEAVES[leaf] not in (None, value):
                raise FusionerError(
                    f"checkpoint {directory} was trained with {leaf} = {value!r}, which is gone: use version 0.1, "
                    "or train it again without"
                )
            continue
        leaf = RENAMED_LEAVES.get(leaf, leaf)
        converted[leaf] = RENAMED_VALUES.get(leaf, {}).get(value, value) if isinstance(value, str) else value
    return converted


def _renamed(name: str) -> str:
    for old, new in RENAMED_WEIGHTS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _description(directory: Path) -> dict[str, Any]:
    """The object in ``config.json``."""
    for file in (WEIGHTS, CONFIG):
        if not os.path.isfile(directory / file):  # unlike Path.is_file, no error for a name that is too long
            raise FusionerError(
                f"checkpoint {directory} has no {file}: give a folder that a training run wrote "
                f"({WEIGHTS} and {CONFIG}), or make one with `make demo`"
            )
    return read_json(directory / CONFIG, what="a checkpoint's config", remedy=REMEDY)


def _weights(directory: Path) -> dict[str, Tensor]:
    try:
        return load_file(directory / WEIGHTS)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise FusionerError(f"{directory / WEIGHTS} can't be read ({error}): copy it again from its run") from error


def _with_examples(model: SegmentationModel, names: Sequence[str]) -> SegmentationModel:
    """``model`` with room for the examples of ``names``."""
    if model.examples is not None:
        model.examples.resize(names)
    return model


def _rebuilt(directory: Path, description: Mapping[str, Any], weights: dict[str, Tensor]) -> Checkpoint:
    """The checkpoint of ``description`` with ``weights``. directory: where they are from, for messages."""
    try:
        widths = {side: token_width(description[side]) for side in ("visual_width", "text_width")}
        run = checked(RunConfig, config.without_examples(description["run"]))
        names = tuple(map(_text, _list(description["trained_names"])))
        parents = tuple(
            Parent(**{key: _text(value) for key, value in parent.items()})
            for parent in _list(description.get("parents", []))
        )
        examples = tuple(map(_text, _list(description.get("examples", []))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_config(directory, str(error) if isinstance(error, FusionerError) else repr(error)) from error
    if problem := mismatch(run.fusion, weights, examples, **widths):
        raise FusionerError(
            f"checkpoint {directory}: {WEIGHTS} is not of the model in {CONFIG} ({problem}): "
            "the two files come from different runs, or one was damaged; restore the config.json that was written "
            "beside these weights"
        )
    model = build(run.fusion, **widths)
    model.load_weights(weights, examples)
    return Checkpoint(model=model.eval(), run=run, trained_names=names, parents=parents)


def mismatch(fusion: FusionConfig, weights: dict[str, Tensor], examples: Sequence[str], **widths: int) -> str:
    """Which of ``weights`` does not fit the model of ``fusion``, and why; "" where all do.

    Without memory for that model: a config that asks for more than the weights hold is told at once.
    examples: the names that it has examples of. widths: visual_width and text_width.
    """
    widest = max(fusion.width, fusion.decoder_width, fusion.guidance_channels, *widths.values())
    large = widest * max(fusion.depth, fusion.late_depth) > LARGE
    # A small model is built as it is: for some operations torch imports two seconds of code for "meta".
    with torch.device("meta") if large else nullcontext():
        empty = _with_examples(build(fusion, **widths), examples)
        shapes = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    return _mismatch(shapes, weights)


def weights_sha256(directory: Path) -> str:
    """The sha256 (hex) of the weights of the checkpoint in ``directory``."""
    return sha256_of(directory / WEIGHTS)


def _write(directory: Path, tensors: dict[str, Tensor], description: Mapping[str, Any]) -> None:
    if _foreign(directory / CONFIG):
        raise FusionerError(
            f"{directory} holds the {CONFIG} of another program, which would be replaced: choose another folder"
        )
    with replacing(directory / WEIGHTS, durable=True) as part:
        save_file(tensors, part)
        digest = sha256_of(part)
    write_json(directory / CONFIG, {**description, "sha256": digest}, durable=True)


def _no_config(directory: Path, reason: str) -> FusionerError:
    return FusionerError(f"{directory / CONFIG} is not a checkpoint's config ({reason}): {REMEDY}")


def token_width(value: Any) -> int:
    """``value`` where it can be the number of channels of an encoder's tokens; raises ValueError otherwise."""
    if type(value) is not int or not 1 <= value <= WIDEST:
        raise ValueError(f"a width of {value!r}, expected a whole number from 1 to {WIDEST}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text is expected")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} where a list is expected")
    return value


def _mismatch(expected: dict[str, tuple[int, ...]], weights: dict[str, Tensor]) -> str:
    for name, shape in expected.items():
        if name not in weights:
            return f"{name} is missing"
        if tuple(weights[name].shape) != shape:
            return f"{name} is {tuple(weights[name].shape)}, expected {shape}"
    extra = sorted(set(weights) - set(expected))
    return f"{extra[0]} is unknown to it" if extra else ""


def _foreign(config: Path) -> bool:
    """Whether ``config`` is a JSON file, but none of a checkpoint; one that is damaged may be replaced."""
    try:
        if not config.is_file():  # a pipe would be waited for
            return False
        held = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return not (isinstance(held, dict) and {"run", "format"} & held.keys())
