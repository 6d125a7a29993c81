"""Sliding windows: an image of any size cut into squares of the tower's size, and their logits put together again."""

from collections.abc import Iterable, Sequence
from math import ceil

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fusionerlib.errors import FusionerError

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
