"""Test sets with all classes labelled in every image: every name can be asked at once, and objects cut out."""

from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from fusionerlib.datasets import coco, pascal
from fusionerlib.datasets.coco_instances import CocoInstances
from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.mask_folder import MaskFolder, paired
from fusionerlib.datasets.names import VocCoco, canonical
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.errors import FusionerError, one_of
from fusionerlib.files import read_text


class Layout(NamedTuple):
    """Where a published data set with index masks lies under its root; mask index c is class c of its list of names.

    roots: folders under the root to try. images, masks: folders under the first of ``roots`` that has the images;
    masks may also lie at the root itself. listing: the file with the stems of a split; "" where each split has folders
    of its own. splits: the names of the splits here, to the publisher's. zero_ignored: whether index 0 is ignored; it
    is background otherwise.
    """

    roots: tuple[str, ...]
    images: str
    masks: tuple[str, ...]
    listing: str
    splits: Mapping[str, str]
    zero_ignored: bool


_VOC_SPLITS = {"train": "train", "val": "val", "trainval": "trainval"}
_CONTEXT = Layout(
    roots=("VOCdevkit/VOC2010", "VOC2010", "."),
    images="JPEGImages",
    masks=("SegmentationClassContext",),
    listing="ImageSets/SegmentationContext/{split}.txt",
    splits={"train": "train", "val": "val"},
    zero_ignored=True,
)
LAYOUTS: dict[str, Layout] = {
    "ade20k-150": Layout(
        roots=("ADEChallengeData2016", "."),
        images="images/{split}",
        masks=("annotations/{split}",),
        listing="",
        splits={"train": "training", "val": "validation"},
        zero_ignored=True,
    ),
    "pascal-context-59": _CONTEXT,
    "pascal-context-60": _CONTEXT._replace(zero_ignored=False),
    "voc-20": Layout(
        roots=pascal.ROOTS,
        images="JPEGImages",
        masks=("SegmentationClassAug", "SegmentationClass"),
        listing="ImageSets/Segmentation/{split}.txt",
        splits=_VOC_SPLITS,
        zero_ignored=False,
    ),
}
"""ADE20K: the scene parsing benchmark of 2016, where 0 is "other". PASCAL-Context: the 59 frequent classes in
alphabetical order, where 0 is any other class; it is ignored in ``pascal-context-59`` and background in
``pascal-context-60``. VOC: its 20 classes and background."""

COCO_OBJECT = "coco-object"
"""COCO's 80 classes and background, from its instances file; images without an object are left out."""

_NAMES_FILES = {"ade20k-150": "ade20k-150.txt", "pascal-context-59": "pascal-context-59.txt"}


ALL_CLASSES_TESTS = ("pascal", "photos", "coco", "folder", *LAYOUTS, COCO_OBJECT)
"""The data sets that ``all_classes_test`` reads."""


def all_classes_test(dataset: str, root: Path) -> Scenes:
    """The test images of a data set with all of its classes labelled, at their own sizes.

    pascal: the images of PASCAL-5i's four validation lists that are on disk; no fold trains on them. photos: the same
    with canonical names. coco: the images of the 2017 validation instances file, else 2014's, else of the only file
    there is. folder: the user's validation images. Any other: ``read_set``.
    Raises FusionerError for a data set without such a test, and where files are missing.
    """
    if dataset == "pascal":
        return pascal_validation_images(root)
    if dataset == "photos":
        return VocCoco(pascal_validation_images(root))
    if dataset == "coco":
        files = [Path(root) / "annotations" / f"instances_val{year}.json" for year in (2017, 2014)]
        return CocoInstances(Path(root), annotations=next((file for file in files if file.is_file()), None))
    if dataset == "folder":
        return read_folder(Path(root), split="val")
    if dataset in ALL_CLASSES_TESTS:
        return read_set(dataset, Path(root))
    raise FusionerError(
        f"data set {dataset!r} has no test with every class labelled: expected one of {', '.join(ALL_CLASSES_TESTS)}"
    )


def all_classes_names(dataset: str, root: Path) -> tuple[str, ...]:
    """Every name that ``all_classes_test`` may label, in the data set's order."""
    if dataset == "pascal":
        return pascal.NAMES
    if dataset == "photos":
        return tuple(canonical(name) for name in pascal.NAMES)
    if dataset == "coco":
        return coco.NAMES
    if dataset == "folder":
        return tuple(vocabulary(all_classes_test(dataset, root)))
    return class_names(dataset)


def pascal_validation_images(root: Path) -> MaskFolder:
    """The images of PASCAL-5i's four validation lists that are on disk, with all of VOC's 20 classes.

    Raises FusionerError where none of them is on disk.
    """
    listed = {image for image, _ in pascal.validation_pairs(pascal.NO_FOLD)}
    scenes = read_index_masks("voc-20", Path(root), split=None, keys=listed)
    if not len(scenes):
        raise FusionerError(
            f"PASCAL root {str(root)!r} holds none of the {len(listed)} images of the four validation lists "
            f"({min(listed)}.jpg first): unpack all of VOC 2012 there"
        )
    return scenes


@cache
def class_names(dataset: str) -> tuple[str, ...]:
    """The classes of a published test set in order, as words. Raises FusionerError for an unknown one."""
    if dataset == COCO_OBJECT:
        return coco.NAMES
    if dataset == "voc-20":
        return pascal.NAMES
    one_of("test set", dataset, (*LAYOUTS, COCO_OBJECT))
    folder = resources.files("fusionerlib") / "datasets" / "splits" / "names"
    file = folder / _NAMES_FILES[dataset.replace("-60", "-59")]
    # ADE20K lists synonyms; the first is the name.
    return tuple(line.split(",")[0] for line in file.read_text(encoding="utf-8").splitlines())


def read_set(dataset: str, root: Path, *, split: str | None = "val") -> Scenes:
    """One split of a published test set. For VOC and PASCAL-Context, ``split=None`` takes every image with a mask.

    Raises FusionerError for an unknown data set or split, and where images, masks or the split's list are missing.
    """
    if dataset != COCO_OBJECT:
        return read_index_masks(dataset, root, split=split)
    file = Path(root) / "annotations" / f"instances_{split}2017.json"
    return CocoInstances(Path(root), annotations=file if file.is_file() else None)


def read_index_masks(
    dataset: str, root: Path, *, split: str | None = "val", keys: Collection[str] | None = None
) -> MaskFolder:
    """``read_set`` for the data sets of ``LAYOUTS``. keys: only the scenes with these keys; all if None.

    Raises FusionerError as ``read_set`` does.
    """
    names = class_names(dataset)
    if dataset not in LAYOUTS:
        raise FusionerError(f"test set {dataset!r} has no index masks: expected one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[dataset]
    if split not in layout.splits and (split is not None or not layout.listing):
        raise FusionerError(f"split = {split!r} of {dataset}: expected one of {', '.join(layout.splits)}")
    part = layout.splits.get(split or "", "")
    home = _home(dataset, Path(root), [Path(root) / prefix for prefix in layout.roots], layout.images, part)
    images = home / layout.images.format(split=part)
    places = [place / masks.format(split=part) for masks in layout.masks for place in (home, Path(root))]
    masks = next((place for place in places if place.is_dir()), None)
    if masks is None:
        tried = ", ".join(map(str, dict.fromkeys(places)))
        raise FusionerError(f"{images} has images but there are no masks: looked for {tried}; unpack them there")
    files = paired(images, masks, _stems(home / layout.listing.format(split=part), masks, split, layout))
    files = files if keys is None else [file for file in files if file[0] in keys]
    return MaskFolder(
        files,
        classes=dict(enumerate(names, start=1)),
        background=() if layout.zero_ignored else (0,),
        ignored=(0,) if layout.zero_ignored else (),
        meaning=f"the index list of {dataset}",
    )


def _home(dataset: str, root: Path, homes: list[Path], images: str, part: str) -> Path:
    for home in homes:
        if (home / images.format(split=part)).is_dir():
            return home
    tried = ", ".join(str(home / images.format(split=part)) for home in homes)
    raise FusionerError(f"{dataset} root {str(root)!r} has no images: looked for {tried}; point root above them")


def _stems(listing: Path, masks: Path, split: str | None, layout: Layout) -> list[str] | None:
    if not layout.listing:
        return None
    if split is None:
        return sorted(file.stem for file in masks.glob("*.png"))
    if not listing.is_file():
        raise FusionerError(
            f"{listing} is missing, the list of the split {split!r}: unpack ImageSets beside the images, or ask for "
            "split None, every image that has a mask"
        )
    return read_text(listing).split()
