"""The harder kinds of Mosaic-4: nine tiles, four names of one supercategory, a name that is not there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fusionerlib.datasets.categories import all_names
from fusionerlib.datasets.corrupt import Bordered
from fusionerlib.datasets.mosaic import Mosaics, mosaic_indices
from fusionerlib.datasets.mosaic_sets import TILES, Tiles, plain_mosaics
from fusionerlib.datasets.sampling import NameSampler
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.datasets.supercategories import supercategory
from fusionerlib.errors import FusionerError


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
