"""Inference by sliding windows: the frozen tower and the fusion over the windows of one image, some at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.fusion.model import SegmentationModel
from fusionerlib.inference.windows import Corner, corners, cut, merge

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
