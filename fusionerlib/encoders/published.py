"""Checkpoints of vision towers as their authors published them, read without unpickling and fitted without a guess."""

import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fusionerlib.errors import FusionerError

State = dict[str, Tensor]


def read(file: Path) -> State:
    """The tensors of a ``.safetensors`` file, or of a torch file (``.pth``, ``.pth.tar``, ``.bin``) by name.

    Whatever else a torch file holds (epoch, optimiser) is left out. Raises FusionerError where it is damaged, or could
    only be had by running code that comes with it.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise FusionerError(f"weights {file} are damaged ({error}): get the file again") from error
    try:
        held: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise FusionerError(
            f"weights {file} can't be read as tensors alone ({_first_line(error)}): nothing is ever loaded by running "
            "code from a file; pass the model's .safetensors, or the published file if this one is damaged"
        ) from error
    for wrapper in ("state_dict", "model"):
        held = held.get(wrapper, held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not any(isinstance(value, Tensor) for value in held.values()):
        raise FusionerError(f"weights {file} hold no tensors by name: pass the file as it was published")
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def mocov3(state: State, *, branch: str) -> State:
    """One encoder of MoCo v3's pair without its projection head (``head.*``).

    branch: ``base_encoder``, which its own linear evaluation takes, or ``momentum_encoder``.
    """
    prefix = f"module.{branch}."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in own.items() if not name.startswith("head.")}


def dinov2(state: State) -> State:
    """DINOv2's own ``.pth`` in timm's layout; a file that is already in it stays as it is.

    The token of the masked pretraining goes. With registers, timm has no positional embedding for [CLS]: it is added
    to the token once.
    """
    state = {name: value for name, value in state.items() if name != "mask_token"}
    if "register_tokens" not in state:
        return state
    state["reg_token"] = state.pop("register_tokens")
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def fill(network: nn.Module, state: State, *, what: str) -> None:
    """Load ``state`` into a timm network, every tensor of both, in the same shapes.

    Names that differ go through timm's own conversion for the network's family, where it has one. what: the file and
    the encoder, for the error. Raises FusionerError naming what is missing, unexpected or of another shape.
    """
    wanted = network.state_dict()
    # Before timm's conversion, which would resize another patch or grid in silence.
    _check_shapes(state, wanted, what=what)
    if state.keys() != wanted.keys():
        convert = getattr(import_module(type(network).__module__), "checkpoint_filter_fn", None)
        state = convert(dict(state), network) if convert else state
    missing, unexpected = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    if missing or unexpected:
        raise FusionerError(
            f"{what}: it lacks {_some(missing)} and has {_some(unexpected)} too many; "
            "pass the file that was published for this encoder, or name the encoder that it was published for"
        )
    _check_shapes(state, wanted, what=what)
    network.load_state_dict(state, strict=True)


def _check_shapes(state: State, wanted: State, *, what: str) -> None:
    for name in state.keys() & wanted.keys():
        if state[name].shape != wanted[name].shape:
            raise FusionerError(
                f"{what}: {name} is {tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}; "
                "name the encoder that the file was published for"
            )


def _some(names: set[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (", ".join(sorted(names)[:4]) or "nothing") + more


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
