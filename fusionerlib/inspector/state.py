"""The mask inspector without any widget: what is asked, of which image, and how it is shown.

The frozen tower runs when an image is set; other names cost text and fusion, sliders only a comparison.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fusionerlib.errors import FusionerError
from fusionerlib.images import ImageLike, read_image
from fusionerlib.inference.segmenter import Segmentation, Segmenter, best_names, checked_names, checked_threshold
from fusionerlib.inspector.cases import Case, as_cases
from fusionerlib.inspector.panels import fitted
from fusionerlib.models.decoder import resize

Changed = frozenset[str]
"""What an operation changed: names of panels, and "pixel" for the table of the clicked pixel."""
PANELS = ("overlay", "probability", "argmax", "truth", "error", "attention", "similarity")
EVERYTHING = frozenset({*PANELS, "pixel"})
ANSWERS = EVERYTHING - {"similarity"}
DECISIONS = frozenset({"overlay", "probability", "argmax", "error", "pixel"})


class InspectorState:
    """Everything that is shown follows from this. Operations return what changed; one that raises FusionerError
    changes nothing.

    images: what ``as_cases`` takes. image: index of the one that is set. names: asked, without those in ``off``; where
    empty, the case's own. threshold, opacity: 0-1. temperature: logits are divided by it, 1.0 is as trained.
    word: whose probability and attention are shown; "" the first. layer: of the attention, from 0.
    pixel: the clicked one, (row, column) of the image at its own size.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        images: Any = (),
        *,
        names: Sequence[str] = (),
        off: Sequence[str] = (),
        threshold: float = 0.5,
        opacity: float = 0.55,
        temperature: float = 1.0,
        image: int = 0,
        word: str = "",
        layer: int = 0,
        pixel: tuple[int, int] | None = None,
    ) -> None:
        # A copy of its own shares encoders and model, and no other inspector can change its image.
        self.segmenter = copy.copy(segmenter)
        self.cases = as_cases(images)
        self.given = len(self.cases)
        self.index = -1
        self.photo = self.small = np.zeros((0, 0, 3), dtype=np.uint8)
        self.names: tuple[str, ...] = ()
        self.off: frozenset[str] = frozenset()
        self.word, self.layer = "", max(0, layer)
        self.pixel: tuple[int, int] | None = None
        self.threshold = checked_threshold(threshold)
        self.opacity, self.temperature = _checked_opacity(opacity), _checked_temperature(temperature)
        self._raw: Segmentation | None = None
        self._view: Segmentation | None = None
        self._heat: np.ndarray | None = None
        self._attention: Tensor | None = None
        self.set_names(names, off=off)
        if self.cases:
            self._open(image, self.names or None)
        if word:
            self.choose(word)
        if pixel is not None:
            self.click(*pixel)

    @property
    def on(self) -> tuple[str, ...]:
        """The names that are asked."""
        return tuple(name for name in self.names if name not in self.off)

    @property
    def case(self) -> Case | None:
        """The case that is set."""
        return self.cases[self.index] if self.index >= 0 else None

    @property
    def answer(self) -> Segmentation | None:
        """The answer at the image's own size, computed when it is asked for; None without image or names."""
        if self._view is None:
            return None
        best, winner = best_names(self._view.coarse, self.photo.shape[:2])
        return replace(self._view, image=self.photo, best=best, winner=winner)

    @property
    def view(self) -> Segmentation | None:
        """The same answer at the size of the panels; like ``answer`` with temperature and threshold applied."""
        return self._view

    def go(self, index: int) -> Changed:
        """To image ``index``, running the tower. A case's own names are asked, else the present ones."""
        return self._open(index, None)

    def step(self, by: int) -> Changed:
        """``by`` images on, round and round."""
        return self.go((self.index + by) % max(1, len(self.cases)))

    def add(self, image: ImageLike, *, title: str) -> Changed:
        """One more image at the end, and to it."""
        self.cases.append(Case(read_image(image), title))
        return self.go(len(self.cases) - 1)

    def set_names(self, names: Sequence[str], *, off: Sequence[str] = ()) -> Changed:
        """Other names; those in ``off`` stay listed but are not asked. Costs text and fusion."""
        names = checked_names(names) if isinstance(names, str) or len(names) else ()
        self._ask(names, frozenset(off) & set(names))
        return ANSWERS

    def toggle(self, name: str, on: bool) -> Changed:
        """``name`` asked or not. Costs text and fusion."""
        if name not in self.names:
            raise FusionerError(f"{name!r} is none of the names {list(self.names)}: add it to them first")
        self._ask(self.names, self.off - {name} if on else self.off | {name})
        return ANSWERS

    def set_threshold(self, threshold: float) -> Changed:
        """A pixel where no probability exceeds it is background."""
        self.threshold = checked_threshold(threshold)
        self._view = None if self._view is None else self._view.at(threshold)
        return DECISIONS

    def set_opacity(self, opacity: float) -> Changed:
        """How much of the overlay is colour."""
        self.opacity = _checked_opacity(opacity)
        return frozenset({"overlay"})

    def set_temperature(self, temperature: float) -> Changed:
        """Above 1 probabilities come nearer to 0.5, below 1 they move away from it."""
        self.temperature = _checked_temperature(temperature)
        self._rescale()
        return DECISIONS

    def choose(self, word: str) -> Changed:
        """Show the probability and the attention of ``word``."""
        if word not in self.on:
            raise FusionerError(f"{word!r} is not asked: choose one of {list(self.on)}")
        self.word, self._heat = word, None
        return frozenset({"probability", "attention"})

    def set_layer(self, layer: int) -> Changed:
        """Show the attention of block ``layer``, from 0; beyond the last it is the last one's."""
        self.layer = max(0, int(layer))
        return frozenset({"attention"})

    def click(self, row: int, column: int) -> Changed:
        """The pixel at (``row``, ``column``) of the image; beyond its rim the nearest one."""
        if self.case is None:
            raise FusionerError("there is no image to click on: pick or upload one first")
        height, width = self.photo.shape[:2]
        self.pixel = (max(0, min(int(row), height - 1)), max(0, min(int(column), width - 1)))
        return frozenset({"overlay", "similarity", "pixel"})

    def probability(self) -> Float[np.ndarray, "rows columns"] | None:
        """The chosen word's probability (0-1) at the panels' size; None without an answer."""
        if self._heat is None and self._view is not None:
            place, (height, width) = self.on.index(self.word), self.small.shape[:2]
            logits = resize(self._view.coarse[None, place : place + 1], (height, width))
            self._heat = logits[0, 0].sigmoid().numpy()
        return self._heat

    def attention(self) -> Float[Tensor, "layers names rows columns"]:
        """What each asked name reads from the patches. Raises FusionerError as ``Segmenter.attention`` does."""
        if self._attention is None:
            self._attention = self.segmenter.attention(self.on)
        return self._attention

    @property
    def layers(self) -> int:
        """How many layers the attention has that was asked for last; 0 where none was, or there is none."""
        return 0 if self._attention is None else len(self._attention)

    def _open(self, index: int, names: Sequence[str] | None) -> Changed:
        if not 0 <= index < len(self.cases):
            raise FusionerError(f"there is no image {index} (from 0) among {len(self.cases)}: pick or upload one")
        case, off = self.cases[index], self.off
        if names is None and case.names:
            names, off = checked_names(case.names), frozenset()
        photo = read_image(case.image)
        if case.labels is not None and case.labels.shape != photo.shape[:2]:
            raise FusionerError(
                f"case {case.title!r}: the image is {photo.shape[:2]} but its labels are {case.labels.shape} "
                "(height, width): both must cover the same pixels"
            )
        names = tuple(self.names if names is None else names)
        if on := [name for name in names if name not in off]:
            self.segmenter.text_tokens(on)  # a name that can't be encoded stops here, while nothing has changed
        # Answers come at the panels' size: at the 12 megapixels of a camera a word would take seconds.
        height, width = fitted(*photo.shape[:2])
        self.segmenter.set_image(photo, answer_size=(height, width))
        self.index, self.photo, self.pixel = index, photo, None
        self.small = np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
        self._ask(names, off)
        return EVERYTHING

    def _ask(self, names: tuple[str, ...], off: frozenset[str]) -> None:
        on = tuple(name for name in names if name not in off)
        raw = self.segmenter.segment(on) if on and self.case else None
        self.names, self.off, self._raw, self._attention = names, off, raw, None
        self.word = self.word if self.word in on else next(iter(on), "")
        self._rescale()

    def _rescale(self) -> None:
        self._heat = None
        if self._raw is None:
            self._view = None
            return
        coarse, best = self._raw.coarse / self.temperature, self._raw.best / self.temperature
        self._view = replace(self._raw, coarse=coarse, best=best, threshold=self.threshold)


def _checked_opacity(opacity: float) -> float:
    if not 0 <= opacity <= 1:
        raise FusionerError(f"opacity {opacity} is outside 0-1: 0 shows outlines and hatches only, 1 flat colour")
    return float(opacity)


def _checked_temperature(temperature: float) -> float:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise FusionerError(f"temperature {temperature}: logits are divided by it, expected above 0; 1.0 is as trained")
    return float(temperature)
