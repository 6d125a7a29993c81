"""A COCO instances file, checked: images, categories and objects, and what of it can't be used."""

import hashlib
import json
import math
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fusionerlib.datasets.formats.findings import Findings
from fusionerlib.datasets.formats.names import BACKGROUND, IGNORED, plain, special
from fusionerlib.datasets.formats.shapes import BadShape, check_shape
from fusionerlib.errors import FusionerError
from fusionerlib.files import text_of
from fusionerlib.images import ALLOW_LARGE, PIXEL_LIMIT
from fusionerlib.name_forms import form

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
Id = int | str
Crowds = Literal["ignored", "by file"]
_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")
_CUT = re.compile(r"0\d")
_PUBLISHED_CROWD = 900_100_000_000
"""COCO numbers its crowds from here, by the image's id."""


class Instance(NamedTuple):
    """One object: its category's name, its COCO ``segmentation``, and whether its pixels are ignored (a crowd).

    The name ``background`` stands for an object whose category is the background.
    """

    name: str
    shape: Any
    crowd: bool


class Row(NamedTuple):
    """One image of the file. height, width: 0 where the file does not say."""

    id: Id
    file_name: str
    height: int
    width: int


class CocoFile:
    """The content of an instances file. What can't be used is left out and goes into ``findings``.

    First the images, then, once their sizes are known, the objects (``read_objects``). Ids and sizes may be whole
    numbers written as text or with a point. Left out: an image without id or file name, or with more pixels than the
    limit; all images that share an id. An image that is listed twice, under two ids, is one.

    rows: the images by id, in the file's order. categories: their names in the file's order. digest: the sha256.
    Raises FusionerError where the file is no COCO instances file, and for a category id with two names.
    """

    def __init__(self, file: Path, findings: Findings) -> None:
        self.file, self._findings = file, findings
        content, given = _loaded(file)
        self.digest = hashlib.sha256(content).hexdigest()
        self.rows = _rows(given["images"], findings)
        self._annotations = given["annotations"]
        if any(isinstance(item, dict) and "segments_info" in item for item in self._annotations[:1]):
            raise FusionerError(
                f"{file} is a COCO panoptic file, whose shapes lie in PNG files: export instances (COCO's panopticapi "
                "has a converter), or masks"
            )
        self.boxes = sum(isinstance(item, dict) and _box_alone(item) for item in self._annotations)
        """How many annotations have a bounding box and no segmentation."""
        self._names, self._written = _categories(file, given["categories"], findings)
        classes = [name for name in self._names.values() if name and special(name) is None]
        self.categories: tuple[str, ...] = tuple(dict.fromkeys(classes))

    def read_objects(self, *, crowds: Crowds, same: Mapping[Id, Id]) -> dict[Id, list[Instance]]:
        """The objects by image id, in the file's order; all rows must have their size.

        Left out: an object of an image that the file does not list, and one whose segmentation is no shape (see
        ``check_shape``). The pixels of an object whose category is unknown or has no name are ignored. The names of
        ``names.special`` make their objects background, or ignored.

        same: the id of a picture that is listed again, to the id of its first row, which gets the objects of both.
        crowds: what ``iscrowd`` means. ``ignored``: the object's pixels are ignored, as in COCO. ``by file``: CVAT,
        datumaro and supervision set it for the masks that they write as run lengths, such as an object with a hole or
        in two parts; so run lengths are an object, unless the file is COCO's own or a part of it: the annotation's id
        is one that COCO gives its crowds, or the file has two categories or more, all with their names and ids in
        ``PUBLISHED``, and the annotation has no ``attributes``.
        """
        findings, images, categories = self._findings, _found_by(self.rows), _found_by(self._names)
        own = len(self._written) < 2 or any(PUBLISHED.get(_as_int(key) or 0) != name for key, name in self._written)
        objects: dict[Id, list[Instance]] = defaultdict(list)
        for place, item in enumerate(self._annotations):
            if not isinstance(item, dict):
                findings.problem("annotations left out, they are no JSON objects", f"annotation at {place}")
                continue
            where, number = f"annotation {item.get('id', f'at {place}')}", _id(item.get("image_id"))
            known = images(number)
            row = None if known is None else self.rows[same.get(known, known)]
            if row is None:
                kind = "objects left out, no image has their image_id"
                findings.problem(kind, f"{where} (image_id {item.get('image_id')!r})")
                continue
            where, shape = f"image {row.file_name}, {where}", item.get("segmentation")
            try:
                check_shape(shape, row.height, row.width)
            except BadShape as error:
                findings.problem("objects left out, their segmentation can't be read", f"{where}: {error}")
                continue
            category, crowd = _id(item.get("category_id")), _flag(item.get("iscrowd"))
            name = self._names.get(kept, "") if (kept := categories(category)) is not None else ""
            if not name:
                kind = "objects whose category has no name, their pixels are ignored (255)"
                findings.problem(kind, f"{where} (category_id {category!r})")
            elif crowd and isinstance(shape, dict) and crowds == "by file":
                named = (_as_int(item.get("id")) or 0) >= _PUBLISHED_CROWD
                crowd = named or not (own or "attributes" in item)
                if not crowd:
                    findings.note("run lengths marked iscrowd, read as objects and not ignored", where)
            label = special(name)
            instance = Instance(BACKGROUND if label else name, shape, crowd or label == IGNORED or not name)
            objects[row.id].append(instance)
        return dict(objects)


def _loaded(file: Path) -> tuple[bytes, dict[str, list[Any]]]:
    try:
        content = file.read_bytes()
        given = json.loads(text_of(content, file))
        parts = {key: given[key] for key in ("images", "annotations", "categories")}
        if odd := [key for key, rows in parts.items() if not isinstance(rows, list)]:
            raise TypeError(f"{odd[0]} is no list")
    except FusionerError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FusionerError(
            f"{file} can't be read as COCO instances ({error!r}): expected a JSON object with images, annotations and "
            "categories (instances_*.json, not captions or keypoints); copy it again"
        ) from error
    return content, parts


def _categories(file: Path, given: list[Any], findings: Findings) -> tuple[dict[Id, str], list[tuple[Id, str]]]:
    """Name by category id, "" for none, forms of one name made one; and the (id, name) pairs as they are written."""
    names: dict[Id, str] = {}
    written: list[tuple[Id, str]] = []
    first: dict[str, str] = {}
    for place, item in enumerate(given):
        number, name = (_id(item.get("id")), item.get("name")) if isinstance(item, dict) else (None, None)
        if number is None:
            findings.problem("categories left out, they have no id", f"number {place} ({name!r})")
            continue
        text = plain(name) if isinstance(name, str) else ""
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            text = ""  # zero bytes, and halves of a character
        if not text:
            findings.note("categories without a name", f"id {number!r} ({name!r})")
        elif text != name:
            findings.note("names of categories with too many spaces, read without them", repr(name))
        kept = first.setdefault(form(text), text)
        if kept != text:
            findings.note(
                "names of categories that are one name to a text encoder, read as one", f"{text!r} as {kept!r}"
            )
        if names.setdefault(number, kept) != kept:
            raise FusionerError(
                f"{file}: the category id {number!r} has two names, {names[number]!r} and {kept!r}: give each category "
                "an id of its own, there and in the annotations"
            )
        if kept and (label := special(kept)) is not None:
            findings.note(f"categories read as {'ignored' if label == IGNORED else 'background'}", repr(kept))
        written.append((number, text))
    return names, written


def _rows(given: list[Any], findings: Findings) -> dict[Id, Row]:
    rows: dict[Id, Row] = {}
    twice: dict[Id, list[str]] = defaultdict(list)
    for place, item in enumerate(given):
        number, name = (_id(item.get("id")), item.get("file_name")) if isinstance(item, dict) else (None, None)
        if number is None or not isinstance(name, str) or not name.strip():
            findings.problem("images left out, they have no id or file_name", f"number {place} ({name!r})")
            continue
        height, width = (_as_int(item.get(side)) or 0 for side in ("height", "width"))
        if height < 1 or width < 1:
            findings.note("images without a size in the file, taken from the pictures", name)
            height = width = 0
        elif height * width > PIXEL_LIMIT and not os.environ.get(ALLOW_LARGE):
            findings.problem(
                f"images left out, they have more than {PIXEL_LIMIT:,} pixels", f"{name} ({width}x{height})"
            )
            continue
        row = Row(number, name, height, width)
        if rows.setdefault(number, row).file_name != name:
            twice[number] += [name]
    for number, others in twice.items():
        names = ", ".join([rows.pop(number).file_name, *others])
        findings.problem("ids that several images share, all of which are left out", f"{number!r} ({names})")
    return rows


def _found_by(known: Collection[Id]) -> Callable[[Id | None], Id | None]:
    """Finds the one of ``known`` that an id means: itself, else the only one that is the same number."""
    alike: dict[int | None, list[Id]] = defaultdict(list)
    for number in known:
        alike[_as_int(number)].append(number)

    def find(number: Id | None) -> Id | None:
        if number is None or number in known:
            return number
        others = alike.get(_as_int(number), []) if _as_int(number) is not None else []
        return others[0] if len(others) == 1 else None

    return find


def _id(value: Any) -> Id | None:
    """An id as a whole number where it is one, else as text, such as "0001"; None where there is none."""
    text = value.strip() if isinstance(value, str) else ""
    number = None if _CUT.match(text) else _as_int(value)
    return number if number is not None else text or None


def _flag(value: Any) -> bool:
    """Whether ``value`` is 1 or true, also as text."""
    return _as_int(value) == 1 or (isinstance(value, str) and value.strip().casefold() == "true")


def _box_alone(item: Mapping[str, Any]) -> bool:
    return bool(item.get("bbox")) and item.get("segmentation") in (None, [], [[]], {}, "")


def _as_int(value: Any) -> int | None:
    """A whole number, also as text or as a float; None for anything else."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    if isinstance(value, str) and len(value) < 100 and _WHOLE.fullmatch(value.strip()):
        return int(value.partition(".")[0])
    return None
