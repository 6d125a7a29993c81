"""The user's own data set: pictures with masks and a list of names, or with COCO files."""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from fusionerlib.datasets.coco_instances import CocoInstances
from fusionerlib.datasets.formats.findings import Findings
from fusionerlib.datasets.formats.layout import (
    NAMES,
    PREDICTION,
    WORDS,
    any_picture,
    coco_files,
    inside,
    json_in,
    list_files,
    mask_folder,
    names_files,
    pictures_and_masks,
    pictures_of,
)
from fusionerlib.datasets.formats.names import NameTable, read_names, read_table
from fusionerlib.datasets.formats.pictures import Pictures, absent, masks_of, without_suffix
from fusionerlib.datasets.formats.upright import drawn_as_stored
from fusionerlib.datasets.mask_folder import MaskFolder, read_indices
from fusionerlib.datasets.scene import IGNORE, Scenes
from fusionerlib.datasets.transforms import Concat
from fusionerlib.errors import FusionerError, FusionerWarning
from fusionerlib.files import read_lines
from fusionerlib.images import read_header

__all__ = ["read_folder", "read_names"]
Part = Literal["train", "val"]
EVERY = 5
"""Without lists, every image with an index divisible by this validates."""
SPECIAL = ("background", "ignore")
"""Names in ``names.txt`` that are not classes."""
CHECKED_FIRST = 8
"""Number of masks that are read at once, to find errors common to all masks early."""
_JPEG = (".jpg", ".jpeg", ".jfif", ".jpe")


def read_folder(root: Path | str, *, split: Part | None = None, strict: bool = False, early: bool = True) -> Scenes:
    """The scenes of the user's folder ``root``: all of them, or one split.

    With ``masks/`` (or ``SegmentationClass/``): an index PNG for each picture in ``images/`` (or ``JPEGImages/``), with
    the same stem and in the same subfolder, and ``names.txt`` (see ``read_table`` for what it may hold; also
    ``names.csv``, ``.json``, ``.yaml``, ``classes.txt`` and the like). Or ``a_mask.png`` beside ``a.jpg``, and
    ``_classes.csv``, as Roboflow writes them. Line k of the names is the name of index k, or every line is
    ``index name``. Index 0 is background and 255 ignored, unless the names say otherwise; the names ``background`` and
    ``ignore`` make an index background or ignored. With ``labelmap.txt`` or ``label_colors.txt`` masks may have colours
    instead of indices. Write names as words: "traffic light".

    Without masks: a COCO file, in ``annotations/``, at the root or beside the pictures, or one for each split
    (``annotations/instances_train.json`` and ``instances_val.json``, or ``train/``, ``valid/``, ``test/`` with one
    each). Pictures are found wherever they lie in ``images/`` or ``data/``, else anywhere below the root. Images
    without an object in it are left out.

    ``train.txt`` and ``val.txt``, at the root or in ``ImageSets/Segmentation``, list stems or file names, one in each
    line. Where only one of them exists, the other split is the remaining images; those of a ``test.txt`` are never
    trained on, and validate where there is no ``val.txt``. Without lists, the folders ``train``
    and ``val`` decide if all pictures lie in such; else every fifth image (sorted by path) validates. Write lists where
    neighbouring images are alike, such as frames of one video.

    What can't be used is left out, and a FusionerWarning counts it, with three examples of each kind; strict:
    FusionerError instead. early: read the first masks at once, as an error in them is mostly one of all.
    Raises FusionerError for missing images, masks, names or lists, a list with an image that does not exist, an image
    in both lists, and as ``MaskFolder`` and ``CocoInstances`` do on access.
    """
    root = Path(root)
    if not root.is_dir():
        raise FusionerError(f"{root} {'is a file' if root.exists() else 'does not exist'}: give a folder of pictures")
    if mask_folder(root) is not None:
        return _with_masks(root, split, strict=strict, early=early)
    homes = [(part, inside(root, word)) for part, words in WORDS.items() for word in words]
    if parts := {part: home for part, home in homes if mask_folder(home)}:
        return _parts_of(
            [_with_masks(home, None, top=root, strict=strict, early=early) for home in _chosen(parts, split, root)]
        )
    return _with_coco(root, split, strict=strict)


def reading_problems(root: Path) -> list[str]:
    """All that keeps the folder ``root`` from being read, one message each: ``read_folder`` stops at the first."""
    found: list[str] = []

    def tried(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except FusionerError as error:
            found.append(str(error))
            return None

    place = mask_folder(root) if root.is_dir() else None
    if place is not None:
        both, file = tried(lambda: pictures_and_masks(root, place)), next(iter(names_files(root)), root / NAMES)
        table = tried(lambda: read_table(file))
        if both:
            pictures, masks = both
            for part in get_args(Part):
                tried(partial(_of_split, root, pictures, part))
            pairs = tried(lambda: _paired(pictures, masks, pictures.files, Findings(), whole=True))
            if pairs and table:
                known = {0, *table.names}
                first = [mask for _, _, mask in pairs[:CHECKED_FIRST] if _readable(mask, known, table)]
                tried(lambda: _refuse_black_and_white(first, table, str(file)))
    return list(dict.fromkeys(found))


class _Parts(Concat):
    """The parts of a data set that has a folder or a file for each."""

    def __init__(self, *parts: MaskFolder | CocoInstances) -> None:
        super().__init__(*parts)
        known = (part.classes if isinstance(part, MaskFolder) else part.categories for part in parts)
        self.categories = tuple(dict.fromkeys(name for names in known for name in names))
        self.findings = Findings()
        for part in parts:
            self.findings.add(part.findings)


def _parts_of(parts: list[MaskFolder] | list[CocoInstances]) -> Scenes:
    return parts[0] if len(parts) == 1 else _Parts(*parts)


# Masks ----------------------------------------------------------------------------------------------------------------


def _with_masks(root: Path, split: Part | None, *, top: Path | None = None, strict: bool, early: bool) -> MaskFolder:
    findings, drawn = Findings(), (root / PREDICTION).is_file()
    pictures, masks = pictures_and_masks(root, mask_folder(root) or root)
    file, *others = names_files(root, top) or [root / NAMES]
    table = read_table(file)
    findings.note(f"lists of other names, not read beside {file.name}", [o.name for o in others if _differs(o, table)])
    if not drawn:
        unread = [other.name for other in json_in(inside(root, "annotations"))]
        findings.note("COCO files not read, as there are masks", unread)
    pairs = _paired(pictures, masks, _of_split(root, pictures, split), findings, whole=split is None)
    meaning = str(file)
    if early:
        _refuse_black_and_white([mask for _, _, mask in pairs[:CHECKED_FIRST]], table, meaning)
    by_image = {image: mask for _, image, mask in pairs}

    def size_of(image: Path) -> tuple[int, int]:
        return read_header(by_image[image]).shown

    as_stored, unclear = drawn_as_stored(by_image, size_of, findings, shown=drawn)
    findings.tell(root, strict=strict)
    names = table.names
    return MaskFolder(
        [pair for pair in pairs if pair[1] not in unclear],
        classes={number: name for number, name in names.items() if name not in SPECIAL},
        background={0, *(number for number, name in names.items() if name == "background")},
        ignored={number for number, name in names.items() if name == "ignore" and number != IGNORE},
        meaning=meaning,
        colours=table.colours,
        as_stored=as_stored,
        findings=findings,
    )


def _differs(file: Path, table: NameTable) -> bool:
    try:
        return read_table(file).names != table.names
    except FusionerError:
        return True


def _paired(
    pictures: Pictures, masks: Pictures, chosen: Iterable[Path], findings: Findings, *, whole: bool
) -> list[tuple[str, Path, Path]]:
    """(key, picture, mask) of the ``chosen`` pictures. whole: they are all, so that a mask of none is told.

    Raises FusionerError where two pictures would share a mask, and for pictures without one.
    """
    keys: dict[str, Path] = {}
    for file in pictures.files:
        if (key := pictures.key(file)) in keys:
            raise FusionerError(f"{keys[key]} and {file.name} would share one mask: rename one of them")
        keys[key] = file
    wanted = {pictures.key(file): file for file in chosen}
    of_key = masks_of(masks, keys)
    lost = [key for key in wanted if key not in of_key]
    if lost:
        raise FusionerError(
            f"{len(lost)} of {len(wanted)} images have no mask, the first is {wanted[lost[0]]} "
            f"({', '.join(lost[:3])}): expected {masks.expected(lost[0])}; add the masks (index PNGs of the images' "
            "stems), or move the images away"
        )
    if coded := [of_key[key] for key in wanted if of_key[key].suffix.lower() in _JPEG]:
        raise FusionerError(
            f"{len(coded)} masks are JPEG files, {coded[0]} first, which change the indices of pixels: export PNG files"
        )
    if whole and (stray := [key for key in of_key if key not in keys]):
        findings.problem(f"masks left out, they have no picture in {pictures.folder}", stray)
    pairs = []
    for key, image in wanted.items():
        if why := next((f"{file.name}, {reason}" for file in (image, of_key[key]) if (reason := absent(file))), ""):
            findings.problem("images left out, the content of their file or mask is not here", why)
        else:
            pairs.append((key, image, of_key[key]))
    if not pairs:
        raise FusionerError(f"{pictures.folder} has no image that can be used: {'; '.join(findings.problems)}")
    return pairs


def _readable(mask: Path, known: Collection[int], table: NameTable) -> bool:
    try:
        read_indices(mask, known=known, meaning="", colours=table.colours)
    except FusionerError:
        return False
    return True


def _refuse_black_and_white(masks: list[Path], table: NameTable, meaning: str) -> None:
    known = {0, *table.names}
    read = (read_indices(mask, known=known, meaning=meaning, colours=table.colours) for mask in masks)
    values = {int(value) for raw in read for value in np.unique(raw)}
    if IGNORE in values and values <= {0, IGNORE} and IGNORE not in table.names:
        raise FusionerError(
            f"the masks of {masks[0].parent} hold 0 and 255 alone (the first {len(masks)} were read), and 255 means "
            f"ignored: save the object's white pixels as its index in {Path(meaning).name}, or write '255 ignore' "
            "there if meant"
        )


# COCO files -----------------------------------------------------------------------------------------------------------


def _with_coco(root: Path, split: Part | None, *, strict: bool) -> Scenes:
    drawn, files = (root / PREDICTION).is_file(), coco_files(root)
    pictures = pictures_of(root)
    if "" in files:
        chosen = frozenset(_of_split(root, pictures, split))
        return CocoInstances(
            root,
            annotations=files[""],
            images=pictures,
            own=True,
            shown=drawn,
            whole=True,
            only=chosen.__contains__,
            strict=strict,
        )
    asked = _chosen(files, split, root)
    parts = []
    for part, file in files.items():
        if file in asked:
            home = file.parent if file.parent != root and file.parent.name.lower() in WORDS[part] else None
            near = {*WORDS[part], file.stem.removeprefix("instances_")}
            prefix = f"{part}/" if len(asked) > 1 else ""
            images = pictures_of(home) if home and any_picture(home) else pictures
            parts.append(
                CocoInstances(
                    root,
                    annotations=file,
                    images=images,
                    near=near,
                    own=True,
                    shown=drawn,
                    whole=images is not pictures,
                    prefix=prefix,
                    strict=strict,
                )
            )
    return _parts_of(parts)


def _chosen(parts: Mapping[str, Path], split: Part | None, root: Path) -> list[Path]:
    """The files or folders of a split: all for None, and the test part to validate where no other does."""
    if split is None:
        return list(parts.values())
    part = split if split in parts or split == "train" else "test"
    if part not in parts:
        there = ", ".join(str(file.relative_to(root)) for file in parts.values())
        expected = "instances_train.json" if split == "train" else "instances_val.json"
        raise FusionerError(f"{root} has {there}, and nothing for the split {split!r}: expected {expected} beside it")
    return [parts[part]]


# Pictures and splits --------------------------------------------------------------------------------------------------


def _of_split(root: Path, pictures: Pictures, split: Part | None) -> list[Path]:
    """The pictures of a split, in the order of its list, else in that of their paths."""
    if split is None:
        return pictures.files
    files = list_files(root)
    listed = {part: _listed(file, pictures) for part, file in files.items()}
    if lost := [repr(line) for _, lines in listed.values() for line in lines]:
        raise FusionerError(
            f"{len(lost)} images of {', '.join(files[part].name for part, (_, lines) in listed.items() if lines)} are "
            f"not in {pictures.folder}, {', '.join(lost[:3])} first (none, or several files have their name): copy "
            "them there, or take them off the list"
        )
    found = {part: chosen for part, (chosen, _) in listed.items()}
    for other in ("val", "test"):
        if both := set(found.get("train", ())) & set(found.get(other, ())):
            names = f"{files['train'].name} and {files[other].name}"
            raise FusionerError(f"{pictures.key(min(both))!r} is in both {names} of {root}: take it off one of them")
    tops = {file: file.relative_to(pictures.folder).parts[0].lower() for file in pictures.files}
    of_word = {word: part for part, words in WORDS.items() for word in words}
    in_folders = all(tops[file] in of_word and file.parent != pictures.folder for file in pictures.files)
    if split in found:
        chosen = found[split]
    elif split == "val" and "test" in found:
        chosen = found["test"]
    elif found:
        others = {file for files in found.values() for file in files}
        chosen = [file for file in pictures.files if file not in others]
    elif in_folders:
        parts = {of_word[top] for top in tops.values()}
        part = split if split in parts or split == "train" else "test"
        chosen = [file for file in pictures.files if of_word[tops[file]] == part]
    elif len(pictures.files) == 1:
        warnings.warn(
            f"{root} has one picture, which both trains and validates: what validation says of it is no test",
            FusionerWarning,
            stacklevel=2,
        )
        chosen = pictures.files
    else:
        chosen = [file for place, file in enumerate(pictures.files) if (place % EVERY == 0) == (split == "val")]
    if not chosen:
        raise FusionerError(f"split {split!r} of {root} has no image: list some in {split}.txt")
    return chosen


def _listed(file: Path, pictures: Pictures) -> tuple[list[Path], list[str]]:
    """The pictures that a list names, once each, and the lines that name none or several."""
    found: dict[Path, None] = {}
    lost = []
    by_key: dict[str, Path] = {pictures.key(picture): picture for picture in pictures.files}
    for line in read_lines(file):
        known: Collection[Path] = [by_key[without_suffix(line)]] if without_suffix(line) in by_key else ()
        known = known or pictures.find(line)
        if len(known) == 1:
            found |= dict.fromkeys(known)
        else:
            lost.append(line)
    return list(found), lost
