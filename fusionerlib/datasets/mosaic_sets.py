"""One-object scenes cut out of photographs: what Mosaic-4 is made of where a data set has several things an image.

Which mosaics a data set is tested on, and what their tiles are made of.

The harder kinds of Mosaic-4: nine tiles, four names of one supercategory, a name that is not there.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from fusionerlib.config import DataConfig
from fusionerlib.datasets import fss1000, openmoji
from fusionerlib.datasets.corruptions import Bordered
from fusionerlib.datasets.fss1000 import FSSFolder
from fusionerlib.datasets.mosaics import Mosaics, mosaic_indices, mosaicked
from fusionerlib.datasets.names import all_names, canonical, categories, supercategory, unseen
from fusionerlib.datasets.openmoji import test_sources
from fusionerlib.datasets.sampling import NameSampler
from fusionerlib.datasets.scene import IGNORE, Scene, Scenes, vocabulary
from fusionerlib.datasets.sets import full_test
from fusionerlib.datasets.transforms import Concat, Subset
from fusionerlib.errors import FusionerError
from fusionerlib.files import fingerprint
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
        self.fingerprint = fingerprint(scenes.fingerprint, "crops", [tuple(crop) for crop in self.crops])

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


TILES = 4
"""A 2x2 mosaic has so many."""


@dataclass(frozen=True)
class Tiles:
    """One-object scenes by split, the hardest split last, and why a split is left out.

    datasets: where they are from. size: of the mosaics, in pixels. listed: the mosaics of a published list, by split.
    """

    datasets: tuple[str, ...]
    size: int
    splits: dict[str, Scenes]
    left_out: dict[str, str]
    listed: dict[str, Mosaics]

    @property
    def main(self) -> str:
        """The split that matters most: names that were never trained, where there are enough of them."""
        return list(self.splits)[-1]


def tile_sets(
    config: DataConfig, *, trained: Collection[str] = (), source: str = "", root: str = "", quiet: bool = False
) -> Tiles:
    """What the mosaics of a run with ``config`` are made of.

    OpenMoji's three tests and FSS-1000's test classes, which are one-object scenes; of any other data set the crops of
    its test images (``full_test``), ``seen`` and ``unseen``: of names that training had, and had under none of their
    names. Where another run's data set is drawn, its things are split that way too.
    trained: the names of training. source: data sets to take the tiles from, separated by commas, "" for the run's
    own. root: a folder for each of them, "" for the run's own.
    Raises FusionerError where no split has four names, and as the readers do.
    """
    datasets = _listed(source) or (config.dataset,)
    roots = [Path(part) for part in _listed(root)] or ([] if source else [config.root])
    if len(roots) != len(datasets):
        raise FusionerError(f"source {source!r} has the roots {root!r}: give one folder for each of its data sets")
    if datasets == ("fss1000",):
        listed = fss1000.mosaics(roots[0], size=config.size)
        return Tiles(datasets, config.size, {"objects": listed.scenes}, {}, {"objects": listed})
    if datasets == ("openmoji",) and config.dataset == "openmoji":
        tests: dict[str, Scenes] = {**test_sources(roots[0], openmoji.load_splits(roots[0]))}
        return Tiles(datasets, config.size, tests, {}, {})
    called = _spelling(config.dataset)
    parts = [_one_object(*pair, called=called, quiet=quiet) for pair in zip(datasets, roots, strict=True)]
    splits, left_out = _by_training(Concat(*parts), trained)
    if not splits:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise FusionerError(
            f"{', '.join(datasets)} under {', '.join(map(str, roots))} has too few one-object scenes for mosaics: "
            f"{reasons}; name a data set with more in source"
        )
    return Tiles(datasets, config.size, splits, left_out, {})


def plain_mosaics(tiles: Tiles, *, count: int, seed: int) -> dict[str, Mosaics]:
    """Mosaic-4 by split: ``count`` of the main one, half as many of the others; all of a published list."""
    return {
        name: tiles.listed.get(name)
        or mosaicked(source, size=tiles.size, count=count if name == tiles.main else -(-count // 2), seed=seed + place)
        for place, (name, source) in enumerate(tiles.splits.items())
    }


def mosaic_sets(config: DataConfig, *, count: int, seed: int, trained: Collection[str] = ()) -> dict[str, Mosaics]:
    """``plain_mosaics`` of the run's own data set."""
    return plain_mosaics(tile_sets(config, trained=trained), count=count, seed=seed)


def _one_object(dataset: str, root: Path, *, called: Callable[[str], str], quiet: bool) -> Scenes:
    if dataset == "fss1000":
        return fss1000.split(root, "test")
    if dataset == "openmoji":
        openmoji.load_splits(root)
        return FSSFolder(root)
    scenes = full_test(dataset, root)
    return Crops(scenes, select_crops(scenes, called=called, quiet=quiet))


def _spelling(dataset: str) -> Callable[[str], str]:
    """How a run on ``dataset`` writes the names of VOC's categories."""
    if dataset == "pascal":
        words = {row.coco: row.words for row in categories()}
        return lambda name: words.get(canonical(name), name)
    return canonical if dataset in ("photos", "coco") else str


def _by_training(scenes: Scenes, trained: Collection[str]) -> tuple[dict[str, Scenes], dict[str, str]]:
    novel = set(unseen(vocabulary(scenes), trained=trained))
    splits: dict[str, Scenes] = {}
    left_out: dict[str, str] = {}
    for name, wanted in (("seen", False), ("unseen", True)):
        part = Subset(scenes, [index for index in range(len(scenes)) if (scenes.names(index)[0] in novel) == wanted])
        names = vocabulary(part)
        if len(names) < TILES:
            left_out[name] = f"{len(names)} names ({', '.join(names) or 'none'}), a mosaic needs {TILES}"
        else:
            splits[name] = part
    return splits, left_out


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True)
class Kind:
    """Mosaics of one kind: ``grid`` x ``grid`` tiles of ``tile`` pixels, in the middle of each scene.

    asked: the names asked of each scene, None for those that are in it.
    """

    scenes: Scenes
    grid: int
    tile: int
    asked: list[tuple[str, ...]] | None = None


def first_mosaics(mosaics: Mosaics, count: int) -> Mosaics:
    """The first ``count`` of ``mosaics``."""
    return Mosaics(mosaics.scenes, mosaics.indices[:count], size=mosaics.size, grid=mosaics.grid)


def mosaic_kinds(tiles: Tiles, *, count: int, seed: int) -> tuple[dict[str, Kind], dict[str, str]]:
    """The harder kinds of Mosaic-4, ``count`` mosaics each, and why a kind is left out.

    They are made of the main split; where that can't be done, of the hardest that can, which the kind's name then says
    ("3x3, seen"). None at all for a count of 0.
    """
    kinds: dict[str, Kind] = {}
    left_out: dict[str, str] = {}
    for name, make in _KINDS.items() if count else ():
        for split in reversed(tiles.splits):
            try:
                made = make(tiles, split, count, seed)
            except FusionerError as error:
                left_out[f"{name}, {split}"] = str(error)
            else:
                kinds[name if split == tiles.main else f"{name}, {split}"] = made
                break
    return kinds, left_out


def absent_names(
    vocabulary: Sequence[str], present: Sequence[Sequence[str]], *, count: int, seed: int
) -> list[tuple[str, ...]]:
    """For each list of ``present`` names, ``count`` of ``vocabulary`` that are absent: fewer where there are no more.

    A name is not absent where it is another name of a present category, or all of its words are part of a present
    name's, or the other way round.
    """
    sampler = NameSampler(vocabulary, positives=0, negatives=count, hard=0.0)
    return [
        sampler.complete((), sorted(all_names(names)), np.random.default_rng((seed, place)))
        for place, names in enumerate(present)
    ]


def _three_by_three(tiles: Tiles, split: str, count: int, seed: int) -> Kind:
    source, grid = tiles.splits[split], 3
    tile = tiles.size // grid
    indices = mosaic_indices(_names(source), count=count, seed=seed, grid=grid)
    return Kind(Bordered(Mosaics(source, indices, size=grid * tile, grid=grid), size=tiles.size), grid, tile)


def _same_supercategory(tiles: Tiles, split: str, count: int, seed: int) -> Kind:
    source, groups = tiles.splits[split], dict[str, list[int]]()
    names = _names(source)
    of_name = {name: _group(name, tiles.datasets) for name in dict.fromkeys(names)}
    for index, name in enumerate(names):
        if (group := of_name[name]) is not None:
            groups.setdefault(group, []).append(index)
    if not groups:
        raise FusionerError(f"{', '.join(tiles.datasets)} publishes no supercategories of these names")
    large = {group: own for group, own in sorted(groups.items()) if len({names[index] for index in own}) >= TILES}
    if not large:
        raise FusionerError(f"none of the {len(groups)} supercategories has {TILES} names here")
    drawn = [
        [tuple(own[i] for i in group) for group in mosaic_indices([names[i] for i in own], count=count, seed=seed)]
        for own in large.values()
    ]
    # One supercategory after the other, each with mosaics of its own.
    indices = [drawn[place % len(drawn)][place // len(drawn)] for place in range(count)]
    return Kind(Mosaics(source, indices, size=tiles.size), 2, tiles.size // 2)


def _one_absent(tiles: Tiles, split: str, count: int, seed: int) -> Kind:
    source = tiles.splits[split]
    scenes = first_mosaics(plain_mosaics(tiles, count=2 * count, seed=seed)[split], count)
    present = [scenes.names(index) for index in range(len(scenes))]
    strangers = absent_names(vocabulary(source), present, count=1, seed=seed)
    if not all(strangers):
        raise FusionerError(f"{len(vocabulary(source))} names: none is left that a mosaic of {TILES} does not show")
    asked = []
    for index, (names, (stranger,)) in enumerate(zip(present, strangers, strict=True)):
        gone = int(np.random.default_rng((seed, index, 1)).integers(TILES))
        asked.append((*names[:gone], stranger, *names[gone + 1 :]))
    return Kind(scenes, 2, tiles.size // 2, asked)


def _names(source: Scenes) -> list[str]:
    return [source.names(index)[0] for index in range(len(source))]


def _group(name: str, datasets: Sequence[str]) -> str | None:
    return next(filter(None, (supercategory(name, dataset=dataset) for dataset in datasets)), None)


_KINDS: dict[str, Callable[[Tiles, str, int, int], Kind]] = {
    "3x3": _three_by_three,
    "same supercategory": _same_supercategory,
    "one absent": _one_absent,
}
