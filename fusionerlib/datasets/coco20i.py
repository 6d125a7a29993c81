"""COCO-20i: COCO's 80 classes in four folds by index, each held out in turn, on the images of COCO 2014."""

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

from fusionerlib.datasets.coco import CocoInstances, object_mask
from fusionerlib.datasets.masks import read_indices, read_pair
from fusionerlib.datasets.pascal import Novel, Split, one_of, relabelled
from fusionerlib.datasets.scene import IGNORE, Scene
from fusionerlib.errors import FusionerError
from fusionerlib.files import fingerprint
from fusionerlib.images import read_image

NAMES = (
    "person", "bicycle", "car", "motorcycle",
    "airplane", "bus", "train", "truck",
    "boat", "traffic light", "fire hydrant", "stop sign",
    "parking meter", "bench", "bird", "cat",
    "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe",
    "backpack", "umbrella", "handbag", "tie",
    "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove",
    "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife",
    "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot",
    "hot dog", "pizza", "donut", "cake",
    "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop",
    "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""COCO's names in its order of categories, class c at ``NAMES[c]``; a column is a fold."""

FOLDS = range(4)
Source = Literal["png", "instances"]
_FILE = re.compile(r"(\d{12})\.jpg")


class Coco20i:
    """The scenes of one fold's training or validation list.

    ``train``: images of train2014, with the classes of the other three folds that the list gives them; pixels of the
    fold's own classes are background, as in the paper, or ignored with ``novel="ignore"``. ``val``: images of val2014,
    with the fold's classes that the list gives them; all else is background (``novel`` changes nothing). The lists
    leave out a class that covers fewer than 2 * 32 * 32 pixels of an image: it is background. 255 is ignored.

    root: the folder that holds ``annotations`` and the images: ``train2014`` and ``val2014``, or ``train2017`` and
    ``val2017`` (the same images), there or under ``images``; or all of them in ``images``.
    source: ``png`` takes the ready-made masks published with HSNet (``annotations/val2014/COCO_val2014_<id>.png``,
    class index + 1); ``instances`` paints the objects of ``annotations/instances_*.json`` in the file's order, a later
    one on top, as the published masks are painted (so the lists say), and ignores crowds where no object lies on
    them. None takes the PNGs where there are any. present_only: go on without the images that are not on disk.

    pairs: (scene index, name), by class and then by image id. missing: how many listed pairs have no image on disk.
    Raises FusionerError for an unknown setting, missing images or masks, and on reading for a broken file, an image
    of another size than its mask, and a mask with other than class ids.
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
        self._images = _images(self.root, split, sorted({image for image, _ in listed}), present_only=present_only)
        self._ids = list(self._images)
        place = {image: index for index, image in enumerate(self._ids)}
        present = [(place[image], number) for image, number in listed if image in place]
        self.pairs = [(scene, NAMES[number]) for scene, number in present]
        self.missing = len(listed) - len(present)
        classes: list[list[int]] = [[] for _ in self._ids]
        for scene, number in present:
            classes[scene].append(number)
        self._classes = [tuple(sorted(numbers)) for numbers in classes]
        self._ignored = [number + 1 for number in fold_classes(fold)] if (split, novel) == ("train", "ignore") else []
        folder = self.root / "annotations" / f"{split}2014"
        self.source: Source = source or ("png" if folder.is_dir() else "instances")
        if self.source == "png":
            self._masks = _masks(folder, split, self._images)
            files = [file for pair in zip(self._images.values(), self._masks.values(), strict=True) for file in pair]
            origin = [str(file.stat().st_size) for file in files]
        else:
            self._painters = _painters(self.root, split, self._images)
            origin = sorted({painter.fingerprint for painter in self._painters.values()})
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
    """The twenty class indices (0-79) that ``fold`` (0-3) holds out."""
    return tuple(range(fold, len(NAMES), len(FOLDS)))


@cache
def published(split: Split) -> tuple[tuple[int, int], ...]:
    """(image id, class index 0-79) of all folds, by class and then by image: the union of the published lists."""
    file = resources.files("fusionerlib") / "datasets" / "splits" / "coco20i" / f"{split}.txt.gz"
    # A line a class: the first image id, then the steps from id to id, which pack into half the space.
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    return tuple((image, number) for number, line in enumerate(lines) for image in accumulate(map(int, line.split())))


def fold_pairs(fold: int, split: Split) -> list[tuple[int, int]]:
    """What ``fold`` validates on, or trains on: (image id, class index 0-79) pairs, by class and then by image."""
    held_out = set(fold_classes(fold))
    return [(image, number) for image, number in published(split) if (number in held_out) == (split == "val")]


class _Painter:
    """The instances of one file as class index + 1, painted in the file's order."""

    def __init__(self, root: Path, *, annotations: Path, images: Path) -> None:
        self.scenes = CocoInstances(root, annotations=annotations, images=images)
        self.fingerprint = self.scenes.fingerprint
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
    """Who paints each image: the instances file named after the image's folder, or the split's, or any that has it."""
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
    there = len(numbers) - len(lost)
    if lost and not (present_only and there):
        name = f"{lost[0]:012d}.jpg"
        raise FusionerError(
            f"{len(lost)} of the {len(numbers)} images listed for this fold and split are not under {str(root)!r}, "
            f"{split}2014/COCO_{split}2014_{name} first (in COCO 2017 train2017/{name} or val2017/{name}): unpack them "
            + (f"there, or pass present_only=True to go on with the {there} that are" if there else "there")
        )
    return {number: found[number] for number in numbers if number in found}


def _masks(folder: Path, split: Split, images: Iterable[int]) -> dict[int, Path]:
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    masks = {number: folder / f"COCO_{split}2014_{number:012d}.png" for number in images}
    if lost := [mask for mask in masks.values() if mask.name not in there]:
        raise FusionerError(
            f"{len(lost)} of {len(masks)} masks are missing, {lost[0]} first: unpack all of HSNet's annotations there, "
            'or pass source="instances"'
        )
    return masks
