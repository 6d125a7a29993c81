"""What a person paints in the inspector: strokes of a brush, an eraser and a box as masks, and their folder.

A stroke of the brush or the box becomes an example of the chosen name (``Segmenter.learn``). The folder is laid out as
one's own data set (``images``, ``masks``, ``names.txt``), so that corrected pictures are a training set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from fusionerlib.datasets.folder import read_names
from fusionerlib.datasets.scene import IGNORE
from fusionerlib.errors import FusionerError
from fusionerlib.files import plain_name, replacing, write_text
from fusionerlib.inference.formats import check_index_names, names_text

Tool = Literal["look", "brush", "erase", "box"]
TOOLS: dict[str, Tool] = {"Look": "look", "Brush": "brush", "Eraser": "erase", "Box": "box"}
"""What the mouse does in a picture, by the text of its button."""
Point = tuple[float, float]
"""A place as shares (0-1) of the height and the width."""
Photo = UInt8[np.ndarray, "height width 3"]
Marked = Bool[np.ndarray, "height width"]
MOST_POINTS = 5_000
"""Most points of a stroke."""


@dataclass(frozen=True)
class Stroke:
    """Pixels that a person said belong to ``name`` in the image ``index``, or, where ``erased``, do not any more."""

    index: int
    name: str
    marked: Marked
    erased: bool = False


def painted(tool: Tool, points: Sequence[Point], *, size: tuple[int, int], radius: float) -> Marked:
    """The pixels of a stroke through ``points`` on a picture of ``size`` (height, width).

    radius: of the brush and the eraser, as a share of the shorter side. A box has its first and its last point as
    opposite corners. Raises FusionerError for a tool that does not paint, and for no point or too many.
    """
    if tool == "look" or not 0 < len(points) <= MOST_POINTS:
        raise FusionerError(f"a stroke of {len(points)} points by the tool {tool!r}: paint with brush, eraser or box")
    height, width = size
    places = [(min(max(right, 0.0), 1.0) * width, min(max(down, 0.0), 1.0) * height) for down, right in points]
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    if tool == "box":
        (x0, y0), (x1, y1) = places[0], places[-1]
        draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), fill=1)
        return np.array(image)
    reach = max(1.0, radius * min(size))
    if len(places) > 1:
        draw.line(places, fill=1, width=max(1, round(2 * reach)), joint="curve")
    for x, y in places:
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=1)
    return np.array(image)


def marks(strokes: Sequence[Stroke], index: int) -> dict[str, Marked]:
    """For each name painted in image ``index`` its pixels; of two names on one pixel the later stroke counts."""
    found: dict[str, Marked] = {}
    for stroke in strokes:
        if stroke.index != index:
            continue
        for name, marked in found.items():
            if not stroke.erased or name == stroke.name:
                found[name] = marked & ~stroke.marked
        if not stroke.erased:
            found[stroke.name] = found.get(stroke.name, np.zeros_like(stroke.marked)) | stroke.marked
    return {name: marked for name, marked in found.items() if marked.any()}


def examples(strokes: Sequence[Stroke]) -> list[Stroke]:
    """The strokes to learn from, in order: each without what was erased of its name later, or left out if that is all.

    A stroke is one example, as when it was painted, so that a stroke that is taken back leaves what was there before.
    """
    found = []
    for place, stroke in enumerate(strokes):
        marked = stroke.marked
        for later in strokes[place + 1 :]:
            if later.erased and (later.index, later.name) == (stroke.index, stroke.name):
                marked = marked & ~later.marked
        if not stroke.erased and marked.any():
            found.append(replace(stroke, marked=marked))
    return found


def save_strokes(folder: Path, strokes: Sequence[Stroke], photos: dict[int, tuple[str, Photo]]) -> int:
    """Write the painted images into ``folder`` as one's own data set; returns how many there are.

    photos: title and pixels of each painted image, by its index. A pixel that nobody painted is 255, ignored: it says
    nothing. Files of images that are painted again are replaced, names that are listed already keep their index.
    Raises FusionerError where nothing is painted, where the folder's names can't be read, and where the system refuses.
    """
    drawn = {index: found for index in photos if (found := marks(strokes, index))}
    if not drawn:
        raise FusionerError("nothing is painted: choose Brush or Box and paint on a picture first")
    listed = folder / "names.txt"
    known = read_names(listed) if listed.exists() else {}
    names = list(known.values())
    if list(known) != list(range(1, len(known) + 1)):
        raise FusionerError(f"the names in {listed} are not numbered 1, 2, 3, ...: give another folder")
    names += [name for name in dict.fromkeys(name for found in drawn.values() for name in found) if name not in names]
    if len(names) >= IGNORE:
        raise FusionerError(
            f"{listed} would have {len(names)} names, a mask can hold {IGNORE - 1}: give another folder"
        )
    check_index_names(names)
    for index, found in drawn.items():
        title, photo = photos[index]
        labels = np.full(photo.shape[:2], IGNORE, dtype=np.uint8)
        for name, marked in found.items():
            labels[marked] = names.index(name) + 1
        stem = f"{index:03d}-{plain_name(Path(title).stem)}"
        for kind, pixels in (("images", photo), ("masks", labels)):
            with replacing(folder / kind / f"{stem}.png") as part:
                Image.fromarray(pixels).save(part, format="png")
    write_text(listed, names_text(names))
    return len(drawn)
