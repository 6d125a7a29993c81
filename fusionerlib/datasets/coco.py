"""COCO: the instances file (2014, 2017 or a file of that format) as scenes, and COCO-20i, the few-shot benchmark on
COCO 2014, whose 80 classes are in four folds by index, each held out in turn.
"""

import gzip
import os
import re
from collections.abc import Callable, Collection, Iterable
from functools import cache
from importlib import resources
from itertools import accumulate
from pathlib import Path, PurePath
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

from fusionerlib.datasets.formats.coco_json import CocoFile, Instance, Row
from fusionerlib.datasets.formats.findings import Findings
from fusionerlib.datasets.formats.names import BACKGROUND
from fusionerlib.datasets.formats.pictures import MASK_FOLDERS, Pictures, absent
from fusionerlib.datasets.formats.shapes import object_mask
from fusionerlib.datasets.formats.upright import drawn_as_stored
from fusionerlib.datasets.mask_folder import read_indices, read_pair
from fusionerlib.datasets.pascal import Novel, Split
from fusionerlib.datasets.scene import IGNORE, Scene, relabelled
from fusionerlib.digests import content_digests
from fusionerlib.errors import FusionerError, one_of
from fusionerlib.files import fingerprint
from fusionerlib.images import read_header, read_image

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
"""COCO's names in the order of its categories, class c (0-79) at ``NAMES[c]``; a column is a fold."""

_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
PUBLISHED = dict(zip((number for number in range(1, 91) if number not in _GAPS), NAMES, strict=True))
"""The ids of COCO's categories, to their names."""
FOLDS = range(4)
Source = Literal["png", "instances"]
_FILE = re.compile(r"(\d{12})\.jpg")


class CocoInstances:
    """The images of one COCO instances file that are on disk and show at least one object.

    A scene's names are the category names of its objects, in the file's order of categories. Where objects overlap,
    the one with fewer pixels is on top. The pixels of a crowd that no object covers are ignored (255). Images without
    an object, or with crowds alone, are left out. A name whose objects are completely covered by smaller ones stays a
    name of the scene, with an empty mask.

    root: the folder that holds ``annotations/instances*.json``. annotations: the file, needed where there are several
    (2014 and 2017 have one for each split). images: the folder of the image files; by default the first of
    ``<split>`` (such as ``val2017``), ``images/<split>``, ``images`` and the root that has them. Files are found in it
    and below it by ``Pictures.find``; of several, the one in a folder named in ``near``.
    own: a file of somebody's own: ``iscrowd`` is read ``by file`` (``CocoFile.read_objects``), and pictures that EXIF
    turns are guarded as ``drawn_as_stored`` says. shown: masks are known to be drawn on the pictures as shown.
    only: whether an image file belongs to the data set; all do if None. prefix: of every key. strict: raise
    FusionerError where anything has to be left out; otherwise a FusionerWarning counts it, with examples.
    categories: every name of the file, in its order. files: the image file of each scene. sizes: (height, width) by
    image id, of all images of the file. digest: sha256 of the file. missing: how many listed images with objects are
    not on disk. findings: what was left out.
    Raises FusionerError where the file or the images are not found or the file is not of COCO's format; on access for
    a broken image, and an image whose size is not the file's.
    """

    def __init__(
        self,
        root: Path,
        *,
        annotations: Path | None = None,
        images: Path | Pictures | None = None,
        near: Collection[str] = (),
        own: bool = False,
        shown: bool = False,
        only: Callable[[Path], bool] | None = None,
        prefix: str = "",
        strict: bool = False,
    ) -> None:
        self.file = Path(annotations) if annotations is not None else _instances_file(Path(root))
        self.findings, self._prefix = Findings(), prefix
        content = CocoFile(self.file, self.findings)
        self.digest, self.categories = content.digest, content.categories
        if not isinstance(images, Pictures):
            folder = images or _image_folder(Path(root), self.file, list(content.rows.values()))
            images = Pictures(Path(folder), skip=MASK_FOLDERS)
        self.images = images.folder
        found = {row.id: images.find(row.file_name, near=near) for row in content.rows.values()}
        for row in [row for row in content.rows.values() if not row.height]:
            self._measure(content.rows, row, found[row.id])
        self.sizes = {row.id: (row.height, row.width) for row in content.rows.values()}
        self._objects = content.read_objects(crowds="by file" if own else "ignored", published=PUBLISHED)
        kept = [row for row in content.rows.values() if self._shown(row.id)]
        if many := [row for row in kept if len(self._shown(row.id)) >= IGNORE]:
            kind = f"images left out, they show more than {IGNORE - 1} categories"
            self.findings.problem(kind, [f"{row.file_name} ({len(self._shown(row.id))})" for row in many])
            kept = [row for row in kept if row not in many]
        there = self._on_disk(kept, found)
        self.missing = len(kept) - len(there)
        self._as_stored: Collection[Path] = ()
        if own:
            sizes = {file: self.sizes[row.id] for row, file in there}
            self._as_stored, unclear = drawn_as_stored(sizes, sizes.__getitem__, self.findings, shown=shown)
            there = [(row, file) for row, file in there if file not in unclear]
        if not there:
            why = f" ({'; '.join(self.findings.problems)})" if self.findings.count() else ""
            raise FusionerError(
                f"{self.images} holds none of the {len(kept)} images with objects that {self.file} lists{why}: "
                "copy the pictures there, or mend the names in the file"
                if kept
                else f"{self.file} has no object that can be used{why}: mend the objects, or export the file again"
            )
        chosen = [(row, file) for row, file in there if only is None or only(file)]
        self._rows, self.files = [row for row, _ in chosen], [file for _, file in chosen]
        names, turned = [row.file_name for row in self._rows], [file in self._as_stored for file in self.files]
        self.fingerprint = fingerprint("coco", self.digest, names, content_digests(self.files), own, turned)
        self.findings.tell(self.file, strict=strict)

    def __len__(self) -> int:
        return len(self._rows)

    def names(self, index: int) -> tuple[str, ...]:
        """The category names of the objects in scene ``index``, without opening its image."""
        present = self._shown(self._rows[index].id)
        return tuple(name for name in self.categories if name in present)

    def instances(self, image: int | str) -> tuple[Instance, ...]:
        """The objects of the image with id ``image``, in the file's order; none for an unknown id."""
        return tuple(self._objects.get(image, ()))

    def labels(self, index: int) -> UInt8[np.ndarray, "height width"]:
        """The label map of scene ``index``, without opening its image."""
        row, names = self._rows[index], (BACKGROUND, *self.names(index))
        objects = self.instances(row.id)
        where = f"{self.file}, image {row.file_name}"
        masks = [object_mask(item.shape, row.height, row.width, where=where) for item in objects]
        labels = np.zeros((row.height, row.width), dtype=np.uint8)
        # Later ones are on top: crowds first, then objects from large to small, equal ones in the file's order.
        for place in sorted(range(len(masks)), key=lambda k: (not objects[k].crowd, -int(masks[k].sum()))):
            item = objects[place]
            labels[masks[place]] = IGNORE if item.crowd else names.index(item.name)
        return labels

    def empty_objects(self, index: int) -> list[str]:
        """The objects of scene ``index`` whose own mask has no pixel, such as a line."""
        row = self._rows[index]
        where = f"{self.file}, image {row.file_name}"
        shapes = ((item.name, item.shape) for item in self.instances(row.id))
        empty = [name for name, shape in shapes if not object_mask(shape, row.height, row.width, where=where).any()]
        return [f"{name} in {row.file_name}" for name in empty]

    def __getitem__(self, index: int) -> Scene:
        row = self._rows[index]
        image = read_image(self.files[index], upright=self.files[index] not in self._as_stored)
        if image.shape[:2] != (row.height, row.width):
            raise FusionerError(
                f"{self.files[index]} is {image.shape[1]}x{image.shape[0]} pixels, {self.file} says "
                f"{row.width}x{row.height}: take the image that the file describes, or scale the file with it"
            )
        return Scene(image=image, labels=self.labels(index), names=self.names(index), key=f"{self._prefix}{row.id}")

    def _shown(self, image: int | str) -> set[str]:
        """The names of an image's objects."""
        return {item.name for item in self.instances(image) if not item.crowd} - {BACKGROUND}

    def _measure(self, rows: dict[int | str, Row], row: Row, found: list[Path]) -> None:
        """Give a row of unknown size that of its picture, or take it off."""
        try:
            height, width = read_header(found[0]).shown if len(found) == 1 else (0, 0)
        except FusionerError:
            height = width = 0
        if height:
            rows[row.id] = row._replace(height=height, width=width)
        else:
            del rows[row.id]
            self.findings.problem("images left out, they have no size and no picture to take it from", row.file_name)

    def _on_disk(self, rows: list[Row], found: dict[int | str, list[Path]]) -> list[tuple[Row, Path]]:
        """The rows whose picture is here, with it; the others go into the findings."""
        there = []
        for row in rows:
            files = found[row.id]
            if not files:
                self.findings.problem(f"images left out, their pictures are not in {self.images}", row.file_name)
            elif len(files) > 1:
                example = f"{row.file_name} ({', '.join(str(file.relative_to(self.images)) for file in files[:2])})"
                self.findings.problem("images left out, several pictures have their name", example)
            elif why := absent(files[0]):
                kind = "images left out, the content of their file is not here"
                self.findings.problem(kind, f"{row.file_name} ({why})")
            else:
                there.append((row, files[0]))
        return there


def _instances_file(root: Path) -> Path:
    found = sorted((root / "annotations").glob("instances*.json"))
    if len(found) != 1:
        what = f"several ({', '.join(file.name for file in found)})" if found else "no annotations/instances*.json"
        raise FusionerError(
            f"COCO root {str(root)!r} has {what}: "
            + ("name one with annotations=" if found else "point root at the folder that holds annotations/")
        )
    return found[0]


def _image_folder(root: Path, file: Path, rows: list[Row]) -> Path:
    split = file.stem.removeprefix("instances").removeprefix("_")
    # Names that lead out of a folder, or to anywhere, decide nothing.
    names = [row.file_name for row in rows if not PurePath(row.file_name).is_absolute() and ".." not in row.file_name]
    places = [root / split, root / "images" / split, root / "images", root]
    for place in dict.fromkeys(places):
        if any((place / name).is_file() for name in names):
            return place
    example = rows[0].file_name if rows else "no image at all"
    raise FusionerError(
        f"none of the {len(rows)} images of {file} (such as {example}) is in "
        f"{', '.join(map(str, dict.fromkeys(places)))}: unpack the images there, or pass images="
    )


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
