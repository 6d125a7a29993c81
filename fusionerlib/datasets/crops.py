"""One-object scenes cut out of photographs: what Mosaic-4 is made of where a data set has several things an image."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from fusionerlib.datasets.mosaic import recipe
from fusionerlib.datasets.scene import IGNORE, Scene, Scenes
from fusionerlib.errors import FusionerError
from fusionerlib.progress import each

LEAST = 64
"""A crop's shorter side, in pixels, at least."""
MARGINS = (0.1, 0.0)
"""Kept free round the object on each side, as a share of its longer side: the first that makes a crop is taken."""
SQUARE = 2 / 3
"""A crop's shorter side is at least this share of its longer one: a tile is square, and would distort it more."""
COVERED = (0.15, 0.9)
"""The object's share of the crop, from and to."""
OTHERS = 0.02
"""The share of the crop that belongs to other names, at most."""
IGNORED = 0.25
"""The share of the crop that is ignored, at most (VOC leaves a rim round each object unlabelled)."""


class Box(NamedTuple):
    """Pixels ``left`` to ``right`` - 1 and ``top`` to ``bottom`` - 1."""

    left: int
    top: int
    right: int
    bottom: int


class Crop(NamedTuple):
    """Part of a scene (by index) that shows ``name`` alone, and what the name is called where it is asked for."""

    scene: int
    name: str
    called: str
    box: Box


def largest_part(mask: Bool[np.ndarray, "height width"]) -> Box | None:
    """The box of the mask's largest connected part (pixels touch at their corners too); None for an empty mask.

    Of equal ones the first, row by row. Raises FusionerError where scipy is not installed.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise FusionerError(
            "cutting objects out of photographs needs scipy: run `pip install -e '.[data]'` in the clone"
        ) from error
    parts, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
    if not count:
        return None
    rows, columns = ndimage.find_objects(parts)[int(np.bincount(parts.ravel())[1:].argmax())]
    return Box(columns.start, rows.start, columns.stop, rows.stop)


def squared(part: Box, *, margin: float, width: int, height: int) -> Box:
    """``part`` with ``margin``, made as square as an image of ``width`` x ``height`` pixels allows, the part inside."""
    longer = max(part.right - part.left, part.bottom - part.top)
    side = longer + 2 * round(margin * longer)
    left, right = _centred(part.left, part.right, side=side, limit=width)
    top, bottom = _centred(part.top, part.bottom, side=side, limit=height)
    return Box(left, top, right, bottom)


def crop_box(labels: UInt8[np.ndarray, "height width"], label: int) -> Box | None:
    """Where ``label`` (1-254) can be cut out of a label map as a one-object scene, None where it can't.

    The box of its largest connected part, ``squared``; kept where it is large and square enough, the label covers a
    sensible share of it, and hardly anything else that is labelled lies in it (the constants of this file).
    """
    part = largest_part(labels == label)
    if part is None:
        return None
    boxes = (squared(part, margin=margin, width=labels.shape[1], height=labels.shape[0]) for margin in MARGINS)
    return next((box for box in boxes if _shows_one(labels, label, box)), None)


def _shows_one(labels: np.ndarray, label: int, box: Box) -> bool:
    shorter, longer = sorted((box.right - box.left, box.bottom - box.top))
    if shorter < LEAST or shorter < SQUARE * longer:
        return False
    inside = labels[box.top : box.bottom, box.left : box.right]
    own, ignored = float((inside == label).mean()), float((inside == IGNORE).mean())
    others = float((inside > 0).mean()) - own - ignored
    return COVERED[0] <= own <= COVERED[1] and ignored <= IGNORED and others <= OTHERS


def select_crops(scenes: Scenes, *, called: Callable[[str], str] = str, quiet: bool = False) -> list[Crop]:
    """Every crop that ``scenes`` have, scene by scene and in each in the order of its names.

    called: what a name is called in the crops. Only masks are read where ``scenes`` have a method ``labels(index)``.
    """
    read = getattr(scenes, "labels", None) or (lambda index: scenes[index].labels)
    crops = []
    for index in each(range(len(scenes)), "one-object crops", total=len(scenes), unit="scene", quiet=quiet):
        labels = read(index)
        for label, name in enumerate(scenes.names(index), start=1):
            if (box := crop_box(labels, label)) is not None:
                crops.append(Crop(index, name, called(name), box))
    return crops


class Crops:
    """The crops of ``scenes`` as one-object scenes. Pixels of other names are ignored, as 255 is."""

    def __init__(self, scenes: Scenes, crops: Sequence[Crop]) -> None:
        self.scenes, self.crops = scenes, list(crops)
        self.fingerprint = recipe(scenes.fingerprint, "crops", [tuple(crop) for crop in self.crops])

    def __len__(self) -> int:
        return len(self.crops)

    def names(self, index: int) -> tuple[str, ...]:
        """The one name of crop ``index``."""
        return (self.crops[index].called,)

    def __getitem__(self, index: int) -> Scene:
        place, name, called, box = self.crops[index]
        scene = self.scenes[place]
        window = np.s_[box.top : box.bottom, box.left : box.right]
        labels = np.where(scene.labels[window] > 0, np.uint8(IGNORE), np.uint8(0))
        labels[scene.mask(name)[window]] = 1
        return Scene(image=scene.image[window], labels=labels, names=(called,), key=f"{scene.key} {called}")


def _centred(start: int, stop: int, *, side: int, limit: int) -> tuple[int, int]:
    """``side`` pixels (``limit`` at most) round the middle of ``start`` to ``stop``, shifted to lie in 0 to limit."""
    side = min(side, limit)
    first = min(max((start + stop - side) // 2, 0), limit - side)
    return first, first + side
