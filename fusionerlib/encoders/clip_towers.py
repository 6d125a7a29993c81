"""One half of an open_clip model: built from its configuration without a download, filled from a published file.

The other half is neither built nor read, so a text tower of 250,000 words costs an image encoder nothing.
"""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fusionerlib.errors import FusionerError

PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
"""How the text half's tensors begin in CLIP's own layout; later models put ``text.`` before them."""


def vision_tower(config: dict[str, Any], file: Path) -> nn.Module:
    """The image half of the open_clip model ``config`` with the weights in ``file``.

    config: as in open_clip's ``model_configs``; ``quick_gelu`` decides the activation. Raises FusionerError where
    ``file`` does not hold exactly this half's tensors.
    """
    import timm
    from open_clip.model import _build_vision_tower

    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    name = vision.get("timm_model_name")
    # Nothing is drawn that would be overwritten. A timm network also computes tables that no file holds.
    with torch.device("cpu" if name else "meta"):
        tower = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
        if name and hasattr(tower.trunk, "dynamic_img_size"):  # an option of timm's that open_clip does not hand on
            how = {"num_classes": tower.trunk.num_classes, "global_pool": vision["timm_pool"]}
            tower.trunk = timm.create_model(name, dynamic_img_size=True, **how)
    return _filled(tower, file, text=False)


def text_tower(config: dict[str, Any], file: Path) -> nn.Module:
    """The text half of the open_clip model ``config`` with the weights in ``file``; errors as ``vision_tower``."""
    from open_clip.model import _build_text_tower

    with torch.device("meta"):
        tower = _build_text_tower(config["embed_dim"], config["text_cfg"], config.get("quick_gelu", False))
    tower.output_tokens = False
    if tower.attn_mask is not None:
        tower.attn_mask = tower.build_causal_mask()
    return _filled(tower, file, text=True)


def _filled(tower: nn.Module, file: Path, *, text: bool) -> nn.Module:
    half = "text" if text else "image"
    try:
        # assign: the file's tensors become the tower's, so that no weight is in memory twice.
        tower.load_state_dict(_read(file, text=text), strict=True, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise FusionerError(
            f"the tensors in {file} are not those of this model's {half} half ({lines[min(1, len(lines) - 1)][:200]}): "
            "expected open_clip's published file of the same model and tag"
        ) from error
    return tower


def _read(file: Path, *, text: bool) -> dict[str, Tensor]:
    """The tensors of one half by their names within it, from safetensors or a plain state dict."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as stream:
                names = {name: inner for name in stream.keys() if (inner := _inner(name, text=text))}  # noqa: SIM118
                return {inner: stream.get_tensor(name) for name, inner in names.items()}
        with warnings.catch_warnings():  # torch says that it will run a TorchScript archive, and then refuses
            warnings.simplefilter("ignore")
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, SafetensorError, EOFError) as error:
        raise FusionerError(
            f"weights {file} can't be read as plain tensors: OpenAI's original .pt is a TorchScript archive, which "
            "holds code; expected the hub's open_clip_model.safetensors of the same model (`fusioner fetch` gets it)"
        ) from error
    tensors = {name.removeprefix("module."): tensor for name, tensor in found.get("state_dict", found).items()}
    return {inner: tensor for name, tensor in tensors.items() if (inner := _inner(name, text=text))}


def _inner(name: str, *, text: bool) -> str:
    """A tensor's name within its half, "" where it belongs to the other one or to the loss."""
    if not text:
        return name.removeprefix("visual.") if name.startswith("visual.") else ""
    return name.removeprefix("text.") if name.startswith(("text.", *PARTS)) else ""
