"""The user's own data set: pictures with masks and a list of names, or with COCO files."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from fusionerlib.datasets.coco_instances import CocoInstances
from fusionerlib.datasets.formats.findings import Findings
from fusionerlib.datasets.formats.names import NameTable, read_names, read_table
from fusionerlib.datasets.formats.pictures import MASK_FOLDERS, Pictures, absent, masks_of, without_suffix
from fusionerlib.datasets.formats.upright import drawn_as_stored
from fusionerlib.datasets.mask_folder import MaskFolder, read_indices
from fusionerlib.datasets.scene import IGNORE, Scenes
from fusionerlib.datasets.transforms import Concat
from fusionerlib.errors import FusionerError
from fusionerlib.files import IMAGE_SUFFIXES, read_lines
from fusionerlib.images import read_header

__all__ = ["read_folder", "read_names"]
Part = Literal["train", "val"]
EVERY = 5
"""Without lists, every image with an index divisible by this validates."""
SPECIAL = ("background", "ignore")
"""Names in ``names.txt`` that are not classes."""
CHECKED_FIRST = 8
"""Number of masks that are read at once, to find errors common to all masks early."""
WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "train2017", "train2014"),
    "val": ("val", "valid", "validation", "val2017", "val2014"),
    "test": ("test", "testing"),
}
"""What folders and files of a split are called. A test split validates where there is no other, and trains nothing."""
_IMAGES = ("images", "JPEGImages", "data")
_NAMES = ("names.txt", "labelmap.txt", "label_colors.txt", "classes.txt")
_MORE_NAMES = tuple(f"{stem}{suffix}" for stem in ("names", "classes") for suffix in (".csv", ".json", ".yaml", ".yml"))
_PREDICTION = "run.json"
_JPEG = (".jpg", ".jpeg", ".jfif", ".jpe")


def read_folder(root: Path | str, *, split: Part | None = None, strict: bool = False, early: bool = True) -> Scenes:
    """The scenes of the user's folder ``root``: all of them, or one split.

    With ``masks/`` (or ``SegmentationClass/``): an index PNG for each picture in ``images/`` (or ``JPEGImages/``), with
    the same stem and in the same subfolder, and ``names.txt`` (see ``read_table`` for what it may hold; also
    ``names.csv``, ``.json``, ``.yaml``). Line k of it is the name of index k, or every line is ``index name``. Index 0
    is background and 255 ignored, unless the names say otherwise; the names ``background`` and ``ignore`` make an
    index background or ignored. With ``labelmap.txt`` or ``label_colors.txt`` masks may have colours instead of
    indices. Write names as words: "traffic light".

    Without masks: a COCO file, in ``annotations/``, at the root or beside the pictures, or one for each split
    (``annotations/instances_train.json`` and ``instances_val.json``, or ``train/``, ``valid/``, ``test/`` with one
    each). Pictures are found wherever they lie in ``images/`` or ``data/``, else anywhere below the root. Images
    without an object in it are left out.

    ``train.txt`` and ``val.txt``, at the root or in ``ImageSets/Segmentation``, list stems or file names, one in each
    line. Where only one of them exists, the other split is the remaining images. Without lists, the folders ``train``
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
    if _mask_folder(root) is not None:
        return _with_masks(root, split, strict=strict, early=early)
    words = [(part, _inside(root, word)) for part, words in WORDS.items() for word in words]
    inside = {part: home for part, home in words if _mask_folder(home)}
    if inside:
        return _parts_of([_with_masks(home, None, strict=strict, early=early) for home in _chosen(inside, split, root)])
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

    masks = _mask_folder(root) if root.is_dir() else None
    if masks is not None:
        pictures, table = tried(lambda: _pictures(root)), tried(lambda: read_table(_names_file(root)))
        if pictures:
            for part in get_args(Part):
                tried(partial(_of_split, root, pictures, part))
            pairs = tried(lambda: _paired(pictures, masks, pictures.files, Findings(), whole=True))
            if pairs and table:
                known = {0, *table.names}
                first = [mask for _, _, mask in pairs[:CHECKED_FIRST] if _readable(mask, known, table)]
                tried(lambda: _refuse_black_and_white(first, table, str(_names_file(root))))
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


def _inside(root: Path, name: str) -> Path:
    """The folder of this name in ``root``, in any case; the name as it is where there is none."""
    if not root.is_dir() or (root / name).is_dir():
        return root / name
    return next((place for place in sorted(root.iterdir()) if place.name.lower() == name.lower()), root / name)


def _mask_folder(root: Path) -> Path | None:
    places = [place for name in MASK_FOLDERS[:2] if (place := _inside(root, name)).is_dir()]
    # An empty folder is a mistake, unless a COCO file takes its place.
    filled = [place for place in places if any(place.iterdir()) or _names_file(root).is_file()]
    return filled[0] if filled else None


def _names_file(root: Path) -> Path:
    """The list of names of the folder, or of the one above; ``names.txt`` where there is none."""
    places = [home / name for home in (root, root.parent) for name in _NAMES]
    return next(
        (file for file in [*places, *(root / name for name in _MORE_NAMES)] if file.is_file()), root / _NAMES[0]
    )


def _with_masks(root: Path, split: Part | None, *, strict: bool, early: bool) -> MaskFolder:
    findings = Findings()
    masks = _mask_folder(root) or root
    pictures = _pictures(root)
    file = _names_file(root)
    table = read_table(file)
    pairs = _paired(pictures, masks, _of_split(root, pictures, split), findings, whole=split is None)
    meaning = str(file)
    if early:
        _refuse_black_and_white([mask for _, _, mask in pairs[:CHECKED_FIRST]], table, meaning)
    by_image = {image: mask for _, image, mask in pairs}

    def size_of(image: Path) -> tuple[int, int]:
        header = read_header(by_image[image])
        return header.height, header.width

    drawn = (root / _PREDICTION).is_file()
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


def _paired(
    pictures: Pictures, masks: Path, chosen: Iterable[Path], findings: Findings, *, whole: bool
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
    of_key = masks_of(Pictures(masks), keys)
    lost = [key for key in wanted if key not in of_key]
    if lost:
        raise FusionerError(
            f"{len(lost)} of {len(wanted)} images have no mask, the first is {wanted[lost[0]]} "
            f"({', '.join(lost[:3])}): expected {masks / f'{lost[0]}.png'}; add the masks (index PNGs of the images' "
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
        raise FusionerError(f"{masks.parent} has no image that can be used: {'; '.join(findings.problems)}")
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
    drawn, files = (root / _PREDICTION).is_file(), _coco_files(root)
    pictures = _pictures(root)
    if "" in files:
        chosen = frozenset(_of_split(root, pictures, split))
        return CocoInstances(
            root, annotations=files[""], images=pictures, own=True, shown=drawn, only=chosen.__contains__, strict=strict
        )
    asked = _chosen(files, split, root)
    parts = []
    for part, file in files.items():
        if file in asked:
            inside = file.parent if file.parent != root and file.parent.name.lower() in WORDS[part] else None
            near = {*WORDS[part], file.stem.removeprefix("instances_")}
            prefix = f"{part}/" if len(asked) > 1 else ""
            images = _pictures(inside) if inside and _any_picture(inside) else pictures
            parts.append(
                CocoInstances(
                    root,
                    annotations=file,
                    images=images,
                    near=near,
                    own=True,
                    shown=drawn,
                    prefix=prefix,
                    strict=strict,
                )
            )
    return _parts_of(parts)


def _coco_files(root: Path) -> dict[str, Path]:
    """The COCO file of each part, or the one of all parts under "". Raises FusionerError where there is none."""
    images = _inside(root, "images")
    homes = [_inside(root, "annotations"), root, images, _inside(root, "data")]
    parts: dict[str, Path] = {}
    for part, words in WORDS.items():
        named = [f"{start}{word}.json" for word in words for start in ("instances_", "")]
        there = {file.name.lower(): file for home in reversed(homes[:2]) for file in _json_in(home)}
        known = [there[name] for name in named if name in there]
        inside = [_inside(home, word) for word in words for home in (root, images)]
        known += [file for home in inside for place in (home, home / "annotations") for file in _json_in(place)]
        if known:
            parts[part] = _only_coco(known, root)
    if parts:
        return parts
    for home in homes:
        every = _json_in(home)
        if found := [file for file in every if file.name.lower().startswith("instances")] or every:
            return {"": _only_coco(found, root)}
    raise FusionerError(
        f"{root} has images but neither masks nor a COCO file: expected masks/<stem>.png with names.txt, or "
        "annotations/instances.json, or instances_train.json and instances_val.json there and a split"
        if _any_picture(root)
        else f"{root / 'images'} {'holds no image' if (root / 'images').is_dir() else 'is no folder'}: expected files "
        f"that end in {', '.join(IMAGE_SUFFIXES)}"
    )


def _json_in(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        file for file in files if file.suffix.lower() == ".json" and file.name[0] != "." and file.name != _PREDICTION
    ]


def _only_coco(files: list[Path], root: Path) -> Path:
    """The COCO file among several JSON files. Raises FusionerError where several are."""
    if len(files) > 1:
        files = [file for file in files if _is_coco(file)] or files
    if len(files) > 1:
        raise FusionerError(
            f"{root} has images but several COCO files ({', '.join(file.name for file in files)}): leave one, or name "
            "them instances_train.json and instances_val.json"
        )
    return files[0]


def _is_coco(file: Path) -> bool:
    try:
        given = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(given, dict) and given.keys() >= {"images", "annotations", "categories"}


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


def _pictures(root: Path) -> Pictures:
    """The pictures of a folder: those in ``images`` and the like, else all below it. Raises FusionerError for none."""
    for place in (*(_inside(root, name) for name in _IMAGES), root):
        if place.is_dir() and (found := Pictures(place, skip=MASK_FOLDERS)).files:
            return found
    what = "holds no image" if (root / _IMAGES[0]).is_dir() else "is no folder"
    raise FusionerError(f"{root / _IMAGES[0]} {what}: expected files that end in {', '.join(IMAGE_SUFFIXES)}")


def _any_picture(root: Path) -> bool:
    return bool(Pictures(root, skip=MASK_FOLDERS).files)


def _of_split(root: Path, pictures: Pictures, split: Part | None) -> list[Path]:
    """The pictures of a split, in the order of its list, else in that of their paths."""
    if split is None:
        return pictures.files
    homes = (root, root / "ImageSets" / "Segmentation")
    lists = {part: home / f"{part}.txt" for home in reversed(homes) for part in ("train", "val")}
    lists |= {part: root / f"{part}.txt" for part in lists if (root / f"{part}.txt").is_file()}
    listed = {part: _listed(file, pictures) for part, file in lists.items() if file.is_file()}
    if lost := [repr(line) for _, lines in listed.values() for line in lines]:
        raise FusionerError(
            f"{len(lost)} images of {', '.join(f'{part}.txt' for part in listed)} are not in {pictures.folder}, "
            f"{', '.join(lost[:3])} first (none, or several files have their name): copy them there, or take them off "
            "the list"
        )
    found = {part: files for part, (files, _) in listed.items()}
    if both := set(found.get("train", ())) & set(found.get("val", ())):
        first = pictures.key(min(both))
        raise FusionerError(f"{first!r} is in both train.txt and val.txt of {root}: take it off one of them")
    tops = {file: file.relative_to(pictures.folder).parts[0].lower() for file in pictures.files}
    of_word = {word: part for part, words in WORDS.items() for word in words}
    in_folders = all(tops[file] in of_word and file.parent != pictures.folder for file in pictures.files)
    if split in found:
        chosen = found[split]
    elif found:
        others = {file for files in found.values() for file in files}
        chosen = [file for file in pictures.files if file not in others]
    elif in_folders:
        parts = {of_word[top] for top in tops.values()}
        part = split if split in parts or split == "train" else "test"
        chosen = [file for file in pictures.files if of_word[tops[file]] == part]
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
