"""PASCAL-5i: PASCAL VOC 2012 with SBD's masks; its 20 classes in four folds, each held out in turn (Shaban et al.,
BMVC 2017).

Validation is on published lists of (image, class) pairs. Training is on the usual 10,582 images (VOC 2012 and SBD
without VOC's validation images); their pairs are the classes that occur in each mask, except those of the fold.
"""

import gzip
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from fusionerlib.datasets.mask_folder import indices_in, read_indices, read_pair
from fusionerlib.datasets.scene import IGNORE, Scene, relabelled
from fusionerlib.digests import content_digests
from fusionerlib.errors import FusionerError, one_of
from fusionerlib.files import fingerprint

NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle",
    "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person",
    "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
"""The classes as words, class c (1-20) at ``NAMES[c - 1]``; a row is a fold. VOC's own identifiers have no spaces."""

FOLDS = range(4)
NO_FOLD = -1
"""In place of a fold: no class is held out. All classes train, the four validation lists together validate."""
TRAINING_PAIRS = (2885, 3816, 6529, 2325)
"""How many training pairs (image, class) the five classes of each fold have."""
ROOTS = ("VOCdevkit/VOC2012", "VOC2012", ".")
"""Where ``JPEGImages`` may lie under the root."""
_READERS = 4

Split = Literal["train", "val"]
Novel = Literal["background", "ignore"]


class Pascal5i:
    """The scenes of one fold that train or validate, as far as their images are on disk.

    ``train``: those of the 10,582 training images that show a class outside the fold; their names are these classes.
    Pixels of the fold's own classes are background, as in the paper, or ignored with ``novel="ignore"``. Every mask is
    read once, on construction.
    ``val``: the fold's validation list. A scene's names are the classes that the list gives to its image; all other
    pixels are background. ``novel`` has no effect.

    pairs: (scene index, name), for ``train`` by class and then by image, for ``val`` in the published order.
    keys: the image names, by scene. missing: how many listed images are not on disk.
    root: the folder that holds ``VOCdevkit/VOC2012/JPEGImages``, ``VOC2012/JPEGImages`` or ``JPEGImages``, with
    ``SegmentationClassAug`` beside ``JPEGImages`` or at the root (the layout of the published code of HSNet).
    Raises FusionerError for an unknown fold, split or novel; where no listed image is found, an image has no mask, or
    no training image shows a class outside the fold. Raises it when a mask or image is read that is broken, a mask of
    another size than its image, and one with an index that is no class.
    """

    def __init__(self, root: Path, *, fold: int, split: Split, novel: Novel = "background") -> None:
        one_of("fold", fold, (*FOLDS, NO_FOLD))
        one_of("split", split, ("train", "val"))
        one_of("novel", novel, ("background", "ignore"))
        self.root, self.fold, self.split, self.novel = Path(root), fold, split, novel
        listed = validation_pairs(fold) if split == "val" else []
        wanted = training_images() if split == "train" else tuple(dict.fromkeys(image for image, _ in listed))
        self._images, self._masks = _files(self.root, wanted)
        self.missing = len(wanted) - len(self._images)
        if split == "train":
            listed = class_present_pairs(self._masks, without=fold_classes(fold))
        if not (present := [(image, number) for image, number in listed if image in self._images]):
            raise FusionerError(
                f"none of the {len(self._images)} images under {str(root)!r} shows a class that trains on fold {fold}: "
                "unpack all of VOC 2012 there"
            )
        self.keys = list(dict.fromkeys(image for image, _ in present))
        place = {key: index for index, key in enumerate(self.keys)}
        self.pairs = [(place[image], NAMES[number - 1]) for image, number in present]
        classes: dict[str, list[int]] = {key: [] for key in self.keys}
        for image, number in present:
            classes[image].append(number)
        self._classes = [tuple(sorted(classes[key])) for key in self.keys]
        self._ignored = fold_classes(fold) if split == "train" and novel == "ignore" else ()
        digests = content_digests([file for key in self.keys for file in (self._images[key], self._masks[key])])
        numbers = [(place[image], number) for image, number in present]
        self.fingerprint = fingerprint("pascal5i", fold, split, self._ignored, numbers, self.keys, digests)

    def __len__(self) -> int:
        return len(self.keys)

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index``, in the order of the classes."""
        return tuple(NAMES[number - 1] for number in self._classes[index])

    def __getitem__(self, index: int) -> Scene:
        key = self.keys[index]
        raw = read_mask(self._masks[key])
        image = read_pair(self._images[key], raw, self._masks[key])
        labels = relabelled(raw, classes=self._classes[index], ignored=self._ignored)
        return Scene(image=image, labels=labels, names=self.names(index), key=key)


def fold_classes(fold: int) -> tuple[int, ...]:
    """The five class indices (1-20) that ``fold`` (0-3) holds out; none for ``NO_FOLD``."""
    if fold == NO_FOLD:
        return ()
    return tuple(range(5 * fold + 1, 5 * fold + 6))


@cache
def training_images() -> tuple[str, ...]:
    """The 10,582 images that train, sorted: every image with a mask of VOC 2012 or SBD, without VOC's own ``val``."""
    return tuple(_packaged("pascal5i_train_images.txt.gz"))


def training_pair_count(fold: int) -> int:
    """How many (image, class) pairs train where ``fold`` is held out, without reading a mask."""
    return sum(count for other, count in enumerate(TRAINING_PAIRS) if other != fold)


def validation_pairs(fold: int) -> list[tuple[str, int]]:
    """The published validation list of ``fold`` (all four for ``NO_FOLD``): (image, class 1-20) pairs in its order."""
    folds = FOLDS if fold == NO_FOLD else (fold,)
    lines = [line.split("__") for one in folds for line in _packaged(f"pascal5i_val_fold{one}.txt.gz")]
    return [(image, int(number)) for image, number in lines]


def class_present_pairs(masks: dict[str, Path], *, without: Collection[int] = ()) -> list[tuple[str, int]]:
    """(image, class 1-20) for every class that occurs in the mask of an image, by class and then by image.

    masks: image to mask file. without: classes that are left out. Raises FusionerError as ``read_mask`` does.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(_classes_in, masks.values(), content_digests([*masks.values()]))
        pairs = [(number, image) for image, numbers in zip(masks, found, strict=True) for number in numbers]
    return [(image, number) for number, image in sorted(pairs) if number not in without]


@cache
def _classes_in(file: Path, digest: str) -> frozenset[int]:
    """The classes in a mask, remembered until the file holds something else (``digest``)."""
    return frozenset(indices_in(read_mask(file)) - {0, IGNORE})


def read_mask(file: Path) -> UInt8[np.ndarray, "height width"]:
    """The class indices (0-20, 255) of an index PNG. Raises FusionerError for any other file, naming it."""
    remedy = "take the file of SegmentationClassAug itself, not a converted copy of it"
    return read_indices(file, known=range(len(NAMES) + 1), meaning="the class ids of PASCAL VOC", remedy=remedy)


def _packaged(name: str) -> list[str]:
    """The lines of one of the packaged lists."""
    file = resources.files("fusionerlib") / "datasets" / "splits" / name
    return gzip.decompress(file.read_bytes()).decode().split()


def _files(root: Path, keys: tuple[str, ...]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Image and mask file of each of ``keys`` whose image is under ``root``."""
    for layout in ROOTS:
        folder = root / layout / "JPEGImages"
        images = {key: folder / f"{key}.jpg" for key in keys if (folder / f"{key}.jpg").is_file()}
        if images:
            break
    else:
        tried = ", ".join(str(root / layout / "JPEGImages") for layout in ROOTS)
        raise FusionerError(
            f"PASCAL root {str(root)!r} holds none of the {len(keys)} images listed for this fold and split: looked "
            f"for <image>.jpg (such as {keys[0]}.jpg) in {tried}; point root at the folder that holds VOCdevkit"
        )
    places = (folder.parent / "SegmentationClassAug", root / "SegmentationClassAug")
    home = next((place for place in places if place.is_dir()), None)
    if home is None:
        raise FusionerError(
            f"{folder} has images but there are no masks: looked for {' and '.join(map(str, dict.fromkeys(places)))}; "
            "unpack SegmentationClassAug (VOC 2012 with SBD's masks) there"
        )
    masks = {key: home / f"{key}.png" for key in images}
    for key, mask in masks.items():
        if not mask.is_file():
            raise FusionerError(f"{images[key]} has no mask {mask}: copy the mask there, or remove the image")
    return images, masks
