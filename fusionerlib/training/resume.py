"""Running checkpoints: the state of a training, from which an interrupted one goes on to bit-equal weights.

step-0000200/        the newest, and step-0000100/, its predecessor, which is used where the newest is damaged
    model.safetensors  optimiser.safetensors
    state.json       step, losses, what decides the training, and the digests of the other two and of itself
training.lock        held by the process that trains here
"""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusionerlib.checkpoints import not_finite
from fusionerlib.digests import file_digest, read_json, write_json
from fusionerlib.errors import FusionerError, writing
from fusionerlib.files import to_disk
from fusionerlib.models import SegmentationModel

History = list[dict[str, Any]]
MODEL, OPTIMISER, STATE = "model.safetensors", "optimiser.safetensors", "state.json"
LOCK = "training.lock"


class DamagedError(FusionerError):
    """A running checkpoint that can't be used, and why."""


@dataclass
class TrainingState:
    """The state of a training. scaler: gradient scaler of fp16. step: number of steps done. history: a row a step.

    kept: the last running checkpoint that was written or loaded.
    """

    model: SegmentationModel
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    history: History = field(default_factory=list)
    kept: Path | None = None

    def save(self, directory: Path, identity: dict[str, Any]) -> None:
        """Write the running checkpoint of this step to the disk, then delete older ones but its predecessor.

        A crash never leaves a partial one. identity: what decides the training; ``resume`` compares it.
        Raises FusionerError where the weights are not finite, and where the system refuses to write; nothing is left
        of it then.
        """
        tensors = {key: tensor.contiguous() for key, tensor in self.model.state_dict().items()}
        moments = {
            f"{index}.{key}": value.contiguous()
            for index, state in self.optimiser.state_dict()["state"].items()
            for key, value in state.items()
        }
        if broken := not_finite(tensors) or not_finite(moments):
            raise FusionerError(
                f"step {self.step}: {broken}, so it is not saved; the running checkpoint before it is in {directory}"
            )
        target, part = directory / f"step-{self.step:07d}", directory / f"step-{self.step:07d}.part"
        with writing(target):
            try:
                _clear(part)
                part.mkdir(parents=True)
                save_file(tensors, part / MODEL)
                save_file(moments, part / OPTIMISER)
                for name in (MODEL, OPTIMISER):
                    to_disk(part / name)
                values = {
                    "identity": identity,
                    "step": self.step,
                    "history": self.history,
                    "scaler": {} if self.scaler is None else self.scaler.state_dict(),
                    "digests": {name: file_digest(part / name) for name in (MODEL, OPTIMISER)},
                }
                write_json(part / STATE, values, durable=True)
                _clear(target)
                part.rename(target)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
            to_disk(directory)
        for old in directory.glob("step-*"):
            if old not in (target, self.kept):
                shutil.rmtree(old, ignore_errors=True)
        self.kept = target

    def resume(self, directory: Path, identity: dict[str, Any], *, quiet: bool = False) -> None:
        """Load the last running checkpoint in ``directory``, if there is one; its predecessor where it is damaged.

        quiet: don't say on stderr which ones are damaged. Raises FusionerError that names the difference if
        ``identity`` is not the checkpoint's, and one that names the file if all of them are damaged or the newest whole
        one does not fit the model (as one of an older version of the library).
        """
        found = sorted(path for path in directory.glob("step-*") if not path.suffix)
        damages: list[str] = []
        for folder in reversed(found):
            try:
                self._load(folder, identity)
            except DamagedError as error:
                damages.append(str(error))
                continue
            if damages and not quiet:
                print(f"{'; '.join(damages)}: training goes on from {folder.name}", file=sys.stderr)
            return
        if damages:
            raise FusionerError(f"{'; '.join(damages)}: delete {directory} to start again")

    def _load(self, folder: Path, identity: dict[str, Any]) -> None:
        try:
            state = read_json(folder / STATE, what="the state of a training", remedy="", required=True)
            step, history, scaler = _step(state["step"], state["history"]), state["history"], dict(state["scaler"])
            old, digests = dict(state["identity"]), dict(state["digests"])
        except (FusionerError, KeyError, TypeError, ValueError) as error:
            told = str(error).removesuffix(": ") if isinstance(error, FusionerError) else f"{folder / STATE}: {error!r}"
            raise DamagedError(told) from error
        if old != identity:
            raise FusionerError(
                f"{folder} is a checkpoint of another run ({_difference(old, identity)}): "
                f"delete {folder.parent} to start again, or give this run another folder"
            )
        weights, moments = (_tensors(folder / name, str(digests.get(name))) for name in (MODEL, OPTIMISER))
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise FusionerError(
                f"{folder / MODEL} does not fit the model that this version builds from its config "
                f"({_one_line(error)}): delete {folder.parent} to start again, or go on with the version of the "
                "library that began it"
            ) from error
        by_parameter = self._by_parameter(moments, folder / OPTIMISER)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": by_parameter})
        if self.scaler is not None and scaler:
            self.scaler.load_state_dict(scaler)
        self.step, self.history, self.kept = step, history, folder

    def _by_parameter(self, moments: dict[str, Tensor], file: Path) -> dict[int, dict[str, Tensor]]:
        """``moments`` by the parameter's index. Raises DamagedError for one of no parameter, or of another shape."""
        shapes = [parameter.shape for group in self.optimiser.param_groups for parameter in group["params"]]
        found: dict[int, dict[str, Tensor]] = {}
        for name, value in moments.items():
            index, _, key = name.partition(".")
            place = int(index) if index.isdecimal() and len(index) < 10 else len(shapes)
            if place >= len(shapes) or (value.ndim and value.shape != shapes[place]):
                raise DamagedError(f"{file}: {name} of shape {tuple(value.shape)} is of no parameter of this model")
            found.setdefault(place, {})[key] = value
        return found


def _step(step: Any, history: Any) -> int:
    """``step``, once it is a number of steps that ends ``history``. Raises ValueError otherwise."""
    rows = history if isinstance(history, list) and all(isinstance(row, dict) for row in history) else [{}]
    if type(step) is not int or step < 0 or step != (rows[-1].get("step") if rows else 0):
        raise ValueError(f"step {step!r} is not the last one of its history")
    return step


def _clear(path: Path) -> None:
    """Delete whatever is at ``path``: a folder, a file, a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _tensors(file: Path, digest: str) -> dict[str, Tensor]:
    """The tensors in ``file``. Raises DamagedError where it is not what was written, or not finite."""
    try:
        found = file_digest(file)
        tensors = load_file(file) if found == digest else {}
    except (SafetensorError, OSError, FusionerError) as error:
        raise DamagedError(f"{file} can't be read ({_one_line(error)})") from error
    if found != digest:
        raise DamagedError(f"{file} can't be read (it is damaged: its digest is {found}, {STATE} says {digest})")
    if broken := not_finite(tensors):
        raise DamagedError(f"{file}: {broken}")
    return tensors


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    return f"{path} was {old!r}, is {new!r}"
