"""The result of a segmentation: labels, masks and logits at the image's size, and the best name of each pixel."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32, UInt8
from PIL import Image
from torch import Tensor

from fusionerlib.errors import FusionerError
from fusionerlib.files import write_bytes, write_text
from fusionerlib.inference import formats
from fusionerlib.inference.edges import RADIUS, Guide, enlarged
from fusionerlib.inference.overlay import overlay
from fusionerlib.inference.requests import THRESHOLD, Threshold, checked_threshold
from fusionerlib.models.base import NAME_CHUNK
from fusionerlib.models.decoder import resize

TILE_ROWS, TILE_COLUMNS = 96, 512
"""Most rows and columns of a tile in ``best_names``; one tile's logits stay in the processor's cache."""
BLOCK = 8
"""Rows and columns of the blocks of cells in which ``best_names`` looks for the names that a guide can let win."""
PART = 1 << 16
"""Pixels that are decided at once: a power of two, so that each keeps its place in the processor's vectors."""
MARGIN = 1e-4
"""How far below another name, relative to the largest logit of a tile, a name is left out there."""


@dataclass(frozen=True, repr=False)
class Segmentation:
    """The result of ``Segmenter.segment``; everything of length K (names) is in the order of ``names``.

    image: the segmented image, RGB 0-255, EXIF orientation applied.
    coarse: logits at the resolution of the model; ``fine`` after the guide, ``logits`` at the size of the image.
    best, winner: of each pixel the largest logit and the index of its name (the first one in a tie).
    threshold: 0-1, for all names or by name. background: whether a pixel may belong to none of the names.
    notes: what is to be said of the image and the names (``Segmenter.image_notes``, ``Segmenter.notes``), such as that
    one may be misspelt; () for nothing.
    guide: what moves the edges of the masks to those of the picture; None where logits are enlarged bilinearly alone.

    A pixel belongs to the name with the largest probability among those whose probability exceeds their own threshold
    (the first one in a tie), and to the background where there is no such name. Without background it belongs to the
    name with the largest probability, and thresholds have no effect.
    """

    names: tuple[str, ...]
    image: UInt8[np.ndarray, "height width 3"]
    coarse: Float[Tensor, "names rows columns"]
    best: Float[Tensor, "height width"]
    winner: Int32[np.ndarray, "height width"]
    threshold: Threshold = THRESHOLD
    background: bool = True
    notes: tuple[str, ...] = ()
    guide: Guide | None = None

    def __repr__(self) -> str:
        (height, width), names = self.image.shape[:2], ", ".join(map(repr, self.names))
        return f"Segmentation({names}; {height} x {width} pixels, threshold {self.threshold})"

    @property
    def fine(self) -> Float[Tensor, "names rows columns"]:
        """Logits as the guide leaves them, before they are enlarged to the image; ``coarse`` without a guide."""
        return self.coarse if self.guide is None else self.guide(self.coarse)

    @cached_property
    def logits(self) -> Float[Tensor, "names height width"]:
        """Logits at the image's size, float32. Computed on first use; takes 4 bytes a name and pixel."""
        return enlarged(self.coarse, self.image.shape[:2], guide=self.guide)

    @property
    def probabilities(self) -> Float[Tensor, "names height width"]:
        """Sigmoid of the logits, 0-1. Every name has its own sigmoid, so they don't sum to 1."""
        return self.logits.sigmoid()

    @cached_property
    def labels(self) -> Int32[np.ndarray, "height width"]:
        """k + 1 for the name k that the pixel belongs to, 0 for background (paper)."""
        labels = np.empty(self.winner.shape, np.int32)
        if self._best_above is not None:
            above, winner = self._best_above
            np.add(winner, np.int32(1), out=labels, where=(inside := (above > -torch.inf).numpy()))
            labels[~inside] = 0
            return labels
        np.add(self.winner, np.int32(1), out=labels)
        if self.background:
            flat = labels.reshape(-1)
            for part, probability in self.best_probabilities():
                flat[part][~(probability > self.threshold)] = 0
        return labels

    @cached_property
    def best_probability(self) -> Float[np.ndarray, "height width"]:
        """The probability (0-1) of the name that the pixel belongs to; in the background the largest of all names."""
        probability = np.empty(self.winner.shape, np.float32)
        for part, values in self.best_probabilities():
            probability.reshape(-1)[part] = values
        return probability

    def best_probabilities(self) -> Iterator[tuple[slice, Float[np.ndarray, " pixels"]]]:
        """``best_probability`` by parts of the pixels in a row, so that no map of it is in memory."""
        best = self.best.reshape(-1)
        for start in range(0, len(best), PART):
            part = slice(start, start + PART)
            values = best[part]
            if self._best_above is not None:
                above = self._best_above[0].reshape(-1)[part]
                values = torch.where(above > -torch.inf, above, values)
            yield part, values.sigmoid().numpy()

    @cached_property
    def _best_above(self) -> tuple[Float[Tensor, "height width"], Int32[np.ndarray, "height width"]] | None:
        """``best`` and ``winner`` among the names above thresholds of their own; None without such thresholds."""
        if not self.background or not isinstance(self.threshold, Mapping):
            return None
        each = torch.tensor([self.threshold.get(name, THRESHOLD) for name in self.names])
        return best_names(self.coarse, self.image.shape[:2], thresholds=each, guide=self.guide)

    @property
    def masks(self) -> Bool[np.ndarray, "names height width"]:
        """One mask a name at the image's size. They don't overlap; background is in none of them."""
        return self.labels == np.arange(1, len(self.names) + 1)[:, None, None]

    def at(self, threshold: Threshold, *, background: bool = True) -> "Segmentation":
        """The same result at another ``threshold``, or without background, without running the model again.

        Raises FusionerError for a threshold outside 0-1, and for one of a name that was not asked.
        """
        return replace(self, threshold=checked_threshold(threshold, self.names), background=background)

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """The masks drawn over the image. opacity: 0-1. legend: below it each name with its share of the pixels."""
        return overlay(self.image, self.labels, self.names, opacity=opacity, legend=legend, shares=True, ignore=None)

    def table(self) -> list[dict[str, Any]]:
        """One row a name: name, share (0-1), box (left, top, width, height), mean and max probability.

        ``pandas.DataFrame(result.table())`` makes a table of it; see ``formats.table``.
        """
        return formats.table(self)

    def to_coco(self, *, file: str = "image", instances: bool = False) -> dict[str, Any]:
        """The masks as a COCO file's content: images, annotations (run lengths), categories. Needs pycocotools.

        file: the image's ``file_name``. instances: one annotation a connected part instead of one a name.
        """
        return formats.coco(self, file=file, instances=instances)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the masks: ``.png`` an index mask (0 is background, k the k-th name) with ``STEM.names.txt`` beside it,
        ``.json`` a COCO file, ``.npz`` soft masks (float16). Raises FusionerError for another suffix, and for a name
        that can't stand in such a list (``formats.check_index_names``).
        """
        path = Path(path)
        if path.suffix.lower() == ".png":
            formats.check_index_names(self.names)
        write_bytes(path, formats.encoded(self, path.suffix.lower(), file=path.stem))
        if path.suffix.lower() == ".png":
            write_text(path.with_name(f"{path.stem}.names.txt"), formats.names_text(self.names))

    def _ipython_display_(self) -> None:
        """What Jupyter shows for a result at the end of a cell: the notes, then the overlay."""
        from IPython.display import Image as Picture
        from IPython.display import display

        for note in self.notes:
            print(f"note: {note}")
        display(Picture(data=self._repr_png_(), format="png"))

    def _repr_png_(self) -> bytes:
        """The overlay, encoded."""
        stream = BytesIO()
        self.overlay().save(stream, "PNG")
        return stream.getvalue()


def best_names(
    coarse: Float[Tensor, "names rows columns"],
    size: tuple[int, ...],
    *,
    thresholds: Float[Tensor, " names"] | None = None,
    guide: Guide | None = None,
) -> tuple[Float[Tensor, "height width"], Int32[np.ndarray, "height width"]]:
    """The largest logit of each pixel at ``size`` (height, width), and the index of its name (the first in a tie).

    thresholds: of each name; logits whose sigmoid does not exceed it count as -inf, also in the result.
    guide: applied to ``coarse`` first; without thresholds only to the names that can win somewhere.
    Tile by tile: only the rows that a tile needs are resized, and without thresholds only the names that can win in
    it. Memory beside the result is that of ``TILE_ROWS`` rows of the names in the picture, with a guide that of
    ``NAME_CHUNK`` names on its fine grid. Raises FusionerError for logits that are NaN or infinite.
    """
    if not coarse.isfinite().all():
        raise FusionerError(
            "the logits of this image are NaN or infinite: an encoder or the model overflowed. Load the encoders with "
            "precision float32; where they are, check their weights"
        )
    if guide is None:
        return _best_names(coarse, size, thresholds)
    coarse = guide.pooled(coarse)
    able = torch.tensor(range(len(coarse)) if thresholds is not None else _able(coarse))
    if len(able) <= NAME_CHUNK:  # the usual case needs no second pair of maps: 96 MB for 12 megapixels
        best, index = _best_names(guide(coarse[able]), size, None if thresholds is None else thresholds[able])
        return best, able.int().numpy()[index]
    best, winner = torch.full((size[0], size[1]), -torch.inf), np.zeros((size[0], size[1]), dtype=np.int32)
    for part in able.split(NAME_CHUNK):
        found, index = _best_names(guide(coarse[part]), size, None if thresholds is None else thresholds[part])
        better = found > best  # strictly, so that the first name wins a tie
        winner = np.where(better.numpy(), part.int().numpy()[index], winner)
        torch.maximum(best, found, out=best)
    return best, winner


def _best_names(
    coarse: Float[Tensor, "names rows columns"], size: tuple[int, ...], thresholds: Float[Tensor, " names"] | None
) -> tuple[Float[Tensor, "height width"], Int32[np.ndarray, "height width"]]:
    height, width = size[0], size[1]
    best, winner = torch.full((height, width), -torch.inf), torch.zeros(height, width, dtype=torch.int32)
    rows, columns = _axis(coarse.shape[1], height), _axis(coarse.shape[2], width)
    for top, bottom in _tiles(rows.first, TILE_ROWS):
        low, high = int(rows.first[top]), int(rows.second[bottom - 1]) + 1
        needed = coarse[:, low:high]
        able = range(len(coarse)) if thresholds is not None else _possible(needed.flatten(1))
        # Bilinear weights are a product: first along the columns for the few rows needed, then along the rows.
        needed = needed[list(able)]
        across = _resized(needed, (high - low, width))
        first, second = rows.first[top:bottom] - low, rows.second[top:bottom] - low
        weights = rows.first_weight[top:bottom, None], rows.second_weight[top:bottom, None]
        for left, right in _tiles(columns.first, TILE_COLUMNS):
            corners = needed[:, :, int(columns.first[left]) : int(columns.second[right - 1]) + 1].flatten(1)
            tile, index = best[top:bottom, left:right], winner[top:bottom, left:right]
            for place in range(len(able)) if thresholds is not None else _possible(corners):
                name, part = able[place], across[place, :, left:right]
                # In this order a fused product and sum gives the bits of torch's own bilinear resize.
                logits = torch.addcmul(part[second] * weights[1], part[first], weights[0])
                if thresholds is not None:
                    logits.masked_fill_(logits.sigmoid() <= thresholds[name], -torch.inf)
                index.masked_fill_(logits > tile, name)  # strictly, so that the first name wins a tie
                torch.maximum(tile, logits, out=tile)
    return best, winner.numpy()


@dataclass(frozen=True)
class _Axis:
    """Of each pixel of an axis, the two coarse places that it lies between and their bilinear weights."""

    first: Int[Tensor, " pixels"]
    second: Int[Tensor, " pixels"]
    first_weight: Float[Tensor, " pixels"]
    second_weight: Float[Tensor, " pixels"]


def _axis(places: int, pixels: int) -> _Axis:
    source = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * (places / pixels) - 0.5).clamp(0, places - 1)
    first = source.long()
    second = (first + 1).clamp(max=places - 1)
    # torch's own weights, to the last bit: of two neighbouring places one is odd, so a resized 1, 0, 1, 0, ... has the
    # weight of the even one.
    odd = torch.arange(places, dtype=torch.float32) % 2
    even_weight, odd_weight = _resized(torch.stack([1 - odd, odd])[:, :, None], (pixels, 1))[:, :, 0]
    weights = torch.where(first % 2 == 0, even_weight, odd_weight), torch.where(first % 2 == 0, odd_weight, even_weight)
    return _Axis(first, second, weights[0], weights[1].masked_fill(second == first, 0.0))


def _tiles(first: Int[Tensor, " pixels"], most: int) -> Iterator[tuple[int, int]]:
    """Start and end of each tile of an axis: at most ``most`` pixels, cut where a coarse place ends if one does."""
    ends = [*(torch.nonzero(first.diff()).flatten() + 1).tolist(), len(first)]
    start = 0
    while start < len(first):
        reached = ends[max(0, bisect_right(ends, start + most) - 1)]
        end = reached if reached > start else min(start + most, len(first))
        yield start, end
        start = end


def _possible(corners: Float[Tensor, "names places"]) -> list[int]:
    """The names that can be the largest somewhere between ``corners``, where logits are weighted means of theirs.

    A name that is below another one at every corner is below it in between too; ``MARGIN`` allows for rounding.
    """
    leader = corners[corners.mean(dim=1).argmax()]
    margin = MARGIN * corners.abs().amax()
    return torch.nonzero((corners >= leader - margin).any(dim=1)).flatten().tolist()


def _able(coarse: Float[Tensor, "names rows columns"]) -> list[int]:
    """The names that can be the largest somewhere once a guide has averaged ``coarse`` over neighbouring cells.

    Its weights are not negative and sum to 1, so what ``_possible`` says of bilinear weights holds for them, with the
    neighbours of a block's cells as its corners.
    """
    if len(coarse) <= NAME_CHUNK:
        return list(range(len(coarse)))
    # One cell more than the guide reads: enlarging its fine grid looks across the block's border.
    reach, found = RADIUS + 1, set[int]()
    for top in range(0, coarse.shape[1], BLOCK):
        for left in range(0, coarse.shape[2], BLOCK):
            rows = slice(max(0, top - reach), top + BLOCK + reach)
            columns = slice(max(0, left - reach), left + BLOCK + reach)
            found.update(_possible(coarse[:, rows, columns].flatten(1)))
    return sorted(found)


def _resized(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    return logits if logits.shape[1:] == tuple(size) else resize(logits[None], (size[0], size[1]))[0]
