"""The panels of the inspector: RGB pictures with captions, drawn from an ``InspectorState``.

Every class has a colour, an outline and a hatch, so that classes can be distinguished without colour.
"""

import textwrap
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fusionerlib.datasets.scene import IGNORE, labels_for
from fusionerlib.errors import FusionerError
from fusionerlib.inference.inspection import patch_similarity
from fusionerlib.inference.overlay import outline, short
from fusionerlib.inference.palette import LIMIT, OKABE_ITO, colourise, palette
from fusionerlib.inspector.state import HEIGHT, WIDTH, InspectorState
from fusionerlib.inspector.strokes import marks
from fusionerlib.models.decoder import resize

Picture = UInt8[np.ndarray, "height width 3"]
"""RGB, 0-255."""
Labels = Integer[np.ndarray, "height width"]
"""0 is background, k + 1 is name k, 255 is ignored."""
Panel = tuple[Picture, str]
"""A picture and its caption of one line; a panel with nothing to show is a message without a caption."""

TITLES = {
    "overlay": "Masks on the image",
    "probability": "Probability",
    "argmax": "Best name of each pixel",
    "truth": "Ground truth",
    "error": "Errors",
    "attention": "Attention",
    "similarity": "Similarity to the clicked patch",
    "beside": "Masks of the second model",
    "difference": "Where the two differ",
}
NO_IMAGE = "No image yet:\nupload one, or pass images to inspect()."
NO_NAMES = "No name is asked:\ntype one, or switch one on."
FRAMED = 6
"""Number of patches with a frame: those most similar to the clicked one."""
PATTERNS = 8
"""Hatches that differ in direction or shape. With seven safe colours, 56 classes differ in colour or hatch."""
PERIOD = 14
"""Distance between the lines of a hatch, in pixels."""
MISSED, EXTRA, WRONG = 1, 2, 3
"""Labels of an error map; 0 is correct, 255 ignored."""
ERROR_COLOURS = {MISSED: OKABE_ITO[4], EXTRA: OKABE_ITO[0], WRONG: OKABE_ITO[6]}
ERROR_HATCHES = {MISSED: 0, EXTRA: 1, WRONG: 6}
ERROR_NAMES = {MISSED: "missed (blue /)", EXTRA: "extra (orange \\)", WRONG: "wrong (pink x)"}

DIFFERENCES = {MISSED: "second only (blue /)", EXTRA: "first only (orange \\)", WRONG: "another name (pink x)"}
"""The same three cases between two predictions."""


def draw_panel(state: InspectorState, key: str) -> Panel:
    """Draw the panel ``key`` of ``PANELS``. Where there is nothing to show, a message says why."""
    if state.case is None:
        return message(NO_IMAGE), ""
    return _DRAWERS[key](state)


def draw_large(state: InspectorState, key: str, *, longest: int) -> Picture:
    """The panel "overlay" or "argmax" at the image's own size, its longer side at most ``longest`` pixels."""
    answer = state.answer
    assert answer is not None
    labels, photo = _coloured(state, answer.labels), state.photo
    if (scale := longest / max(photo.shape[:2])) < 1:
        size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
        photo = np.array(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
        labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    return draw_overlay(photo, labels, opacity=state.opacity) if key == "overlay" else draw_labels(labels)


def title(state: InspectorState, key: str) -> str:
    """The title above the panel ``key``."""
    word = key in ("probability", "attention") and state.word
    return f"{TITLES[key]} of “{short(state.word, 20)}”" if word else TITLES[key]


def truth(state: InspectorState) -> Integer[np.ndarray, "rows columns"] | None:
    """The case's labels at the panels' size: k + 1 is the k-th asked name, 0 everything else, 255 ignored."""
    case = state.case
    if case is None or case.labels is None:
        return None
    height, width = state.small.shape[:2]
    nearest = Image.fromarray(case.labels).resize((width, height), Image.Resampling.NEAREST)
    return labels_for(np.asarray(nearest), case.names, state.on)


def predicted(state: InspectorState) -> Integer[np.ndarray, "rows columns"]:
    """The predicted labels at the panels' size; all background where no name is asked."""
    return np.zeros(state.small.shape[:2], dtype=np.int32) if state.view is None else state.view.labels


def pixel_probabilities(state: InspectorState) -> list[tuple[str, float]]:
    """Each asked name with its probability (0-1) at the clicked pixel, highest first; empty without one."""
    if state.pixel is None or state.view is None:
        return []
    values = _logits_at(state.view.fine, state.pixel, state.photo.shape[:2]).sigmoid().tolist()
    return sorted(zip(state.on, values, strict=True), key=lambda row: -row[1])


def _overlay(state: InspectorState) -> Panel:
    labels = predicted(state)
    picture = draw_overlay(state.small, _coloured(state, labels), opacity=state.opacity)
    for marked in marks(state.strokes, state.index).values():
        height, width = picture.shape[:2]
        small = Image.fromarray(marked).resize((width, height), Image.Resampling.NEAREST)
        picture = draw_contour(picture, np.array(small))
    if state.pixel is not None:
        picture = _with_cross(state, picture)
    if state.view is None:
        return picture, "no name is asked"
    return picture, f"{(labels > 0).mean():.0%} of the image has a name"


def _probability(state: InspectorState) -> Panel:
    values = state.probability()
    if values is None:
        return message(NO_NAMES), ""
    picture = draw_contour(draw_heat(state.small, values, low=0.0, high=1.0), values > state.threshold)
    return picture, f"dark 0, bright 1, max {values.max():.2f}; line: threshold {state.threshold:.2f}"


def _argmax(state: InspectorState) -> Panel:
    if state.view is None:
        return message(NO_NAMES), ""
    return draw_labels(_coloured(state, predicted(state))), "black: no probability exceeds the threshold"


def _truth(state: InspectorState) -> Panel:
    labels = truth(state)
    if labels is None:
        return message("No ground truth is known for this image."), ""
    return draw_labels(_coloured(state, labels)), "asked names only; black: none of them, white: ignored"


def _error(state: InspectorState) -> Panel:
    labels = truth(state)
    if labels is None:
        return message("No errors to show:\nno ground truth is known for this image."), ""
    errors = error_map(found := predicted(state), labels)
    judged = max(1, int((errors != 255).sum()))
    shares = [f"{name} {(errors == label).sum() / judged:.0%}" for label, name in ERROR_NAMES.items()]
    if state.word:
        own = (labels == state.on.index(state.word) + 1), (found == state.on.index(state.word) + 1) & (labels != IGNORE)
        union = int((own[0] | own[1]).sum())
        iou = f"{int((own[0] & own[1]).sum()) / union:.2f}" if union else "none: neither there nor found"
        shares.insert(0, f"IoU of “{short(state.word, 20)}” {iou}")
    return draw_errors(state.small, errors), ", ".join(shares)


def _attention(state: InspectorState) -> Panel:
    if state.view is None:
        return message(NO_NAMES), ""
    try:
        weights = state.attention()
    except FusionerError as error:
        return message(f"No attention to show:\n{error}."), ""
    layer = min(state.layer, len(weights) - 1)
    heat = weights[layer, state.on.index(state.word)]
    values = _resized(state, heat)
    picture = draw_heat(state.small, values, low=0.0, high=float(heat.max()))
    return picture, f"layer {layer + 1} of {len(weights)}: {heat.sum():.0%} on patches, max {heat.max():.1%}"


def _similarity(state: InspectorState) -> Panel:
    if state.pixel is None:
        return message("Click a pixel of any picture, or press an arrow key on it."), ""
    try:
        tokens = state.segmenter.tokens.main
    except FusionerError as error:
        return message(f"No similarity to show:\n{error}."), ""
    height, width = state.photo.shape[:2]
    row, column = state.pixel[0] * tokens.grid[0] // height, state.pixel[1] * tokens.grid[1] // width
    scores = patch_similarity(tokens, row=row, column=column)
    order = scores.flatten().argsort(descending=True)[: FRAMED + 1].tolist()
    places = [divmod(place, tokens.grid[1]) for place in order]
    low = float(scores.min())
    picture = draw_heat(state.small, _resized(state, scores), low=low, high=1.0)
    picture = draw_frames(picture, [place for place in places if place != (row, column)][:FRAMED], grid=tokens.grid)
    picture = _with_cross(state, picture)
    return picture, f"cosine, dark {low:.2f}, bright 1; framed: the {FRAMED} most similar"


def _beside(state: InspectorState) -> Panel:
    if state.beside_view is None:
        return message("No second model to compare with:\npass two segmenters to inspect()."), ""
    labels = state.beside_view.labels
    picture = draw_overlay(state.small, _coloured(state, labels), opacity=state.opacity)
    return picture, f"threshold {state.beside_threshold:.2f}; {(labels > 0).mean():.0%} of the image has a name"


def _difference(state: InspectorState) -> Panel:
    if state.beside_view is None:
        return message("No second model to compare with:\npass two segmenters to inspect()."), ""
    differ = error_map(predicted(state), state.beside_view.labels)
    shares = (f"{name} {(differ == label).mean():.0%}" for label, name in DIFFERENCES.items())
    return draw_errors(state.small, differ), ", ".join(shares)


_DRAWERS: dict[str, Callable[[InspectorState], Panel]] = {
    "overlay": _overlay,
    "probability": _probability,
    "argmax": _argmax,
    "truth": _truth,
    "error": _error,
    "attention": _attention,
    "similarity": _similarity,
    "beside": _beside,
    "difference": _difference,
}


def _with_cross(state: InspectorState, picture: Picture) -> Picture:
    """``picture`` with a cross at the clicked pixel."""
    assert state.pixel is not None
    row, column = (
        (place + 0.5) * side / count
        for place, side, count in zip(state.pixel, picture.shape[:2], state.photo.shape[:2], strict=True)
    )
    return draw_cross(picture, row=row, column=column)


def _coloured(state: InspectorState, labels: np.ndarray) -> np.ndarray:
    """Labels of the asked names renumbered by all names, so that a name keeps its colour while others are off."""
    table = np.arange(max(256, len(state.on) + 1), dtype=np.int32)
    table[1 : len(state.on) + 1] = [state.names.index(name) + 1 for name in state.on]
    return table.take(labels)


def _resized(state: InspectorState, grid: Tensor) -> np.ndarray:
    """A map on the patch grid, resized to the panels' size."""
    height, width = state.small.shape[:2]
    return resize(grid[None, None].cpu(), (height, width))[0, 0].numpy()


def _logits_at(
    maps: Float[Tensor, "names rows columns"], pixel: tuple[int, int], size: tuple[int, ...]
) -> Float[Tensor, " names"]:
    """The logits at one pixel (row, column) after bilinear resizing of ``maps`` to ``size`` (height, width)."""
    row, column = ((2 * place + 1) / length - 1 for place, length in zip(pixel, size, strict=False))
    at = torch.tensor([[[[column, row]]]], dtype=maps.dtype, device=maps.device)
    return F.grid_sample(maps[None], at, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0, 0]


@lru_cache(maxsize=8)
def hatches(height: int, width: int) -> Bool[np.ndarray, "patterns height width"]:
    """True on the lines of each hatch: two diagonals, horizontal, vertical, dots, wide bars, crosses, grid."""
    y, x = np.mgrid[:height, :width]
    down, up = (x + y) % PERIOD < 2, (x - y) % PERIOD < 2
    flat, upright = y % (PERIOD - 4) < 2, x % (PERIOD - 4) < 2
    dots = (x % PERIOD - PERIOD // 2) ** 2 + (y % PERIOD - PERIOD // 2) ** 2 < 7
    wide = (x + y) % (2 * PERIOD) < PERIOD // 2
    return np.stack([down, up, flat, upright, dots, wide, down | up, flat | upright])


def draw_overlay(photo: Picture, labels: Labels, *, opacity: float) -> Picture:
    """``photo`` with the colour of every label blended in (``opacity`` 0-1), its outline in full colour, and its hatch.

    Background pixels are not changed.
    """
    colours = _colours(labels)
    # Pillow blends several times faster than numpy; this runs at every move of a slider.
    blended = np.asarray(Image.blend(Image.fromarray(photo), Image.fromarray(colours), opacity))
    picture = np.where((labels > 0)[..., None], blended, photo)
    edge = outline(labels, thickness=2)
    picture[edge] = colours[edge]
    return _with_hatches(picture, labels)


def draw_labels(labels: Labels) -> Picture:
    """A label map without the photo: colours and hatches, white outlines, background black, 255 white."""
    judged = np.where(labels == IGNORE, 0, labels)
    picture = _colours(judged)
    picture[outline(judged, thickness=1) | (labels == IGNORE)] = 255
    return _with_hatches(picture, judged)


def draw_heat(photo: Picture, values: Float[np.ndarray, "height width"], *, low: float, high: float) -> Picture:
    """``values`` from ``low`` (dark) to ``high`` (bright) over the photo in grey levels."""
    levels = (((values - low) / max(high - low, 1e-12)).clip(0, 1) * 255).astype(np.uint8)
    # One look into a table of all pairs of grey and level: this runs at every move of a slider.
    return _over_grey()[np.asarray(Image.fromarray(photo).convert("L")), levels]


def draw_contour(picture: Picture, inside: Bool[np.ndarray, "height width"]) -> Picture:
    """``picture`` with a black and white line around the region in which ``inside`` is True."""
    picture = picture.copy()
    labels = inside.astype(np.uint8)
    picture[outline(1 - labels, thickness=1)] = 0
    picture[outline(labels, thickness=1)] = 255
    return picture


def error_map(predicted: Labels, truth: Labels) -> Labels:
    """The error map of a prediction.

    ``MISSED``: background predicted in place of a name; ``EXTRA``: a name in place of background; ``WRONG``: a name in
    place of another; 0: correct; 255: ignored in ``truth``.
    """
    result = np.zeros(truth.shape, dtype=np.uint8)
    result[(truth > 0) & (predicted == 0)] = MISSED
    result[(truth == 0) & (predicted > 0)] = EXTRA
    result[(truth > 0) & (predicted > 0) & (truth != predicted)] = WRONG
    result[truth == IGNORE] = IGNORE
    return result


def draw_errors(photo: Picture, errors: Labels) -> Picture:
    """An error map over the photo in pale grey; colours and hatches as in ``ERROR_NAMES``, ignored pixels white."""
    grey = np.asarray(Image.fromarray(photo).convert("L"), dtype=np.uint16)
    picture = np.repeat((grey // 3 + 150).astype(np.uint8)[..., None], 3, axis=2)
    lines = hatches(*errors.shape)
    for label, code in ERROR_COLOURS.items():
        here = errors == label
        colour = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)])
        picture[here] = (picture[here] * 0.25 + colour * 0.75).astype(np.uint8)
        picture[here & lines[ERROR_HATCHES[label]]] = 255
    picture[errors == IGNORE] = 255
    return picture


def draw_cross(picture: Picture, *, row: float, column: float) -> Picture:
    """``picture`` with a ring and a cross at (``row``, ``column``), in pixels of the picture."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for colour, width in (("white", 5), ("black", 2)):
        draw.ellipse((column - 9, row - 9, column + 9, row + 9), outline=colour, width=width)
        for side in (-1, 1):
            draw.line((column + 5 * side, row, column + 15 * side, row), fill=colour, width=width)
            draw.line((column, row + 5 * side, column, row + 15 * side), fill=colour, width=width)
    return np.array(image)


def draw_frames(picture: Picture, patches: list[tuple[int, int]], *, grid: tuple[int, int]) -> Picture:
    """``picture`` with a frame around each of ``patches``, (row, column) on a ``grid`` of (rows, columns)."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    tall, wide = image.height / grid[0], image.width / grid[1]
    for row, column in patches:
        place = (column * wide, row * tall, (column + 1) * wide - 1, (row + 1) * tall - 1)
        draw.rectangle(place, outline="black", width=3)
        draw.rectangle(place, outline="white", width=1)
    return np.array(image)


@lru_cache(maxsize=16)
def message(text: str) -> Picture:
    """A panel with nothing but ``text``."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (242, 242, 242))
    lines = "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, 38))
    place = (WIDTH / 2, HEIGHT / 2)
    font = ImageFont.load_default(19)
    ImageDraw.Draw(image).multiline_text(
        place, lines, fill=(70, 70, 70), font=font, anchor="mm", align="center", spacing=8
    )
    return np.array(image)


def swatch(index: int, *, side: int = 22) -> Picture:
    """The colour and hatch of name ``index`` (from 0) in a small framed square of ``side`` pixels."""
    picture = draw_labels(np.full((side, side), index + 1, dtype=np.int32))
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        picture[edge] = 90
    return picture


def _colours(labels: Labels) -> Picture:
    """The colours of the labels on black; they repeat after ``LIMIT``."""
    return colourise(np.where(labels > LIMIT, (labels - 1) % LIMIT + 1, labels))


def _with_hatches(picture: Picture, labels: Labels) -> Picture:
    """Draw hatches on the labelled pixels, dark on light colours and light on dark ones; changes ``picture``."""
    lines = np.take_along_axis(hatches(*labels.shape), ((labels - 1) % PATTERNS)[None].astype(np.int64), axis=0)[0]
    rows, columns = np.nonzero(lines & (labels > 0))
    inks = np.where(palette(LIMIT) @ np.array([0.299, 0.587, 0.114]) > 110, 0, 127).astype(np.uint8)
    index = (labels[rows, columns].astype(np.int64) - 1) % LIMIT
    picture[rows, columns] = picture[rows, columns] // 2 + inks[index][:, None]
    return picture


@lru_cache(maxsize=1)
def _over_grey() -> UInt8[np.ndarray, "256 256 3"]:
    """By grey and level: three parts of the grey and seven of the level's colour."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](np.arange(256), bytes=True)[:, :3].astype(np.uint16)
    mixed: np.ndarray = (np.arange(256, dtype=np.uint16)[:, None, None] * 3 + colours * 7) // 10
    return mixed.astype(np.uint8)
