"""Sliding windows: an image of any size cut into squares of the tower's size, and their logits put together again.

Inference by sliding windows: the frozen tower and the fusion over the windows of one image, some at a time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.errors import FusionerError
from fusionerlib.models.base import SegmentationModel

STRIDE = 149 / 224
"""From one window to the next, in windows (paper: 149 of 224 pixels)."""

Corner = tuple[int, int]
"""Top and left of a window, in pixels."""


def stride_of(window: int) -> int:
    """The paper's stride at another window size, in pixels."""
    return round(window * STRIDE)


def corners(height: int, width: int, *, window: int, stride: int) -> list[Corner]:
    """Where the windows of an image lie, row by row: ceil((L - window) / stride) + 1 of them an axis, at least one.

    The last ones may reach over the border; none is shifted back (paper).
    Raises FusionerError for a stride outside 1 to ``window``, which would leave pixels out.
    """
    if not 1 <= stride <= window:
        raise FusionerError(f"stride {stride} of windows of {window} pixels: expected 1 to {window}")
    rows, columns = (range(max(0, ceil((length - window) / stride)) + 1) for length in (height, width))
    return [(row * stride, column * stride) for row in rows for column in columns]


def cut(
    image: UInt8[np.ndarray, "height width 3"], places: Sequence[Corner], *, window: int, fill: Sequence[int]
) -> UInt8[np.ndarray, "windows {window} {window} 3"]:
    """The windows of ``image`` at ``places``; what lies beyond its border has the colour ``fill`` (0-255)."""
    tiles = np.empty((len(places), window, window, 3), dtype=np.uint8)
    tiles[:] = np.asarray(fill, dtype=np.uint8)
    for tile, (top, left) in zip(tiles, places, strict=True):
        part = image[top : top + window, left : left + window]
        tile[: part.shape[0], : part.shape[1]] = part
    return tiles


def merge(
    logits: Iterable[Float[Tensor, "names window window"]],
    places: Sequence[Corner],
    *,
    names: int,
    height: int,
    width: int,
) -> Float[Tensor, "{names} {height} {width}"]:
    """Logits of the image: the mean over the windows that cover a pixel; what lies beyond the border is dropped.

    The windows are taken one by one, so that they need not all be in memory.
    """
    total, covered = torch.zeros(names, height, width), torch.zeros(height, width)
    for part, (top, left) in zip(logits, places, strict=True):
        inside = part[:, : height - top, : width - left]
        area = np.s_[top : top + inside.shape[1], left : left + inside.shape[2]]
        total[:, *area] += inside
        covered[area] += 1
    return total.div_(covered)


BATCH = 9
"""Windows that go through tower and fusion at once: all of a 500x375 photo at 224 pixels."""


@dataclass(frozen=True)
class Windows:
    """The frozen tokens of an image's windows. places: their corners in the image of ``height`` x ``width`` pixels."""

    tokens: Float[Tensor, "windows patches dim"]
    grid: tuple[int, int]
    places: Sequence[Corner]
    window: int
    height: int
    width: int


@torch.no_grad()
def encode_windows(
    visual: VisualEncoder, image: UInt8[Tensor, "height width 3"], *, window: int, stride: int
) -> Windows:
    """The tokens of every window of ``image`` (RGB, 0-255); ``window`` must fit the encoder.

    Raises FusionerError for a stride outside 1 to ``window``.
    """
    height, width = image.shape[:2]
    places = corners(height, width, window=window, stride=stride)
    tiles = torch.from_numpy(cut(image.cpu().numpy(), places, window=window, fill=visual.border)).to(image.device)
    maps = [visual(rearrange(part, "b h w c -> b c h w")).main for part in tiles.split(BATCH)]
    tokens = torch.cat([part.tokens for part in maps])
    return Windows(tokens=tokens, grid=maps[0].grid, places=places, window=window, height=height, width=width)


@torch.no_grad()
def window_logits(
    model: SegmentationModel, image: Windows, words: Float[Tensor, "names dim"]
) -> Float[Tensor, "names height width"]:
    """Logits at the image's own size: the mean over its windows. 4 bytes a name and pixel, and what a part takes."""
    logits = torch.empty(len(words), image.height, image.width)
    for part in model.parts(len(words)):
        of_windows = _of_windows(model, image, words[part])
        names = part.stop - part.start
        logits[part] = merge(of_windows, image.places, names=names, height=image.height, width=image.width)
    return logits


def _of_windows(model: SegmentationModel, image: Windows, words: Tensor) -> Iterable[Tensor]:
    size = (image.window, image.window)
    for tokens in image.tokens.split(BATCH):
        yield from model(tokens, words.expand(len(tokens), -1, -1), grid=image.grid, size=size).float().cpu()
