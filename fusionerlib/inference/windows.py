"""Sliding windows: an image of any size is cut into windows of the input size, whose logits are averaged (paper)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.errors import FusionerError
from fusionerlib.inference.edges import Guide, enlarged
from fusionerlib.inference.requests import Edges
from fusionerlib.models.base import SegmentationModel, Size

BATCH_PIXELS = 9 * 224 * 224
"""Pixels that go through encoder and fusion at once: all nine windows of a 500x375 photo at 224 pixels."""

Corner = tuple[int, int]
"""Top and left edge of a window, in pixels."""
Tile = tuple[int, int, Float[Tensor, "names rows columns"]]
"""The logits of a part of an image: its top and left edge in pixels, and the logits of all names."""


@runtime_checkable
class Region(Protocol):
    """An image read by parts: ``image[top:bottom, left:right]`` is uint8 (rows, columns, 3), cut at its edges."""

    def __getitem__(self, area: tuple[slice, slice], /) -> Tensor: ...


Pixels = UInt8[Tensor, "height width 3"] | Region


@dataclass(frozen=True)
class EncodedWindows:
    """The main visual tokens of all windows of an image of ``height`` x ``width`` pixels.

    image: RGB, 0-255. grid: rows and columns of the patches in a window. places: the windows' corners. window: their
    side in pixels.
    """

    image: UInt8[Tensor, "height width 3"]

    tokens: Float[Tensor, "windows patches dim"]
    grid: tuple[int, int]
    places: Sequence[Corner]
    window: int
    height: int
    width: int


def batch_of(window: int) -> int:
    """How many windows of ``window`` pixels go through encoder and fusion at once: memory does not grow with them."""
    return max(1, BATCH_PIXELS // window**2)


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
    batches = zip(*(part.split(batch_of(window)) for part in cut(image, places, window=window)), strict=True)
    maps = [visual(tiles, outside=outside).main for tiles, outside in batches]
    tokens = torch.cat([part.tokens for part in maps])
    grid = maps[0].grid
    return EncodedWindows(
        image=image, tokens=tokens, grid=grid, places=places, window=window, height=height, width=width
    )


@torch.no_grad()
def window_logits(
    model: SegmentationModel,
    image: EncodedWindows,
    text_tokens: Float[Tensor, "names dim"],
    *,
    edges: Edges = "bilinear",
) -> Float[Tensor, "names height width"]:
    """Logits at the image's size: in each pixel the mean over the windows that cover it. 4 bytes a name and pixel.

    edges: guided windows are guided by their own pixels each (see ``edges``).
    """
    logits = torch.empty(len(text_tokens), image.height, image.width)
    for part in model.name_chunks(len(text_tokens)):
        windows = _logits_by_window(model, image, text_tokens[part], edges)
        names = part.stop - part.start
        logits[part] = merge(windows, image.places, names=names, height=image.height, width=image.width)
    return logits


def logit_tiles(
    model: SegmentationModel,
    visual: VisualEncoder,
    image: Pixels,
    text_tokens: Float[Tensor, "names dim"],
    *,
    height: int,
    width: int,
    window: int,
    stride: int,
    edges: Edges = "bilinear",
) -> Iterator[Tile]:
    """The logits of ``window_logits``, to the last bit, in tiles of ``merged_tiles``: for images of any size.

    ``image`` (``height`` x ``width`` pixels) is asked for ``batch_of(window)`` windows at a time, row by row, and no
    map of the whole image is made: memory is 4 bytes a name for each pixel of ``window - stride`` rows.
    Raises FusionerError for a stride outside 1 to ``window``.
    """
    places = corners(height, width, window=window, stride=stride)
    chunks, batch = model.name_chunks(len(text_tokens)), batch_of(window)

    def windows() -> Iterator[Tensor]:
        for start in range(0, len(places), batch):
            with torch.no_grad():  # not around a yield: it would reach into the caller
                tiles, outside = cut(image, places[start : start + batch], window=window)
                tokens = visual(tiles, outside=outside).main
                patches = tokens.tokens.contiguous()  # as in EncodedWindows: other strides round differently
                logits = torch.empty(len(tiles), len(text_tokens), window, window)
                for part in chunks:
                    given = patches, text_tokens[part], tokens.grid
                    logits[:, part] = _maps(model, tiles if edges == "guided" else None, *given, window)
            yield from logits

    yield from merged_tiles(windows(), places, names=len(text_tokens), height=height, width=width)


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
    image: Pixels, places: Sequence[Corner], *, window: int
) -> tuple[UInt8[Tensor, "windows 3 {window} {window}"], Bool[Tensor, "windows {window} {window}"]]:
    """The windows of ``image`` at ``places``, and which of their pixels lie beyond the image (0 in the windows)."""
    parts = [image[top : top + window, left : left + window] for top, left in places]
    tiles = parts[0].new_zeros(len(places), 3, window, window)
    outside = torch.ones(len(places), window, window, dtype=torch.bool, device=tiles.device)
    for tile, beyond, part in zip(tiles, outside, parts, strict=True):
        tile[:, : part.shape[0], : part.shape[1]] = rearrange(part, "h w c -> c h w")
        beyond[: part.shape[0], : part.shape[1]] = False
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
    total = torch.empty(names, height, width)
    for top, left, tile in merged_tiles(logits, places, names=names, height=height, width=width):
        total[:, top : top + tile.shape[1], left : left + tile.shape[2]] = tile
    return total


def merged_tiles(
    logits: Iterable[Float[Tensor, "names window window"]],
    places: Sequence[Corner],
    *,
    names: int,
    height: int,
    width: int,
) -> Iterator[Tile]:
    """What ``merge`` gives, in tiles that are done one after the other: a tile a window, in the order of ``places``.

    ``places`` are those of ``corners``. A window's tile reaches to the next windows' corners, or to the image's edge.
    Kept are the sums of the current window, and of the rows that the next row of windows covers too.
    """
    tops, lefts = (sorted({place[axis] for place in places}) for axis in (0, 1))
    bottoms = dict(zip(tops, [*tops[1:], height], strict=True))
    rights = dict(zip(lefts, [*lefts[1:], width], strict=True))
    above, kept = torch.zeros(names, 0, width), torch.zeros(names, 0, 0)
    times: list[Tensor] = []
    for part, (top, left) in zip(logits, places, strict=True):
        if not times:
            window = part.shape[-1]
            above = torch.zeros(names, top + window - tops[1] if len(tops) > 1 else 0, width)
            times = [_covered(edges, window, end) for edges, end in ((tops, height), (lefts, width))]
        inside = part[:, : height - top, : width - left]
        rows, columns = inside.shape[1:]
        sums = torch.zeros(names, rows, columns)
        sums[:, : above.shape[1]] = above[:, :, left : left + columns]
        if left > lefts[0]:
            sums[:, :, : kept.shape[2]] = kept
        sums += inside
        down, right = bottoms[top] - top, rights[left] - left
        kept = sums[:, :, right:]
        if bottoms[top] < height:
            above[:, :, left : left + right] = sums[:, down:, :right]
        covered = times[0][top : top + down, None] * times[1][left : left + right]
        yield top, left, sums[:, :down, :right] / covered


def _covered(edges: Sequence[int], window: int, length: int) -> Float[Tensor, " pixels"]:
    """How many of the windows that begin at ``edges`` cover each pixel of an axis."""
    times = torch.zeros(length)
    for edge in edges:
        times[edge : edge + window] += 1
    return times


def _logits_by_window(
    model: SegmentationModel, image: EncodedWindows, text_tokens: Tensor, edges: Edges
) -> Iterable[Tensor]:
    batch = batch_of(image.window)
    for start, tokens in zip(range(0, len(image.places), batch), image.tokens.split(batch), strict=True):
        places = image.places[start : start + batch]
        tiles = cut(image.image, places, window=image.window)[0] if edges == "guided" else None
        yield from _maps(model, tiles, tokens, text_tokens, image.grid, image.window)


def _maps(
    model: SegmentationModel, tiles: Tensor | None, tokens: Tensor, text_tokens: Tensor, grid: Size, window: int
) -> Float[Tensor, "windows names {window} {window}"]:
    """The logits of some windows at their size, float32, guided by the pixels of ``tiles`` where these are given."""
    words, size = text_tokens.expand(len(tokens), -1, -1), (window, window)
    if tiles is None:
        return model(tokens, words, grid=grid, size=size).float().cpu()
    coarse = model(tokens, words, grid=grid, size=model.smallest_size(grid, size)).float().cpu()
    images = rearrange(tiles, "b c h w -> b h w c").cpu().numpy()
    guides = (Guide.of(image, model.finest_grid(grid)) for image in images)
    return torch.stack([enlarged(maps, size, guide=guide) for maps, guide in zip(coarse, guides, strict=True)])
