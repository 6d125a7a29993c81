"""Which names are of one kind (``supercategories.txt``): what makes a mosaic whose four names are easily confused."""

from functools import cache
from importlib import resources

from fusionerlib.datasets.categories import names_of
from fusionerlib.datasets.glyphs import COLOURS

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
