"""The two protocols behind which every frozen encoder stands. Nothing downstream knows which one made a token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class TokenMap:
    """Patch tokens of a batch, row by row, with the grid they came from.

    stride: input pixels a token, both ways.
    space: name of the embedding space; words and patches may be compared only where it is equal.
    """

    tokens: Float[Tensor, "batch patches dim"]
    grid: tuple[int, int]
    stride: int
    space: str


@dataclass(frozen=True)
class VisualTokens:
    """Everything one pass of a frozen tower gives: named token maps, one of them the main one."""

    maps: dict[str, TokenMap]
    main_name: str

    @property
    def main(self) -> TokenMap:
        """The map that the fusion reads."""
        return self.maps[self.main_name]


@runtime_checkable
class VisualEncoder(Protocol):
    """A frozen tower from images to named token maps; works on the device that its weights are on."""

    name: str
    width: int
    """Channels of the main token map."""
    stride: int
    multiple: int
    """Height and width of an input must be multiples of this, in pixels."""
    border: tuple[int, int, int]
    """The colour (0-255) nearest to what normalisation takes to -1: what lies beyond an image's border (paper)."""
    fingerprint: str
    """Hex digest over weights and preprocessing: two encoders of one fingerprint make the same tokens."""

    def __call__(self, images: UInt8[Tensor, "batch 3 height width"]) -> VisualTokens:
        """Patch tokens of RGB images, 0-255; normalisation happens inside; no gradient is recorded."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen tower from names to one token each."""

    name: str
    width: int
    space: str
    fingerprint: str

    def __call__(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "names dim"]:
        """One unit-length token a name: templates embedded, normalised, averaged, normalised again."""
        ...
