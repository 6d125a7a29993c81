"""The download catalogue (``catalogue.json``): the files that publishers offer, and the layout they become here."""

import json
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import Field, model_validator

from fusionerlib.config import Frozen


class Source(Frozen):
    """One file as its publisher offers it.

    urls: its addresses, in the order to try. size: in bytes; None where it is not known. digests: "md5" and "sha256" in
    hex, as far as they are known; known_from: where they were found. by_hand: for a file without an address, why, and
    how a person gets it. take: what is unpacked: path under the root to its possible names inside the archive.
    """

    name: str
    urls: tuple[str, ...] = ()
    size: int | None = Field(default=None, gt=0)
    digests: dict[str, str] = Field(default_factory=dict)
    known_from: str = ""
    by_hand: str = ""
    take: dict[str, tuple[str, ...]]


class Part(Frozen):
    """A folder of files of one kind, or a single file (``files`` is empty).

    path: under the root; "." is the root itself. also: other places where it is found in unpacked copies. files: a glob
    for the files in the folder. count: how many files are published. built_from: the parts that it is built from where
    no archive has it. step: whether it is only needed to build another part, and is not kept. optional: whether the
    data set is complete without it; it is then taken only from a linked folder, or from an archive that is unpacked for
    another part.
    """

    path: str
    also: tuple[str, ...] = ()
    files: str = ""
    count: int = 1
    built_from: tuple[str, ...] = ()
    step: bool = False
    optional: bool = False

    def found(self, place: Path) -> list[Path]:
        """The files of this part at ``place``, sorted."""
        if not self.files:
            return [place] if place.is_file() else []
        return sorted(file for file in place.glob(self.files) if not file.name.startswith("."))

    def look_in(self, folder: Path) -> Path | None:
        """Where ``folder`` has this part: at ``path`` or one of ``also``; None where it has not."""
        return next((folder / path for path in (self.path, *self.also) if self._is_at(folder / path)), None)

    def _is_at(self, place: Path) -> bool:
        return place.is_file() if not self.files else any(place.glob(self.files))


class Instances(Frozen):
    """The published numbers of objects and categories in a COCO instances file."""

    objects: int
    categories: int


class DataSet(Frozen):
    """A data set: the files that it is downloaded as, the parts that it becomes, and how these are verified.

    pairs: (part of images, part of masks) whose files have equal stems. values: the ranges, both ends included, of the
    indices in a mask; None for any. uneven: images whose published mask has another size than the image. instances: the
    published content of the COCO file in the part ``instances``, which lists the images in the part ``images``.
    """

    title: str
    files: tuple[Source, ...]
    parts: dict[str, Part]
    pairs: tuple[tuple[str, str], ...] = ()
    values: tuple[tuple[int, int], ...] | None = None
    uneven: tuple[str, ...] = ()
    instances: Instances | None = None

    @model_validator(mode="after")
    def _coherent(self) -> "DataSet":
        offered = {path for source in self.files for path in source.take}
        for key, part in self.parts.items():
            if part.path not in offered and not part.built_from:
                raise ValueError(f"no file gives part {key!r}")
        named = {key for pair in self.pairs for key in pair} | {k for p in self.parts.values() for k in p.built_from}
        if named - set(self.parts):
            raise ValueError(f"no such parts: {sorted(named - set(self.parts))}")
        return self

    @property
    def layout(self) -> dict[str, Part]:
        """The parts of a prepared data set, including the optional ones."""
        return {key: part for key, part in self.parts.items() if not part.step}

    def givers(self, part: Part) -> list[Source]:
        """The files that contain ``part``, the preferred one first."""
        return [source for source in self.files if part.path in source.take]


@cache
def load_catalogue() -> dict[str, DataSet]:
    """The data sets of the catalogue, by name."""
    file = resources.files(__package__) / "catalogue.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    return {name: DataSet(**row) for name, row in rows.items()}
