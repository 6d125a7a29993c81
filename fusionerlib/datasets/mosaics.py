"""Mosaic-4: one-object scenes of four different names in a 2 x 2 grid, and the crops of photographs they are made of.

docs/protocol.md defines the benchmark.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from fusionerlib.datasets.scene import IGNORE, Scene, Scenes, resized
from fusionerlib.errors import FusionerError
from fusionerlib.files import fingerprint
from fusionerlib.progress import each

MIN_SIDE = 64
"""The least length of a crop's shorter side, in pixels."""
MARGINS = (0.1, 0.0)
"""Margins round the object to try, in this order, as shares of the longer side of its box."""
MIN_ASPECT = 2 / 3
"""The least ratio of a crop's shorter side to its longer one: tiles are square, and would distort it more."""
OBJECT_SHARE = (0.15, 0.9)
"""Least and greatest share of a crop that the object covers."""
MAX_OTHERS = 0.02
"""Greatest share of a crop that other names cover."""
MAX_IGNORED = 0.25
"""Greatest share of a crop that is ignored (VOC leaves a border round each object unlabelled)."""


def mosaic(scenes: Sequence[Scene], *, grid: int = 2, size: int) -> Scene:
    """``grid * grid`` one-object scenes side by side, row by row, on ``size`` x ``size`` pixels.

    Tile t is ``scenes[t]`` resized to ``size / grid`` pixels a side; its object has label t + 1 and is ``names[t]``.
    Raises FusionerError for a wrong number of scenes, repeated names, several names in one scene, or a size that is
    no multiple of ``grid``.
    """
    names = [scene.names[0] for scene in scenes]
    if len(scenes) != grid * grid or len(set(names)) != len(names) or any(len(scene.names) != 1 for scene in scenes):
        raise FusionerError(
            f"a {grid}x{grid} mosaic needs {grid * grid} one-object scenes of different names, "
            f"got {[scene.names for scene in scenes]}"
        )
    if size % grid:
        raise FusionerError(f"a mosaic of {size} pixels has no {grid} equal tiles a side: choose a multiple of {grid}")
    tile = size // grid
    image, labels = np.zeros((size, size, 3), dtype=np.uint8), np.zeros((size, size), dtype=np.uint8)
    for place, scene in enumerate(scenes):
        row, column = divmod(place, grid)
        window = np.s_[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        small = resized(scene, width=tile, height=tile)
        image[window] = small.image
        labels[window] = np.where(small.labels == 1, place + 1, small.labels)
    return Scene(image=image, labels=labels, names=tuple(names), key=" + ".join(scene.key for scene in scenes))


def mosaic_indices(names: Sequence[str], *, count: int, seed: int, grid: int = 2) -> list[tuple[int, ...]]:
    """``count`` groups of ``grid * grid`` indices with different ``names``; all indices are used about equally often.

    Raises FusionerError for fewer different names than ``grid * grid``.
    """
    tiles = grid * grid
    if len(set(names)) < tiles:
        raise FusionerError(f"a {grid}x{grid} mosaic needs {tiles} different names, there are {len(set(names))}")
    rng = np.random.default_rng(seed)
    groups: list[tuple[int, ...]] = []
    queue: list[int] = []
    while len(groups) < count:
        chosen: list[int] = []
        while len(chosen) < tiles:
            if not queue:
                queue = [int(i) for i in rng.permutation(len(names))]
            taken = {names[index] for index in chosen}
            place = next((place for place, index in enumerate(queue) if names[index] not in taken), None)
            if place is None:
                queue = []
            else:
                chosen.append(queue.pop(place))
        groups.append(tuple(chosen))
    return groups


class Mosaics:
    """Mosaics of ``scenes``, one for each group of their indices, composed on access."""

    def __init__(self, scenes: Scenes, indices: Sequence[tuple[int, ...]], *, size: int, grid: int = 2) -> None:
        self.scenes, self.indices, self.size, self.grid = scenes, list(indices), size, grid
        self.fingerprint = fingerprint(scenes.fingerprint, "mosaic", self.indices, size, grid)

    def __len__(self) -> int:
        return len(self.indices)

    def names(self, index: int) -> tuple[str, ...]:
        """The names of mosaic ``index``, tile by tile."""
        return tuple(self.scenes.names(place)[0] for place in self.indices[index])

    def __getitem__(self, index: int) -> Scene:
        return mosaic([self.scenes[place] for place in self.indices[index]], grid=self.grid, size=self.size)


def mosaics_of(scenes: Scenes, *, size: int, count: int, seed: int) -> Mosaics:
    """``count`` Mosaic-4 scenes made of the one-object scenes ``scenes``."""
    indices = mosaic_indices([scenes.names(i)[0] for i in range(len(scenes))], count=count, seed=seed)
    return Mosaics(scenes, indices, size=size)


class Box(NamedTuple):
    """Pixels ``left`` to ``right`` - 1 and ``top`` to ``bottom`` - 1."""

    left: int
    top: int
    right: int
    bottom: int


class Crop(NamedTuple):
    """The part ``box`` of scene ``scene`` (an index), which shows ``name`` alone. spelling: its name as a tile."""

    scene: int
    name: str
    spelling: str
    box: Box


class Crops:
    """The crops of ``scenes`` as one-object scenes. Pixels of other names are ignored, as those of 255 are."""

    def __init__(self, scenes: Scenes, crops: Sequence[Crop]) -> None:
        self.scenes, self.crops = scenes, list(crops)
        self.fingerprint = fingerprint(scenes.fingerprint, "crops", [tuple(crop) for crop in self.crops])

    def __len__(self) -> int:
        return len(self.crops)

    def names(self, index: int) -> tuple[str, ...]:
        """The one name of crop ``index``."""
        return (self.crops[index].spelling,)

    def __getitem__(self, index: int) -> Scene:
        place, name, spelling, box = self.crops[index]
        scene = self.scenes[place]
        window = np.s_[box.top : box.bottom, box.left : box.right]
        labels = np.where(scene.labels[window] > 0, np.uint8(IGNORE), np.uint8(0))
        labels[scene.mask(name)[window]] = 1
        return Scene(image=scene.image[window], labels=labels, names=(spelling,), key=f"{scene.key} {spelling}")


def select_crops(scenes: Scenes, *, spelling: Callable[[str], str] = str, quiet: bool = False) -> list[Crop]:
    """Every crop that ``crop_box`` finds, scene by scene and in each in the order of its names.

    spelling: the name of a crop, given the name in ``scenes``. Where ``scenes`` have a method ``labels(index)``, no
    image is opened.
    """
    read = getattr(scenes, "labels", None) or (lambda index: scenes[index].labels)
    crops = []
    for index in each(range(len(scenes)), "one-object crops", total=len(scenes), unit="scene", quiet=quiet):
        labels = read(index)
        for label, name in enumerate(scenes.names(index), start=1):
            if (box := crop_box(labels, label)) is not None:
                crops.append(Crop(index, name, spelling(name), box))
    return crops


def crop_box(labels: UInt8[np.ndarray, "height width"], label: int) -> Box | None:
    """Where ``label`` (1-254) can be cut out of a label map as a one-object scene; None where it can't be.

    The box of its largest connected part, made square as far as the image allows. It is kept where it is large and
    square enough, and where object, other names and ignored pixels cover the shares that this module's constants
    allow.
    """
    part = largest_part(labels == label)
    if part is None:
        return None
    boxes = (squared(part, margin=margin, width=labels.shape[1], height=labels.shape[0]) for margin in MARGINS)
    return next((box for box in boxes if _shows_one_object(labels, label, box)), None)


def largest_part(mask: Bool[np.ndarray, "height width"]) -> Box | None:
    """The box of the mask's largest connected part (8-neighbourhood); None for an empty mask.

    Of parts of equal size, the first row by row. Raises FusionerError where scipy is not installed.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise FusionerError(
            "cutting objects out of photographs needs scipy: run `pip install 'fusioner[data]'` in the clone"
        ) from error
    parts, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
    if not count:
        return None
    rows, columns = ndimage.find_objects(parts)[int(np.bincount(parts.ravel())[1:].argmax())]
    return Box(columns.start, rows.start, columns.stop, rows.stop)


def squared(part: Box, *, margin: float, width: int, height: int) -> Box:
    """``part`` with ``margin`` (a share of its longer side) on each side, widened to a square.

    The result contains ``part`` and lies inside an image of ``width`` x ``height`` pixels, which may cut it short.
    """
    longer = max(part.right - part.left, part.bottom - part.top)
    side = longer + 2 * round(margin * longer)
    left, right = _centred(part.left, part.right, side=side, limit=width)
    top, bottom = _centred(part.top, part.bottom, side=side, limit=height)
    return Box(left, top, right, bottom)


def _shows_one_object(labels: UInt8[np.ndarray, "height width"], label: int, box: Box) -> bool:
    shorter, longer = sorted((box.right - box.left, box.bottom - box.top))
    if shorter < MIN_SIDE or shorter < MIN_ASPECT * longer:
        return False
    inside = labels[box.top : box.bottom, box.left : box.right]
    own, ignored = float((inside == label).mean()), float((inside == IGNORE).mean())
    others = float((inside > 0).mean()) - own - ignored
    return OBJECT_SHARE[0] <= own <= OBJECT_SHARE[1] and ignored <= MAX_IGNORED and others <= MAX_OTHERS


def _centred(start: int, stop: int, *, side: int, limit: int) -> tuple[int, int]:
    """``side`` pixels (at most ``limit``) centred on the middle of start-stop, moved to lie within 0-limit."""
    side = min(side, limit)
    first = min(max((start + stop - side) // 2, 0), limit - side)
    return first, first + side
