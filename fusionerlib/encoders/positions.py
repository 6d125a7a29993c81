"""Positional embeddings of vision transformers on any grid of patches, resized as each family's own code does it.

A table is (1, channels, rows, columns), float32: the embeddings of the patches alone, on the grid of the pretraining.
Each method resizes a table to another grid. The methods differ little in the picture and much in the tokens, so a
checkpoint gives its published tokens only with the method of its own code.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

KEPT = 8
"""Grids whose embeddings are cached; the oldest is dropped first."""


def offset_bicubic(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """DINO, and DINOv2 without registers: bicubic, with scale (rows + 0.1) / old rows, and the same for columns.

    Their code (``interpolate_pos_encoding``) adds the 0.1 against a rounding of the new size. It shifts all places that
    are sampled.
    """
    scale = ((rows + 0.1) / table.shape[-2], (columns + 0.1) / table.shape[-1])
    return F.interpolate(table, scale_factor=scale, mode="bicubic")


def antialiased_bicubic(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """DINOv2 with registers, and timm's method for all networks without one of their own: bicubic with antialiasing."""
    return F.interpolate(table, size=(rows, columns), mode="bicubic", antialias=True)


def bicubic(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """EVA-02 and EVA-02-CLIP (``interpolate_pos_embed``, ``resize_evaclip_pos_embed``): bicubic."""
    return F.interpolate(table, size=(rows, columns), mode="bicubic")


def bilinear(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """Perception Encoder (``_sample_abs_posemb``): bilinear, ``align_corners=False``, no antialiasing."""
    return F.interpolate(table, size=(rows, columns), mode="bilinear", align_corners=False)


def cropped_square(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """C-RADIOv3: bilinear to a square of the longer side, ``align_corners=True``, then its upper left part.

    An oblong image thus keeps the embeddings' aspect ratio. This is the code in the model's repository on the hub
    (``_get_pos_embeddings``); NVIDIA's own repository has ``align_corners=False`` since June 2025.
    """
    side = max(rows, columns)
    square = F.interpolate(table, size=(side, side), mode="bilinear", align_corners=True)
    return square[..., :rows, :columns]


def sine_cosine(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """MoCo v3, whose embeddings are computed, not learned: sines and cosines of the row, then of the column.

    Its code (``build_2d_sincos_position_embedding``) was only run on square grids. On others it lists the patches
    column by column while images are listed row by row, so here each channel keeps its meaning instead.
    """
    quarter = table.shape[1] // 4
    frequencies = 1.0 / 10000.0 ** (torch.arange(quarter, dtype=torch.float32, device=table.device) / quarter)
    down = torch.arange(rows, dtype=torch.float32, device=table.device)[:, None] * frequencies
    across = torch.arange(columns, dtype=torch.float32, device=table.device)[:, None] * frequencies
    vertical = torch.cat([down.sin(), down.cos()], dim=1).T[:, :, None].expand(-1, -1, columns)
    horizontal = torch.cat([across.sin(), across.cos()], dim=1).T[:, None, :].expand(-1, rows, -1)
    return torch.cat([vertical, horizontal])[None]


METHODS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    method.__name__: method
    for method in (offset_bicubic, antialiased_bicubic, bicubic, bilinear, cropped_square, sine_cosine)
}
"""The methods by their names, which the option ``positions`` of a spec takes."""
TIMMS = "antialiased_bicubic"
"""What timm does, and what is done where no other method is named."""


def is_plain(network: Any) -> bool:
    """Whether ``network`` is one of timm's plain vision transformers, for which ``use_positions`` is made."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    return type(network) in (VisionTransformer, Eva)


def use_positions(network: Any, *, method: str = TIMMS, rotary: str = "") -> None:
    """Make timm's vision transformer ``network`` (built with ``dynamic_img_size``) resize positions by ``method``.

    The embeddings of [CLS] and registers are added to these tokens once; those of the patches move into the patch
    embedding. rotary: ``counted`` for rotary positions that number the patches of any grid; otherwise timm's, which
    stretch every grid to the extent of the pretraining's (as EVA-02's code does).
    """
    if rotary == "counted":
        network.rope.ref_feat_shape = None
    if network.pos_embed is None:
        return
    prefix = 0 if network.no_embed_class else network.num_prefix_tokens
    table = network.pos_embed.detach()
    with torch.no_grad():
        tokens = [token for token in (network.cls_token, network.reg_token) if token is not None and prefix]
        for token, added in zip(tokens, table[:, :prefix].split([t.shape[1] for t in tokens], dim=1), strict=True):
            token += added
    network.pos_embed = None
    network.patch_embed = PositionedPatches(network.patch_embed, table=table[:, prefix:], method=method)


class PositionedPatches(nn.Module):
    """A patch embedding that adds the positional embeddings of the grid that comes.

    embed: images to patches (batch, rows, columns, channels). table: (1, patches, channels) of the pretraining's square
    grid, row by row. method: a name of ``METHODS``; the pretraining's own grid takes the table unchanged.
    """

    table: Tensor

    def __init__(self, embed: nn.Module, *, table: Tensor, method: str) -> None:
        super().__init__()
        self.embed, self.method = embed, METHODS[method]
        side = round(table.shape[1] ** 0.5)
        square = rearrange(table, "one (rows columns) channels -> one channels rows columns", rows=side)
        self.register_buffer("table", square.detach().clone(), persistent=False)
        self._kept: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = {}

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows columns channels"]:
        """Embedded patches plus their positional embeddings."""
        patches: Tensor = self.embed(pixels)
        return patches + self.positions(patches.shape[1], patches.shape[2])

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 {rows} {columns} channels"]:
        """The embeddings of a grid, in the table's precision and on its device."""
        if torch.compiler.is_compiling():  # a compiled graph must not depend on the cache
            return self._made(rows, columns)
        key = (rows, columns, self.table.dtype, self.table.device)
        if key not in self._kept:
            if len(self._kept) == KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = self._made(rows, columns)
        return self._kept[key]

    def _made(self, rows: int, columns: int) -> Tensor:
        own = tuple(self.table.shape[-2:]) == (rows, columns)
        # Resized in float32, as the families do, whatever the network is cast to.
        grid = self.table if own else self.method(self.table.float(), rows, columns).to(self.table.dtype)
        return rearrange(grid, "one channels rows columns -> one rows columns channels").contiguous()
