"""Reading checkpoints as their authors published them, without unpickling, and filling networks completely.

Tensors come back in float32 whatever the file holds: a network is cast to the precision that was asked for only when it
is whole, so a half-precision file and its float32 copy give the same encoder.
"""

import argparse
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fusionerlib.errors import FusionerError

State = dict[str, Tensor]
WRAPPERS = ("state_dict", "teacher", "student", "model")
"""Keys under which checkpoints hold their tensors beside epoch and optimiser. DINO's authors evaluate the teacher."""
PREFIXES = ("module.", "model.", "backbone.")
"""What training code puts before the names of a backbone: data parallelism, a wrapping module, a projection head."""


def read(file: Path, *, rename: Callable[[str], str] = str) -> State:
    """The tensors of a ``.safetensors`` file, or of a torch file (``.pth``, ``.pth.tar``, ``.pt``, ``.bin``), by name.

    rename: a tensor's name in the file to its name in the result, "" to leave it out (and, in safetensors, unread).
    Raises FusionerError for a damaged file, for TorchScript, and for a file that only unpickling could read.
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as stream:
                names = {name: new for name in stream.keys() if (new := rename(name))}  # noqa: SIM118
                return {new: _float32(stream.get_tensor(name)) for name, new in names.items()}
        except SafetensorError as error:
            raise FusionerError(f"weights {file} are damaged ({error}): get the file again") from error
    held = _torch_load(file)
    for wrapper in WRAPPERS:
        held = held.get(wrapper, held) if isinstance(held, dict) else held
    named = held.items() if isinstance(held, dict) else ()
    tensors = {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise FusionerError(f"weights {file} hold no tensors by name: pass the file as it was published")
    return {new: _float32(value) for name, value in tensors.items() if (new := rename(name))}


def backbone(state: State) -> State:
    """``state`` under the backbone's own names: the prefixes ``PREFIXES`` removed, tensors of other parts left out.

    Names without any such prefix stay as they are.
    """
    found = True
    while found:
        found = False
        for prefix in PREFIXES:
            inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            if inner:
                state, found = inner, True
    return state


def mocov3(state: State, *, branch: str, what: str) -> State:
    """One encoder of MoCo v3's pair without its projection head (``head.*``).

    branch: ``base_encoder``, which the authors' linear evaluation takes, or ``momentum_encoder``. The file of a linear
    evaluation holds the base encoder alone. Raises FusionerError where ``what`` (file and encoder) lacks the branch.
    """
    pairs = [name for name in ("base_encoder", "momentum_encoder") if any(key.startswith(name) for key in state)]
    if pairs:
        state = {name.removeprefix(f"{branch}."): value for name, value in state.items() if name.startswith(branch)}
    elif branch != "base_encoder":
        raise FusionerError(
            f"{what}: it holds the base encoder alone: set visual_tokens to 'last', or pass the pretraining's file"
        )
    return {name: value for name, value in state.items() if not name.startswith("head.")}


def dinov2(state: State) -> State:
    """DINOv2's own ``.pth`` in timm's layout; a file in timm's layout stays as it is.

    The mask token of the pretraining is dropped. With registers, timm has no positional embedding for [CLS]: it is
    added to the token here.
    """
    state = {name: value for name, value in state.items() if name != "mask_token"}
    if "register_tokens" not in state:
        return state
    state["reg_token"] = state.pop("register_tokens")
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def fill(network: nn.Module, state: State, *, what: str) -> None:
    """Load ``state`` into a timm network: all tensors of both, in equal shapes.

    Where names differ, timm's own conversion for the network's family is applied, if it has one. what: the file and the
    encoder, for the message. Raises FusionerError naming tensors that are missing, unexpected or of another shape.
    """
    wanted = network.state_dict()
    # Checked before timm's conversion, which would resize another patch or grid without a word.
    _check_shapes(state, wanted, what=what)
    if state.keys() != wanted.keys():
        convert = getattr(import_module(type(network).__module__), "checkpoint_filter_fn", None)
        state = convert(dict(state), network) if convert else state
    missing, unexpected = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    if missing or unexpected:
        raise FusionerError(
            f"{what}: missing tensors: {_some(missing)}; unexpected tensors: {_some(unexpected)}; "
            "pass the file that was published for this encoder, or name the encoder that it was published for"
        )
    _check_shapes(state, wanted, what=what)
    network.load_state_dict(state, strict=True)


def _torch_load(file: Path) -> Any:
    """The content of a torch file, by torch's restricted unpickler with a few harmless types more than its own list."""
    # Learning rates of numpy's and argparse's namespaces are what public training code leaves beside the tensors.
    allowed: list[Any] = [argparse.Namespace, np.dtype, *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}]
    scalar = np.float64(0).__reduce__()[0]
    # numpy 1 and 2 name this function differently; a file may be older or newer than the numpy here.
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # torch announces that it will run a TorchScript archive, then refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of other content raises what its bytes happen to mean
        reason = str(error).strip().split("\n")[0]
        if "TorchScript" in str(error):
            raise FusionerError(
                f"weights {file} are a TorchScript archive, which holds code (OpenAI published CLIP so): pass the "
                "model's open_clip_model.safetensors, which `fusioner fetch` downloads"
            ) from error
        raise FusionerError(
            f"weights {file} can't be read as plain tensors ({reason}): the file is damaged, or holds objects whose "
            "loading would run code; pass the model's .safetensors, or save its state_dict alone with torch.save"
        ) from error


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_shapes(state: State, wanted: Mapping[str, Tensor], *, what: str) -> None:
    for name in state.keys() & wanted.keys():
        if state[name].shape != wanted[name].shape:
            raise FusionerError(
                f"{what}: {name} is {tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}; "
                "name the encoder that the file was published for"
            )


def _some(names: set[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (", ".join(sorted(names)[:4]) or "none") + more
