"""The whole image resized to the encoder's input and encoded once (the paper's first mode of inference)."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from fusionerlib.encoders.base import VisualEncoder, VisualTokens
from fusionerlib.inference.edges import Guide
from fusionerlib.models.base import SegmentationModel, Size

LONGEST = 1024
"""Longest side, in pixels, of an encoder input that keeps the image's proportions (attention is quadratic in it)."""
PANORAMA = 2
"""Ratio of the longer to the shorter side above which an image is a panorama."""

Pixels = UInt8[np.ndarray, "height width 3"]
Resized = UInt8[np.ndarray, "rows columns 3"]


@dataclass(frozen=True)
class WholeImage:
    """An image through the frozen encoder. input: what the encoder saw, RGB 0-255. tokens: a batch of one."""

    input: Resized
    tokens: VisualTokens
    _guides: dict[Size, Guide | None] = field(default_factory=dict)

    @torch.no_grad()
    def logits(
        self, model: SegmentationModel, text_tokens: Float[Tensor, "names dim"]
    ) -> Float[Tensor, "names rows columns"]:
        """Logits at the model's smallest resolution: at the image's size a large vocabulary would fill the memory."""
        tokens = self.tokens.main
        size = model.smallest_size(tokens.grid, self.input.shape[:2])
        coarse = torch.empty(len(text_tokens), *size)
        for part in model.name_chunks(len(text_tokens)):
            coarse[part] = model(tokens.tokens, text_tokens[part][None], grid=tokens.grid, size=size)[0]
        return coarse

    def guide(self, model: SegmentationModel) -> Guide | None:
        """What moves the edges of the logits of ``model`` to those of the image (``edges.Guide.of``)."""
        grid = model.finest_grid(self.tokens.main.grid)
        if grid not in self._guides:
            self._guides[grid] = Guide.of(self.input, grid)
        return self._guides[grid]


@torch.no_grad()
def encode_whole(visual: VisualEncoder, image: Pixels, *, size: int | None, device: torch.device) -> WholeImage:
    """Encode ``image`` (RGB, 0-255), resized to ``input_size``."""
    seen = encoder_input(image, size=size, multiple=visual.multiple)
    batch = torch.from_numpy(seen).permute(2, 0, 1)[None].to(device)
    return WholeImage(input=seen, tokens=visual(batch))


def squeezed(height: int, width: int) -> tuple[str, ...]:
    """A note on a panorama of this size, which ``encode_whole`` makes a square; () for other images."""
    if max(height, width) <= PANORAMA * min(height, width):
        return ()
    return (
        f"the image of {width} x {height} pixels is resized to a square, which squeezes what it shows: to keep its "
        "proportions, use sliding windows (Segmenter.load(..., sliding=True), --sliding)",
    )


def encoder_input(image: Pixels, *, size: int | None, multiple: int) -> Resized:
    """``image`` resized to ``input_size``."""
    return resized(image, input_size(*image.shape[:2], size=size, multiple=multiple))


def input_size(height: int, width: int, *, size: int | None, multiple: int) -> tuple[int, int]:
    """Height and width of the encoder's input: ``size`` both; None keeps the proportions, rounded to ``multiple``."""
    if size is not None:
        return size, size
    scale = min(1.0, LONGEST / max(height, width))
    limit = max(multiple, LONGEST // multiple * multiple)
    rows, columns = (min(limit, max(multiple, round(side * scale / multiple) * multiple)) for side in (height, width))
    return rows, columns


def resized(image: Pixels, size: tuple[int, int]) -> Resized:
    """``image`` at ``size`` (height, width), bilinear."""
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
