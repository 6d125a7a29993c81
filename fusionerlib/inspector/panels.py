"""The inspector's pictures as pure functions: label maps, heat, errors, remarks. RGB 0-255 in, RGB 0-255 out.

Every class has a colour, an outline and a hatch, so it can be told from its neighbour without colour.
"""

import textwrap
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8, UInt16
from PIL import Image, ImageDraw, ImageFont

from fusionerlib.datasets.scene import IGNORE
from fusionerlib.inference.overlay import outline
from fusionerlib.inference.palette import LIMIT, OKABE_ITO, colourise, palette

Picture = UInt8[np.ndarray, "height width 3"]
Labels = Integer[np.ndarray, "height width"]

WIDTH, HEIGHT = 400, 300
"""Pixels: the box that every panel is drawn to fit into."""
PATTERNS = 8
"""Hatches that differ in direction or shape; seven safe colours and eight hatches make 56 classes all different."""
PERIOD = 14
"""Pixels from one line of a hatch to the next."""
MISSED, EXTRA, WRONG = 1, 2, 3
"""Labels of an error map; 0 is right, 255 not judged."""
ERROR_COLOURS = {MISSED: OKABE_ITO[4], EXTRA: OKABE_ITO[0], WRONG: OKABE_ITO[6]}
ERROR_HATCHES = {MISSED: 0, EXTRA: 1, WRONG: 6}


def fitted(height: int, width: int) -> tuple[int, int]:
    """Height and width, in the same proportions, of the largest picture that fits into a panel."""
    scale = min(HEIGHT / height, WIDTH / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


@lru_cache(maxsize=8)
def hatches(height: int, width: int) -> Bool[np.ndarray, "patterns height width"]:
    """True on the lines of each pattern: two diagonals, horizontal, vertical, dots, wide bars, crosses, grid."""
    y, x = np.mgrid[:height, :width]
    down, up = (x + y) % PERIOD < 2, (x - y) % PERIOD < 2
    flat, upright = y % (PERIOD - 4) < 2, x % (PERIOD - 4) < 2
    dots = (x % PERIOD - PERIOD // 2) ** 2 + (y % PERIOD - PERIOD // 2) ** 2 < 7
    wide = (x + y) % (2 * PERIOD) < PERIOD // 2
    return np.stack([down, up, flat, upright, dots, wide, down | up, flat | upright])


def painted(photo: Picture, labels: Labels, *, opacity: float) -> Picture:
    """``photo`` with every label's colour blended in, its outline at full colour, and its hatch; 0 stays as it is."""
    colours = _flat(labels)
    # Pillow blends several times faster than numpy, and a slider waits for it.
    blended = np.asarray(Image.blend(Image.fromarray(photo), Image.fromarray(colours), opacity))
    picture = np.where((labels > 0)[..., None], blended, photo)
    edge = outline(labels, thickness=2)
    picture[edge] = colours[edge]
    return _hatched(picture, labels)


def mapped(labels: Labels) -> Picture:
    """A label map alone: the classes' colours and hatches, white between them, background black, label 255 white."""
    judged = np.where(labels == IGNORE, 0, labels)
    picture = _flat(judged)
    picture[outline(judged, thickness=1) | (labels == IGNORE)] = 255
    return _hatched(picture, judged)


def heat(photo: Picture, values: Float[np.ndarray, "height width"], *, low: float, high: float) -> Picture:
    """``values`` from ``low`` (dark) to ``high`` (bright) over the photo in grey."""
    unit = ((values - low) / max(high - low, 1e-12)).clip(0, 1)
    grey = np.asarray(Image.fromarray(photo).convert("L"), dtype=np.uint16)[..., None]
    colours = _inferno()[(unit * 255).astype(np.uint8)]
    mixed: np.ndarray = (grey * 3 + colours * 7) // 10
    return mixed.astype(np.uint8)


def contour(picture: Picture, inside: Bool[np.ndarray, "height width"]) -> Picture:
    """``picture`` with a white line on a black one round where ``inside`` is True."""
    picture = picture.copy()
    labels = inside.astype(np.uint8)
    picture[outline(1 - labels, thickness=1)] = 0
    picture[outline(labels, thickness=1)] = 255
    return picture


def compared(predicted: Labels, truth: Labels) -> Labels:
    """An error map: 0 right, then ``MISSED``, ``EXTRA``, ``WRONG``, and 255 where ``truth`` is 255."""
    result = np.zeros(truth.shape, dtype=np.uint8)
    result[(truth > 0) & (predicted == 0)] = MISSED
    result[(truth == 0) & (predicted > 0)] = EXTRA
    result[(truth > 0) & (predicted > 0) & (truth != predicted)] = WRONG
    result[truth == IGNORE] = IGNORE
    return result


def errors(photo: Picture, wrongs: Labels) -> Picture:
    """An error map over a pale photo: missed blue with diagonals up, extra orange with diagonals down, wrong name
    pink with crosses, not judged white."""
    grey = np.asarray(Image.fromarray(photo).convert("L"), dtype=np.uint16)
    picture = np.repeat((grey // 3 + 150).astype(np.uint8)[..., None], 3, axis=2)
    lines = hatches(*wrongs.shape)
    for label, code in ERROR_COLOURS.items():
        here = wrongs == label
        colour = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)])
        picture[here] = (picture[here] * 0.25 + colour * 0.75).astype(np.uint8)
        picture[here & lines[ERROR_HATCHES[label]]] = 255
    picture[wrongs == IGNORE] = 255
    return picture


def crossed(picture: Picture, *, row: float, column: float) -> Picture:
    """``picture`` with a ring and a cross at (``row``, ``column``), in pixels of the picture, black on white."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for colour, width in (("white", 5), ("black", 2)):
        draw.ellipse((column - 9, row - 9, column + 9, row + 9), outline=colour, width=width)
        for side in (-1, 1):
            draw.line((column + 5 * side, row, column + 15 * side, row), fill=colour, width=width)
            draw.line((column, row + 5 * side, column, row + 15 * side), fill=colour, width=width)
    return np.array(image)


def boxed(picture: Picture, patches: list[tuple[int, int]], *, grid: tuple[int, int]) -> Picture:
    """``picture`` with a white frame round each of ``patches``, given as (row, column) of ``grid``."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    tall, wide = image.height / grid[0], image.width / grid[1]
    for row, column in patches:
        place = (column * wide, row * tall, (column + 1) * wide - 1, (row + 1) * tall - 1)
        draw.rectangle(place, outline="black", width=3)
        draw.rectangle(place, outline="white", width=1)
    return np.array(image)


@lru_cache(maxsize=16)
def remark(text: str) -> Picture:
    """A panel that holds nothing but ``text``."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (242, 242, 242))
    lines = "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, 38))
    place = (WIDTH / 2, HEIGHT / 2)
    font = ImageFont.load_default(19)
    ImageDraw.Draw(image).multiline_text(
        place, lines, fill=(70, 70, 70), font=font, anchor="mm", align="center", spacing=8
    )
    return np.array(image)


def swatch(index: int, *, side: int = 22) -> Picture:
    """The colour and hatch of name ``index`` (from 0) as a small framed square."""
    picture = mapped(np.full((side, side), index + 1, dtype=np.int32))
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        picture[edge] = 90
    return picture


def _flat(labels: Labels) -> Picture:
    """The classes' colours on black; beyond the palette they come round again."""
    return colourise(np.where(labels > LIMIT, (labels - 1) % LIMIT + 1, labels))


def _hatched(picture: Picture, labels: Labels) -> Picture:
    """Lines on the labelled pixels: dark on light colours, light on dark ones."""
    lines = np.take_along_axis(hatches(*labels.shape), ((labels - 1) % PATTERNS)[None].astype(np.int64), axis=0)[0]
    rows, columns = np.nonzero(lines & (labels > 0))
    inks = np.where(palette(LIMIT) @ np.array([0.299, 0.587, 0.114]) > 110, 0, 127).astype(np.uint8)
    index = (labels[rows, columns].astype(np.int64) - 1) % LIMIT
    picture[rows, columns] = picture[rows, columns] // 2 + inks[index][:, None]
    return picture


@lru_cache(maxsize=1)
def _inferno() -> UInt16[np.ndarray, "256 3"]:
    from matplotlib import colormaps

    table: np.ndarray = colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    return table.astype(np.uint16)  # so that products of it don't wrap
