"""FSS-1000's layout: one folder a class, ``<n>.jpg`` beside the mask ``<n>.png``, one object an image."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fusionerlib.datasets.scene import Scene
from fusionerlib.errors import FusionerError

UNEVEN = ("crt_screen/6", "rocking_chair/9", "rubber_eraser/8", "ruler/10", "screw/8", "shower_curtain/3")
"""Samples of FSS-1000 whose masks were published larger than their images."""
INSIDE = 128
"""A mask pixel of at least this value belongs to the object."""


class FSSFolder:
    """One-object scenes of the classes under ``root``, class by class, in the order of their numbers.

    classes: folder names, all of them (sorted) if None. numbers: the images to take of each class, all if None.
    A folder ``blue_bicycle`` is called "blue bicycle".
    Raises FusionerError where the root or a class has no image, and on reading for a broken image or mask.
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
        listing = " ".join(f"{file.parent.name}/{file.name}:{_bytes(file)}" for file in self._files)
        self.fingerprint = hashlib.sha256(listing.encode()).hexdigest()

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
        labels = (mask >= INSIDE).astype(np.uint8)
        return Scene(image=image, labels=labels, names=self.names(index), key=key)


def read_pixels(file: Path, mode: str) -> np.ndarray:
    """An image file as an array in Pillow ``mode``. Raises FusionerError naming a missing or broken file."""
    try:
        with Image.open(file) as image:
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


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError as error:
        raise FusionerError(f"{file} is missing: copy the data set again") from error
