"""COCO instances (the JSON of 2014 and 2017, or of that format) as scenes: objects painted into label maps."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from fusionerlib.datasets.scene import IGNORE, Scene
from fusionerlib.errors import FusionerError
from fusionerlib.files import fingerprint
from fusionerlib.images import read_image


class Instance(NamedTuple):
    """One object of an image: its category's name, its COCO ``segmentation``, and whether it is a crowd."""

    name: str
    shape: Any
    crowd: bool


class CocoInstances:
    """The images of one COCO instances file that are on disk and show at least one labelled object.

    A scene's names are its objects' category names, in the file's order of categories. Where objects overlap the one
    with fewer pixels is on top; a crowd is ignored (255) wherever no single object lies on it. Images without an
    object, or with nothing but crowds, are skipped: nothing is known of what they show. A name whose objects are
    all hidden under smaller ones keeps its place, with an empty mask.

    missing: how many images with objects are listed but not on disk. categories: every name of the file, in its order.
    files: the image file of each scene. sizes: (height, width) by image id, of all images of the file.
    root: the folder that holds ``annotations/instances*.json``; ``annotations`` names the file where there are several
    (2014 and 2017 have one a split). images: the folder of the image files; found where it is named after the split
    (``val2017``), or ``images``, or the root.
    Raises FusionerError where the file or the images are not found or the file is not of COCO's format, and on reading
    for a broken image, an image of another size than the file says, and a shape that is no polygon and no run lengths.
    """

    def __init__(self, root: Path, *, annotations: Path | None = None, images: Path | None = None) -> None:
        self.file = Path(annotations) if annotations is not None else _instances_file(Path(root))
        rows, self.categories, self._objects, digest = _read(self.file)
        self.sizes = {int(row["id"]): (int(row["height"]), int(row["width"])) for row in rows}
        kept = [row for row in rows if any(not item.crowd for item in self.instances(row["id"]))]
        self.images = Path(images) if images is not None else _image_folder(Path(root), self.file, kept)
        self._rows = [row for row in kept if (self.images / row["file_name"]).is_file()]
        self.missing = len(kept) - len(self._rows)
        if not self._rows:
            raise FusionerError(
                f"{self.images} holds none of the {len(kept)} images with objects that {self.file} lists: "
                "point images= at the folder of the files that its file_name entries name"
            )
        self.files = [self.images / row["file_name"] for row in self._rows]
        sizes = [(row["file_name"], file.stat().st_size) for row, file in zip(self._rows, self.files, strict=True)]
        self.fingerprint = fingerprint("coco", digest, sizes)

    def __len__(self) -> int:
        return len(self._rows)

    def names(self, index: int) -> tuple[str, ...]:
        """The category names of the objects in scene ``index``, without opening its image."""
        present = {item.name for item in self.instances(self._rows[index]["id"]) if not item.crowd}
        return tuple(name for name in self.categories if name in present)

    def instances(self, image: int) -> tuple[Instance, ...]:
        """The objects of the image with id ``image`` in the file's order, on disk or not; none for an unknown id."""
        return tuple(self._objects.get(image, ()))

    def labels(self, index: int) -> UInt8[np.ndarray, "height width"]:
        """The labels of scene ``index`` at the size that the file gives, without opening its image."""
        row, names = self._rows[index], self.names(index)
        height, width = self.sizes[row["id"]]
        objects = self.instances(row["id"])
        where = f"{self.file}, image {row['file_name']}"
        masks = [object_mask(item.shape, height, width, where=where) for item in objects]
        labels = np.zeros((height, width), dtype=np.uint8)
        # Crowds first, then large to small; equal ones in the file's order.
        for place in sorted(range(len(masks)), key=lambda k: (not objects[k].crowd, -int(masks[k].sum()))):
            item = objects[place]
            labels[masks[place]] = IGNORE if item.crowd else names.index(item.name) + 1
        return labels

    def __getitem__(self, index: int) -> Scene:
        row = self._rows[index]
        image = read_image(self.files[index])
        if image.shape[:2] != (row["height"], row["width"]):
            raise FusionerError(
                f"{self.files[index]} is {image.shape[1]}x{image.shape[0]} pixels, {self.file} says "
                f"{row['width']}x{row['height']}: take the image that the file describes, or scale the file with it"
            )
        return Scene(image=image, labels=self.labels(index), names=self.names(index), key=str(row["id"]))


def object_mask(shape: Any, height: int, width: int, *, where: str) -> Bool[np.ndarray, "height width"]:
    """A COCO ``segmentation`` as a mask: polygons, or run lengths, compressed or not.

    Raises FusionerError naming ``where`` for anything else.
    """
    try:
        from pycocotools import mask as runs
    except ImportError as error:
        raise FusionerError("COCO's masks need pycocotools: run `pip install -e '.[data]'` in the clone") from error
    try:
        if isinstance(shape, dict):
            packed = shape if isinstance(shape["counts"], str | bytes) else runs.frPyObjects(shape, height, width)
            if list(shape["size"]) != [height, width]:
                raise ValueError(f"run lengths of size {shape['size']}, expected {[height, width]}")
        else:
            # pycocotools reads four numbers as a box, and drops an odd last one.
            if not shape or any(len(polygon) < 6 or len(polygon) % 2 for polygon in shape):
                raise ValueError("a polygon needs three points or more, x and y in turn")
            packed = runs.merge(runs.frPyObjects(shape, height, width))
        mask: UInt8[np.ndarray, "height width"] = runs.decode(packed)
    except Exception as error:  # its reader is C behind Python: what it stumbles over comes as any type
        raise FusionerError(
            f"{where}: an object's segmentation can't be read ({error}): expected polygons or run lengths as COCO "
            "publishes them; mend or drop the object"
        ) from error
    return mask.astype(bool)


def _instances_file(root: Path) -> Path:
    found = sorted((root / "annotations").glob("instances*.json"))
    if len(found) != 1:
        what = f"several ({', '.join(file.name for file in found)})" if found else "no annotations/instances*.json"
        raise FusionerError(
            f"COCO root {str(root)!r} has {what}: "
            + ("name one with annotations=" if found else "point root at the folder that holds annotations/")
        )
    return found[0]


def _image_folder(root: Path, file: Path, rows: list[dict[str, Any]]) -> Path:
    split = file.stem.removeprefix("instances").removeprefix("_")
    places = [root / split, root / "images" / split, root / "images", root]
    for place in dict.fromkeys(places):
        if any((place / row["file_name"]).is_file() for row in rows):
            return place
    example = rows[0]["file_name"] if rows else "no image at all"
    raise FusionerError(
        f"none of the {len(rows)} images with objects of {file} (such as {example}) is in "
        f"{', '.join(map(str, dict.fromkeys(places)))}: unpack the images there, or pass images="
    )


def _read(file: Path) -> tuple[list[dict[str, Any]], tuple[str, ...], dict[int, list[Instance]], str]:
    """Images, category names, objects by image id, and the file's sha256."""
    try:
        content = file.read_bytes()
        given = json.loads(content)
        names = {int(row["id"]): str(row["name"]) for row in given["categories"]}
        rows = [{key: row[key] for key in ("id", "file_name", "height", "width")} for row in given["images"]]
        objects: dict[int, list[Instance]] = defaultdict(list)
        for row in given["annotations"]:
            # A KeyError where no category has this id.
            name = names[row["category_id"]]
            objects[row["image_id"]].append(Instance(name, row["segmentation"], bool(row.get("iscrowd", 0))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FusionerError(
            f"{file} can't be read as COCO instances ({error!r}): expected a JSON object with images, annotations and "
            "categories (instances_*.json, not captions or keypoints); copy it again"
        ) from error
    return rows, tuple(dict.fromkeys(names.values())), dict(objects), hashlib.sha256(content).hexdigest()
