"""A checkpoint is a folder of two files: ``model.safetensors`` and ``config.json``. Nothing is ever unpickled.

``save`` writes one, ``load`` rebuilds its model, ``convert`` brings one of version 0.1 into today's format.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusionerlib.config import RunConfig, checked
from fusionerlib.errors import FusionerError
from fusionerlib.files import PACKAGED as PACKAGED
from fusionerlib.files import write_text
from fusionerlib.models import SegmentationModel, build

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = 2
"""Number in ``config.json``. Format 1 (version 0.1) had other names of leaves, values and weights."""

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
    published: bool = False,
) -> None:
    """Write ``model`` and everything needed to rebuild it into ``directory`` (made if missing).

    published: write the sha256 of the weights into ``config.json``, which ``load`` then compares.
    parents: of the checkpoint.
    number_format: of the parameters, None for their own. Buffers keep theirs: running statistics of tokens are numbers
    so small that half precision would lose them.
    """
    description = {
        "format": FORMAT,
        "run": run.model_dump(mode="json"),
        "visual_width": model.visual_width,
        "text_width": model.text_width,
        "trained_names": sorted(trained_names),
        "parents": [asdict(parent) for parent in parents],
    }
    parameters = dict(model.named_parameters())
    tensors = {
        name: (tensor.to(number_format) if number_format and name in parameters else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    _write(directory, tensors, description, published=published)


def load(directory: Path | str) -> Checkpoint:
    """The checkpoint in ``directory``.

    Raises FusionerError where a file is missing or broken, where weights and config do not belong together, and for a
    checkpoint of version 0.1, with the command that converts it.
    """
    directory = Path(directory)
    description = _description(directory)
    if description.get("format", FORMAT) == 1:
        raise FusionerError(
            f"checkpoint {directory} is of version 0.1 (format 1), expected format {FORMAT}: convert it with "
            f"`fusioner convert {directory}`"
        )
    weights, published = _weights(directory), description.get("sha256")
    if published is not None and published != (found := weights_sha256(directory)):
        raise FusionerError(
            f"{directory / WEIGHTS} has sha256 {found}, {CONFIG} says {published}: copy both files again from where "
            "they were published"
        )
    return _rebuilt(directory, description, weights)


def convert(directory: Path | str, target: Path | str | None = None) -> Path:
    """Convert a checkpoint of version 0.1 (format 1) to today's format: same weights and logits, today's names.

    target: the folder to write, None for ``directory`` itself. Returns it. A conversion that was interrupted can be
    run again. Raises FusionerError as ``load`` does, and for a checkpoint that is not of format 1 or uses a setting
    that is gone; nothing is written then.
    """
    directory = Path(directory)
    target = directory if target is None else Path(target)
    description = _description(directory)
    if description.get("format") != 1:
        raise FusionerError(
            f"checkpoint {directory} has format {description.get('format')}, only format 1 (version 0.1) is converted: "
            "load it as it is"
        )
    weights = _weights(directory)
    try:
        kind = description["run"]["fusion"]["kind"]
        run = {section: _converted(leaves, directory) for section, leaves in description["run"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise _no_config(directory, error) from error
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
        if not (directory / file).is_file():
            raise FusionerError(
                f"checkpoint {directory} has no {file}: give a folder that a training run wrote "
                f"({WEIGHTS} and {CONFIG}), or make one with `make demo`"
            )
    try:
        description = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _no_config(directory, error) from error
    if not isinstance(description, dict):
        raise _no_config(directory, TypeError(f"{type(description).__name__}, expected an object"))
    return description


def _weights(directory: Path) -> dict[str, Tensor]:
    try:
        return load_file(directory / WEIGHTS)
    except SafetensorError as error:
        raise FusionerError(f"{directory / WEIGHTS} can't be read ({error}): copy it again from its run") from error


def _rebuilt(directory: Path, description: Mapping[str, Any], weights: dict[str, Tensor]) -> Checkpoint:
    """The checkpoint of ``description`` with ``weights``. directory: where they are from, for messages."""
    try:
        widths = {side: int(description[side]) for side in ("visual_width", "text_width")}
        run = checked(RunConfig, description["run"])
        names = tuple(description["trained_names"])
        parents = tuple(Parent(**parent) for parent in description.get("parents", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise _no_config(directory, error) from error
    model = build(run.fusion, **widths)
    mismatch = _mismatch({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, weights)
    if mismatch:
        raise FusionerError(
            f"checkpoint {directory}: {WEIGHTS} is not of the model in {CONFIG} ({mismatch}): "
            "the two files come from different runs; restore the config.json that was written beside these weights"
        )
    model.load_state_dict(weights)
    return Checkpoint(model=model.eval(), run=run, trained_names=names, parents=parents)


def weights_sha256(directory: Path) -> str:
    """The sha256 (hex) of the weights of the checkpoint in ``directory``."""
    return _sha256(directory / WEIGHTS)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write(
    directory: Path, tensors: dict[str, Tensor], description: Mapping[str, Any], *, published: bool = False
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    part = directory / f"{WEIGHTS}.part"
    save_file(tensors, part)
    if published:
        description = {**description, "sha256": _sha256(part)}
    part.replace(directory / WEIGHTS)
    write_text(directory / CONFIG, json.dumps(description, indent=1))


def _no_config(directory: Path, error: Exception) -> FusionerError:
    return FusionerError(
        f"{directory / CONFIG} is not a checkpoint's config ({error!r}): copy it again from the run that trained it"
    )


def _mismatch(expected: dict[str, tuple[int, ...]], weights: dict[str, Tensor]) -> str:
    for name, shape in expected.items():
        if name not in weights:
            return f"{name} is missing"
        if tuple(weights[name].shape) != shape:
            return f"{name} is {tuple(weights[name].shape)}, expected {shape}"
    extra = sorted(set(weights) - set(expected))
    return f"{extra[0]} is unknown to it" if extra else ""
