"""FSS-1000: its layout (a folder for each class, ``<n>.jpg`` beside the mask ``<n>.png``, one object in each image),
the published split of its 1,000 classes, and this project's list of Mosaic-4 mosaics of the test classes.
"""

import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from fusionerlib.datasets.mosaics import Mosaics, mosaic_indices
from fusionerlib.datasets.scene import Scene
from fusionerlib.digests import content_digests
from fusionerlib.errors import FusionerError, one_of
from fusionerlib.files import fingerprint
from fusionerlib.images import open_image

UNEVEN = ("crt_screen/6", "rocking_chair/9", "rubber_eraser/8", "ruler/10", "screw/8", "shower_curtain/3")
"""Images of FSS-1000 whose published masks are larger than they are."""
THRESHOLD = 128
"""Mask pixels of at least this value belong to the object."""


Part = Literal["train", "val", "test"]
IMAGES = range(1, 11)
"""The numbers of the images of a class."""
MOSAICS, SEED = 1000, 2210
"""Size of the list of mosaics, and the seed that it was drawn with."""
HOMES = (".", "FSS-1000", "fewshot_data", "fewshot_data/fewshot_data")
"""Where the class folders may lie under the root (the last as in the publishers' archive)."""

Tile = tuple[str, int]


class FSSFolder:
    """The one-object scenes of the class folders under ``root``, class by class, by image number.

    A folder ``blue_bicycle`` has the name "blue bicycle".
    classes: class folders; all, sorted, if None. numbers: the image numbers of each class; all if None.
    Raises FusionerError where the root or a class has no image, and on access for a broken image or mask, and for a
    mask whose size is not its image's.
    """

    def __init__(
        self, root: Path, *, classes: Sequence[str] | None = None, numbers: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.root = Path(root)
        if classes is None:
            classes = sorted(numbers or (folder.name for folder in self.root.glob("*") if folder.is_dir()))
        self._files = [
            self.root / folder / f"{number}.jpg"
            for folder in classes
            for number in (_numbers(self.root / folder) if numbers is None else numbers[folder])
        ]
        if not self._files:
            raise FusionerError(
                f"{self.root} holds no class folder with images: expected <class>/<n>.jpg and <class>/<n>.png"
            )
        if lost := next((file for file in self._files if not file.is_file()), None):
            raise FusionerError(f"{lost} is missing: copy the data set again")
        masks = [file.with_suffix(".png") for file in self._files]
        files = [*self._files, *(mask for mask in masks if mask.is_file())]
        keys = [(file.parent.name, file.name) for file in self._files]
        self.fingerprint = fingerprint("fss", keys, content_digests(files))

    def __len__(self) -> int:
        return len(self._files)

    def names(self, index: int) -> tuple[str, ...]:
        """The one name of scene ``index``."""
        return (self._files[index].parent.name.replace("_", " "),)

    def __getitem__(self, index: int) -> Scene:
        file = self._files[index]
        image, mask = read_pixels(file, "RGB"), read_pixels(file.with_suffix(".png"), "L")
        key = f"{file.parent.name}/{file.stem}"
        if key in UNEVEN:
            mask = np.array(Image.fromarray(mask).resize((image.shape[1], image.shape[0]), Image.Resampling.NEAREST))
        if image.shape[:2] != mask.shape:
            raise FusionerError(
                f"{file.with_suffix('.png')} is {mask.shape[::-1]} pixels, its image {image.shape[1::-1]} "
                "(width, height): export the mask again at the image's size"
            )
        labels = (mask >= THRESHOLD).astype(np.uint8)
        return Scene(image=image, labels=labels, names=self.names(index), key=key)


def read_pixels(file: Path, mode: str) -> np.ndarray:
    """An image file as uint8 array, in Pillow mode "RGB" or "L". Raises FusionerError for a missing or broken file."""
    try:
        with open_image(file, f"image {file}") as image:
            return np.array(image.convert(mode))
    except FileNotFoundError as error:
        raise FusionerError(f"{file} is missing: copy the data set again") from error
    except (OSError, SyntaxError) as error:
        raise FusionerError(f"{file} can't be read as an image ({error}): copy it again or delete its class") from error


def _numbers(folder: Path) -> list[int]:
    numbers = sorted(int(file.stem) for file in folder.glob("*.jpg") if file.stem.isdigit())
    if not numbers:
        raise FusionerError(f"class folder {folder} holds no <n>.jpg: copy the data set again, or leave that class out")
    return numbers


@cache
def classes(part: Part) -> tuple[str, ...]:
    """The class folders of a part in the published order: 520 of ``train``, 240 of ``val``, 240 of ``test``."""
    one_of("part of FSS-1000", part, get_args(Part))
    return tuple(_packaged(f"{part}.txt").decode().split())


def split(root: Path, part: Part) -> FSSFolder:
    """The scenes of a part, class by class in the published order: scene i is image i % 10 + 1 of class i // 10.

    Raises FusionerError for an unknown part, and for a missing image.
    """
    chosen = classes(part)
    homes = [Path(root) / home for home in HOMES]
    home = next((home for home in homes if any((home / name).is_dir() for name in chosen)), None)
    if home is None:
        raise FusionerError(
            f"FSS-1000 root {str(root)!r} has none of the {len(chosen)} class folders of {part!r}: looked for "
            f"{chosen[0]}, {chosen[1]}, ... in {', '.join(map(str, homes))}; point root at the folder that holds them"
        )
    # Some copies of the archive have abe's_flyingfish without the apostrophe.
    folders = [name if (home / name).is_dir() else name.replace("'", "") for name in chosen]
    return FSSFolder(home, classes=folders, numbers={name: list(IMAGES) for name in folders})


@cache
def mosaic_tiles() -> tuple[tuple[Tile, ...], ...]:
    """The list of 1,000 mosaics: for each the (class folder, image number) of its four tiles, row by row."""
    lines = gzip.decompress(_packaged("mosaic4.txt.gz")).decode().splitlines()
    rows = ([tile.split("/") for tile in line.split()] for line in lines)
    return tuple(tuple((name, int(number)) for name, number in row) for row in rows)


def draw_mosaics(*, count: int = MOSAICS, seed: int = SEED, grid: int = 2) -> tuple[tuple[Tile, ...], ...]:
    """Random mosaics of the test classes, in the form of ``mosaic_tiles``; the defaults drew that list."""
    tiles = [(name, number) for name in classes("test") for number in IMAGES]
    groups = mosaic_indices([name for name, _ in tiles], count=count, seed=seed, grid=grid)
    return tuple(tuple(tiles[index] for index in group) for group in groups)


def mosaics(root: Path, *, size: int) -> Mosaics:
    """The 1,000 mosaics of the list, ``size`` x ``size`` pixels. Raises FusionerError as ``split`` does."""
    place = {name: index * len(IMAGES) for index, name in enumerate(classes("test"))}
    groups = [tuple(place[name] + number - 1 for name, number in tiles) for tiles in mosaic_tiles()]
    return Mosaics(split(root, "test"), groups, size=size)


def _packaged(name: str) -> bytes:
    return (resources.files("fusionerlib") / "datasets" / "splits" / "fss1000" / name).read_bytes()
