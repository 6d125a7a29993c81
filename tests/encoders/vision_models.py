"""Random checkpoints of vision towers in their published layouts, and a vision transformer written straight down."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from fusionerlib.encoders import timm_models
from fusionerlib.encoders.base import EncoderSpec, LoadOptions, VisualTower
from fusionerlib.encoders.registry import get_spec

State = Mapping[str, Tensor]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
WIDE = (2, 3, 96, 160)
"""An oblong batch, in patches of 16: 6 rows, 10 columns."""


def images(shape: tuple[int, ...] = WIDE) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def normal(pixels: Tensor, mean: Tensor = MEAN, std: Tensor = STD) -> Tensor:
    return (pixels / 255 - mean[:, None, None]) / std[:, None, None]


def small(name: str, **arguments: Any) -> EncoderSpec:
    """The spec ``name`` with other arguments for timm, such as fewer layers."""
    spec = get_spec("visual", name)
    merged = {**spec.options.get("arguments", {}), **arguments}
    return spec.model_copy(update={"options": {**spec.options, "arguments": merged}})


def load(spec: EncoderSpec, file: Path, **options: Any) -> VisualTower:
    return timm_models.load(spec, LoadOptions(weights=str(file), **{"tokens": spec.tokens[0], **options}))


def saved(state: Mapping[str, Any], file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, file)
    else:
        torch.save(state, file)
    return file


def shaken(network: nn.Module) -> nn.Module:
    """``network`` with every parameter off its initial value, so that none can be left out in silence."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return network.eval()


def assert_tokens(tower: VisualTower, pixels: Tensor, expected: Tensor) -> None:
    """expected: (batch, patches, width), of any length."""
    found = tower(pixels).main
    assert found.grid == (pixels.shape[-2] // tower.stride, pixels.shape[-1] // tower.stride)
    assert found.tokens.shape == expected.shape and tower.width == expected.shape[-1]
    torch.testing.assert_close(found.tokens, F.normalize(expected.detach(), dim=-1), atol=1e-5, rtol=1e-4)


def vit_state(*, width: int, depth: int, patch: int, grid: int, seed: int = 0) -> dict[str, Tensor]:
    """Random weights with the names and shapes of DINO's published backbones, a square ``grid`` of positions.

    The embeddings are so small that an epsilon of another size in the norms shows, too.
    """
    made = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float, mean: float = 0.0) -> Tensor:
        return mean + scale * torch.randn(*shape, generator=made)

    state = {
        "cls_token": draw(1, 1, width, scale=2e-3),
        "pos_embed": draw(1, 1 + grid * grid, width, scale=2e-3),
        "patch_embed.proj.weight": draw(width, 3, patch, patch, scale=1e-3 / patch),
        "patch_embed.proj.bias": draw(width, scale=1e-3),
        "norm.weight": draw(width, scale=0.3, mean=1.0),
        "norm.bias": draw(width, scale=0.3),
    }
    for block in (f"blocks.{index}." for index in range(depth)):
        for norm in ("norm1", "norm2"):
            state[block + norm + ".weight"] = draw(width, scale=0.3, mean=1.0)
            state[block + norm + ".bias"] = draw(width, scale=0.3)
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            # Sharp attention, so that a wrong number of heads can't average out.
            state[f"{block}{name}.weight"] = draw(rows, columns, scale=(2.0 if "qkv" in name else 0.7) / columns**0.5)
            state[f"{block}{name}.bias"] = draw(rows, scale=0.2)
    return state


def vit(
    state: State,
    pixels: Tensor,
    *,
    heads: int,
    positions: Tensor,
    eps: float = 1e-6,
    rotate: Callable[[Tensor], Tensor] = lambda vectors: vectors,
) -> Tensor:
    """Patch tokens (batch, patches, width) of normalised images, under the names of ``vit_state``.

    positions: (1, 1 + patches, width). rotate: what is done to queries and keys (batch, heads, tokens, size). A first
    norm ``norm_pre`` is applied where the state has one, the last one where it has ``norm``.
    """

    def norm(tokens: Tensor, name: str) -> Tensor:
        if f"{name}.weight" not in state:
            return tokens
        centred = tokens - tokens.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(tokens: Tensor, name: str) -> Tensor:
        return tokens @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    kernel = state["patch_embed.proj.weight"]
    patches = F.conv2d(pixels, kernel, state.get("patch_embed.proj.bias"), stride=kernel.shape[-1])
    tokens = torch.cat([state["cls_token"].expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    tokens = norm(tokens + positions, "norm_pre")
    for index in range(sum(name.endswith("attn.qkv.weight") for name in state)):
        block = f"blocks.{index}."
        joined = linear(norm(tokens, block + "norm1"), block + "attn.qkv")
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in joined.chunk(3, -1))
        query, key = rotate(query), rotate(key)
        weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        tokens = tokens + linear((weights @ value).transpose(1, 2).flatten(2), block + "attn.proj")
        hidden = linear(norm(tokens, block + "norm2"), block + "mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + linear(hidden, block + "mlp.fc2")
    return norm(tokens, "norm")[:, 1:]


def sine_cosine(width: int, rows: int, columns: int) -> Tensor:
    """MoCo v3's positions (1, 1 + patches, width) number by number; zeros for the class token."""
    quarter = width // 4
    table = [[0.0] * width]
    for row in range(rows):
        for column in range(columns):
            entry = []
            for place in (row, column):
                angles = [place / 10000 ** (index / quarter) for index in range(quarter)]
                entry += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            table.append(entry)
    return torch.tensor(table)[None]


def resized(positions: Tensor, rows: int, columns: int, resize: Callable[..., Tensor]) -> Tensor:
    """``positions`` (1, 1 + patches, width) of a square grid on another grid, the class token's as it is.

    resize: a map (1, width, side, side) and the new grid's ``size`` to the new map.
    """
    side = math.isqrt(positions.shape[1] - 1)
    grid = positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    return torch.cat([positions[:, :1], resize(grid, (rows, columns)).flatten(2).transpose(1, 2)], 1)


def perception_rotation(rows: int, columns: int) -> Callable[[Tensor], Tensor]:
    """Perception Encoder's rotary positions: pairs of channels turn by the column, then by the row.

    Both are counted from 1 on any grid; the class token has (0, 0) and stays.
    """

    def rotate(vectors: Tensor) -> Tensor:
        quarter = vectors.shape[-1] // 4
        speeds = 10000.0 ** (-torch.arange(quarter) / quarter)
        places = torch.cartesian_prod(torch.arange(1, rows + 1), torch.arange(1, columns + 1))
        angles = torch.cat([places[:, 1:] * speeds, places[:, :1] * speeds], 1)
        turns = torch.polar(torch.ones(()), torch.cat([torch.zeros(1, 2 * quarter), angles]))
        pairs = torch.view_as_complex(vectors.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2)

    return rotate


def from_transformers(state: State, renamed: Mapping[str, str]) -> dict[str, Tensor]:
    """A state of transformers with parts of its names replaced; queries, keys and values in one matrix ``attn.qkv``."""
    made = {}
    for name, value in state.items():
        if "q_proj" in name:
            value = torch.cat([state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
        elif "k_proj" in name or "v_proj" in name:
            continue
        for old, new in {"attention.q_proj": "attn.qkv", "attention.o_proj": "attn.proj", **renamed}.items():
            name = name.replace(old, new)
        made[name] = value
    return made
