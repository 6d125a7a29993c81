"""An answer: the masks of the names that were asked, at the image's own size."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, UInt8
from PIL import Image
from torch import Tensor

from fusionerlib.errors import FusionerError
from fusionerlib.inference.overlay import overlay

CHUNK_BYTES = 64 * 2**20
"""Bytes of logits at the image's own size that are held at once while the winners are found."""


@dataclass(frozen=True)
class Segmentation:
    """What ``Segmenter.segment`` found. Everything of length K is in the order of ``names``.

    image: what was segmented, RGB 0-255, upright.
    coarse: logits at the size that the model made them at; ``logits`` are these, resized.
    best, winner: the largest logit of each pixel and the index of its name, the first of equals.
    threshold: a pixel is background where no probability exceeds it, 0-1.
    """

    names: tuple[str, ...]
    image: UInt8[np.ndarray, "height width 3"]
    coarse: Float[Tensor, "names rows columns"]
    best: Float[Tensor, "height width"]
    winner: Int32[np.ndarray, "height width"]
    threshold: float

    @cached_property
    def logits(self) -> Float[Tensor, "names height width"]:
        """float32 at the image's own size; made on first use, 4 bytes a name and pixel."""
        return _resized(self.coarse, self.image.shape[:2])

    @property
    def probabilities(self) -> Float[Tensor, "names height width"]:
        """The sigmoid of the logits, 0-1; names are judged one by one, so they don't sum to 1."""
        return self.logits.sigmoid()

    @cached_property
    def labels(self) -> Int32[np.ndarray, "height width"]:
        """0 where no probability exceeds the threshold, else k + 1 for the best name k (paper, "decision")."""
        return np.where((self.best.sigmoid() > self.threshold).numpy(), self.winner + 1, np.int32(0))

    @property
    def masks(self) -> Bool[np.ndarray, "names height width"]:
        """One mask a name at the image's own size; no two overlap, together they are all that is not background."""
        return self.labels == np.arange(1, len(self.names) + 1)[:, None, None]

    def at(self, threshold: float) -> "Segmentation":
        """The same answer at another threshold; nothing is computed again but the comparison."""
        return replace(self, threshold=checked_threshold(threshold))

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """The masks on the image, with a legend that gives each name's share of the pixels."""
        return overlay(self.image, self.labels, self.names, opacity=opacity, legend=legend, shares=True, ignore=None)


def checked_threshold(threshold: float) -> float:
    """``threshold`` as it is; FusionerError where it is outside 0-1."""
    if not 0 <= threshold <= 1:
        raise FusionerError(
            f"threshold {threshold} is outside 0-1: it is compared with probabilities, 0.5 is the paper's"
        )
    return float(threshold)


def _resized(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


def winners(coarse: Tensor, size: tuple[int, ...]) -> tuple[Tensor, np.ndarray]:
    """Largest logit and index of its name a pixel, at ``size``; some names at a time, so that memory stays bounded."""
    step = max(1, CHUNK_BYTES // (4 * size[0] * size[1]))
    best, winner = torch.full(tuple(size), -torch.inf), torch.zeros(tuple(size), dtype=torch.int32)
    for start in range(0, len(coarse), step):
        value, index = _resized(coarse[start : start + step], size).max(dim=0)
        # Strictly better: of equals the first name stays.
        better = value > best
        best = torch.where(better, value, best)
        winner = torch.where(better, index.to(torch.int32) + start, winner)
    return best, winner.numpy()
