"""COCO-20i, the few-shot benchmark on COCO 2014: its 80 classes are in four folds by index, each held out in turn."""

import gzip
import os
import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

from fusionerlib.datasets.coco_instances import CocoInstances
from fusionerlib.datasets.formats.coco_json import NAMES
from fusionerlib.datasets.formats.shapes import object_mask
from fusionerlib.datasets.mask_folder import read_indices, read_pair
from fusionerlib.datasets.pascal import Novel, Split
from fusionerlib.datasets.scene import IGNORE, Scene, relabelled
from fusionerlib.digests import content_digests
from fusionerlib.errors import FusionerError, one_of
from fusionerlib.files import fingerprint
from fusionerlib.images import read_image

FOLDS = range(4)
Source = Literal["png", "instances"]
_FILE = re.compile(r"(\d{12})\.jpg")


class Coco20i:
    """The scenes of one fold's published training or validation list.

    ``train``: images of train2014; names are the classes of the other three folds that the list gives to the image.
    Pixels of the fold's own classes are background, as in the paper, or ignored with ``novel="ignore"``.
    ``val``: images of val2014; names are the classes of the fold that the list gives to the image; all other pixels
    are background. ``novel`` has no effect.
    The lists leave out a class that covers fewer than 2 * 32 * 32 pixels of an image; its pixels are background.

    root: the folder that holds ``annotations`` and the images: ``train2014`` and ``val2014``, or ``train2017`` and
    ``val2017`` (the same images), there or under ``images``; or all of them in ``images``.
    source: ``png`` reads the masks published with HSNet (``annotations/val2014/COCO_val2014_<id>.png``, class
    index + 1). ``instances`` paints the objects of ``annotations/instances_*.json`` in the file's order, later ones on
    top, which is how the published lists were made, and ignores the pixels of crowds that no object covers. None reads
    the PNGs where there are any.
    present_only: leave out listed images that are not on disk, instead of raising.

    pairs: (scene index, name), by class and then by image id. missing: how many listed images are not on disk.
    Raises FusionerError for an unknown setting and for missing images or masks; on access for a broken file, an image
    whose size is not its mask's, and a mask with an index that is no class.
    """

    def __init__(
        self,
        root: Path,
        *,
        fold: int,
        split: Split,
        novel: Novel = "background",
        source: Source | None = None,
        present_only: bool = False,
    ) -> None:
        one_of("fold", fold, FOLDS)
        one_of("split", split, ("train", "val"))
        one_of("novel", novel, ("background", "ignore"))
        one_of("source", source, (None, *get_args(Source)))
        self.root, self.fold, self.split = Path(root), fold, split
        listed = fold_pairs(fold, split)
        wanted = sorted({image for image, _ in listed})
        self._images = _images(self.root, split, wanted, present_only=present_only)
        self._ids = list(self._images)
        place = {image: index for index, image in enumerate(self._ids)}
        present = [(place[image], number) for image, number in listed if image in place]
        self.pairs = [(scene, NAMES[number]) for scene, number in present]
        self.missing = len(wanted) - len(self._images)
        classes: list[list[int]] = [[] for _ in self._ids]
        for scene, number in present:
            classes[scene].append(number)
        self._classes = [tuple(sorted(numbers)) for numbers in classes]
        self._ignored = [number + 1 for number in fold_classes(fold)] if (split, novel) == ("train", "ignore") else []
        folder = self.root / "annotations" / f"{split}2014"
        self.source: Source = source or ("png" if folder.is_dir() else "instances")
        if self.source == "png":
            self._masks = _masks(folder, split, self._images)
        else:
            self._painters = _painters(self.root, split, self._images)
        origin = content_digests([*self._images.values(), *(self._masks.values() if self.source == "png" else ())])
        if self.source == "instances":
            origin += sorted({painter.scenes.digest for painter in self._painters.values()})
        self.fingerprint = fingerprint("coco20i", fold, split, self._ignored, self._ids, present, self.source, origin)

    def __len__(self) -> int:
        return len(self._ids)

    def names(self, index: int) -> tuple[str, ...]:
        """The names that the list gives scene ``index``, in the order of the classes."""
        return tuple(NAMES[number] for number in self._classes[index])

    def __getitem__(self, index: int) -> Scene:
        number = self._ids[index]
        if self.source == "png":
            mask = self._masks[number]
            raw = read_indices(mask, known=range(len(NAMES) + 1), meaning="COCO's class index + 1")
            image = read_pair(self._images[number], raw, mask)
        else:
            image = read_image(self._images[number])
            raw = self._painters[number].paint(number, image.shape[0], image.shape[1])
        labels = relabelled(raw, classes=[c + 1 for c in self._classes[index]], ignored=self._ignored)
        return Scene(image=image, labels=labels, names=self.names(index), key=str(number))


def fold_classes(fold: int) -> tuple[int, ...]:
    """The twenty classes (0-79) that ``fold`` (0-3) holds out."""
    return tuple(range(fold, len(NAMES), len(FOLDS)))


@cache
def published_pairs(split: Split) -> tuple[tuple[int, int], ...]:
    """The published lists of all folds together: (image id, class 0-79), by class and then by image."""
    file = resources.files("fusionerlib") / "datasets" / "splits" / "coco20i" / f"{split}.txt.gz"
    # A line for each class: the first image id, then the differences between ids, which take half the space.
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    return tuple((image, number) for number, line in enumerate(lines) for image in accumulate(map(int, line.split())))


def fold_pairs(fold: int, split: Split) -> list[tuple[int, int]]:
    """The pairs (image id, class 0-79) that ``fold`` trains or validates on, by class and then by image."""
    held_out = set(fold_classes(fold))
    return [(image, number) for image, number in published_pairs(split) if (number in held_out) == (split == "val")]


class _Painter:
    """Paints the objects of one instances file, as class + 1, in the file's order."""

    def __init__(self, root: Path, *, annotations: Path, images: Path) -> None:
        self.scenes = CocoInstances(root, annotations=annotations, images=images)
        if odd := sorted(set(self.scenes.categories) - set(NAMES)):
            raise FusionerError(
                f"{annotations} has categories that are none of COCO's 80 ({', '.join(odd[:3])}): COCO-20i needs "
                "COCO's own instances_*.json; read a data set of your own as a folder"
            )

    def __contains__(self, number: int) -> bool:
        return bool(self.scenes.instances(number))

    def paint(self, number: int, height: int, width: int) -> UInt8[np.ndarray, "height width"]:
        where = f"{self.scenes.file}, image {number}"
        if (size := self.scenes.sizes.get(number, (height, width))) != (height, width):
            raise FusionerError(f"{where} is {size} there, on disk {(height, width)} (height, width)")
        raw = np.zeros((height, width), dtype=np.uint8)
        for item in sorted(self.scenes.instances(number), key=lambda item: not item.crowd):
            value = IGNORE if item.crowd else NAMES.index(item.name) + 1
            raw[object_mask(item.shape, height, width, where=where)] = value
        return raw


def _painters(root: Path, split: Split, images: dict[int, Path]) -> dict[int, _Painter]:
    """By image id: the instances file named after the image's folder, else the split's, else any that has the image."""
    everything = sorted((root / "annotations").glob("instances*.json"))
    painters: dict[int, _Painter] = {}
    for folder in dict.fromkeys(file.parent for file in images.values()):
        inside = [number for number, image in images.items() if image.parent == folder]
        own = [file for file in everything if file.stem in (f"instances_{folder.name}", f"instances_{split}2014")]
        for file in own or everything:
            painter = _Painter(root, annotations=file, images=folder)
            painters |= {number: painter for number in inside if number in painter}
    if lost := [number for number in images if number not in painters]:
        raise FusionerError(
            f"{len(lost)} of {len(images)} listed images, {images[lost[0]]} first, have no masks: neither ready-made "
            f"PNGs nor an entry in {root / 'annotations'}/instances_*.json ({len(everything)} files there); unpack "
            "annotations_trainval2014.zip or annotations_trainval2017.zip"
        )
    return painters


def _images(root: Path, split: Split, numbers: list[int], *, present_only: bool) -> dict[int, Path]:
    found: dict[int, Path] = {}
    parts = (f"{split}2014", "train2017", "val2017", "")
    for folder in (root / home / part for part in parts for home in ("", "images")):
        for name in os.listdir(folder) if folder.is_dir() else ():
            if match := _FILE.fullmatch(name.removeprefix(f"COCO_{split}2014_")):
                found.setdefault(int(match[1]), folder / name)
    lost = [number for number in numbers if number not in found]
    present = len(numbers) - len(lost)
    if lost and not (present_only and present):
        name = f"{lost[0]:012d}.jpg"
        raise FusionerError(
            f"{len(lost)} of the {len(numbers)} images listed for this fold and split are not under {str(root)!r}, "
            f"{split}2014/COCO_{split}2014_{name} first (in COCO 2017 train2017/{name} or val2017/{name}): unpack them "
            + (f"there, or pass present_only=True to use only the other {present}" if present else "there")
        )
    return {number: found[number] for number in numbers if number in found}


def _masks(folder: Path, split: Split, images: Iterable[int]) -> dict[int, Path]:
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    masks = {number: folder / f"COCO_{split}2014_{number:012d}.png" for number in images}
    if lost := [mask for mask in masks.values() if mask.name not in present]:
        raise FusionerError(
            f"{len(lost)} of {len(masks)} masks are missing, {lost[0]} first: unpack all of HSNet's annotations there, "
            'or pass source="instances"'
        )
    return masks
