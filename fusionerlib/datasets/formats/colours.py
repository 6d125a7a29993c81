"""Masks whose colours stand for classes."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from fusionerlib.datasets.formats.names import Colour


class UnknownColour(ValueError):
    """A mask holds a colour that stands for no class. colour: the first such; pixels: how many have one."""

    def __init__(self, colour: Colour, pixels: int) -> None:
        super().__init__(f"{pixels:,} pixels of unknown colours, {colour} first")
        self.colour, self.pixels = colour, pixels


def indices_of(
    rgb: UInt8[np.ndarray, "height width 3"], colours: Mapping[Colour, int]
) -> UInt8[np.ndarray, "height width"]:
    """The index of each pixel's colour. Raises UnknownColour."""
    ordered = sorted(colours.items())
    codes = _packed(np.array([colour for colour, _ in ordered]))
    numbers = np.array([index for _, index in ordered], dtype=np.uint8)
    pixels = _packed(rgb)
    place = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
    odd = codes[place] != pixels
    if odd.any():
        first = rgb[odd][0]
        raise UnknownColour((int(first[0]), int(first[1]), int(first[2])), int(odd.sum()))
    return numbers[place]


def _packed(rgb: np.ndarray) -> np.ndarray:
    return (rgb.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(-1)
