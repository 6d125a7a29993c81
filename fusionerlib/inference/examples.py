"""Regions of images as examples of a name: what ``Segmenter.learn`` reads from images and masks."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.errors import FusionerError
from fusionerlib.images import ImageLike, read_image
from fusionerlib.inference.whole import WholeImage, encoder_input
from fusionerlib.models.base import SegmentationModel
from fusionerlib.models.examples import ExampleTable, region_token

MaskLike = np.ndarray | Image.Image | str | os.PathLike[str]
"""A boolean array (H, W), or an image or its file, where every pixel but those of value 0 is marked."""
BATCH = 8
"""Most images that go through the encoder at once."""
MOST_WAITING = 32
"""Most images in memory that wait for others of their size."""


def read_mask(mask: MaskLike) -> Bool[np.ndarray, "height width"]:
    """The marked pixels. Raises FusionerError for a file that can't be read, and for an array of another kind."""
    if isinstance(mask, np.ndarray):
        if mask.ndim != 2 or not (mask.dtype == bool or mask.dtype == np.uint8):
            raise FusionerError(
                f"a mask is a boolean array (height, width), not {mask.dtype} of shape {mask.shape}: for one label "
                "of an index mask pass `labels == 3`"
            )
        return mask.astype(bool)
    if isinstance(mask, Image.Image):
        # Palette colours may be anything: indices count.
        return np.asarray(mask if mask.mode in ("P", "L", "1") else mask.convert("L")) > 0
    if not isinstance(mask, str | os.PathLike) or not Path(mask).is_file():
        raise FusionerError(f"mask {mask!r} is not a file: pass a boolean array or the path of a PNG")
    try:
        with Image.open(mask) as opened:
            opened.load()
            return read_mask(opened.copy())
    except OSError as error:
        raise FusionerError(f"mask {os.fspath(mask)!r} can't be read ({error}): save it anew as PNG") from error


def example_table(model: SegmentationModel) -> ExampleTable:
    """What ``model`` knows by examples. Raises FusionerError for a model that can't learn from them."""
    if model.examples is None:
        raise FusionerError(
            "this checkpoint can't learn from examples: its config has examples = false. Load 'packaged', or train "
            "with the preset 'modern'"
        )
    return model.examples


@torch.no_grad()
def example_regions(
    examples: Iterable[tuple[ImageLike, MaskLike]],
    *,
    visual: VisualEncoder,
    size: int | None,
    width: int,
    seen: WholeImage | None = None,
) -> Float[Tensor, "regions visual"]:
    """The mean token of each masked region, its first ``width`` channels; images of one size share a pass.

    size: of the encoder's input, see ``whole.input_size``. seen: an image that went through ``visual`` already; it does
    not go through again where it is the example's.
    Raises FusionerError where there is no example, and for a mask of another size than its image or without a pixel.
    """
    waiting: dict[tuple[int, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
    regions: list[Tensor] = []

    def encode(shapes: Iterable[tuple[int, ...]]) -> None:
        for shape in shapes:
            regions.extend(_regions(waiting.pop(shape), visual=visual, width=width, seen=seen))

    for number, example in enumerate(examples, start=1):
        try:
            image, mask = example
        except (TypeError, ValueError) as error:
            raise FusionerError(f"example {number} is no pair: pass [(image, mask), ...]") from error
        pixels, inside = read_image(image), read_mask(mask)
        if inside.shape != pixels.shape[:2]:
            raise FusionerError(
                f"example {number}: a mask of {inside.shape[1]} x {inside.shape[0]} pixels for an image of "
                f"{pixels.shape[1]} x {pixels.shape[0]}: give a mask of the image's own size"
            )
        if not inside.any():
            raise FusionerError(
                f"example {number}: the mask has no pixel: mark the pixels that show the name, or leave the example out"
            )
        prepared = encoder_input(pixels, size=size, multiple=visual.multiple)
        same = waiting.setdefault(prepared.shape, [])
        same.append((prepared, inside))
        if len(same) == BATCH:
            encode([prepared.shape])
        elif sum(map(len, waiting.values())) == MOST_WAITING:
            encode(sorted(waiting))
    encode(sorted(waiting))
    if not regions:
        raise FusionerError("no example: pass [(image, mask), ...] with at least one pair")
    return torch.stack(regions)


def _regions(
    part: Sequence[tuple[np.ndarray, np.ndarray]], *, visual: VisualEncoder, width: int, seen: WholeImage | None
) -> list[Float[Tensor, " visual"]]:
    """``example_regions`` of encoder inputs of one size, with their masks."""
    if seen is not None and all(np.array_equal(pixels, seen.input) for pixels, _ in part):
        main = seen.tokens.main
    else:
        main = visual(torch.from_numpy(np.stack([pixels for pixels, _ in part])).permute(0, 3, 1, 2)).main
    tokens = rearrange(main.tokens[..., :width].float().cpu(), "b (h w) d -> b h w d", h=main.grid[0])
    tokens = tokens.expand(len(part), -1, -1, -1)
    shares = (F.adaptive_avg_pool2d(torch.from_numpy(inside)[None, None].float(), main.grid) for _, inside in part)
    return [region_token(grid, share[0, 0]) for grid, share in zip(tokens, shares, strict=True)]
