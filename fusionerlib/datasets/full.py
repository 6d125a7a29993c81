"""Test scenes with every class labelled: to ask all names of at once, and to cut one-object crops from."""

from pathlib import Path

from fusionerlib.datasets import coco20i, pascal
from fusionerlib.datasets.categories import canonical
from fusionerlib.datasets.coco import CocoInstances
from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.indexed import COCO_OBJECT, LAYOUTS, Indexed, class_names, read_indexed, read_set
from fusionerlib.datasets.photos import Canonical
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.errors import FusionerError

FULL_TESTS = ("pascal", "photos", "coco", "folder", *LAYOUTS, COCO_OBJECT)
"""What ``full_test`` knows."""


def full_test(dataset: str, root: Path) -> Scenes:
    """The test images of a data set with all of their classes labelled, at their own sizes.

    pascal, photos: those images of PASCAL-5i's four validation lists that are on disk; no fold trains on them. photos
    gives canonical names. coco: the images of COCO's validation instances file, or of the only one there is. folder:
    the user's validation images. Any other: the validation split of ``indexed.read_set``.
    Raises FusionerError for a data set that has no such test, and where files are missing.
    """
    if dataset == "pascal":
        return full_pascal(root)
    if dataset == "photos":
        return Canonical(full_pascal(root))
    if dataset == "coco":
        return CocoInstances(Path(root), annotations=_validation_file(Path(root)))
    if dataset == "folder":
        return read_folder(Path(root), split="val")
    if dataset in FULL_TESTS:
        return read_set(dataset, Path(root))
    raise FusionerError(
        f"data set {dataset!r} has no test with every class labelled: expected one of {', '.join(FULL_TESTS)}"
    )


def full_pascal(root: Path) -> Indexed:
    """The images of PASCAL-5i's four validation lists that are on disk, with all of VOC's 20 classes.

    Raises FusionerError where there is none of them.
    """
    listed = {image for fold in pascal.FOLDS for image, _ in pascal.published(fold, "val")}
    scenes = read_indexed("voc-20", Path(root), split=None, keys=listed)
    if not len(scenes):
        raise FusionerError(
            f"PASCAL root {str(root)!r} holds none of the {len(listed)} images of the four validation lists "
            f"({min(listed)}.jpg first): unpack all of VOC 2012 there"
        )
    return scenes


def full_names(dataset: str, root: Path) -> tuple[str, ...]:
    """Every name that ``full_test`` may label, in the data set's order: what is asked at once."""
    if dataset == "pascal":
        return pascal.NAMES
    if dataset == "photos":
        return tuple(canonical(name) for name in pascal.NAMES)
    if dataset == "coco":
        return coco20i.NAMES
    if dataset == "folder":
        return tuple(vocabulary(full_test(dataset, root)))
    return class_names(dataset)


def _validation_file(root: Path) -> Path | None:
    files = [root / "annotations" / f"instances_val{year}.json" for year in (2017, 2014)]
    return next((file for file in files if file.is_file()), None)
