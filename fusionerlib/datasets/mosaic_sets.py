"""The mosaics that a data set is tested on: Mosaic-4 and three harder kinds, made of one-object scenes ("tiles")."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusionerlib.config import DataConfig
from fusionerlib.datasets import fss1000
from fusionerlib.datasets.all_classes import all_classes_test
from fusionerlib.datasets.fss1000 import FSSFolder
from fusionerlib.datasets.mosaics import Crops, Mosaics, mosaic_indices, mosaics_of, select_crops
from fusionerlib.datasets.names import all_names, canonical, categories, supercategory, unseen
from fusionerlib.datasets.openmoji.drawing import load_splits
from fusionerlib.datasets.openmoji.scenes import test_sources
from fusionerlib.datasets.sampling import NameSampler
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.datasets.transforms import Bordered, Concat, Subset
from fusionerlib.errors import FusionerError

TILES = 4
"""Tiles of a 2 x 2 mosaic."""


@dataclass(frozen=True)
class Tiles:
    """The one-object scenes that mosaics are made of, by split, the hardest split last.

    datasets: where they come from. size: a mosaic's side, in pixels. left_out: the splits that are missing, and why.
    listed: the splits whose mosaics a published list gives.
    """

    datasets: tuple[str, ...]
    size: int
    splits: dict[str, Scenes]
    left_out: dict[str, str]
    listed: dict[str, Mosaics]

    @property
    def main(self) -> str:
        """The hardest split: the names that training did not have, where there are enough of them."""
        return list(self.splits)[-1]


def tile_sets(
    config: DataConfig, *, trained: Collection[str] = (), source: str = "", root: str = "", quiet: bool = False
) -> Tiles:
    """The one-object scenes that the mosaics of a run with ``config`` are made of.

    OpenMoji: its three tests. FSS-1000: its test classes. Any other data set: crops of its test images
    (``all_classes_test``), in the splits ``seen`` and ``unseen``: whether training had the category, under any of its
    names. OpenMoji's objects are split in the same way where they are not the run's own data set.
    trained: the names of training. source: the data sets to take the tiles from, separated by commas; "" for the run's
    own. root: a folder for each of them, separated by commas; "" for the run's own.
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
        tests: dict[str, Scenes] = {**test_sources(roots[0], load_splits(roots[0]))}
        return Tiles(datasets, config.size, tests, {}, {})
    spelling = _spelling(config.dataset)
    parts = [_one_object(*pair, spelling=spelling, quiet=quiet) for pair in zip(datasets, roots, strict=True)]
    splits, left_out = _by_training(Concat(*parts), trained)
    if not splits:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise FusionerError(
            f"{', '.join(datasets)} under {', '.join(map(str, roots))} has too few one-object scenes for mosaics: "
            f"{reasons}; name a data set with more in source"
        )
    return Tiles(datasets, config.size, splits, left_out, {})


def plain_mosaics(tiles: Tiles, *, count: int, seed: int) -> dict[str, Mosaics]:
    """Mosaic-4 by split: ``count`` of the main split, half as many of each other one; all of a published list."""
    return {
        name: tiles.listed.get(name)
        or mosaics_of(source, size=tiles.size, count=count if name == tiles.main else -(-count // 2), seed=seed + place)
        for place, (name, source) in enumerate(tiles.splits.items())
    }


def mosaic_sets(config: DataConfig, *, count: int, seed: int, trained: Collection[str] = ()) -> dict[str, Mosaics]:
    """``plain_mosaics`` of the run's own data set."""
    return plain_mosaics(tile_sets(config, trained=trained), count=count, seed=seed)


def _one_object(dataset: str, root: Path, *, spelling: Callable[[str], str], quiet: bool) -> Scenes:
    if dataset == "fss1000":
        return fss1000.split(root, "test")
    if dataset == "openmoji":
        load_splits(root)
        return FSSFolder(root)
    scenes = all_classes_test(dataset, root)
    return Crops(scenes, select_crops(scenes, spelling=spelling, quiet=quiet))


def _spelling(dataset: str) -> Callable[[str], str]:
    """The spelling that a run on ``dataset`` has for the names of VOC's categories."""
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
    """Mosaics of one kind: ``grid`` x ``grid`` tiles of ``tile`` pixels a side, centred in each scene.

    asked: the names asked of each scene; None for the scene's own.
    """

    scenes: Scenes
    grid: int
    tile: int
    asked: list[tuple[str, ...]] | None = None


def first_mosaics(mosaics: Mosaics, count: int) -> Mosaics:
    """The first ``count`` of ``mosaics``."""
    return Mosaics(mosaics.scenes, mosaics.indices[:count], size=mosaics.size, grid=mosaics.grid)


def mosaic_kinds(tiles: Tiles, *, count: int, seed: int) -> tuple[dict[str, Kind], dict[str, str]]:
    """The harder kinds of Mosaic-4, ``count`` mosaics each, and the kinds that are left out, with the reason.

    They are made of the main split, or of the hardest other split with enough names, which the kind's name then tells
    ("3x3, seen"). A count of 0 makes none.
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
    """For each list of ``present`` names, ``count`` absent names of ``vocabulary``, or as many as there are.

    Not absent is another name of a present category, and a name whose words are a subset or superset of the words of
    a present name.
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
    # The supercategories take turns.
    indices = [drawn[place % len(drawn)][place // len(drawn)] for place in range(count)]
    return Kind(Mosaics(source, indices, size=tiles.size), 2, tiles.size // 2)


def _one_absent(tiles: Tiles, split: str, count: int, seed: int) -> Kind:
    source = tiles.splits[split]
    scenes = first_mosaics(plain_mosaics(tiles, count=2 * count, seed=seed)[split], count)
    present = [scenes.names(index) for index in range(len(scenes))]
    absent = absent_names(vocabulary(source), present, count=1, seed=seed)
    if not all(absent):
        raise FusionerError(f"{len(vocabulary(source))} names: a mosaic of {TILES} shows all of them, none is absent")
    asked = []
    for index, (names, (other,)) in enumerate(zip(present, absent, strict=True)):
        replaced = int(np.random.default_rng((seed, index, 1)).integers(TILES))
        asked.append((*names[:replaced], other, *names[replaced + 1 :]))
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
