"""What the publishers of the data sets offer, and the layout it becomes: the rows of ``catalogue.json``."""

import json
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import Field, model_validator

from fusionerlib.config import Frozen


class Source(Frozen):
    """One file as its publisher offers it.

    urls: where it is, in the order to try. size: bytes. digests: hex by "md5" and "sha256". Both are empty where they
    are not known; known_from: who tells them. by_hand: why no program can download it, and how a person can.
    take: what of it is wanted: path under the root, and the names that it may have inside the archive.
    """

    name: str
    urls: tuple[str, ...] = ()
    size: int | None = Field(default=None, gt=0)
    digests: dict[str, str] = Field(default_factory=dict)
    known_from: str = ""
    by_hand: str = ""
    take: dict[str, tuple[str, ...]]


class Part(Frozen):
    """A folder of files of one kind, or one file (``files`` empty).

    path: under the root, "." for itself. also: other places where people have it. files: which files in the folder
    count, as a glob. count: how many the publisher gives. built_from: parts that it is made of where no archive has
    it. step: whether it is only such a part, and not of the layout. optional: whether the data are complete without
    it; it is taken where a folder, or an archive that is unpacked for another part, has it.
    """

    path: str
    also: tuple[str, ...] = ()
    files: str = ""
    count: int = 1
    built_from: tuple[str, ...] = ()
    step: bool = False
    optional: bool = False

    def found(self, place: Path) -> list[Path]:
        """The files of this part at ``place``, sorted; empty where there is none."""
        if not self.files:
            return [place] if place.is_file() else []
        return sorted(file for file in place.glob(self.files) if not file.name.startswith("."))

    def look_in(self, folder: Path) -> Path | None:
        """Where ``folder`` has it: at its own path, or at one of the others."""
        return next((folder / path for path in (self.path, *self.also) if self._is_at(folder / path)), None)

    def _is_at(self, place: Path) -> bool:
        return place.is_file() if not self.files else any(place.glob(self.files))


class Instances(Frozen):
    """What a COCO instances file holds as published."""

    objects: int
    categories: int


class DataSet(Frozen):
    """A data set: files, parts, and what makes it right.

    pairs: (part of images, part of masks) with equal stems. values: the ranges, both ends included, of what a mask
    may hold, None for anything. uneven: images whose published mask has another size than the image.
    instances: what the COCO file in the part ``instances`` holds, for the images in the part ``images``.
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
        """The parts that a prepared data set has, the optional ones among them."""
        return {key: part for key, part in self.parts.items() if not part.step}

    def givers(self, part: Part) -> list[Source]:
        """The files that hold ``part``, the first one preferred."""
        return [source for source in self.files if part.path in source.take]


@cache
def load_catalogue() -> dict[str, DataSet]:
    """All data sets that can be prepared, by name."""
    file = resources.files(__package__) / "catalogue.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    return {name: DataSet(**row) for name, row in rows.items()}
