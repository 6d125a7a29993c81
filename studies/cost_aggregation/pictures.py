"""What the packaged checkpoint paints on photographs that did not train it; makes the pictures of README and docs.

python -m studies.cost_aggregation.pictures docs/pictures data/pascal
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fusionerlib.datasets.all_classes import pascal_validation_images
from fusionerlib.datasets.pascal import NAMES, NO_FOLD, validation_pairs
from fusionerlib.inference.segmenter import Segmenter
from fusionerlib.plots.style import figure, picture, save, style

Asked = tuple[np.ndarray, tuple[str, ...]]
"""A photograph (H, W, 3), 0-255, and the names asked of it."""

FRONT = (("chelsea", ("cat", "sofa")), ("astronaut", ("helmet", "rocket", "flag")), ("rocket", ("rocket", "dog")))
"""Photographs of scikit-image in the public domain; helmet, rocket and flag are no words of the training."""
OWN = (
    ("chelsea", ("cat", "sofa")),
    ("coffee", ("cup", "spoon", "dog")),
    ("astronaut", ("person", "flag", "horse")),
)
"""Photographs of scikit-image, and what is asked of them; the last name is not there."""
LISTED = {"dog": ("dog", "person", "boat"), "horse": ("horse", "person", "cat"), "sheep": ("sheep", "grass", "car")}
"""Classes of PASCAL VOC: the first image of each in a published validation list, and what is asked of it."""


def front() -> Figure:
    """Three photographs of scikit-image in a row, each above what was asked of it."""
    return _sheet(_own(FRONT), rows=1, size=(11.0, 3.9))


def overlays(voc_root: Path) -> Figure:
    """Six photographs with what was asked of them: three of scikit-image, three of VOC's validation lists."""
    return _sheet([*_own(OWN), *_listed(voc_root)], rows=2, size=(11.0, 8.2))


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
    folder, voc = map(Path, sys.argv[1:3])
    save(front(), folder / "first_look.jpg")
    save(overlays(voc), folder / "packaged_overlays.jpg")
