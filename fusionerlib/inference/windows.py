"""Sliding windows: an image of any size is cut into windows of the input size, whose logits are averaged (paper)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.errors import FusionerError
from fusionerlib.models.base import SegmentationModel

BATCH = 9
"""Windows that go through encoder and fusion at once: all of a 500x375 photo at 224 pixels."""

Corner = tuple[int, int]
"""Top and left edge of a window, in pixels."""


@dataclass(frozen=True)
class EncodedWindows:
    """The main visual tokens of all windows of an image of ``height`` x ``width`` pixels.

    grid: rows and columns of the patches in a window. places: the windows' corners. window: their side in pixels.
    """

    tokens: Float[Tensor, "windows patches dim"]
    grid: tuple[int, int]
    places: Sequence[Corner]
    window: int
    height: int
    width: int


def stride_of(window: int) -> int:
    """The paper's stride for windows of ``window`` pixels: two thirds of it, rounded down (149 for 224)."""
    return int(2 * window / 3)


@torch.no_grad()
def encode_windows(
    visual: VisualEncoder, image: UInt8[Tensor, "height width 3"], *, window: int, stride: int
) -> EncodedWindows:
    """Encode every window of ``image`` (RGB, 0-255). window: side in pixels, one that the encoder accepts.

    Pixels beyond the image are -1 after normalisation (paper).

    Raises FusionerError for a stride outside 1 to ``window``.
    """
    height, width = image.shape[:2]
    places = corners(height, width, window=window, stride=stride)
    batches = zip(*(part.split(BATCH) for part in cut(image, places, window=window)), strict=True)
    maps = [visual(tiles, outside=outside).main for tiles, outside in batches]
    tokens = torch.cat([part.tokens for part in maps])
    return EncodedWindows(tokens=tokens, grid=maps[0].grid, places=places, window=window, height=height, width=width)


@torch.no_grad()
def window_logits(
    model: SegmentationModel, image: EncodedWindows, text_tokens: Float[Tensor, "names dim"]
) -> Float[Tensor, "names height width"]:
    """Logits at the image's size: in each pixel the mean over the windows that cover it. 4 bytes a name and pixel."""
    logits = torch.empty(len(text_tokens), image.height, image.width)
    for part in model.name_chunks(len(text_tokens)):
        windows = _logits_by_window(model, image, text_tokens[part])
        names = part.stop - part.start
        logits[part] = merge(windows, image.places, names=names, height=image.height, width=image.width)
    return logits


def corners(height: int, width: int, *, window: int, stride: int) -> list[Corner]:
    """The corners of all windows, row by row: ceil((L - window) / stride) + 1 of them along an axis of L pixels.

    The last windows may reach beyond the image; they are not moved back (paper).
    Raises FusionerError for a stride outside 1 to ``window``, which would leave pixels out.
    """
    if not 1 <= stride <= window:
        raise FusionerError(f"stride {stride} of windows of {window} pixels: expected 1 to {window}")
    rows, columns = (range(max(0, ceil((length - window) / stride)) + 1) for length in (height, width))
    return [(row * stride, column * stride) for row in rows for column in columns]


def cut(
    image: UInt8[Tensor, "height width 3"], places: Sequence[Corner], *, window: int
) -> tuple[UInt8[Tensor, "windows 3 {window} {window}"], Bool[Tensor, "windows {window} {window}"]]:
    """The windows of ``image`` at ``places``, and which of their pixels lie beyond the image (0 in the windows)."""
    tiles = image.new_zeros(len(places), 3, window, window)
    outside = torch.ones(len(places), window, window, dtype=torch.bool, device=image.device)
    for tile, beyond, (top, left) in zip(tiles, outside, places, strict=True):
        part = rearrange(image[top : top + window, left : left + window], "h w c -> c h w")
        tile[:, : part.shape[1], : part.shape[2]] = part
        beyond[: part.shape[1], : part.shape[2]] = False
    return tiles, outside


def merge(
    logits: Iterable[Float[Tensor, "names window window"]],
    places: Sequence[Corner],
    *,
    names: int,
    height: int,
    width: int,
) -> Float[Tensor, "{names} {height} {width}"]:
    """The mean of the windows' logits in each pixel of the image; what lies beyond the image is dropped.

    ``logits`` is consumed one window at a time, so that not all of them need to be in memory.
    """
    total, covered = torch.zeros(names, height, width), torch.zeros(height, width)
    for part, (top, left) in zip(logits, places, strict=True):
        inside = part[:, : height - top, : width - left]
        area = np.s_[top : top + inside.shape[1], left : left + inside.shape[2]]
        total[:, *area] += inside
        covered[area] += 1
    return total.div_(covered)


def _logits_by_window(model: SegmentationModel, image: EncodedWindows, text_tokens: Tensor) -> Iterable[Tensor]:
    size = (image.window, image.window)
    for tokens in image.tokens.split(BATCH):
        yield from model(tokens, text_tokens.expand(len(tokens), -1, -1), grid=image.grid, size=size).float().cpu()
