"""How the panels of the inspector are drawn: label maps, heat maps, error maps and messages as RGB pictures.

Every class has a colour, an outline and a hatch, so that classes can be distinguished without colour. The page draws
the same from the maps of the answer (drawing.js).
"""

import textwrap
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from fusionerlib.datasets.scene import IGNORE
from fusionerlib.inference.overlay import outline
from fusionerlib.inference.palette import LIMIT, OKABE_ITO, colour, colourise, palette
from fusionerlib.inspector.state import HEIGHT, WIDTH

Picture = UInt8[np.ndarray, "height width 3"]
"""RGB, 0-255."""
Labels = Integer[np.ndarray, "height width"]
"""0 is background, k + 1 is name k, 255 is ignored."""

PATTERNS = 8
"""Hatches that differ in direction or shape. With seven safe colours, 56 classes differ in colour or hatch."""
PERIOD = 14
"""Distance between the lines of a hatch, in pixels."""
MISSED, EXTRA, WRONG = 1, 2, 3
"""Labels of an error map; 0 is correct, 255 ignored."""
ERROR_COLOURS = {MISSED: OKABE_ITO[4], EXTRA: OKABE_ITO[0], WRONG: OKABE_ITO[6]}
ERROR_HATCHES = {MISSED: 0, EXTRA: 1, WRONG: 6}


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
    # Pillow blends several times faster than numpy.
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
    # One look into a table of all pairs of grey and level is faster than mixing each pixel.
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
        picture[here] = (picture[here] * 0.25 + _rgb(code) * 0.75).astype(np.uint8)
        picture[here & lines[ERROR_HATCHES[label]]] = 255
    picture[errors == IGNORE] = 255
    return picture


def error_style(label: int) -> tuple[int, int, int, int]:
    """Red, green and blue (0-255) of a label of an error map, and its hatch, which is white."""
    red, green, blue = _rgb(ERROR_COLOURS[label]).tolist()
    return red, green, blue, ERROR_HATCHES[label]


def _rgb(code: str) -> np.ndarray:
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)])


def draw_cross(picture: Picture, *, row: float, column: float) -> Picture:
    """``picture`` with a ring and a cross at (``row``, ``column``), in pixels of the picture."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for tone, width in (("white", 5), ("black", 2)):
        draw.ellipse((column - 9, row - 9, column + 9, row + 9), outline=tone, width=width)
        for side in (-1, 1):
            draw.line((column + 5 * side, row, column + 15 * side, row), fill=tone, width=width)
            draw.line((column, row + 5 * side, column, row + 15 * side), fill=tone, width=width)
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


def style(index: int) -> tuple[int, int, int, int, int]:
    """Red, green and blue (0-255) of name ``index`` (from 0), its hatch, and what that adds (see ``_inks``)."""
    return (*colour(index), index % PATTERNS, int(_inks()[index % LIMIT]))


def _colours(labels: Labels) -> Picture:
    """The colours of the labels on black; they repeat after ``LIMIT``."""
    return colourise(np.where(labels > LIMIT, (labels - 1) % LIMIT + 1, labels))


def _with_hatches(picture: Picture, labels: Labels) -> Picture:
    """Draw hatches on the labelled pixels, dark on light colours and light on dark ones; changes ``picture``."""
    lines = np.take_along_axis(hatches(*labels.shape), ((labels - 1) % PATTERNS)[None].astype(np.int64), axis=0)[0]
    rows, columns = np.nonzero(lines & (labels > 0))
    index = (labels[rows, columns].astype(np.int64) - 1) % LIMIT
    picture[rows, columns] = picture[rows, columns] // 2 + _inks()[index][:, None]
    return picture


@lru_cache(maxsize=1)
def _inks() -> UInt8[np.ndarray, " colours"]:
    """What a hatch adds to half of the pixel below it: nothing on a light colour, 127 on a dark one."""
    return np.where(palette(LIMIT) @ np.array([0.299, 0.587, 0.114]) > 110, 0, 127).astype(np.uint8)


@lru_cache(maxsize=1)
def heat_colours() -> UInt8[np.ndarray, "256 3"]:
    """The colours of a heat map, dark to bright: matplotlib's inferno."""
    from matplotlib import colormaps

    colours: np.ndarray = colormaps["inferno"](np.arange(256), bytes=True)
    return colours[:, :3]


@lru_cache(maxsize=1)
def _over_grey() -> UInt8[np.ndarray, "256 256 3"]:
    """By grey and level: three parts of the grey and seven of the level's colour."""
    grey = np.arange(256, dtype=np.uint16)[:, None, None]
    mixed: np.ndarray = (grey * 3 + heat_colours().astype(np.uint16) * 7) // 10
    return mixed.astype(np.uint8)
