"""Names of categories: PASCAL VOC's 20 classes beside COCO's names for them, held-out names, and supercategories.

The canonical name of a category is COCO's: all of COCO's names are words, and tables of name embeddings have them.
"""

import csv
from collections.abc import Collection, Iterable
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np

from fusionerlib.datasets import coco
from fusionerlib.datasets.openmoji.glyphs import COLOURS
from fusionerlib.datasets.pascal import NAMES, Novel, fold_classes
from fusionerlib.datasets.scene import IGNORE, Scene, Scenes
from fusionerlib.files import fingerprint
from fusionerlib.name_forms import everyday, form


class Category(NamedTuple):
    """One class of VOC: VOC's identifier, the same in words, and COCO's name."""

    voc: str
    words: str
    coco: str


@cache
def categories() -> tuple[Category, ...]:
    """The rows of ``categories.csv``, class c (1-20) of PASCAL VOC at ``categories()[c - 1]``."""
    file = resources.files("fusionerlib") / "datasets" / "categories.csv"
    header, *rows = csv.reader(file.read_text(encoding="utf-8").splitlines())
    assert tuple(header) == Category._fields
    return tuple(Category(*row) for row in rows)


def canonical(name: str) -> str:
    """COCO's name of a category, given any of its names; another name is returned as it is."""
    return _canonical().get(name, name)


def identifier(name: str) -> str:
    """The data sets' raw identifier of a class of VOC or COCO, given any of its names; another name as it is.

    VOC's spelling for its 20 categories ("tv" and "tv monitor" are "tvmonitor", "airplane" is "aeroplane"), COCO's
    name without spaces for the others ("wine glass" is "wineglass"): what the code of the paper sends to the text
    encoder.
    """
    return _identifiers().get(name, name)


def names_of(name: str) -> frozenset[str]:
    """Every name of the category that ``name`` names; ``name`` alone where it names none of the table's."""
    return frozenset(other for row in categories() for other in row if name in row) | {name}


def all_names(names: Iterable[str]) -> frozenset[str]:
    """Every name of every category in ``names``."""
    return frozenset(other for name in names for other in names_of(name))


def category(name: str) -> str:
    """The name that ``name`` counts as: of its form and of what ``everyday`` says it is asked as, COCO's name.

    "Cats" and "kitty" are "cat", "settee" is "couch" as "sofa" is; another name is its own form.
    """
    text = form(name)
    return canonical(everyday().alike.get(text, text))


ALSO_SHOWN = {"bicyclist": "bicycle"}
"""A category beside ``category`` that the regions of a name of CamVid show."""


def held_out(fold: int) -> frozenset[str]:
    """Every name, VOC's, COCO's and CamVid's, of what the classes show that PASCAL-5i's ``fold`` holds out."""
    from fusionerlib.datasets.camvid import CLASSES  # imports all that reads folders and downloads

    names = all_names(NAMES[number - 1] for number in fold_classes(fold))
    return names | {name for name in CLASSES if {category(name), ALSO_SHOWN.get(name, "")} & names}


def unseen(names: Iterable[str], *, trained: Iterable[str]) -> tuple[str, ...]:
    """Those of ``names`` whose ``category`` has no name among ``trained``, in their order."""
    known = {category(name) for name in trained}
    return tuple(name for name in names if category(name) not in known)


class VocCoco:
    """``scenes`` with canonical names (``canonical``) and without the categories in ``without``.

    Several names of one category become one name, with one mask. The pixels of a category in ``without``, under any of
    its names, are ignored, or background with ``novel="background"`` (as in the paper). A scene without a name left is
    dropped.
    """

    def __init__(self, scenes: Scenes, *, without: Collection[str] = (), novel: Novel = "ignore") -> None:
        self.scenes, self.novel = scenes, novel
        self.without = all_names(without)
        self._indices = [index for index in range(len(scenes)) if self._merged(scenes.names(index))]
        self.fingerprint = fingerprint(scenes.fingerprint, "canonical", sorted(self.without), novel)

    def __len__(self) -> int:
        return len(self._indices)

    def names(self, index: int) -> tuple[str, ...]:
        """The canonical names that scene ``index`` keeps, without opening its image."""
        return self._merged(self.scenes.names(self._indices[index]))

    def __getitem__(self, index: int) -> Scene:
        scene = self.scenes[self._indices[index]]
        names = self._merged(scene.names)
        table = np.zeros(256, dtype=np.uint8)
        table[IGNORE] = IGNORE
        for label, name in enumerate(scene.names, start=1):
            if name in self.without:
                table[label] = IGNORE if self.novel == "ignore" else 0
            else:
                table[label] = names.index(canonical(name)) + 1
        return Scene(image=scene.image, labels=table[scene.labels], names=names, key=scene.key)

    def _merged(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(canonical(name) for name in names if name not in self.without))


GROUPINGS = {
    "openmoji": "openmoji",
    "pascal": "voc",
    "photos": "voc",
    "voc-20": "voc",
    "coco": "coco",
    "coco-object": "coco",
}
"""The grouping of each data set in ``supercategories.txt``. Others, such as FSS-1000, publish none."""


def supercategory(name: str, *, dataset: str) -> str | None:
    """The supercategory of ``name``, under any name of its category, in the publishers' grouping of ``dataset``.

    A colour before a drawn object changes nothing: "red car" is in the group of "car". None where the data set
    publishes no groups, or none with this name.
    """
    table = _groups().get(GROUPINGS.get(dataset, ""), {})
    first, _, thing = name.partition(" ")
    plain = thing if name not in table and first in COLOURS else name
    return next((table[other] for other in sorted(names_of(plain)) if other in table), None)


@cache
def _canonical() -> dict[str, str]:
    return {name: row.coco for row in categories() for name in row}


@cache
def _identifiers() -> dict[str, str]:
    joined = {name: name.replace(" ", "") for name in coco.NAMES}
    return joined | {name: row.voc for row in categories() for name in row}


@cache
def _groups() -> dict[str, dict[str, str]]:
    """Grouping to name to group."""
    file = resources.files("fusionerlib") / "datasets" / "supercategories.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [line.split(": ", 2) for line in lines if not line.startswith("#")]
    table: dict[str, dict[str, str]] = {}
    for grouping, group, names in rows:
        table.setdefault(grouping, {}).update(dict.fromkeys(names.split(", "), group))
    return table
