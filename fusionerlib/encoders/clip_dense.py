"""Patch tokens of CLIP's image towers: as trained, and with three training-free changes of the last block's attention.

CLIP trains only the pooled token, so in the last block every patch attends to what the whole image is about. The
changes (MaskCLIP, SCLIP, ClearCLIP) make it attend to itself or to its like; the weights stay as published.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from fusionerlib.encoders.positions import TIMMS, is_plain, use_positions
from fusionerlib.errors import FusionerError

Tokens = Float[Tensor, "batch tokens dim"]
Heads = Float[Tensor, "batch heads tokens channels"]
Averaging = Callable[[Tensor], Tensor]
"""Values (batch, channels, rows, columns) to means over like patches, on a grid that may be finer."""
GRIDS = 16
"""Grids whose interpolated positions are cached: enough for sliding windows or a training at several sizes."""


def last(block: Any, tokens: Tokens) -> Tokens:
    """The block as it was trained (CLIP, Radford et al., ICML 2021), which the paper uses."""
    if tokens.device.type == "cpu" and tokens.dtype != torch.float32:
        trained: Tensor = block(tokens)  # torch's older kernel: 13% faster than SDPA here, 6% slower in float32
        return trained
    q, k, v = _heads(block, tokens)
    return _rest(block, tokens, F.scaled_dot_product_attention(q, k, v))


def value(block: Any, tokens: Tokens) -> Tokens:
    """MaskCLIP (Zhou, Loy and Dai, ECCV 2022): each token attends to itself alone: attention output = its value."""
    return _rest(block, tokens, _heads(block, tokens)[2])


def self_self(block: Any, tokens: Tokens) -> Tokens:
    """SCLIP (Wang, Mei and Yuille, ECCV 2024): queries attend to queries and keys to keys; the two are added."""
    q, k, v = _heads(block, tokens)
    return _rest(block, tokens, F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v))


def clear(block: Any, tokens: Tokens) -> Tokens:
    """ClearCLIP (Lan et al., ECCV 2024): query-query attention alone, without the residual and without the MLP."""
    q, _, v = _heads(block, tokens)
    return _joined(block, F.scaled_dot_product_attention(q, q, v))


LAST_BLOCKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "last": last,
    "value": value,
    "self-self": self_self,
    "clear": clear,
}
"""How the last block of a CLIP ViT is run, by the kind of token."""


def token_kinds(vision: dict[str, Any]) -> tuple[str, ...]:
    """The kinds of token of the tower that open_clip's ``vision_cfg`` describes, the default first."""
    if "timm_model_name" in vision:
        return ("last", "value") if vision.get("timm_pool") == "map" else ("last",)
    return tuple(LAST_BLOCKS) if isinstance(vision["layers"], int) else ("last",)


def is_joint(vision: dict[str, Any], kind: str) -> bool:
    """Whether tokens of this kind lie in the space of the text embeddings.

    They do where the tower pools by taking one token (CLIP, EVA-CLIP): the projection of that token applies to each.
    An attention pool (SigLIP, PE) makes one joint embedding of all patches; ``value`` sends each patch through it
    alone, as is done with CLIP's ResNets. With any other pool the patches are in a space of their own.
    """
    if "timm_model_name" not in vision or vision.get("timm_pool") == "token":
        return True
    return kind == "value"


def trunk_positions(vision: dict[str, Any]) -> dict[str, str]:
    """The arguments of ``use_positions`` for a timm network inside open_clip, by its family; {} for CLIP's own towers.

    SigLIP's own code takes no size but its training's, so its positions are resized by timm's method.
    """
    name = vision.get("timm_model_name", "")
    if name.startswith("vit_pe_"):
        return {"method": "bilinear", "rotary": "counted"}
    if name.startswith("eva"):
        return {"method": "bicubic"}
    return {"method": TIMMS} if name else {}


def dense(tower: Any, vision: dict[str, Any], kind: str) -> "DenseViT | DenseResNet | DenseTrunk":
    """``tower``, which open_clip built from ``vision_cfg``, as a network from pixels to one token map named ``kind``.

    Each of the three has ``width``, the channels of the map, and ``stride``, the side of a patch in pixels.
    """
    if "timm_model_name" in vision:
        return DenseTrunk(tower, kind=kind, alone=is_joint(vision, kind), positions=trunk_positions(vision))
    return DenseViT(tower, kind=kind) if isinstance(vision["layers"], int) else DenseResNet(tower)


class DenseViT(nn.Module):
    """Tokens of open_clip's ``VisionTransformer``: the patches after ln_post and the projection, without [CLS].

    kind: how the last block is run, a key of ``LAST_BLOCKS``. Positions are interpolated to any grid as open_clip does
    when it loads weights for another image size. Raises FusionerError for a tower without patch tokens.
    """

    def __init__(self, tower: Any, *, kind: str) -> None:
        super().__init__()
        blocks = tower.transformer.resblocks
        if tower.attn_pool is not None or not all(isinstance(block.attn, nn.MultiheadAttention) for block in blocks):
            raise FusionerError(
                "this open_clip tower pools by learned queries or has blocks of its own kind, so it has no patch "
                "tokens in the space of its text: choose a CLIP without attentional_pool, such as ViT-B-16"
            )
        self.tower, self.kind = tower, kind
        self.stride = int(tower.patch_size[0])
        self.width = int(tower.proj.shape[1])
        self._positions: dict[tuple[Any, ...], Tensor] = {}

    @property
    def takes_affinity(self) -> bool:
        """Whether ``forward`` takes an affinity: not where the kind changes the last block's attention itself."""
        return self.kind == "last"

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], affinity: Averaging | None = None
    ) -> dict[str, Tensor]:
        """One map, named after the kind: (batch, width, height / patch, width / patch).

        affinity: averages the values of the last block in place of its attention, without residual and MLP (ProxyCLIP:
        Lan et al., ECCV 2024); the map then has the grid of its result.
        """
        embedded = self.tower.conv1(pixels)
        height, width = embedded.shape[-2:]
        tokens = rearrange(embedded, "b c h w -> b (h w) c")
        first = self.tower.class_embedding.expand(len(tokens), 1, -1)
        tokens = self.tower.ln_pre(torch.cat([first, tokens], dim=1) + self.positions(height, width))
        *blocks, final = self.tower.transformer.resblocks
        for block in blocks:
            tokens = last(block, tokens)
        if affinity is None:
            patches = LAST_BLOCKS[self.kind](final, tokens)[:, 1:]
        else:
            values = rearrange(_heads(final, tokens)[2][:, :, 1:], "b h (r c) d -> b (h d) r c", r=height)
            averaged = affinity(values)
            height = averaged.shape[-2]
            patches = final.attn.out_proj(rearrange(averaged, "b d r c -> b (r c) d"))
        tokens = self.tower.ln_post(patches) @ self.tower.proj
        return {self.kind: rearrange(tokens, "b (h w) c -> b c h w", h=height)}

    def positions(self, height: int, width: int) -> Float[Tensor, "tokens dim"]:
        """Positional embeddings of CLS and of height * width patches, row by row."""
        stored: Tensor = self.tower.positional_embedding
        if (height, width) == tuple(self.tower.grid_size):
            return stored
        if torch.compiler.is_compiling():  # a compiled graph must not depend on the cache
            return self._interpolated(height, width)
        key = (height, width, stored.device, stored.dtype)
        if key not in self._positions:
            if len(self._positions) >= GRIDS:
                self._positions.pop(next(iter(self._positions)))
            self._positions[key] = self._interpolated(height, width)
        return self._positions[key]

    def _interpolated(self, height: int, width: int) -> Tensor:
        stored: Tensor = self.tower.positional_embedding
        grid = rearrange(stored[1:].float(), "(h w) c -> 1 c h w", h=self.tower.grid_size[0])
        grid = F.interpolate(grid, (height, width), mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([stored[:1], rearrange(grid, "1 c h w -> (h w) c").to(stored.dtype)])


class DenseResNet(nn.Module):
    """Tokens of CLIP's ResNets: the map before the attention pool, through the pool's v and c projections.

    This is what the pool makes of one position alone (MaskCLIP, ECCV 2022), in the space of the text. The pool's
    positional embedding is left out: it fits one grid only, and holds places, not content.
    """

    takes_affinity = True

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower
        self.stride = 32
        self.width = int(tower.output_dim)

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], affinity: Averaging | None = None
    ) -> dict[str, Tensor]:
        """One map, ``last``: (batch, width, height / 32, width / 32). affinity: averages the pool's values."""
        tower = self.tower
        features = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(pixels)))))
        tokens = rearrange(features, "b c h w -> b h w c")
        values = tower.attnpool.v_proj(tokens)
        if affinity is not None:
            values = rearrange(affinity(rearrange(values, "b h w c -> b c h w")), "b c h w -> b h w c")
        tokens = tower.attnpool.c_proj(values)
        return {"last": rearrange(tokens, "b h w c -> b c h w")}


class DenseTrunk(nn.Module):
    """Tokens of a timm network inside open_clip (SigLIP, EVA-CLIP, PE): its last map after its final norm.

    alone: send each patch alone through the network's own pool and projection (see ``is_joint``). positions: arguments
    of ``use_positions``, applied where the network takes any image size.
    """

    takes_affinity = True

    def __init__(self, tower: Any, *, kind: str, alone: bool, positions: dict[str, str]) -> None:
        super().__init__()
        self.tower, self.kind, self.alone = tower, kind, alone
        trunk = tower.trunk
        patch = getattr(getattr(trunk, "patch_embed", None), "patch_size", None)
        self.stride = int(patch[0] if patch else trunk.feature_info[-1]["reduction"])
        self.plain = is_plain(trunk) and trunk.dynamic_img_size
        if self.plain:
            use_positions(trunk, **positions)
        with torch.no_grad():
            empty = next(trunk.parameters()).new_zeros(1, trunk.num_features, 1, 1)
            self.width = int(self._alone(empty).shape[1]) if alone else int(trunk.num_features)

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], affinity: Averaging | None = None
    ) -> dict[str, Tensor]:
        """One map, named after the kind: (batch, width, height / stride, width / stride).

        affinity: averages the features before pool and projection; ProxyCLIP's own change is for CLIP's blocks.
        """
        trunk = self.tower.trunk
        if self.plain:
            tokens = trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]
            features = rearrange(tokens, "b (h w) c -> b c h w", h=pixels.shape[-2] // self.stride)
        else:
            (features,) = trunk.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True)
        features = features if affinity is None else affinity(features)
        return {self.kind: self._alone(features) if self.alone else features}

    def _alone(self, features: Tensor) -> Tensor:
        batch, _, height, _ = features.shape
        # timm's pools may skip [CLS]: each patch stands in its place too, which changes nothing for other pools.
        count = 1 + getattr(self.tower.trunk, "num_prefix_tokens", 0)
        tokens = repeat(features, "b c h w -> (b h w) count c", count=count)
        tokens = self.tower.head(self.tower.trunk.forward_head(tokens))
        return rearrange(tokens, "(b h w) c -> b c h w", b=batch, h=height)


def _heads(block: Any, tokens: Tokens) -> tuple[Heads, Heads, Heads]:
    attention = block.attn
    mixed = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = rearrange(mixed, "b n (three h d) -> three b h n d", three=3, h=attention.num_heads)
    return q, k, v


def _joined(block: Any, heads: Heads) -> Tokens:
    projected: Tensor = block.attn.out_proj(rearrange(heads, "b h n d -> b n (h d)"))
    return projected


def _rest(block: Any, tokens: Tokens, heads: Heads) -> Tokens:
    tokens = tokens + block.ls_1(_joined(block, heads))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
