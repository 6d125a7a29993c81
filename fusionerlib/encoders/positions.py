"""Positional embeddings at any grid of patches, each family's own way.

A table is (1, channels, rows, columns), float32: the embeddings of the patches alone, on the grid of the pretraining.
Each way takes a table to another grid. The differences are small to the eye and not to the tokens: a checkpoint is only
what it was published as when its own code's way is taken.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

KEPT = 8
"""Grids whose embeddings are kept; the oldest goes first."""


def offset_bicubic(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """DINO, and DINOv2 without registers: bicubic by a scale that asks for a tenth of a patch too much.

    Their code adds the tenth against a rounding of the new size; it also moves every place that is read
    (``interpolate_pos_encoding`` of both repositories).
    """
    scale = ((rows + 0.1) / table.shape[-2], (columns + 0.1) / table.shape[-1])
    return F.interpolate(table, scale_factor=scale, mode="bicubic")


def antialiased_bicubic(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """DINOv2 with registers, and timm's way for all that has no other: bicubic, antialiased (another kernel, too)."""
    return F.interpolate(table, size=(rows, columns), mode="bicubic", antialias=True)


def bicubic(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """EVA-02 (``interpolate_pos_embed``)."""
    return F.interpolate(table, size=(rows, columns), mode="bicubic")


def bilinear(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """Perception Encoder (``_sample_abs_posemb``)."""
    return F.interpolate(table, size=(rows, columns), mode="bilinear")


def cropped_square(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """C-RADIOv3-B: resized to a square of the longer side, corners on corners, and the upper left part taken.

    So an oblong image keeps the embeddings' proportions (``_get_pos_embeddings`` of its patch generator).
    """
    side = max(rows, columns)
    square = F.interpolate(table, size=(side, side), mode="bilinear", align_corners=True)
    return square[..., :rows, :columns]


def sine_cosine(
    table: Float[Tensor, "1 channels _ _"], rows: int, columns: int
) -> Float[Tensor, "1 channels {rows} {columns}"]:
    """MoCo v3, whose embeddings are computed, not learned: sine and cosine of the row, then of the column.

    Its code (``build_2d_sincos_position_embedding``) was only ever run on square grids. On others it lists the
    patches column by column where the images' are listed row by row, which no weights have seen: we keep what the
    channels mean.
    """
    quarter = table.shape[1] // 4
    frequencies = 1.0 / 10000.0 ** (torch.arange(quarter, dtype=torch.float32, device=table.device) / quarter)
    down = torch.arange(rows, dtype=torch.float32, device=table.device)[:, None] * frequencies
    across = torch.arange(columns, dtype=torch.float32, device=table.device)[:, None] * frequencies
    vertical = torch.cat([down.sin(), down.cos()], dim=1).T[:, :, None].expand(-1, -1, columns)
    horizontal = torch.cat([across.sin(), across.cos()], dim=1).T[:, None, :].expand(-1, rows, -1)
    return torch.cat([vertical, horizontal])[None]


WAYS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    way.__name__: way for way in (offset_bicubic, antialiased_bicubic, bicubic, bilinear, cropped_square, sine_cosine)
}
"""The ways by their names, as the rows' option ``positions`` gives them."""


class PositionedPatches(nn.Module):
    """A patch embedding that adds the positional embeddings of whatever grid comes.

    embed: images to patches (batch, rows, columns, channels). table: (1, patches, channels) of the square grid of the
    pretraining, row by row. way: a name of ``WAYS``; the table's own grid is taken as it is.
    """

    table: Tensor

    def __init__(self, embed: nn.Module, *, table: Tensor, way: str) -> None:
        super().__init__()
        self.embed, self.way = embed, WAYS[way]
        side = round(table.shape[1] ** 0.5)
        square = rearrange(table, "one (rows columns) channels -> one channels rows columns", rows=side)
        self.register_buffer("table", square.detach().clone(), persistent=False)
        self._kept: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = {}

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows columns channels"]:
        """Embedded patches with their positions."""
        patches: Tensor = self.embed(pixels)
        return patches + self.positions(patches.shape[1], patches.shape[2])

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 {rows} {columns} channels"]:
        """The embeddings of a grid, in the table's precision and on its device."""
        if torch.compiler.is_compiling():  # a compiled graph must not depend on what it met before
            return self._made(rows, columns)
        key = (rows, columns, self.table.dtype, self.table.device)
        if key not in self._kept:
            if len(self._kept) == KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = self._made(rows, columns)
        return self._kept[key]

    def _made(self, rows: int, columns: int) -> Tensor:
        own = tuple(self.table.shape[-2:]) == (rows, columns)
        # Resized in float32, as the families do, whatever the tower is cast to.
        grid = self.table if own else self.way(self.table.float(), rows, columns).to(self.table.dtype)
        return rearrange(grid, "one channels rows columns -> one rows columns channels").contiguous()
