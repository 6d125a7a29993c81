"""The two protocols behind which every frozen encoder stands. Nothing downstream knows which one made a token.

What is known of an encoder before it is loaded: a row of data.

What every frozen tower does alike, so that a family's file holds only what is its own.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from fusionerlib.config import Frozen
from fusionerlib.errors import FusionerError


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


Role = Literal["visual", "text"]
Precision = Literal["float32", "bfloat16", "float16"]


class WeightFile(Frozen):
    """One published file: on the hub (``repo``, ``revision``) or at ``url``.

    bytes: size of the download as it is shown, 0 where it was not looked up. sha256: checked after a download, as far
    as it is known: all of it, or its first digits. optional: whether the encoder loads without it, as a repository may
    be published without it.
    """

    file: str
    repo: str = ""
    revision: str = "main"
    url: str = ""
    sha256: str = ""
    bytes: int = 0
    optional: bool = False


class EncoderSpec(Frozen):
    """What is known of an encoder before it is loaded.

    loader: ``module:function``, called with the row and a ``LoadOptions``; imported only when the encoder is asked for.
    width: channels of a token; 0 where only the weights tell. space: words and patches may be compared only where it
    is equal. tokens: the ways to take tokens from it, the default first. files: what must be on this machine; none
    for weights that come with the installation. stride, multiple, size: pixels a token, what an input's sides must be
    multiples of, and the side it was trained at (0 for text). options: what its loader needs to know beyond this.
    """

    name: str
    role: Role
    family: str
    space: str
    width: int = Field(ge=0)
    parameters: int = Field(ge=0)
    loader: str
    pretraining: str
    licence: str
    tokens: tuple[str, ...]
    files: tuple[WeightFile, ...] = ()
    stride: int = 0
    multiple: int = 0
    size: int = 0
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def download(self) -> int:
        """Bytes of all files; 0 where nothing is to be downloaded, or the sizes are not known."""
        return sum(file.bytes for file in self.files)

    def way(self, tokens: str) -> str:
        """``tokens`` where this encoder has that way of taking them, its default for "". FusionerError otherwise."""
        if tokens and tokens not in self.tokens:
            raise FusionerError(
                f"{self.role} encoder {self.name!r} has no tokens {tokens!r}: expected one of {', '.join(self.tokens)}"
            )
        return tokens or self.tokens[0]


class LoadOptions(Frozen):
    """How an encoder is wanted. weights: a file or folder, "" for where `fusioner fetch` puts them."""

    device: str = "cpu"
    weights: str = ""
    tokens: str
    precision: Precision = "float32"
    compiled: bool = False


CHUNK = 256
"""Sentences embedded at once: bounds the memory of a large vocabulary."""

Triple = tuple[float, float, float]


class FrozenModule(nn.Module):
    """A module that stays in eval mode whatever it is told: batch norms keep their published statistics, and dropout
    never makes a token random."""

    def train(self, mode: bool = True) -> Self:
        """Eval mode, with or without ``mode``."""
        return super().train(False)


class VisualTower(FrozenModule):
    """A frozen network behind the ``VisualEncoder`` protocol: normalises pixels, checks sizes, L2-normalises tokens.

    network: float images (B, 3, H, W), normalised, to named feature maps (B, C, h, w), the main one first. Its weights
    are frozen, moved and cast as ``how`` says; tokens come back in float32. The main map has ``row.space``; the others
    have spaces of their own.
    mean, std: of pixels 0-1, for each channel. fingerprint: hex digest over the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, *, row: EncoderSpec, how: LoadOptions, mean: Triple, std: Triple, fingerprint: str
    ) -> None:
        super().__init__()
        self.dtype = getattr(torch, how.precision)
        # A third of the time on a CPU for convolutional towers: depthwise ones read neighbouring channels.
        self.network = frozen(network).to(how.device, self.dtype).to(memory_format=torch.channels_last)
        self._run = torch.compile(self.network) if how.compiled else self.network
        self.name, self.space, self.width = row.name, row.space, row.width
        self.stride, self.multiple = row.stride, row.multiple
        self.fingerprint = digest(f"{fingerprint} {mean} {std} {how.tokens} {how.precision}")
        red, green, blue = (min(255, max(0, round((m - s) * 255))) for m, s in zip(mean, std, strict=True))
        self.border = (red, green, blue)
        self.register_buffer("mean", torch.tensor(mean, device=how.device)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std, device=how.device)[:, None, None], persistent=False)

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "batch 3 height width"]) -> VisualTokens:
        """Unit-length patch tokens of RGB images, 0-255. Raises FusionerError for a size that does not fit."""
        height, width = images.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise FusionerError(
                f"an image of {width}x{height} pixels does not fit encoder {self.name!r}: "
                f"both sides must be multiples of {self.multiple}; resize it first"
            )
        pixels = (images.to(self.mean.device).float() / 255 - self.mean) / self.std
        features = self._run(pixels.to(self.dtype).contiguous(memory_format=torch.channels_last))
        main = next(iter(features))
        maps = {
            name: TokenMap(
                tokens=F.normalize(rearrange(map, "b c h w -> b (h w) c").float(), dim=-1),
                grid=(map.shape[-2], map.shape[-1]),
                stride=height // map.shape[-2],
                space=self.space if name == main else f"{self.space}/{name}",
            )
            for name, map in features.items()
        }
        return VisualTokens(maps=maps, main_name=main)


class TextTower(FrozenModule):
    """A frozen network behind the ``TextEncoder`` protocol: fills templates, averages, bounds memory.

    network: a list of sentences to embeddings (sentences, dim) of any length, on the device of its weights.
    """

    def __init__(self, network: nn.Module, *, row: EncoderSpec, how: LoadOptions, width: int, fingerprint: str) -> None:
        super().__init__()
        self.network = frozen(network).to(device=how.device, dtype=getattr(torch, how.precision))
        self.name, self.space, self.width = row.name, row.space, width
        self.fingerprint = digest(f"{fingerprint} {how.tokens} {how.precision}")

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "sentences dim"]:
        """Embeddings of whole sentences as the network gives them, not normalised, float32."""
        # Chunks of sentences of like length, so that little is padded: about half the time for a large vocabulary.
        order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
        embedded = torch.cat([self.network([sentences[index] for index in chunk]).float() for chunk in chunks])
        return embedded[torch.tensor(order).argsort().to(embedded.device)]

    @torch.no_grad()
    def forward(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "names dim"]:
        """One unit-length token a name: each template's embedding normalised, averaged, normalised (paper)."""
        sentences = [template.format(name) for name in names for template in templates]
        each = F.normalize(self.embed(sentences), dim=-1)
        mean = rearrange(each, "(names templates) dim -> names templates dim", names=len(names)).mean(1)
        return F.normalize(mean, dim=-1)


def frozen(network: nn.Module) -> nn.Module:
    """``network`` in eval mode with no parameter that could ever hold a gradient."""
    return network.eval().requires_grad_(False)


def digest(text: str) -> str:
    """Hex sha256 of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(file: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
