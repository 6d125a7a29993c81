"""What every frozen encoder is: two protocols, the data known before loading (``EncoderSpec``), and two base modules.

A visual encoder maps an image batch to named maps of patch tokens, a text encoder maps names to one token each. Code
outside this package uses these two protocols and never asks which network made a token. ``VisualTower`` and
``TextTower`` hold what all families share, so that a family's file holds only what is its own.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from fusionerlib.config import Frozen
from fusionerlib.errors import FusionerError

Triple = tuple[float, float, float]
"""One value for each of red, green and blue."""

CHUNK = 256
"""Sentences embedded in one forward pass: bounds the memory of a large vocabulary."""


@dataclass(frozen=True)
class TokenMap:
    """The patch tokens of an image batch.

    tokens: in row-major order of the grid. grid: rows and columns of patches. stride: side of a patch in input pixels.
    space: name of the embedding space; a cosine between a text token and a patch token is meaningful only where both
    name the same space.
    """

    tokens: Float[Tensor, "batch patches dim"]
    grid: tuple[int, int]
    stride: int
    space: str


@dataclass(frozen=True)
class VisualTokens:
    """All token maps of one forward pass of a visual encoder; ``main_name`` is the key of the one that models read."""

    maps: dict[str, TokenMap]
    main_name: str

    @property
    def main(self) -> TokenMap:
        """The map that models read."""
        return self.maps[self.main_name]


@runtime_checkable
class VisualEncoder(Protocol):
    """A frozen network from images to named token maps. It runs on the device of its weights."""

    name: str
    width: int
    """Channels of the main token map."""
    stride: int
    """Side of a patch of the main map in input pixels."""
    multiple: int
    """Height and width of an input must be multiples of this many pixels."""
    fingerprint: str
    """Hex digest of weights and preprocessing: encoders with equal fingerprints give equal tokens."""

    def __call__(
        self,
        images: UInt8[Tensor, "batch 3 height width"],
        *,
        outside: Bool[Tensor, "batch height width"] | None = None,
    ) -> VisualTokens:
        """Patch tokens of RGB images with values 0-255. Normalises the pixels itself; records no gradient.

        outside: True for pixels that are no part of the image; they are -1 after normalisation (paper).
        """
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen network from names to one token each."""

    name: str
    width: int
    """Channels of a token."""
    space: str
    """Name of the embedding space, see ``TokenMap``."""
    fingerprint: str
    """Hex digest of weights, tokenizer and pooling: encoders with equal fingerprints give equal tokens."""

    def __call__(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "names dim"]:
        """One unit-length token a name: each filled template embedded and normalised, the mean normalised again."""
        ...


Role = Literal["visual", "text"]
Precision = Literal["float32", "bfloat16", "float16"]


class WeightFile(Frozen):
    """One published file, in a repository of the Hugging Face hub (``repo``, ``revision``) or at ``url``.

    bytes: size of the download, 0 if unknown. sha256: hex digest of the published file or its first digits, "" if
    unknown; a download is checked against it. optional: the encoder loads without this file, and some repositories
    don't have it.
    """

    file: str
    repo: str = ""
    revision: str = "main"
    url: str = ""
    sha256: str = ""
    bytes: int = 0
    optional: bool = False


class EncoderSpec(Frozen):
    """What is known of an encoder before it is loaded: one entry of ``specs/*.json``.

    space: see ``TokenMap``. width: channels of a token, 0 if only the weights tell. parameters: their number, 0 if
    unknown. loader: ``module:function``, called with the spec and a ``LoadOptions``; its module is imported when the
    encoder is loaded, not before. licence: of the weights; terms: what it restricts, or where it is to be read.
    languages: that a text encoder was trained on, "" where unknown. tokens: the kinds of token it can give, the
    default first. files: what must be on this machine, empty for weights that are installed as a package. stride,
    multiple: see ``VisualEncoder``. size: side in pixels of its training images. The three are 0 for text. options:
    what else the loader needs.
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
    terms: str = ""
    languages: str = "English"
    tokens: tuple[str, ...]
    files: tuple[WeightFile, ...] = ()
    stride: int = 0
    multiple: int = 0
    size: int = 0
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def download(self) -> int:
        """Bytes of all files; 0 where there is nothing to download or no size is known."""
        return sum(file.bytes for file in self.files)

    def resolve_tokens(self, tokens: str) -> str:
        """``tokens``, or the default kind for "". Raises FusionerError where this encoder has no such kind."""
        if tokens and tokens not in self.tokens:
            raise FusionerError(
                f"{self.role} encoder {self.name!r} has no tokens {tokens!r}: expected one of {', '.join(self.tokens)}"
            )
        return tokens or self.tokens[0]


class LoadOptions(Frozen):
    """How an encoder is to be loaded.

    weights: a file or folder in the published format, "" for the place where `fusioner fetch` puts them. tokens: one of
    ``EncoderSpec.tokens``. precision: of weights and activations; tokens are float32 in any case. compiled: run the
    network through ``torch.compile`` (visual encoders). mean, std: normalisation of pixels 0-1 that replaces the
    published one (visual encoders), as the paper does with its data sets' own statistics.
    """

    device: str = "cpu"
    weights: str = ""
    tokens: str
    precision: Precision = "float32"
    compiled: bool = False
    mean: Triple | None = None
    std: Triple | None = None


class FrozenModule(nn.Module):
    """A module that stays in eval mode, so that batch norms keep their published statistics and dropout stays off."""

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode for any ``mode``."""
        return super().train(False)


class VisualTower(FrozenModule):
    """A frozen network behind the ``VisualEncoder`` protocol: checks sizes, normalises pixels and tokens.

    network: normalised float images (batch, 3, height, width) to named feature maps (batch, channels, rows, columns),
    the main map first. Its weights are frozen, then moved and cast as ``options`` says. The main map gets the space
    ``spec.space``, every other map a space of its own.
    mean, std: the published normalisation of pixels 0-1, which ``options`` may override; the attributes of the same
    names hold the one in use as tensors (3, 1, 1).
    fingerprint: hex digest of the weights and of whatever else decides the network's output.
    Raises FusionerError for a standard deviation that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        spec: EncoderSpec,
        options: LoadOptions,
        mean: Triple,
        std: Triple,
        fingerprint: str,
    ) -> None:
        super().__init__()
        self.dtype = getattr(torch, options.precision)
        # A third of the time on a CPU for convolutional towers: depthwise ones read neighbouring channels.
        self.network = frozen(network).to(options.device, self.dtype).to(memory_format=torch.channels_last)
        self._run = torch.compile(self.network) if options.compiled else self.network
        self.name, self.space, self.width = spec.name, spec.space, spec.width
        self.stride, self.multiple = spec.stride, spec.multiple
        mean, std = options.mean or mean, options.std or std
        if min(std) <= 0:
            raise FusionerError(f"encoder {self.name!r}: std is {std}, expected three values above 0")
        self.fingerprint = digest(f"{fingerprint} {mean} {std} {options.tokens} {options.precision}")
        self.register_buffer("mean", torch.tensor(mean, device=options.device)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std, device=options.device)[:, None, None], persistent=False)

    @torch.no_grad()
    def forward(
        self,
        images: UInt8[Tensor, "batch 3 height width"],
        *,
        outside: Bool[Tensor, "batch height width"] | None = None,
        affinity: Callable[[Tensor], Tensor] | None = None,
    ) -> VisualTokens:
        """Unit-length float32 patch tokens of RGB images, values 0-255.

        outside: True for pixels that are no part of the image: they are -1 after normalisation (paper). affinity: given
        to networks that take one (``affinity.AffinityEncoder``).

        Raises FusionerError where a side is no multiple of ``multiple``.
        """
        height, width = images.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise FusionerError(
                f"an image of {width}x{height} pixels does not fit encoder {self.name!r}: "
                f"both sides must be multiples of {self.multiple}; resize it first"
            )
        pixels = (images.to(self.mean.device).float() / 255 - self.mean) / self.std
        if outside is not None:
            pixels = pixels.masked_fill(outside.to(pixels.device)[:, None], -1.0)
        given = (pixels.to(self.dtype).contiguous(memory_format=torch.channels_last),)
        features = self._run(*given, *(() if affinity is None else (affinity,)))
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
    """A frozen network behind the ``TextEncoder`` protocol: fills the templates, averages, works in chunks.

    network: a list of sentences to embeddings (sentences, dim) of any length, on the device of its weights. Its weights
    are frozen, then moved and cast as ``options`` says. width: dim. fingerprint: as for ``VisualTower``. The attribute
    ``cased`` says whether capitals reach the network, ``languages`` is the spec's.
    """

    def __init__(
        self, network: nn.Module, *, spec: EncoderSpec, options: LoadOptions, width: int, fingerprint: str
    ) -> None:
        super().__init__()
        self.network = frozen(network).to(device=options.device, dtype=getattr(torch, options.precision))
        self.name, self.space, self.width = spec.name, spec.space, width
        self.cased, self.languages = bool(getattr(network, "cased", False)), spec.languages
        self.fingerprint = digest(f"{fingerprint} {options.tokens} {options.precision}")

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "sentences dim"]:
        """Embeddings of whole sentences as the network gives them: float32, not normalised."""
        # Chunks of sentences of similar length need little padding: about half the time for a large vocabulary. By
        # tokens, where the network counts them, it is a fifth less than by letters.
        counted = getattr(self.network, "lengths", None)
        lengths = list(map(len, sentences)) if counted is None else counted(list(sentences))
        order = sorted(range(len(sentences)), key=lengths.__getitem__)
        chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
        embedded = torch.cat([self.network([sentences[index] for index in chunk]).float() for chunk in chunks])
        return embedded[torch.tensor(order).argsort().to(embedded.device)]

    @torch.no_grad()
    def forward(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "names dim"]:
        """One unit-length token a name: each filled template embedded and normalised, the mean normalised again."""
        sentences = [template.format(name) for name in names for template in templates]
        each = F.normalize(self.embed(sentences), dim=-1)
        mean = rearrange(each, "(names templates) dim -> names templates dim", names=len(names)).mean(1)
        return F.normalize(mean, dim=-1)


def frozen(network: nn.Module) -> nn.Module:
    """``network`` in eval mode, with gradients off for every parameter."""
    return network.eval().requires_grad_(False)


def digest(text: str) -> str:
    """Hex sha256 of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(file: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
