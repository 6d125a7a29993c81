"""Running checkpoints: the state of a training, from which an interrupted one goes on to bit-equal weights."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusionerlib.errors import FusionerError
from fusionerlib.files import write_text
from fusionerlib.models import SegmentationModel

History = list[dict[str, Any]]


@dataclass
class TrainingState:
    """The state of a training. scaler: gradient scaler of fp16. step: number of steps done. history: a row a step."""

    model: SegmentationModel
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    history: History = field(default_factory=list)

    def save(self, directory: Path, identity: dict[str, Any]) -> None:
        """Write the running checkpoint of this step, then delete older ones. A crash never leaves a partial one.

        identity: what decides the training; ``resume`` compares it.
        """
        target, part = directory / f"step-{self.step:07d}", directory / f"step-{self.step:07d}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tensors = {key: tensor.contiguous() for key, tensor in self.model.state_dict().items()}
        save_file(tensors, part / "model.safetensors")
        moments = {
            f"{index}.{key}": value.contiguous()
            for index, state in self.optimiser.state_dict()["state"].items()
            for key, value in state.items()
        }
        save_file(moments, part / "optimiser.safetensors")
        scaler = {} if self.scaler is None else self.scaler.state_dict()
        state = {"identity": identity, "step": self.step, "history": self.history, "scaler": scaler}
        write_text(part / "state.json", json.dumps(state))
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        for old in directory.glob("step-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def resume(self, directory: Path, identity: dict[str, Any]) -> None:
        """Load the last running checkpoint in ``directory``, if there is one.

        Raises FusionerError that names the difference if ``identity`` is not the checkpoint's, and one that names the
        file if it is damaged or does not fit the model (as one of an older version of the library).
        """
        found = sorted(path for path in directory.glob("step-*") if (path / "state.json").is_file() and not path.suffix)
        if not found:
            return
        last = found[-1]
        state = json.loads((last / "state.json").read_text())
        if state["identity"] != identity:
            raise FusionerError(
                f"{last} is a checkpoint of another run ({_difference(state['identity'], identity)}): "
                f"delete {directory} to start again, or give this run another folder"
            )
        file = last / "model.safetensors"
        try:
            self.model.load_state_dict(_tensors(file))
        except RuntimeError as error:
            raise FusionerError(
                f"{file} does not fit the model that this version builds from its config ({_one_line(error)}): "
                f"delete {directory} to start again, or go on with the version of the library that began it"
            ) from error
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _tensors(last / "optimiser.safetensors").items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.history = state["step"], state["history"]


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise FusionerError(
            f"{file} can't be read ({_one_line(error)}): delete {file.parent.parent} to start again"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    return f"{path} was {old!r}, is {new!r}"
