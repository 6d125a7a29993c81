"""FSS-1000: the published split of its 1,000 classes, and our list of Mosaic-4 mosaics of the test classes."""

import gzip
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from fusionerlib.datasets.fss import FSSFolder
from fusionerlib.datasets.mosaic import Mosaics, mosaic_indices
from fusionerlib.errors import FusionerError

Part = Literal["train", "val", "test"]
IMAGES = range(1, 11)
"""The numbers of a class's images."""
MOSAICS, SEED = 1000, 2210
"""How many mosaics the list holds, and what it was drawn with."""
HOMES = (".", "FSS-1000", "fewshot_data", "fewshot_data/fewshot_data")
"""Where the class folders may lie under the root (the publishers' archive has the last)."""

Tile = tuple[str, int]


@cache
def classes(part: Part) -> tuple[str, ...]:
    """The class folders of a part in the published order: 520 in ``train``, 240 in ``val``, 240 in ``test``."""
    if part not in get_args(Part):
        raise FusionerError(f"part = {part!r} of FSS-1000: expected one of {', '.join(get_args(Part))}")
    return tuple(_packaged(f"{part}.txt").decode().split())


def split(root: Path, part: Part) -> FSSFolder:
    """The scenes of a part, class by class in the published order, images 1 to 10 of each.

    Scene i of ``test`` is image ``i % 10 + 1`` of class ``i // 10``. A folder ``rice_cooker`` is called "rice cooker".
    Raises FusionerError for an unknown part, and naming the first image that is missing.
    """
    chosen = classes(part)
    homes = [Path(root) / home for home in HOMES]
    home = next((home for home in homes if any((home / name).is_dir() for name in chosen)), None)
    if home is None:
        raise FusionerError(
            f"FSS-1000 root {str(root)!r} has none of the {len(chosen)} class folders of {part!r}: looked for "
            f"{chosen[0]}, {chosen[1]}, ... in {', '.join(map(str, homes))}; point root at the folder that holds them"
        )
    # Some copies of the archive write abe's_flyingfish without its apostrophe.
    there = [name if (home / name).is_dir() else name.replace("'", "") for name in chosen]
    return FSSFolder(home, classes=there, numbers={name: list(IMAGES) for name in there})


@cache
def mosaic_tiles() -> tuple[tuple[Tile, ...], ...]:
    """The 1,000 mosaics of the list: four (class folder, image number), row by row, of different classes."""
    lines = gzip.decompress(_packaged("mosaic4.txt.gz")).decode().splitlines()
    rows = ([tile.split("/") for tile in line.split()] for line in lines)
    return tuple(tuple((name, int(number)) for name, number in row) for row in rows)


def draw_mosaics(*, count: int = MOSAICS, seed: int = SEED, grid: int = 2) -> tuple[tuple[Tile, ...], ...]:
    """Seeded mosaics of the test classes; the defaults drew the list. Needs no data, only the class names."""
    tiles = [(name, number) for name in classes("test") for number in IMAGES]
    groups = mosaic_indices([name for name, _ in tiles], count=count, seed=seed, grid=grid)
    return tuple(tuple(tiles[index] for index in group) for group in groups)


def mosaics(root: Path, *, size: int) -> Mosaics:
    """The mosaics of the list, ``size`` x ``size`` pixels. Raises FusionerError as ``split`` does."""
    place = {name: index * len(IMAGES) for index, name in enumerate(classes("test"))}
    groups = [tuple(place[name] + number - 1 for name, number in tiles) for tiles in mosaic_tiles()]
    return Mosaics(split(root, "test"), groups, size=size)


def _packaged(name: str) -> bytes:
    return (resources.files("fusionerlib") / "datasets" / "splits" / "fss1000" / name).read_bytes()
