"""PASCAL-5i: PASCAL VOC 2012 with SBD's masks, its 20 classes in four folds, each held out in turn."""

import gzip
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from fusionerlib.datasets.masks import read_indices, read_pair
from fusionerlib.datasets.scene import IGNORE, Scene
from fusionerlib.errors import FusionerError
from fusionerlib.files import fingerprint

NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle",
    "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person",
    "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
"""The classes as words, class c at ``NAMES[c - 1]``; a row is a fold. VOC itself writes three of them as one word."""

FOLDS = range(4)
NOTHING = -1
"""The fold that holds no class out: all lists train, all lists validate."""
LAYOUTS = ("VOCdevkit/VOC2012", "VOC2012", ".")
"""Where ``JPEGImages`` may lie under the root."""

Split = Literal["train", "val"]
Novel = Literal["background", "ignore"]


class Pascal5i:
    """The scenes of one fold's training or validation list whose images are on disk.

    ``train``: the training lists of the other three folds, without any image of a validation list. A scene is one
    image, its names the classes that those lists give it. Pixels of the fold's own classes are background, as in the
    paper, or ignored with ``novel="ignore"``. ``val``: the fold's validation list; names are the fold's classes that
    the list gives the image, all else is background (``novel`` changes nothing). 255 stays 255.

    pairs: (scene index, name) in the published order. keys: the scenes' keys. missing: how many listed pairs have no
    image on disk.
    root: the folder that holds ``VOCdevkit/VOC2012/JPEGImages``, ``VOC2012/JPEGImages`` or ``JPEGImages``, with
    ``SegmentationClassAug`` beside ``JPEGImages`` or at the root (the layout published with HSNet).
    Raises FusionerError for an unknown fold, split or novel, where no listed image is found or an image has no mask,
    and on reading for a broken image, a mask of another size or with anything but class ids.
    """

    def __init__(self, root: Path, *, fold: int, split: Split, novel: Novel = "background") -> None:
        one_of("fold", fold, (*FOLDS, NOTHING))
        one_of("split", split, ("train", "val"))
        one_of("novel", novel, ("background", "ignore"))
        self.root, self.fold, self.split, self.novel = Path(root), fold, split, novel
        listed = fold_pairs(fold, split)
        self._images, self._masks, sizes = _files(self.root, dict.fromkeys(image for image, _ in listed))
        self.keys = list(self._images)
        place = {key: index for index, key in enumerate(self.keys)}
        present = [(place[image], number) for image, number in listed if image in place]
        self.pairs = [(scene, NAMES[number - 1]) for scene, number in present]
        self.missing = len(listed) - len(present)
        classes: list[list[int]] = [[] for _ in self.keys]
        for scene, number in present:
            classes[scene].append(number)
        self._classes = [tuple(sorted(numbers)) for numbers in classes]
        self._ignored = fold_classes(fold) if split == "train" and novel == "ignore" else ()
        self.fingerprint = fingerprint("pascal5i", fold, split, self._ignored, present, sizes)

    def __len__(self) -> int:
        return len(self.keys)

    def names(self, index: int) -> tuple[str, ...]:
        """The names that the lists give scene ``index``, in the order of the classes."""
        return tuple(NAMES[number - 1] for number in self._classes[index])

    def __getitem__(self, index: int) -> Scene:
        key = self.keys[index]
        raw = read_mask(self._masks[key])
        image = read_pair(self._images[key], raw, self._masks[key])
        labels = relabelled(raw, classes=self._classes[index], ignored=self._ignored)
        return Scene(image=image, labels=labels, names=self.names(index), key=key)


def fold_classes(fold: int) -> tuple[int, ...]:
    """The five class ids (1-20) that ``fold`` (0-3) holds out; none for ``NOTHING``."""
    if fold == NOTHING:
        return ()
    return tuple(range(5 * fold + 1, 5 * fold + 6))


def published(fold: int, split: Split) -> list[tuple[str, int]]:
    """One published list as it stands: (image, class id 1-20) pairs of that fold's own classes."""
    file = resources.files("fusionerlib") / "datasets" / "splits" / f"pascal5i_{split}_fold{fold}.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split()
    return [(image, int(number)) for image, number in (line.split("__") for line in lines)]


def fold_pairs(fold: int, split: Split) -> list[tuple[str, int]]:
    """What ``fold`` validates on, or trains on: (image, class id 1-20) pairs in the published order."""
    if split == "val":
        return [pair for other in FOLDS if fold in (other, NOTHING) for pair in published(other, "val")]
    # The published lists overlap nowhere; this keeps it a property of the split and not of the files.
    held_out = {image for other in FOLDS for image, _ in published(other, "val")}
    others = [pair for other in FOLDS if other != fold for pair in published(other, "train")]
    return [(image, number) for image, number in others if image not in held_out]


def relabelled(
    raw: UInt8[np.ndarray, "height width"], *, classes: Sequence[int], ignored: Sequence[int] = ()
) -> UInt8[np.ndarray, "height width"]:
    """Class ids (0-20, 255) to scene labels: ``classes[k]`` becomes k + 1, ``ignored`` and 255 become 255, else 0."""
    table = np.zeros(256, dtype=np.uint8)
    table[list(classes)] = np.arange(1, len(classes) + 1)
    table[[*ignored, IGNORE]] = IGNORE
    # A table of bytes: several times faster than indexing with an array.
    return np.frombuffer(bytearray(raw).translate(table.tobytes()), dtype=np.uint8).reshape(raw.shape)


def read_mask(file: Path) -> UInt8[np.ndarray, "height width"]:
    """The class ids (0-20, 255) of an index PNG. Raises FusionerError for any other file, naming it."""
    remedy = "take the file of SegmentationClassAug itself, not a converted copy of it"
    return read_indices(file, known=range(len(NAMES) + 1), meaning="the class ids of PASCAL VOC", remedy=remedy)


def one_of(what: str, value: object, known: Iterable[object]) -> None:
    """Raises FusionerError where ``value``, the setting ``what``, is none of ``known``."""
    if value not in (known := list(known)):
        raise FusionerError(f"{what} = {value!r}: expected one of {', '.join(map(repr, known))}")


def _files(root: Path, keys: Iterable[str]) -> tuple[dict[str, Path], dict[str, Path], list[tuple[str, int, int]]]:
    """Image and mask of every one of ``keys`` whose image is under ``root``, and (key, bytes, bytes) of them."""
    keys = list(keys)
    for layout in LAYOUTS:
        folder = root / layout / "JPEGImages"
        images = {key: folder / f"{key}.jpg" for key in keys if (folder / f"{key}.jpg").is_file()}
        if images:
            break
    else:
        tried = ", ".join(str(root / layout / "JPEGImages") for layout in LAYOUTS)
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
    sizes = [(key, images[key].stat().st_size, masks[key].stat().st_size) for key in images]
    return images, masks, sizes
