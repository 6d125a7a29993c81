"""One category, several names: the 20 classes of PASCAL VOC beside COCO's names for them (``categories.csv``).

The canonical name is COCO's: all of them are words, and every table of name embeddings that knows COCO has them.

Which names are of one kind (``supercategories.txt``): what makes a mosaic whose four names are easily confused.
"""

import csv
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import NamedTuple

from fusionerlib.datasets.glyphs import COLOURS
from fusionerlib.datasets.pascal import NAMES, fold_classes


class Category(NamedTuple):
    """One class of VOC: its id in VOC's own spelling, the same in words, and COCO's name."""

    voc: str
    words: str
    coco: str


@cache
def categories() -> tuple[Category, ...]:
    """The table, class c (1-20) of PASCAL VOC at place c - 1."""
    file = resources.files("fusionerlib") / "datasets" / "categories.csv"
    header, *rows = csv.reader(file.read_text(encoding="utf-8").splitlines())
    assert tuple(header) == Category._fields
    return tuple(Category(*row) for row in rows)


def canonical(name: str) -> str:
    """COCO's name of a category under any of its names; a name that the table does not have, as it is."""
    return _canonical().get(name, name)


def names_of(name: str) -> frozenset[str]:
    """Every name of the category that ``name`` is one of; ``name`` alone where the table does not have it."""
    return frozenset(other for row in categories() for other in row if name in row) | {name}


def held_out(fold: int) -> frozenset[str]:
    """Every name, of VOC and of COCO, of the classes that PASCAL-5i's ``fold`` holds out."""
    return all_names(NAMES[number - 1] for number in fold_classes(fold))


def all_names(names: Iterable[str]) -> frozenset[str]:
    """Every name of every category in ``names``."""
    return frozenset(other for name in names for other in names_of(name))


def unseen(names: Iterable[str], *, trained: Iterable[str]) -> tuple[str, ...]:
    """Those of ``names`` that training had under none of their names, in their order."""
    known = all_names(trained)
    return tuple(name for name in names if name not in known)


@cache
def _canonical() -> dict[str, str]:
    return {name: row.coco for row in categories() for name in row}


GROUPINGS = {
    "openmoji": "openmoji",
    "pascal": "voc",
    "photos": "voc",
    "voc-20": "voc",
    "coco": "coco",
    "coco-object": "coco",
}
"""Whose grouping a data set has; a data set that publishes none (FSS-1000 among them) is not here."""


def supercategory(name: str, *, dataset: str) -> str | None:
    """The group that the publishers of ``dataset`` put ``name`` in, under any of the category's names.

    A colour before a drawn thing changes nothing: "red car" is in the group of "car". None where the data set
    publishes no groups, or none with this name.
    """
    table = _table().get(GROUPINGS.get(dataset, ""), {})
    first, _, thing = name.partition(" ")
    plain = thing if name not in table and first in COLOURS else name
    return next((table[other] for other in sorted(names_of(plain)) if other in table), None)


@cache
def _table() -> dict[str, dict[str, str]]:
    """Grouping, then name, to group."""
    file = resources.files("fusionerlib") / "datasets" / "supercategories.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [line.split(": ", 2) for line in lines if not line.startswith("#")]
    table: dict[str, dict[str, str]] = {}
    for grouping, group, names in rows:
        table.setdefault(grouping, {}).update(dict.fromkeys(names.split(", "), group))
    return table
