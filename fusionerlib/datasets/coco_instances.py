"""A COCO instances file (2014, 2017 or a file of that format) as scenes."""

from collections.abc import Callable, Collection
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import UInt8

from fusionerlib.datasets.formats.coco_json import CocoFile, Instance, Row
from fusionerlib.datasets.formats.findings import Findings
from fusionerlib.datasets.formats.names import BACKGROUND
from fusionerlib.datasets.formats.pictures import MASK_FOLDERS, Pictures, absent
from fusionerlib.datasets.formats.shapes import object_mask
from fusionerlib.datasets.formats.upright import drawn_as_stored
from fusionerlib.datasets.scene import IGNORE, Scene
from fusionerlib.digests import content_digests
from fusionerlib.errors import FusionerError
from fusionerlib.files import IMAGE_SUFFIXES, fingerprint
from fusionerlib.images import read_header, read_image


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
    whole: no other file lists pictures of this folder, so that those that are not listed are told. only: whether an
    image file belongs to the data set; all do if None. prefix: of every key. strict: raise FusionerError where anything
    has to be left out; otherwise a FusionerWarning counts it, with examples.
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
        whole: bool = False,
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
        _refuse_other_kinds(content.rows, found)
        if own and whole:
            listed = {file for files in found.values() for file in files}
            kind = f"pictures of {self.images} left out, {self.file.name} does not list them"
            self.findings.note(
                kind, [str(file.relative_to(images.folder)) for file in images.files if file not in listed]
            )
        measured = [row for row in content.rows.values() if not row.height]
        for row in measured:
            self._measure(content.rows, row, found[row.id])
        same = self._listed_again(content.rows, found)
        self.sizes = {row.id: (row.height, row.width) for row in content.rows.values()}
        self._objects = content.read_objects(crowds="by file" if own else "ignored", same=same)
        rows = [row for row in content.rows.values() if row.id not in same]
        kept = [row for row in rows if self._shown(row.id)]
        if own:
            bare = [row.file_name for row in rows if not self._shown(row.id)]
            self.findings.note("images left out, they show no object", bare)
        if many := [row for row in kept if len(self._shown(row.id)) >= IGNORE]:
            kind = f"images left out, they show more than {IGNORE - 1} categories"
            self.findings.problem(kind, [f"{row.file_name} ({len(self._shown(row.id))})" for row in many])
            kept = [row for row in kept if row not in many]
        there = self._on_disk(kept, found)
        self.missing = len(kept) - len(there)
        self._as_stored: Collection[Path] = ()
        if own:
            unknown = {row.id for row in measured}
            sizes = {file: None if row.id in unknown else self.sizes[row.id] for row, file in there}
            self._as_stored, unclear = drawn_as_stored(sizes, sizes.__getitem__, self.findings, shown=shown)
            there = [(row, file) for row, file in there if file not in unclear]
        if not there:
            why = f" ({'; '.join(self.findings.problems)})" if self.findings.count() else ""
            raise FusionerError(
                f"{self.images} holds none of the {len(kept)} images with objects that {self.file} lists{why}: "
                "copy the pictures there, or mend the names in the file"
                if kept
                else f"{self.file} has no object that can be used{why}: "
                + (
                    "its objects have bounding boxes alone, so export polygons or masks"
                    if content.boxes
                    else "mend the objects, or export the file again"
                )
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

    def _listed_again(
        self, rows: dict[int | str, Row], found: dict[int | str, list[Path]]
    ) -> dict[int | str, int | str]:
        """The ids of rows whose picture another row of the same size has, to the id of the first such row."""
        first: dict[tuple[object, int, int], int | str] = {}
        same = {}
        for row in rows.values():
            place: object = found[row.id][0] if len(found[row.id]) == 1 else row.file_name
            kept = first.setdefault((place, row.height, row.width), row.id)
            if kept != row.id:
                same[row.id] = kept
                self.findings.note("images listed more than once, read as one", f"{row.file_name} (id {row.id!r})")
        return same

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


def _refuse_other_kinds(rows: dict[int | str, Row], found: dict[int | str, list[Path]]) -> None:
    """Of rows that found one picture take it from those of another suffix than its own: ``a.png`` beside ``a.jpg``."""
    claims: dict[Path, list[Row]] = {}
    for row in rows.values():
        for file in found[row.id]:
            claims.setdefault(file, []).append(row)
    for file, claiming in claims.items():
        own = [row for row in claiming if row.file_name.strip().lower().endswith(file.suffix.lower())]
        for row in claiming if own else ():
            if row not in own and PurePath(row.file_name.strip()).suffix.lower() in IMAGE_SUFFIXES:
                found[row.id] = [other for other in found[row.id] if other != file]


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
