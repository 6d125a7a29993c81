"""The user's own data set: a folder ``images`` with index masks and a list of names, or with a COCO file."""

import re
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from fusionerlib.datasets.coco import CocoInstances
from fusionerlib.datasets.mask_folder import MaskFolder, image_files, paired, read_indices
from fusionerlib.datasets.scene import IGNORE, Scenes
from fusionerlib.errors import FusionerError
from fusionerlib.files import IMAGE_SUFFIXES
from fusionerlib.name_forms import same_forms

Part = Literal["train", "val"]
EVERY = 5
"""Without lists, every image with an index divisible by this validates."""
SPECIAL = ("background", "ignore")
"""Names in ``names.txt`` that are not classes."""
CHECKED_FIRST = 8
"""Number of masks that are read at once, to find errors common to all masks early."""
_NUMBERED = re.compile(r"(\d+)\s*[\s:,]\s*(\S.*)")


def read_folder(root: Path, *, split: Part | None = None, strict: bool = False) -> Scenes:
    """The scenes of the user's folder ``root``: all of them, or one split.

    With ``masks/``: an index PNG for each image, with the same stem, and ``names.txt``. Line k of it is the name of
    index k, or every line is ``index name``. Index 0 is background and 255 ignored, unless ``names.txt`` names them;
    the names ``background`` and ``ignore`` make an index background or ignored. Write names as words: "traffic light".

    Without ``masks/``: a COCO file, either the only ``annotations/instances*.json``, or the only ``*.json`` at the
    root, or one for each split, ``annotations/instances_train.json`` and ``instances_val.json``. Images without an
    object in it are left out.

    ``train.txt`` and ``val.txt`` list stems or file names, one in each line. Where only one of them exists, the other
    split is the remaining images; where none exists, every fifth image (sorted by file name) validates. Write lists
    where neighbouring images are alike, such as frames of one video.
    What of the COCO file can't be used is left out, and a FusionerWarning counts it; strict: FusionerError instead.
    Raises FusionerError for missing images, masks, names or lists, a list with an image that does not exist, an image
    in both lists, and as ``MaskFolder`` and ``CocoInstances`` do on access.
    """
    root = Path(root)
    found = image_files(root / "images")
    if (root / "masks").is_dir():
        names = read_names(root / "names.txt")
        files = paired(root / "images", root / "masks", _stems(root, list(found), split))
        _refuse_black_and_white([mask for _, _, mask in files[:CHECKED_FIRST]], names, root / "names.txt")
        return MaskFolder(
            files,
            classes={number: name for number, name in names.items() if name not in SPECIAL},
            background={0, *(number for number, name in names.items() if name == "background")},
            ignored={number for number, name in names.items() if name == "ignore"},
            meaning=str(root / "names.txt"),
        )
    own = {part: root / "annotations" / f"instances_{part}.json" for part in ("train", "val")}
    if split is not None and any(file.is_file() for file in own.values()):
        return CocoInstances(root, annotations=own[split], images=root / "images", crowds="by file", strict=strict)
    stems = set(_stems(root, list(found), split))
    return CocoInstances(
        root, annotations=_coco_file(root), images=root / "images", stems=stems, crowds="by file", strict=strict
    )


def read_names(file: Path) -> dict[int, str]:
    """Index to name, from a file whose line k is the name of index k, or whose lines are all ``index name``.

    Empty lines are skipped. Raises FusionerError where the file is missing, has no class, an index above 254, an index
    or name twice (also in another form: "cat", "Cats"), or a first line "background" without an index (it would be
    index 1).
    """
    if not file.is_file():
        raise FusionerError(f"{file} is missing: write one name a line, line k for index k of the masks")
    lines = [(number, line.strip()) for number, line in enumerate(file.read_text("utf-8-sig").splitlines(), start=1)]
    rows = [(number, line) for number, line in lines if line]
    numbered = [match for _, line in rows if (match := _NUMBERED.fullmatch(line))]
    if len(numbered) == len(rows):
        rows = [(int(match[1]), match[2]) for match in numbered]
    elif rows[0][1] == "background":
        raise FusionerError(
            f"{file} begins with 'background', which would be index 1: 0 is background already, so delete the line, or "
            "write every line with its index ('0 background', '1 cat', ...)"
        )
    classes = [(number, name) for number, name in rows if name not in SPECIAL]
    counts = Counter([f"the index {number}" for number, _ in rows] + [f"the name {name!r}" for _, name in classes])
    if twice := [what for what, count in counts.items() if count > 1]:
        raise FusionerError(f"{file} has {twice[0]} twice: give each index a name of its own")
    if alike := same_forms(name for _, name in classes):
        raise FusionerError(
            f"{file} names {alike[0]!r} and {alike[1]!r}, which are one name to a text encoder: write what sets the "
            "classes apart ('toy cat'), or save both in the masks as one index"
        )
    if not classes or max(number for number, _ in classes) >= IGNORE:
        highest = max((number for number, _ in classes), default=None)
        raise FusionerError(
            f"{file} names {len(classes)} classes, the highest index is {highest}: expected at least one, of indices "
            f"up to {IGNORE - 1}"
        )
    return dict(rows)


def _refuse_black_and_white(masks: list[Path], names: dict[int, str], file: Path) -> None:
    values = {int(v) for mask in masks for v in np.unique(read_indices(mask, known={0, *names}, meaning=str(file)))}
    if IGNORE in values and values <= {0, IGNORE} and IGNORE not in names:
        raise FusionerError(
            f"the masks of {masks[0].parent} hold 0 and 255 alone (the first {len(masks)} were read), and 255 means "
            f"ignored: save the object's white pixels as its index in {file.name}, or write '255 ignore' there if meant"
        )


def _coco_file(root: Path) -> Path:
    places = (root / "annotations").glob("instances*.json"), root.glob("*.json")
    found = next((files for files in map(sorted, places) if files), [])
    if len(found) != 1:
        several = f"several COCO files ({', '.join(file.name for file in found)})"
        raise FusionerError(
            f"{root} has images but {several if found else 'neither masks nor a COCO file'}: expected masks/<stem>.png "
            "with names.txt, or annotations/instances.json, or instances_train.json and instances_val.json there and a "
            "split"
        )
    return found[0]


def _stems(root: Path, everything: list[str], split: Part | None) -> list[str]:
    """The stems of a split, in the order of its list, else in that of ``everything``."""
    if split is None:
        return everything
    lists = {part: _listed(root / f"{part}.txt") for part in ("train", "val") if (root / f"{part}.txt").is_file()}
    known = set(everything)
    if lost := [stem for stems in lists.values() for stem in stems if stem not in known]:
        raise FusionerError(
            f"{len(lost)} images of {', '.join(f'{part}.txt' for part in lists)} are not in {root / 'images'}, "
            f"{lost[0]!r} first: copy them there, or take them off the list"
        )
    if both := set(lists.get("train", ())) & set(lists.get("val", ())):
        raise FusionerError(f"{min(both)!r} is in both train.txt and val.txt of {root}: take it off one of them")
    if split in lists:
        chosen = lists[split]
    elif lists:
        others = {stem for stems in lists.values() for stem in stems}
        chosen = [stem for stem in everything if stem not in others]
    else:
        chosen = [stem for place, stem in enumerate(everything) if (place % EVERY == 0) == (split == "val")]
    if not chosen:
        raise FusionerError(f"split {split!r} of {root} has no image: list some in {split}.txt")
    return chosen


def _listed(file: Path) -> list[str]:
    lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    return [Path(line).stem if line.lower().endswith(IMAGE_SUFFIXES) else line for line in lines if line]
