"""What the packaged checkpoint paints on photographs that did not train it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fusionerlib.datasets.full import full_pascal
from fusionerlib.datasets.pascal import FOLDS, NAMES, published
from fusionerlib.inference import Segmenter
from fusionerlib.plots.style import figure, picture, style

OWN = {"chelsea": ("cat", "sofa"), "coffee": ("cup", "spoon", "dog"), "astronaut": ("person", "flag", "horse")}
"""Photographs of scikit-image, and what is asked of them; the last name is not there."""
LISTED = {"dog": ("dog", "person", "boat"), "horse": ("horse", "person", "cat"), "sheep": ("sheep", "grass", "car")}
"""Classes of PASCAL VOC: the first image of each in a published validation list, and what is asked of it."""


def overlays(voc_root: Path) -> Figure:
    """Six photographs with what was asked of them: three of scikit-image, three of VOC's validation lists."""
    segmenter = Segmenter.load("packaged")
    shown = [(segmenter.set_image(image).segment(names), names) for image, names in _photos(voc_root)]
    with style():
        result = figure(11.0, 8.2)
        for axes, (answer, names) in zip(result.subplots(2, 3).ravel(), shown, strict=True):
            axes.imshow(np.asarray(answer.overlay()))
            picture(axes, ", ".join(names))
        return result


def _photos(voc_root: Path) -> Iterator[tuple[np.ndarray, tuple[str, ...]]]:
    from skimage import data

    for name, asked in OWN.items():
        yield getattr(data, name)(), asked
    scenes = full_pascal(voc_root)
    place = {key: index for index, key in enumerate(scenes.keys)}
    pairs = [(image, NAMES[number - 1]) for fold in FOLDS for image, number in published(fold, "val") if image in place]
    for name, asked in LISTED.items():
        first = next(image for image, labelled in sorted(pairs) if labelled == name)
        yield scenes[place[first]].image, asked
