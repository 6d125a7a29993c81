"""Where the parts of a user's folder lie: masks, lists of names and of images, COCO files, pictures."""

import json
from collections.abc import Mapping
from pathlib import Path

from fusionerlib.datasets.formats.pictures import BESIDE, MASK_FOLDERS, Pictures
from fusionerlib.errors import FusionerError
from fusionerlib.files import IMAGE_SUFFIXES

WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "train2017", "train2014"),
    "val": ("val", "valid", "validation", "val2017", "val2014"),
    "test": ("test", "testing"),
}
"""What folders and files of a split are called. A test split validates where there is no other, and trains nothing."""
PREDICTION = "run.json"
"""The record beside masks that the project's own model has drawn."""
_IMAGES = ("images", "JPEGImages", "data")
_BESIDE_NAMES = "_classes.csv"
_STEMS = ("names", "classes", "class_names", "labels")
NAMES = "names.txt"
_NAMES = (
    *(NAMES, "labelmap.txt", "label_colors.txt", "classes.txt", "class_names.txt", "labels.txt", "names.txt.txt"),
    *(_BESIDE_NAMES, "class_dict.csv"),
    *(f"{stem}{suffix}" for stem in _STEMS for suffix in (".csv", ".tsv", ".json", ".yaml", ".yml")),
)
"""What lists of names are called, the first that is there is read. YOLO's, which count from 0, are not among them."""


def inside(root: Path, name: str) -> Path:
    """The file or folder of this name in ``root``, in any case; the name as it is where there is none."""
    return root / name if (root / name).exists() else _in_any_case(root).get(name.lower(), root / name)


def _in_any_case(root: Path) -> dict[str, Path]:
    """What is in ``root`` by its name in small letters, one that is written so before others."""
    there = sorted(root.iterdir(), reverse=True) if root.is_dir() else []
    return {place.name.lower(): place for place in there}


def mask_folder(root: Path) -> Path | None:
    """The folder of masks; ``root`` itself where they lie beside their pictures and ``_classes.csv``, as Roboflow's."""
    places = [place for name in MASK_FOLDERS[:2] if (place := inside(root, name)).is_dir()]
    # An empty folder is a mistake, unless a COCO file takes its place.
    filled = [place for place in places if any(place.iterdir()) or names_files(root)]
    if not filled and (root / _BESIDE_NAMES).is_file() and Pictures(root, masks=True).files:
        return root
    return filled[0] if filled else None


def names_files(root: Path, top: Path | None = None) -> list[Path]:
    """The lists of names in ``root``, else in ``top``, the folder of all splits; the first is the one to read."""
    for home in (root, top or root):
        there = _in_any_case(home)
        if found := [there[name] for name in _NAMES if name in there and there[name].is_file()]:
            return found
    return []


def list_files(root: Path) -> dict[str, Path]:
    """The list of images of each split that has one, at the root or in ``ImageSets/Segmentation``."""
    homes = [_in_any_case(home) for home in (root, inside(inside(root, "ImageSets"), "Segmentation"))]
    found = {part: [home.get(f"{word}.txt") for home in homes for word in words] for part, words in WORDS.items()}
    return {part: next(file for file in files if file) for part, files in found.items() if any(files)}


def pictures_of(root: Path) -> Pictures:
    """The pictures of a folder: those in ``images`` and the like, else all below it. Raises FusionerError for none."""
    for place in (*(inside(root, name) for name in _IMAGES), root):
        if place.is_dir() and (found := Pictures(place, skip=MASK_FOLDERS)).files:
            return found
    what = "holds no image" if (root / _IMAGES[0]).is_dir() else "is no folder"
    raise FusionerError(f"{root / _IMAGES[0]} {what}: expected files that end in {', '.join(IMAGE_SUFFIXES)}")


def pictures_and_masks(root: Path, masks: Path) -> tuple[Pictures, Pictures]:
    """The pictures of a folder and its masks, which ``mask_folder`` has found. Raises FusionerError for no picture."""
    if masks != root:
        return pictures_of(root), Pictures(masks)
    if not (found := Pictures(root, skip=MASK_FOLDERS, masks=False)).files:
        raise FusionerError(f"{root} holds masks, but no image beside them: expected a.jpg beside a{BESIDE}.png")
    return found, Pictures(root, masks=True)


def any_picture(root: Path) -> bool:
    """Whether a picture lies in ``root`` or below it, outside folders of masks."""
    return bool(Pictures(root, skip=MASK_FOLDERS).files)


def coco_files(root: Path) -> dict[str, Path]:
    """The COCO file of each part, or the one of all parts under "". Raises FusionerError where there is none."""
    images = inside(root, "images")
    homes = [inside(root, "annotations"), root, images, inside(root, "data")]
    parts: dict[str, Path] = {}
    for part, words in WORDS.items():
        named = [f"{start}{word}.json" for word in words for start in ("instances_", "")]
        there = {file.name.lower(): file for home in reversed(homes[:2]) for file in json_in(home)}
        known = [there[name] for name in named if name in there]
        homes_of_part = [inside(home, word) for word in words for home in (root, images)]
        known += [file for home in homes_of_part for place in (home, home / "annotations") for file in json_in(place)]
        if known:
            parts[part] = _only_coco(known, root)
    if parts:
        return parts
    for home in homes:
        every = json_in(home)
        if found := [file for file in every if file.name.lower().startswith("instances")] or every:
            return {"": _only_coco(found, root)}
    nested = [place for place in sorted(root.iterdir()) if place.is_dir() and _filled(place)]
    hint = f"; {nested[0]} has them, so give that folder" if len(nested) == 1 else ""
    raise FusionerError(
        f"{root} has images but neither masks nor a COCO file: expected masks/<stem>.png with names.txt, or "
        f"annotations/instances.json, or instances_train.json and instances_val.json there and a split{hint}"
        if any_picture(root)
        else f"{root / 'images'} {'holds no image' if (root / 'images').is_dir() else 'is no folder'}: expected files "
        f"that end in {', '.join(IMAGE_SUFFIXES)}"
    )


def json_in(folder: Path) -> list[Path]:
    """The JSON files of ``folder``, sorted, without hidden ones and the record of a prediction; [] for no folder."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [file for file in files if file.suffix.lower() == ".json" and file.name[0] != "."]
    return [file for file in files if file.is_file() and file.name != PREDICTION]


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


def _filled(folder: Path) -> bool:
    """Whether a folder has what a data set needs."""
    return mask_folder(folder) is not None or any(json_in(folder)) or any(json_in(inside(folder, "annotations")))
