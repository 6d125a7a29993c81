"""Lists of names as people and tools write them: which index, and which colour, has which name."""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fusionerlib.errors import FusionerError
from fusionerlib.files import read_text
from fusionerlib.name_forms import same_forms

Colour = tuple[int, int, int]
BACKGROUND = "background"
IGNORED = "ignore"
HIGHEST = 254
"""The highest index that a class may have: 255 is ignored."""
_SPECIAL = {"background": BACKGROUND, "bg": BACKGROUND} | dict.fromkeys(
    ("ignore", "ignored", "void", "unlabeled", "unlabelled"), IGNORED
)
_NUMBERED = re.compile(r"(\d+)(?:\s*(?:[-=]>|[:,;=|]|[.)](?=\s))\s*|\s+-\s+|\s+)(\S.*)")
_NAMED = re.compile(r"(\S.*?)\s*[:,;=\t]\s*(\d+)")
_COLOURED = re.compile(r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\S.*)")
_LABELMAP = re.compile(r"([^:]+):\s*(?:(\d+)\s*,\s*(\d+)\s*,\s*(\d+))?\s*:[^:]*:[^:]*")
_INDEX_COLUMNS = ("index", "id", "value", "class_id", "classid", "label_id", "category_id")
_NAME_COLUMNS = ("name", "class", "class_name", "classname", "label", "category", "names", "title")
_COLOUR_COLUMNS = (("r", "g", "b"), ("red", "green", "blue"))


class NameTable(NamedTuple):
    """names: by index; ``background`` and ``ignore`` are no classes. colours: to index; {} if none is given."""

    names: dict[int, str]
    colours: dict[Colour, int]


class _Entry(NamedTuple):
    name: str
    number: int | None = None
    colour: Colour | None = None


def plain(name: str) -> str:
    """``name`` without spaces around it, and with one space where several are."""
    return " ".join(name.split())


def special(name: str) -> str | None:
    """``background`` or ``ignore`` where ``name`` is no class: whatever the case, in underscores, after an index.

    Examples: ``_background_``, ``Background``, ``0 background``, ``__ignore__``, ``void``.
    """
    bare = re.sub(r"^\d+[\s:=,._-]*", "", plain(name).casefold()).strip("_ ")
    return _SPECIAL.get(bare)


def read_names(file: Path) -> dict[int, str]:
    """The names of ``read_table`` by index."""
    return read_table(file).names


def read_table(file: Path) -> NameTable:
    """The names in a text file, by index, and their colours if it has some.

    Line k is the name of index k (empty lines count, comments, which begin with ``#`` or ``//``, do not); or every line
    is ``index name``, ``index: name``, ``index. name``, ``index=name``, ``index -> name``, or the name first with any
    mark but a space; or one line has all names with commas or semicolons between them. A CSV file with a header; a JSON
    or YAML list (its first entry is index 1, or index 0 if it is background), or an object from index to name, from
    name to index, or with such a thing under ``names``. CVAT's ``labelmap.txt``, ``name:r,g,b::``, from index 0 if
    background is first, else from 1; ``r g b name`` from index 1. Background in any spelling (``special``) is read as
    ``background``, void and the like as ``ignore``. The text is UTF-8, or what its byte order mark says.
    Raises FusionerError where the file is missing, has no class, an index above 254, an index, name or colour twice
    (a name also in another form: "cat", "Cats"), or a first line "background" without an index (it would be index 1),
    and for another text encoding.
    """
    if not file.is_file():
        raise FusionerError(f"{file} is missing: write one name a line, line k for index k of the masks")
    entries = _entries(read_text(file), file)
    names: dict[int, str] = {}
    colours: dict[Colour, int] = {}
    seen: Counter[str] = Counter()
    for number, entry in enumerate(entries, start=1):
        name = special(entry.name) or plain(entry.name)
        index = number if entry.number is None else entry.number
        if name == IGNORED and entry.number is None and entry.colour is not None:
            index = HIGHEST + 1  # a colour needs no index of its own
        once = index > HIGHEST or (name == BACKGROUND and entry.colour is not None)
        seen.update([f"the colour {entry.colour}"] if entry.colour else [])
        seen.update([] if once else [f"the index {index}"])
        seen.update([] if name in _SPECIAL.values() else [f"the name {name!r}"])
        names[index] = name
        if entry.colour is not None:
            colours[entry.colour] = index
    if twice := [what for what, count in seen.items() if count > 1]:
        raise FusionerError(f"{file} has {twice[0]} twice: give each index a name of its own")
    classes = {index: name for index, name in names.items() if name not in _SPECIAL.values()}
    if alike := same_forms(classes.values()):
        raise FusionerError(
            f"{file} names {alike[0]!r} and {alike[1]!r}, which are one name to a text encoder: write what sets the "
            "classes apart ('toy cat'), or save both in the masks as one index"
        )
    if not classes or max(classes) > HIGHEST:
        raise FusionerError(
            f"{file} names {len(classes)} classes, the highest index is {max(classes, default=None)}: expected at "
            f"least one, of indices up to {HIGHEST}"
        )
    return NameTable(names, colours)


def listed_names(file: Path) -> list[str]:
    """The names in a file of ``read_table``'s forms in their order, to be asked for: as many as there are, and any.

    Background and ignored ones are left out. Raises FusionerError for another text encoding.
    """
    entries = _entries(read_text(file), file, masks=False)
    return [plain(entry.name) for entry in entries if special(entry.name) is None]


def _entries(text: str, file: Path, *, masks: bool = True) -> list[_Entry]:
    suffix, start = file.suffix.lower(), text.lstrip()
    lines = [line.strip() for line in text.splitlines()]
    lines = [re.sub(r"\s+#.*$", "", line) for line in lines if not line.startswith(("#", "//"))]
    rows = [line for line in lines if line]
    listed = rows and (all(row.startswith("- ") for row in rows) or any(re.match(r"names\s*:", row) for row in rows))
    if start[:1] in ("[", "{") or listed or suffix in (".yaml", ".yml", ".json"):
        return _structured(text, file)
    found = [match for row in rows if (match := _LABELMAP.fullmatch(row))]
    if rows and len(found) == len(rows):
        first = 0 if special(found[0][1]) == BACKGROUND else 1
        return [_Entry(m[1], place, _colour(m.groups()[1:])) for place, m in enumerate(found, start=first)]
    if rows and (table := _table(rows, suffix)) is not None:
        return table
    for pattern, number, name in ((_NUMBERED, 1, 2), (_NAMED, 2, 1)):
        found = [match for row in rows if (match := pattern.fullmatch(row))]
        if len(found) == len(rows) and rows and not all(_COLOURED.fullmatch(row) for row in rows):
            # Further columns of a table with tabs are notes.
            return [_Entry(_bare(match[name].split("\t")[0]), int(match[number])) for match in found]
    if rows and all(match := _COLOURED.fullmatch(row) for row in rows):
        coloured = [match for row in rows if (match := _COLOURED.fullmatch(row))]
        return [_Entry(match[4], colour=_colour(match.groups()[:3])) for match in coloured]
    if len(rows) == 1 and re.search("[,;]", rows[0]):
        rows = lines = [part.strip() for part in re.split("[,;]", rows[0]) if part.strip()]
    if masks and rows and special(rows[0]) == BACKGROUND and not rows[0][0].isdigit():
        raise FusionerError(
            f"{file} begins with {rows[0]!r}, which would be index 1: 0 is background already, so delete the line, or "
            "write every line with its index ('0 background', '1 cat', ...)"
        )
    return [_Entry(_bare(line), number) for number, line in enumerate(lines, start=1) if line]


def _structured(text: str, file: Path) -> list[_Entry]:
    """JSON or YAML."""
    try:
        given: Any = json.loads(text)
    except (ValueError, RecursionError):
        try:
            import yaml

            given = yaml.safe_load(text)
        except Exception as error:  # PyYAML's errors have many types, RecursionError among them
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FusionerError(
                f"{file} is neither JSON nor YAML ({reason}): mend it, or write a name a line"
            ) from error
    if isinstance(given, str):  # a plain list of words is YAML's one long string
        return [_Entry(line.strip(), number) for number, line in enumerate(given.splitlines() or [given], start=1)]
    for key in ("names", "classes", "labels", "categories"):
        if isinstance(given, Mapping) and isinstance(given.get(key), Mapping | list):
            given = given[key]
    if isinstance(given, list):
        first = 0 if given and special(str(_name_in(given[0]))) == BACKGROUND else 1
        pairs: list[tuple[Any, Any]] = [
            (next((row[key] for key in _INDEX_COLUMNS if key in row), place), _name_in(row))
            if isinstance(row, Mapping)
            else (place, row)
            for place, row in enumerate(given, start=first)
        ]
    elif isinstance(given, Mapping):
        pairs = list(given.items())
        if pairs and all(isinstance(value, int) and not isinstance(value, bool) for _, value in pairs):
            pairs = [(value, name) for name, value in pairs]
    else:
        pairs = [(None, None)]
    entries = []
    for index, name in pairs:
        if isinstance(name, bool) or not isinstance(name, str | int | float) or not re.fullmatch(r"\d+", str(index)):
            raise FusionerError(
                f"{file} holds {name!r} at {index!r}: expected a list of names, or an object from index to name"
            )
        entries.append(_Entry(str(name), int(index)))
    return entries


def _name_in(row: Any) -> Any:
    return next((row[key] for key in _NAME_COLUMNS if key in row), None) if isinstance(row, Mapping) else row


def _table(rows: Sequence[str], suffix: str) -> list[_Entry] | None:
    """The rows of a CSV file by its header; None where it has none and is not named so."""
    mark = next((mark for mark in ",;\t" if mark in rows[0]), ",")
    cells = [[cell.strip() for cell in row] for row in csv.reader(rows, delimiter=mark, skipinitialspace=True)]
    head = [cell.casefold() for cell in cells[0]]
    name = next((head.index(column) for column in _NAME_COLUMNS if column in head), None)
    index = next((head.index(column) for column in _INDEX_COLUMNS if column in head), None)
    colour = next(([head.index(c) for c in columns] for columns in _COLOUR_COLUMNS if {*columns} <= {*head}), None)
    if name is None or (index is None and colour is None and suffix not in (".csv", ".tsv")):
        return None
    body = [row for row in cells[1:] if len(row) == len(head)]
    if len(body) < len(cells) - 1 or not all(index is None or row[index].isdecimal() for row in body):
        return None
    found = []
    for place, row in enumerate(body, start=1):
        shade = _colour([row[column] for column in colour]) if colour else None
        number = int(row[index]) if index is not None else None if shade else place
        found.append(_Entry(row[name], number, shade))
    return found


def _colour(values: Sequence[str | None]) -> Colour | None:
    if None in values:
        return None
    red, green, blue = (int(value or 0) for value in values)
    return red, green, blue


def _bare(name: str) -> str:
    """``name`` without a comma or semicolon after it, and without quotes around it."""
    name = name.strip().rstrip(",;").rstrip()
    return name[1:-1] if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'" else name
