"""What every frozen tower does alike, so that a family's file holds only what is its own."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fusionerlib.encoders.base import TokenMap, VisualTokens
from fusionerlib.encoders.row import EncoderRow, Loading
from fusionerlib.errors import FusionerError

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
        self, network: nn.Module, *, row: EncoderRow, how: Loading, mean: Triple, std: Triple, fingerprint: str
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

    def __init__(self, network: nn.Module, *, row: EncoderRow, how: Loading, width: int, fingerprint: str) -> None:
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
