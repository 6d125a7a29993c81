"""Set once, ask many: ``set_image`` runs the frozen tower, ``segment`` only text and fusion."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fusionerlib import checkpoints
from fusionerlib.encoders.base import VisualEncoder, VisualTokens
from fusionerlib.errors import FusionerError
from fusionerlib.features.text import TextEmbeddingCache, text_cache_of, visual_of
from fusionerlib.images import ImageLike, read_image
from fusionerlib.inference.inspection import word_attention
from fusionerlib.inference.result import Segmentation, checked_threshold, winners
from fusionerlib.inference.windows import Windows, encode_windows, stride_of, window_logits
from fusionerlib.models.base import SegmentationModel

NAME_LENGTH = 200
"""Most characters of a name: beyond it a text encoder cuts silently."""
LONGEST = 1024
"""Pixels: the longest side that reaches the tower at the image's own proportions (attention grows with its square)."""
WORDS = 10_000
"""Most text tokens kept."""


class Segmenter:
    """A trained fusion module with the frozen encoders that it was trained on.

    model: a fusion module; put into eval mode.
    text_cache: the frozen text tokens; a name is encoded the first time it is asked for.
    size: pixels; the image is resized to size x size (the paper's first way of inference). None keeps the image's
        proportions: sides rounded to what the tower takes, the longer at most ``LONGEST``.
    stride: pixels; the paper's second way: the image keeps its own size, windows of size x size pixels slide over it
        in such steps, and logits are averaged where they overlap. None takes the image whole.
    """

    def __init__(
        self,
        *,
        model: SegmentationModel,
        visual: VisualEncoder,
        text_cache: TextEmbeddingCache,
        size: int | None = 224,
        stride: int | None = None,
    ) -> None:
        if size is not None and (size <= 0 or size % visual.multiple):
            raise FusionerError(
                f"size {size} does not fit encoder {visual.name!r}: expected a multiple of {visual.multiple}, or None"
            )
        if stride is not None and not 1 <= stride <= (size or 0):
            raise FusionerError(f"stride {stride} with size {size}: windows need a size, and a stride from 1 to it")
        self.model, self.visual, self.text_cache = model.eval(), visual, text_cache
        self.size, self.stride = size, stride
        self._image: np.ndarray | None = None
        self._tokens: VisualTokens | None = None
        self._windows: Windows | None = None
        self._input = (0, 0)

    @classmethod
    def load(cls, checkpoint: str | os.PathLike[str], *, sliding: bool = False, device: str = "cpu") -> Self:
        """From a checkpoint folder, or from the name N of a run: ``outputs/N/checkpoint`` under the current folder.

        "packaged" is the checkpoint that comes with the installation: photographs, no class held out.
        sliding: windows at the paper's stride over the image's own pixels, instead of the whole image resized.
        Raises FusionerError naming the folders tried where none holds ``config.json`` and ``model.safetensors``.
        """
        tried = [Path(checkpoint), Path("outputs") / checkpoint / "checkpoint"]
        if checkpoint == checkpoints.PACKAGED:
            tried.append(checkpoints.packaged_folder())
        files = ("config.json", "model.safetensors")
        found = [folder for folder in tried if all((folder / file).is_file() for file in files)]
        if not found:
            places = " nor ".join(str(folder.absolute()) for folder in tried)
            raise FusionerError(
                f"no checkpoint {str(checkpoint)!r}: neither {places} holds "
                f"{' and '.join(files)}; pass a checkpoint folder, or load {checkpoints.PACKAGED!r}"
            )
        trained = checkpoints.load(found[0])
        pair = trained.run.pair
        return cls(
            model=trained.model.to(device),
            visual=visual_of(pair, device=device),
            text_cache=text_cache_of(pair, limit=WORDS, device=device),
            size=trained.run.data.size,
            stride=stride_of(trained.run.data.size) if sliding else None,
        )

    @torch.no_grad()
    def set_image(self, image: ImageLike, *, answer_size: tuple[int, int] | None = None) -> Self:
        """Runs the frozen tower once on ``image``: Pillow, a path, or a uint8 array (H, W), (H, W, 3) or (H, W, 4).

        EXIF orientation is applied, transparency is put on white. Returns itself. answer_size: height and width of the
        masks that ``segment`` gives, and of the image under them; None for the image's own.
        Raises FusionerError naming the file or array where it can't be read; the image set before is forgotten then.
        """
        self._image = self._tokens = self._windows = None
        pixels = read_image(image)
        answered = pixels
        if answer_size is not None:
            height, width = answer_size
            answered = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        if self.size is not None and self.stride is not None:
            photo = torch.from_numpy(pixels).to(self._device)
            self._windows = encode_windows(self.visual, photo, window=self.size, stride=self.stride)
            self._image = answered
            return self
        rows, columns = self._input = self._input_size(*pixels.shape[:2])
        resized = Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR)
        batch = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].to(self._device)
        self._tokens, self._image = self.visual(batch), answered
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
        """The frozen tower's tokens of the current image, taken whole.

        Raises FusionerError where no image is set, and where windows slide over it.
        """
        if self._windows is not None:
            raise FusionerError("the image was cut into windows, each with tokens of its own: load with stride=None")
        if self._tokens is None:
            raise FusionerError("no image is set: call set_image(photo) before asking for names")
        return self._tokens

    @torch.no_grad()
    def segment(self, names: Sequence[str], *, threshold: float = 0.5) -> Segmentation:
        """Masks of ``names`` on the current image.

        Raises FusionerError where no image is set, for a threshold outside 0-1, for no names at all, and for a name
        that is blank, repeated, no string, or longer than 200 characters.
        """
        threshold, words = checked_threshold(threshold), self.text_tokens(names)
        coarse = self._coarse(words) if self._windows is None else window_logits(self.model, self._windows, words)
        assert self._image is not None
        best, winner = winners(coarse, self._image.shape[:2])
        return Segmentation(
            names=tuple(names), image=self._image, coarse=coarse, best=best, winner=winner, threshold=threshold
        )

    def _coarse(self, words: Float[Tensor, "names dim"]) -> Float[Tensor, "names rows columns"]:
        """Logits as small as the model makes them: a large vocabulary at the image's size would fill the memory."""
        tokens, model = self.tokens.main, self.model
        size = model.coarsest(tokens.grid, self._input)
        coarse = torch.empty(len(words), *size)
        for part in model.parts(len(words)):
            coarse[part] = model(tokens.tokens, words[part][None], grid=tokens.grid, size=size)[0]
        return coarse

    def attention(self, names: Sequence[str]) -> Float[Tensor, "layers names rows columns"]:
        """How much each word reads from each patch, layer by layer: mean over heads, 0-1.

        Raises FusionerError for a model whose words never read from patches, and as ``segment`` does.
        """
        return word_attention(self.model, self.tokens, self.text_tokens(names)).float().cpu()

    @torch.no_grad()
    def text_tokens(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        """Tokens of ``names``, float32; each name is encoded once. Raises FusionerError as ``segment`` does."""
        return self.text_cache.tokens(checked_names(names)).to(self._device)

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
