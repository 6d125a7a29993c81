"""Set once, ask many: ``set_image`` runs the frozen tower, ``segment`` only text and fusion."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, UInt8
from PIL import Image
from torch import Tensor

from fusionerlib import checkpoints
from fusionerlib.encoders.base import VisualEncoder, VisualTokens
from fusionerlib.errors import FusionerError
from fusionerlib.fusion.model import SegmentationModel
from fusionerlib.images import ImageLike, read_image
from fusionerlib.inspection import word_attention
from fusionerlib.overlay import overlay
from fusionerlib.pair import visual_of, words_of
from fusionerlib.words import WordTable

NAME_LENGTH = 200
"""Most characters of a name: beyond it a text encoder cuts silently."""
LONGEST = 1024
"""Pixels: the longest side that reaches the tower at the image's own proportions (attention grows with its square)."""
CHUNK_BYTES = 64 * 2**20
"""Bytes of logits at the image's own size that are held at once while the winners are found."""
WORDS = 10_000
"""Most text tokens kept."""


@dataclass(frozen=True)
class Segmentation:
    """What ``Segmenter.segment`` found. Everything of length K is in the order of ``names``.

    image: what was segmented, RGB 0-255, upright.
    coarse: logits at the size that the model ran at; ``logits`` are these, resized.
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
        return replace(self, threshold=_checked_threshold(threshold))

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """The masks on the image, with a legend that gives each name's share of the pixels."""
        return overlay(self.image, self.labels, self.names, opacity=opacity, legend=legend, shares=True, ignore=None)


class Segmenter:
    """A trained fusion module with the frozen encoders that it was trained on.

    model: a fusion module; put into eval mode.
    words: the frozen text tokens; a name is encoded the first time it is asked for.
    size: pixels; the image is resized to size x size (the paper's first way of inference). None keeps the image's
        proportions: sides rounded to what the tower takes, the longer at most ``LONGEST``.
    """

    def __init__(
        self,
        *,
        model: SegmentationModel,
        visual: VisualEncoder,
        words: WordTable,
        size: int | None = 224,
    ) -> None:
        if size is not None and (size <= 0 or size % visual.multiple):
            raise FusionerError(
                f"size {size} does not fit encoder {visual.name!r}: expected a multiple of {visual.multiple}, or None"
            )
        self.model, self.visual, self.words, self.size = model.eval(), visual, words, size
        self._image: np.ndarray | None = None
        self._tokens: VisualTokens | None = None
        self._input = (0, 0)

    @classmethod
    def load(cls, checkpoint: str | os.PathLike[str], *, device: str = "cpu") -> Self:
        """From a checkpoint folder, or from the name N of a run: ``outputs/N/checkpoint`` under the current folder.

        Raises FusionerError naming the folders tried where none holds ``config.json`` and ``model.safetensors``.
        """
        tried = [Path(checkpoint), Path("outputs") / checkpoint / "checkpoint"]
        files = ("config.json", "model.safetensors")
        found = [folder for folder in tried if all((folder / file).is_file() for file in files)]
        if not found:
            places = " nor ".join(str(folder.absolute()) for folder in tried)
            raise FusionerError(
                f"no checkpoint {str(checkpoint)!r}: neither {places} holds "
                f"{' and '.join(files)}; pass a checkpoint folder, or run `make demo` and load 'demo'"
            )
        trained = checkpoints.load(found[0])
        pair = trained.run.pair
        return cls(
            model=trained.model.to(device),
            visual=visual_of(pair, device=device),
            words=words_of(pair, limit=WORDS, device=device),
            size=trained.run.data.size,
        )

    @torch.no_grad()
    def set_image(self, image: ImageLike) -> Self:
        """Runs the frozen tower once on ``image``: Pillow, a path, or a uint8 array (H, W), (H, W, 3) or (H, W, 4).

        EXIF orientation is applied, transparency is put on white. Returns itself. Raises FusionerError naming the
        file or array where it can't be read; the image set before is forgotten then.
        """
        self._image = self._tokens = None
        pixels = read_image(image)
        rows, columns = self._input = self._input_size(*pixels.shape[:2])
        resized = Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR)
        batch = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].to(self._device)
        self._tokens, self._image = self.visual(batch), pixels
        return self

    def _input_size(self, height: int, width: int) -> tuple[int, int]:
        if self.size is not None:
            return self.size, self.size
        step, scale = self.visual.multiple, min(1.0, LONGEST / max(height, width))
        limit = max(step, LONGEST // step * step)
        rows, columns = (min(limit, max(step, round(side * scale / step) * step)) for side in (height, width))
        return rows, columns

    @property
    def tokens(self) -> VisualTokens:
        """The frozen tower's tokens of the current image. Raises FusionerError where none is set."""
        if self._tokens is None:
            raise FusionerError("no image is set: call set_image(photo) before asking for names")
        return self._tokens

    @torch.no_grad()
    def segment(self, names: Sequence[str], *, threshold: float = 0.5) -> Segmentation:
        """Masks of ``names`` on the current image.

        Raises FusionerError where no image is set, for a threshold outside 0-1, for no names at all, and for a name
        that is blank, repeated, no string, or longer than 200 characters.
        """
        tokens, threshold = self.tokens.main, _checked_threshold(threshold)
        assert self._image is not None
        words = self.text_tokens(names)[None]
        coarse = self.model(tokens.tokens, words, grid=tokens.grid, size=self._input)[0].float().cpu()
        best, winner = _winners(coarse, self._image.shape[:2])
        return Segmentation(
            names=tuple(names), image=self._image, coarse=coarse, best=best, winner=winner, threshold=threshold
        )

    def attention(self, names: Sequence[str]) -> Float[Tensor, "layers names rows columns"]:
        """How much each word reads from each patch, layer by layer: mean over heads, 0-1.

        Raises FusionerError for a model whose words never read from patches, and as ``segment`` does.
        """
        return word_attention(self.model, self.tokens, self.text_tokens(names)).float().cpu()

    @torch.no_grad()
    def text_tokens(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        """Tokens of ``names``, float32; each name is encoded once. Raises FusionerError as ``segment`` does."""
        return self.words.tokens(checked_names(names)).to(self._device)

    @property
    def _device(self) -> torch.device:
        return next((weight.device for weight in self.model.parameters()), torch.device("cpu"))


def checked_names(names: Sequence[Any]) -> tuple[str, ...]:
    """``names`` as they are. Raises FusionerError naming the first that can't be asked for."""
    if isinstance(names, str):
        raise FusionerError(f"names is the string {names!r}, expected a list: did you mean [{names!r}]?")
    if not len(names):
        raise FusionerError('no names were given: pass at least one, as in segment(["cat"])')
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise FusionerError(f"name {index} is {name!r} ({type(name).__name__}), expected a string such as 'cat'")
        if not name.strip():
            raise FusionerError(f"name {index} is blank ({name!r}): leave it out or write a word")
        if len(name) > NAME_LENGTH:
            start = f"{name[:20]!r}..."
            raise FusionerError(
                f"name {index} ({start}) has {len(name)} characters, expected at most {NAME_LENGTH}: shorten it"
            )
        if name in names[:index]:
            raise FusionerError(f"name {index}, {name!r}, is given twice: ask for each name once")
    return tuple(names)


def _checked_threshold(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise FusionerError(
            f"threshold {threshold} is outside 0-1: it is compared with probabilities, 0.5 is the paper's"
        )
    return float(threshold)


def _resized(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


def _winners(coarse: Tensor, size: tuple[int, ...]) -> tuple[Tensor, np.ndarray]:
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
