"""The state of the mask inspector, without widgets: the image, the names that are asked, and the display settings.

Setting an image runs the visual encoder, new names run the text encoder and the fusion module, sliders run neither.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fusionerlib.errors import FusionerError
from fusionerlib.images import ImageLike, read_image
from fusionerlib.inference.requests import checked_names, checked_threshold
from fusionerlib.inference.segmentation import Segmentation, best_names
from fusionerlib.inference.segmenter import Segmenter
from fusionerlib.inference.whole import PANORAMA
from fusionerlib.inspector.cases import Case, as_cases
from fusionerlib.inspector.strokes import Photo, Point, Stroke, Tool, examples, painted, save_strokes
from fusionerlib.models.decoder import resize

Changed = frozenset[str]
"""What an operation changes: names of panels, and "pixel" for the table of the clicked pixel."""
WIDTH, HEIGHT = 400, 300
"""Size in pixels of the box into which a panel fits, except a panorama's."""
LONGEST = 1600
"""Longest side of a panel in pixels."""
ANSWERS_KEPT = 8
"""Most answers for the current image that are kept, so that names which come back are not asked again."""
PANELS = ("overlay", "probability", "argmax", "truth", "error", "attention", "similarity", "beside", "difference")
EVERYTHING = frozenset({*PANELS, "pixel"})
ANSWERS = EVERYTHING - {"similarity"}
DECISIONS = frozenset({"overlay", "probability", "argmax", "error", "pixel", "difference"})


class InspectorState:
    """The state that determines everything the inspector shows.

    Every operation returns what it changes; an operation that raises FusionerError changes nothing.

    images: see ``as_cases``. image: index of the one to show. names: the names to ask, those in ``off`` excepted; where
    empty, the names of the case. threshold, opacity: 0-1. temperature: divides the logits; 1.0 is as trained.
    word: the name whose probability and attention are shown; "" is the first. layer: of the attention, from 0.
    pixel: the clicked pixel, (row, column) in the image at its own size.
    beside: another segmenter, whose masks are shown beside those of the first with a map of where the two differ.
    beside_threshold: its threshold, 0-1; without ``beside`` the first segmenter at this threshold is compared.
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
        beside: Segmenter | None = None,
        beside_threshold: float | None = None,
    ) -> None:
        # A shallow copy shares encoders and model, but has its own image: another inspector can't change it.
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
        self.compares_models = beside is not None
        compared = beside or (segmenter if beside_threshold is not None else None)
        self.beside = None if compared is None else copy.copy(compared)
        self.beside_threshold = checked_threshold(threshold if beside_threshold is None else beside_threshold)
        self.beside_view: Segmentation | None = None
        self.strokes: tuple[Stroke, ...] = ()
        self._photos: dict[int, tuple[str, Photo]] = {}
        self._untaught = self.segmenter.model
        self._answers: dict[tuple[str, ...], tuple[list[Tensor], list[Segmentation]]] = {}
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
        """The names that are asked: all except those in ``off``."""
        return tuple(name for name in self.names if name not in self.off)

    @property
    def case(self) -> Case | None:
        """The current case; None where there is no image."""
        return self.cases[self.index] if self.index >= 0 else None

    @property
    def answer(self) -> Segmentation | None:
        """The segmentation at the image's own size, computed on demand; None without image or names."""
        if self._view is None:
            return None
        best, winner = best_names(self._view.coarse, self.photo.shape[:2], guide=self._view.guide)
        return replace(self._view, image=self.photo, best=best, winner=winner)

    @property
    def view(self) -> Segmentation | None:
        """The segmentation at the size of the panels. As in ``answer``, temperature and threshold are applied."""
        return self._view

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the image's proportions, and of the names asked (``Segmenter.notes``)."""
        said = self.segmenter.notes(self.on) if self.on else ()
        return (*self.segmenter.image_notes(self.photo.shape[:2]), *said) if self.photo.size else said

    @property
    def suggestions(self) -> tuple[str, ...]:
        """The names with masks in training that are not listed yet, in alphabetical order."""
        listed = {self.segmenter.text_cache.form(name) for name in self.names}
        known = sorted(self.segmenter.trained_names)
        return tuple(name for name in known if self.segmenter.text_cache.form(name) not in listed)

    def go(self, index: int) -> Changed:
        """Show image ``index`` (from 0) and ask for the names of its case, or the current names where it has none."""
        return self._open(index, None)

    def step(self, by: int) -> Changed:
        """Move on by ``by`` images, cyclically."""
        return self.go((self.index + by) % max(1, len(self.cases)))

    def add(self, image: ImageLike, *, title: str) -> Changed:
        """Add an image at the end and show it."""
        self.cases.append(Case(read_image(image), title))
        return self.go(len(self.cases) - 1)

    def set_names(self, names: Sequence[str], *, off: Sequence[str] = ()) -> Changed:
        """Replace the names; those in ``off`` stay listed but are not asked."""
        names = self._checked(names) if isinstance(names, str) or len(names) else ()
        self._ask(names, frozenset(off) & set(names))
        return ANSWERS

    def asking(self, names: Sequence[str]) -> "InspectorState":
        """A copy of this state that asks for ``names``; both keep their answers in one place, so ``set_names`` of the
        same names finds it. Raises FusionerError as ``set_names`` does."""
        other = copy.copy(self)
        other.set_names(names, off=tuple(self.off))
        return other

    def add_name(self, name: str) -> Changed:
        """Ask for ``name`` too."""
        return self.set_names([*self.names, name], off=tuple(self.off))

    def toggle(self, name: str, on: bool) -> Changed:
        """Ask for ``name`` or not."""
        if name not in self.names:
            raise FusionerError(f"{name!r} is none of the names {list(self.names)}: add it to them first")
        self._ask(self.names, self.off - {name} if on else self.off | {name})
        return ANSWERS

    def set_threshold(self, threshold: float) -> Changed:
        """Set the background threshold, 0-1: a pixel is background where no probability exceeds it."""
        self.threshold = checked_threshold(threshold)
        self._view = None if self._view is None else self._view.at(threshold)
        return DECISIONS

    def set_opacity(self, opacity: float) -> Changed:
        """Set the opacity of the overlay, 0-1."""
        self.opacity = _checked_opacity(opacity)
        return frozenset({"overlay"} if self.beside is None else {"overlay", "beside"})

    def set_temperature(self, temperature: float) -> Changed:
        """Set the temperature, above 0. Above 1 it moves probabilities towards 0.5, below 1 away from it."""
        self.temperature = _checked_temperature(temperature)
        self._rescale()
        return DECISIONS

    def choose(self, word: str) -> Changed:
        """Show the probability, the IoU and the attention of the asked name ``word``."""
        if word not in self.on:
            raise FusionerError(f"{word!r} is not asked: choose one of {list(self.on)}")
        self.word, self._heat = word, None
        return frozenset({"probability", "error", "attention"})

    def set_layer(self, layer: int) -> Changed:
        """Show the attention of ``layer``, from 0; a number beyond the last layer shows the last one."""
        self.layer = max(0, int(layer))
        return frozenset({"attention"})

    def click(self, row: int, column: int) -> Changed:
        """Select the pixel (``row``, ``column``) of the image; outside the image the nearest one."""
        if self.case is None:
            raise FusionerError("there is no image to click on: pick or upload one first")
        height, width = self.photo.shape[:2]
        self.pixel = (max(0, min(int(row), height - 1)), max(0, min(int(column), width - 1)))
        return frozenset({"overlay", "similarity", "pixel"})

    def paint(self, tool: Tool, points: Sequence[Point], *, radius: float) -> Changed:
        """Paint a stroke of the chosen name on the image, and ask again. tool, points, radius: see ``painted``.

        A stroke of the brush or the box teaches this inspector's model, never the segmenter that was passed in. An
        erased pixel is no example any more. Raises FusionerError without image and name, and for a model that can't
        learn from examples.
        """
        if self.case is None or not self.word:
            raise FusionerError("there is nothing to paint: pick an image and ask for a name first")
        height, width = self.photo.shape[:2]
        marked = painted(tool, points, size=(height, width), radius=radius)
        stroke = Stroke(self.index, self.word, marked, erased=tool == "erase")
        if stroke.erased:
            return self._repaint((*self.strokes, stroke))
        photos = {**self._photos, self.index: (self.case.title, self.photo)}
        if not self.strokes:  # a copy of its own, once something is learnt
            self.segmenter.model = copy.deepcopy(self._untaught)
        self.segmenter.learn(self.word, [(self.photo, marked)])
        self.strokes, self._photos = (*self.strokes, stroke), photos
        self._ask(self.names, self.off)
        return ANSWERS

    def learnt(self) -> float:
        """The share (0-1) of the last stroke's pixels that have its name now; 0 without a stroke or an answer."""
        if not self.strokes or self._view is None or self.strokes[-1].name not in self.on:
            return 0.0
        stroke, (height, width) = self.strokes[-1], self.small.shape[:2]
        marked = np.asarray(Image.fromarray(stroke.marked).resize((width, height), Image.Resampling.NEAREST))
        return float((self._view.labels[marked] == self.on.index(stroke.name) + 1).mean()) if marked.any() else 0.0

    def undo(self) -> Changed:
        """Take back the last stroke, and what the model learnt from it. Raises FusionerError where there is none."""
        if not self.strokes:
            raise FusionerError("there is no stroke to take back: paint one first")
        return self._repaint(self.strokes[:-1])

    def save_strokes(self, folder: Path) -> int:
        """See ``strokes.save_strokes``."""
        return save_strokes(folder, self.strokes, self._photos)

    def _repaint(self, strokes: tuple[Stroke, ...]) -> Changed:
        """The model as it was given, taught again with what is left of ``strokes``."""
        self.segmenter.model, self.strokes = copy.deepcopy(self._untaught), strokes
        for stroke in examples(strokes):
            _, photo = self._photos[stroke.index]
            self.segmenter.learn(stroke.name, [(photo, stroke.marked)])
        self._ask(self.names, self.off)
        return ANSWERS

    def probability(self) -> Float[np.ndarray, "rows columns"] | None:
        """The probability (0-1) of the chosen name at the panels' size; None without image or names."""
        if self._heat is None and self._view is not None:
            place, (height, width) = self.on.index(self.word), self.small.shape[:2]
            one = replace(self._view, coarse=self._view.coarse[place : place + 1])
            logits = resize(one.fine[None], (height, width))
            self._heat = logits[0, 0].sigmoid().numpy()
        return self._heat

    def attention(self) -> Float[Tensor, "layers names rows columns"]:
        """``Segmenter.attention`` of the asked names; raises FusionerError as it does."""
        if self._attention is None:
            self._attention = self.segmenter.attention(self.on)
        return self._attention

    @property
    def layers(self) -> int:
        """Number of layers of the last computed attention; 0 where none was computed."""
        return 0 if self._attention is None else len(self._attention)

    def _checked(self, names: Sequence[str]) -> tuple[str, ...]:
        return checked_names(names, forms=self.segmenter.text_cache.form)

    def _open(self, index: int, names: Sequence[str] | None) -> Changed:
        if not 0 <= index < len(self.cases):
            there = f"the {len(self.cases)} images are counted from 0" if self.cases else "there are none yet"
            raise FusionerError(f"there is no image {index}, {there}: pick or upload one")
        case, off = self.cases[index], self.off
        if names is None and case.names:
            names, off = self._checked(case.names), frozenset()
        photo = read_image(case.image)
        if case.labels is not None and case.labels.shape != photo.shape[:2]:
            raise FusionerError(
                f"case {case.title!r}: the image is {photo.shape[:2]} but its labels are {case.labels.shape} "
                "(height, width): both must cover the same pixels"
            )
        names = tuple(self.names if names is None else names)
        if on := [name for name in names if name not in off]:
            self.segmenter.text_tokens(on)  # a name that can't be encoded raises here, before anything has changed
        # Predictions have the panels' size: at the 12 megapixels of a camera each name would take seconds.
        height, width = fitted_size(*photo.shape[:2])
        self.segmenter.set_image(photo, answer_size=(height, width))
        if self.beside is not None:
            self.beside.set_image(photo, answer_size=(height, width))
        self._answers.clear()
        self.index, self.photo, self.pixel = index, photo, None
        self.small = np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
        self._ask(names, off)
        return EVERYTHING

    def _ask(self, names: tuple[str, ...], off: frozenset[str]) -> None:
        on = tuple(name for name in names if name not in off)
        raw, beside = [*self._answered(on), None, None][:2]
        self.names, self.off, self._raw, self._attention = names, off, raw, None
        self.word = self.word if self.word in on else next(iter(on), "")
        self.beside_view = None if beside is None else beside.at(self.beside_threshold)
        self._rescale()

    def _answered(self, on: tuple[str, ...]) -> list[Segmentation]:
        """What the segmenter, and the one beside it, answer for the names ``on``; nothing without names or image."""
        if not on or self.case is None:
            return []
        asked = [self.segmenter, *([] if self.beside is None else [self.beside])]
        tokens = [segmenter.text_tokens(on) for segmenter in asked]
        kept = self._answers.pop(on, None)
        # A segmenter that has learnt since, here or elsewhere, has other tokens of the name.
        if kept is None or not all(map(torch.equal, kept[0], tokens)):
            kept = tokens, [segmenter.segment(on) for segmenter in asked]
        self._answers[on] = kept
        if len(self._answers) > ANSWERS_KEPT:
            del self._answers[next(iter(self._answers))]
        return kept[1]

    def _rescale(self) -> None:
        self._heat = None
        if self._raw is None:
            self._view = None
            return
        coarse, best = self._raw.coarse / self.temperature, self._raw.best / self.temperature
        self._view = replace(self._raw, coarse=coarse, best=best, threshold=self.threshold)


def fitted_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest picture of the same proportions that fits into ``WIDTH`` x ``HEIGHT``.

    One that is more than twice as long as high, or the reverse, gets as many pixels as that box: a panorama that fits
    into it would be a stripe.
    """
    scale = min(HEIGHT / height, WIDTH / width)
    if max(height, width) > PANORAMA * min(height, width):
        scale = min(math.sqrt(WIDTH * HEIGHT / (height * width)), LONGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _checked_opacity(opacity: float) -> float:
    if not 0 <= opacity <= 1:
        raise FusionerError(f"opacity {opacity} is outside 0-1: 0 shows outlines and hatches only, 1 flat colour")
    return float(opacity)


def _checked_temperature(temperature: float) -> float:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise FusionerError(f"temperature {temperature}: logits are divided by it, expected above 0; 1.0 is as trained")
    return float(temperature)
