"""Figures of the study: the gain of each setting, and masks of the packaged checkpoint on photographs.

``python -m studies.cost_aggregation.figures docs/pictures data/pascal data/camvid`` draws the pictures of README and
docs.
"""

import math
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fusionerlib.datasets.all_classes import pascal_validation_images
from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.pascal import NAMES, NO_FOLD, validation_pairs
from fusionerlib.errors import FusionerError
from fusionerlib.inference.overlay import short
from fusionerlib.inference.segmenter import Segmenter
from fusionerlib.plots.style import BLUE, COLUMN, GREY, ORANGE, figure, picture, save, style

Asked = tuple[np.ndarray, tuple[str, ...]]
"""A photograph (height, width, RGB; 0-255) and the names asked of it."""

FRONT = (("chelsea", ("cat", "sofa")), ("astronaut", ("helmet", "rocket", "flag")), ("rocket", ("rocket", "dog")))
"""Public-domain photographs of scikit-image. Helmet, rocket and flag are not among the training names."""
OWN = (
    ("chelsea", ("cat", "sofa")),
    ("coffee", ("cup", "spoon", "dog")),
    ("astronaut", ("person", "flag", "horse")),
)
"""Photographs of scikit-image and the names asked; the last one is absent."""
BEFORE_AND_AFTER = (
    ("person", ("person", "dog", "bottle")),
    ("sofa", ("couch", "cat", "chair")),
    ("street", ("road", "building", "sky", "tree", "car")),
    ("forest", ("tree", "road", "sky", "building", "sheep")),
)
"""What a photograph shows, and the names asked of it: people and sofas of VOC, streets and trees of CamVid."""
LISTED = {"dog": ("dog", "person", "boat"), "horse": ("horse", "person", "cat"), "sheep": ("sheep", "grass", "car")}
"""Names asked of the first image of each of these PASCAL VOC classes in a published validation list."""


def gains(
    rows: Sequence[Mapping[str, Any]], *, figures: Mapping[str, str], spread: float = math.nan, title: str = ""
) -> Figure:
    """A row a setting, the largest gain on top, with a dot for each of two ``figures`` (label by key of a row).

    rows: dicts with ``setting`` and gains in percentage points, NaN for none. spread: standard deviation of the base
    over seeds, drawn as a grey band around zero. Raises FusionerError if there is no row.
    """
    drawn = [row for row in rows if not all(math.isnan(row[key]) for key in figures)]
    if not drawn:
        raise FusionerError("no setting has a gain to draw: run at least one beside the base")
    drawn.sort(key=lambda row: sum(0.0 if math.isnan(row[key]) else row[key] for key in figures))
    with style():
        result = figure(COLUMN, 1.4 + 0.26 * len(drawn))
        axes = result.subplots()
        if not math.isnan(spread):
            axes.axvspan(-spread, spread, color=GREY, alpha=0.18, linewidth=0, label="spread of seeds (1 sd)")
        axes.axvline(0, color=GREY, linewidth=1)
        for (key, name), colour, marker in zip(figures.items(), (BLUE, ORANGE), ("o", "s"), strict=True):
            axes.plot([row[key] for row in drawn], range(len(drawn)), marker, color=colour, label=name, markersize=5.5)
        axes.set_yticks(range(len(drawn)), [short(str(row["setting"]), 28) for row in drawn])
        axes.set_ylim(-0.7, len(drawn) - 0.3)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("gain over the base, points of mIoU")
        axes.set_title(title)
        # The legend stands below the axes: inside them it would hide dots.
        result.legend(loc="outside lower center", ncols=2)
        return result


def front() -> Figure:
    """Three photographs of scikit-image in a row with their masks and names."""
    return _sheet(_own(FRONT), rows=1, size=(11.0, 3.9))


def overlays(voc_root: Path) -> Figure:
    """Six photographs with their masks and names: three of scikit-image, three of VOC's validation lists."""
    return _sheet([*_own(OWN), *_listed(voc_root)], rows=2, size=(11.0, 8.2))


def before_and_after(voc_root: Path, camvid_root: Path) -> Figure:
    """Four validation photographs with the packaged checkpoint: above by the text alone, below with its examples."""
    shown = [(_photograph(what, voc_root, camvid_root), names) for what, names in BEFORE_AND_AFTER]
    examples, text = Segmenter.load("packaged"), Segmenter.load("packaged")
    for name in text.example_names:
        text.forget(name)
    with style():
        result = figure(11.0, 6.6)
        rows = result.subplots(2, len(shown))
        for segmenter, row, title in ((text, rows[0], "text alone"), (examples, rows[1], "with examples")):
            for axes, (image, names) in zip(row, shown, strict=True):
                axes.imshow(np.asarray(segmenter.set_image(image).segment(names).overlay()))
                picture(axes, f"{title}\n{textwrap.fill(', '.join(names), 26)}")
        return result


def _photograph(what: str, voc_root: Path, camvid_root: Path) -> np.ndarray:
    """The validation photograph that shows most of a person, a sofa, cars or trees."""
    scenes = pascal_validation_images(voc_root) if what in ("person", "sofa") else read_folder(camvid_root, split="val")
    name = {"street": "car", "forest": "tree"}.get(what, what)
    showing = [index for index in range(len(scenes)) if name in scenes.names(index)]

    def share(index: int) -> float:
        scene = scenes[index]
        return float(np.mean(np.asarray(scene.labels) == scene.names.index(name) + 1))

    return np.asarray(scenes[max(showing, key=share)].image)


def _sheet(asked: Iterable[Asked], *, rows: int, size: tuple[float, float]) -> Figure:
    segmenter = Segmenter.load("packaged")
    shown = [(segmenter.set_image(image).segment(names), names) for image, names in asked]
    with style():
        result = figure(*size)
        for axes, (answer, names) in zip(result.subplots(rows, len(shown) // rows).ravel(), shown, strict=True):
            axes.imshow(np.asarray(answer.overlay()))
            picture(axes, ", ".join(names))
        return result


def _own(asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[Asked]:
    from skimage import data

    return [(getattr(data, photo)(), names) for photo, names in asked]


def _listed(voc_root: Path) -> Iterator[Asked]:
    scenes = pascal_validation_images(voc_root)
    place = {key: index for index, key in enumerate(scenes.keys)}
    pairs = [(image, NAMES[number - 1]) for image, number in validation_pairs(NO_FOLD) if image in place]
    for name, asked in LISTED.items():
        first = next(image for image, labelled in sorted(pairs) if labelled == name)
        yield scenes[place[first]].image, asked


if __name__ == "__main__":
    folder, voc, *camvid = map(Path, sys.argv[1:4])
    save(front(), folder / "first_look.jpg")
    save(overlays(voc), folder / "packaged_overlays.jpg")
    if camvid:
        save(before_and_after(voc, camvid[0]), folder / "before_and_after.jpg")
