"""Masks drawn over their image: the colour of each name blended in, a thin outline, and a legend below."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from fusionerlib.errors import FusionerError
from fusionerlib.inference.palette import LIMIT, colour, palette

ENTRIES = 24
"""Most names in a legend: of more, those with the largest areas are listed and the number of others is written."""
SMALLEST_FONT = 13
"""Smallest font size in pixels that is readable on a screen."""


@dataclass(frozen=True)
class Entry:
    """One line of a legend. text: may be shortened. tail: written after it in full. swatch: RGB 0-255; None for a
    line that stands for no name."""

    text: str
    tail: str
    swatch: tuple[int, int, int] | None


def overlay(
    image: Image.Image | UInt8[np.ndarray, "height width 3"],
    labels: Integer[np.ndarray, "rows columns"] | Bool[np.ndarray, "names rows columns"],
    names: Sequence[str],
    *,
    opacity: float = 0.55,
    legend: bool = True,
    shares: bool = False,
    ignore: int | None = 255,
) -> Image.Image:
    """Draw labels over ``image``.

    labels: a label map (0 is background, k + 1 is name k), or one mask a name; where masks overlap, the first name's
        colour is drawn.
    opacity: from 0 (outlines only) to 1 (flat colour). Background and pixels of label ``ignore`` are not changed.
    legend: add a legend below the image, which makes the picture higher, and wider where the image is very narrow.
    shares: write each name's share of the pixels, in percent, into the legend; overlapping masks count in full.
    Raises FusionerError for an opacity outside 0-1, labels of another size than the image, and a label without a name.
    """
    if not 0 <= opacity <= 1:
        raise FusionerError(f"opacity {opacity} is outside 0-1: 0 shows outlines only, 1 flat colour")
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if labels.ndim == 2 and ignore is not None:
        labels = np.where(labels == ignore, 0, labels)
    flat, areas = _flatten(labels, len(names), pixels.shape[:2])
    picture = Image.fromarray(blend(pixels, flat, opacity=opacity))
    if not legend or not names:
        return picture
    return _stack(picture, legend_entries(names, areas, total=flat.size, shares=shares))


def blend(
    image: UInt8[np.ndarray, "height width 3"], labels: Integer[np.ndarray, "height width"], *, opacity: float
) -> UInt8[np.ndarray, "height width 3"]:
    """The image with the colour of every label blended in (``opacity`` 0-1) and its inner outline in full colour.

    Labelled pixels lose their own colour, all of it from an opacity of 0.5 on: orange over green would be olive, which
    is in no legend.
    """
    greyness = min(1.0, 2 * opacity)
    shown = labels > 0
    colours = palette(LIMIT)[(labels[shown].astype(np.int64) - 1) % LIMIT]
    result = image.copy()
    beneath = image[shown] * (1 - greyness) + grey(image)[shown] * greyness
    mixed = beneath * (1 - opacity) + colours * opacity
    result[shown] = mixed.round().astype(np.uint8)
    edge = outline(labels, thickness=max(1, round(min(labels.shape) / 250)))[shown]
    result[shown] = np.where(edge[:, None], colours, result[shown])
    return result


def grey(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """The brightness of ``image`` on all three channels."""
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


def outline(labels: Integer[np.ndarray, "height width"], *, thickness: int) -> Bool[np.ndarray, "height width"]:
    """True on labelled pixels within ``thickness`` pixels of another label. The border of the image is no outline."""
    edge = np.zeros(labels.shape, dtype=bool)
    for step in range(1, thickness + 1):
        down, right = labels[step:] != labels[:-step], labels[:, step:] != labels[:, :-step]
        edge[step:] |= down
        edge[:-step] |= down
        edge[:, step:] |= right
        edge[:, :-step] |= right
    return edge & (labels > 0)


def legend_entries(
    names: Sequence[str], areas: Sequence[int], *, total: int, shares: bool = False, limit: int = ENTRIES
) -> list[Entry]:
    """The lines of a legend, in the order of ``names``: the ``limit`` largest ``areas``, and the number of the others.

    areas: pixels of each name. total: pixels of the image. shares: write the areas in percent of ``total``.
    """
    largest = sorted(sorted(range(len(names)), key=lambda index: -areas[index])[:limit])
    entries = []
    for index in largest:
        share = f"  {100 * areas[index] / max(total, 1):.1f} %" if shares else ""
        entries.append(Entry(text=printable(names[index]), tail=share, swatch=colour(index)))
    if rest := len(names) - len(largest):
        entries.append(Entry(text=f"and {rest} more", tail="", swatch=None))
    return entries


def printable(name: str) -> str:
    """``name`` as one line that every font routine accepts: white space becomes one space, invalid characters "?"."""
    return " ".join(name.encode("utf-8", "replace").decode("utf-8").split())


def short(name: str, width: int = 28) -> str:
    """``printable(name)``, cut to ``width`` characters."""
    name = printable(name)
    return name if len(name) <= width else name[: width - 1].rstrip() + "…"


def shorten(text: str, font: Any, width: float) -> str:
    """``text``, cut with an ellipsis where it is wider than ``width`` pixels in ``font``."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle].rstrip() + "…") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"


def _flatten(labels: np.ndarray, names: int, size: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
    """One label map, and the number of pixels of each name, from labels or from masks."""
    if labels.shape[-2:] != size or labels.ndim not in (2, 3):
        raise FusionerError(
            f"labels of shape {labels.shape} on an image of {size} (height, width): "
            "pass (height, width) labels or (names, height, width) masks of the image's size"
        )
    if labels.ndim == 3:
        if len(labels) != names:
            raise FusionerError(f"{len(labels)} masks for {names} names: pass one mask a name")
        flat = np.zeros(size, dtype=np.int64)
        for index in reversed(range(names)):
            flat[labels[index]] = index + 1
        return flat, [int(mask.sum()) for mask in labels]
    counts = np.bincount(labels.astype(np.int64).ravel(), minlength=names + 1)
    if len(counts) > names + 1:
        raise FusionerError(f"the labels hold {len(counts) - 1} but only {names} names are given: name every label")
    return labels, [int(count) for count in counts[1:]]


def _stack(picture: Image.Image, entries: list[Entry]) -> Image.Image:
    """The picture on white with its legend below, in as many columns as fit."""
    width, height = picture.size
    # The font size depends on the area, so that portrait and landscape format of one resolution have the same.
    size = max(SMALLEST_FONT, round(math.sqrt(width * height) / 34))
    font = ImageFont.load_default(size)
    pad, box = round(size * 0.6), round(size * 0.9)
    canvas = max(width, 14 * size)
    longest = max(font.getlength(entry.text + entry.tail) for entry in entries)
    room: float = canvas - 2 * pad - box - pad // 2
    if len(entries) > 1 and canvas >= 26 * size:
        # At least two columns: a very long name is cut.
        room = (canvas - pad) / 2 - pad - box - pad // 2
    cell = box + pad // 2 + min(longest, room) + pad
    columns = max(1, min(len(entries), int((canvas - pad) // cell)))
    rows = math.ceil(len(entries) / columns)
    line = round(size * 1.5)
    result = Image.new("RGB", (canvas, height + 2 * pad + rows * line), "white")
    result.paste(picture, ((canvas - width) // 2, 0))
    draw = ImageDraw.Draw(result)
    for index, entry in enumerate(entries):
        left = pad + round((index % columns) * (canvas - pad) / columns)
        middle = height + pad + (index // columns) * line + line // 2
        if entry.swatch:
            top = middle - box // 2
            draw.rectangle((left, top, left + box, top + box), fill=entry.swatch, outline=(90, 90, 90))
        text = shorten(entry.text, font, room - font.getlength(entry.tail)) + entry.tail
        draw.text((left + box + pad // 2, middle), text, fill="black", font=font, anchor="lm")
    return result
