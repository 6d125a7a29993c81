"""A checkpoint is a folder of two files: ``model.safetensors`` and ``config.json``. Nothing is ever unpickled."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusionerlib.config import RunConfig, checked
from fusionerlib.errors import FusionerError
from fusionerlib.files import write_text
from fusionerlib.models import SegmentationModel, build

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = 1
PACKAGED = "packaged"
"""What ``Segmenter.load`` calls the checkpoint that comes with the installation."""


@dataclass(frozen=True)
class Checkpoint:
    """A model in eval mode, the run that made it, and the names that it was trained on."""

    model: SegmentationModel
    run: RunConfig
    trained_names: tuple[str, ...]


def packaged_folder() -> Path:
    """The folder of the packaged checkpoint: ``config.json``, ``model.safetensors``, and a card beside them."""
    return Path(str(resources.files("fusionerlib") / "checkpoint"))


def save(
    directory: Path,
    *,
    model: SegmentationModel,
    run: RunConfig,
    trained_names: Sequence[str],
    number_format: torch.dtype | None = None,
) -> None:
    """Write ``model`` and everything needed to rebuild it into ``directory`` (made if missing).

    number_format: of the parameters, None for their own. Statistics of tokens are tiny numbers that half precision
    would lose: buffers stay as they are.
    """
    directory.mkdir(parents=True, exist_ok=True)
    description = {
        "format": FORMAT,
        "run": run.model_dump(mode="json"),
        "visual_width": model.visual_width,
        "text_width": model.text_width,
        "trained_names": sorted(trained_names),
    }
    part = directory / f"{WEIGHTS}.part"
    parameters = dict(model.named_parameters())
    tensors = {
        name: (tensor.to(number_format) if number_format and name in parameters else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, part)
    part.replace(directory / WEIGHTS)
    write_text(directory / CONFIG, json.dumps(description, indent=1))


def load(directory: Path | str) -> Checkpoint:
    """The checkpoint in ``directory``.

    Raises FusionerError where a file is missing or broken, or where weights and config do not belong together.
    """
    directory = Path(directory)
    for file in (WEIGHTS, CONFIG):
        if not (directory / file).is_file():
            raise FusionerError(
                f"checkpoint {directory} has no {file}: give a folder that a training run wrote "
                f"({WEIGHTS} and {CONFIG}), or make one with `make demo`"
            )
    try:
        description = json.loads((directory / CONFIG).read_text())
        widths = {side: int(description[side]) for side in ("visual_width", "text_width")}
        run = checked(RunConfig, description["run"])
        names = tuple(description["trained_names"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise FusionerError(
            f"{directory / CONFIG} is not a checkpoint's config ({error!r}): copy it again from the run that trained it"
        ) from error
    model = build(run.fusion, **widths)
    try:
        weights = load_file(directory / WEIGHTS)
    except SafetensorError as error:
        raise FusionerError(f"{directory / WEIGHTS} can't be read ({error}): copy it again from its run") from error
    mismatch = _mismatch({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, weights)
    if mismatch:
        raise FusionerError(
            f"checkpoint {directory}: {WEIGHTS} is not of the model in {CONFIG} ({mismatch}): "
            "the two files come from different runs; restore the config.json that was written beside these weights"
        )
    model.load_state_dict(weights)
    return Checkpoint(model=model.eval(), run=run, trained_names=names)


def _mismatch(expected: dict[str, tuple[int, ...]], weights: dict[str, Tensor]) -> str:
    for name, shape in expected.items():
        if name not in weights:
            return f"{name} is missing"
        if tuple(weights[name].shape) != shape:
            return f"{name} is {tuple(weights[name].shape)}, expected {shape}"
    extra = sorted(set(weights) - set(expected))
    return f"{extra[0]} is unknown to it" if extra else ""
