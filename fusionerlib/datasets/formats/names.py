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
_RGB = r"[(\[]?(?P<r>\d{1,3})[\s,;]+(?P<g>\d{1,3})[\s,;]+(?P<b>\d{1,3})[)\]]?"
_INDEXED = (
    re.compile(r"(?P<number>\d{1,9})(?:\.0+(?=\D))?(?:\s*(?:[-=]>|[:,;=|]|[.)](?=\s))\s*|\s+-\s+|\s+)(?P<name>\S.*)"),
    re.compile(r"(?P<name>\S.*?)\s*[:,;=\t]\s*(?P<number>\d{1,9})"),
)
_LABELMAP = re.compile(rf"(?P<name>[^:]+):(?:\s*{_RGB}\s*(?::[^:]*){{0,2}}|\s*:[^:]*:[^:]*)")
_COLOURED = (
    re.compile(rf"(?:(?P<number>\d{{1,9}})[\s,;:]+)?(?P<name>\D.*?)[\s,;:]+{_RGB}"),
    re.compile(rf"(?:(?P<number>\d{{1,9}})[\s,;:]+)?{_RGB}[\s,;:]+(?P<name>\D.*)"),
)
_NO_NAME = re.compile(r'.*[{}\[\]<>|="\\\t].*|[(*].*|0x[0-9a-f]+ .*|.*(::|#[0-9a-fA-F]{6}).*|.{201,}')
"""What no name holds: such a line is of a file of another form."""
_LONGEST = 500
"""Most characters of a line that are looked through for an index and the like."""
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u2060\x1a"))
_INDEX_COLUMNS = (
    *("index", "id", "idx", "value", "pixel_value", "class_id", "classid", "class_index", "label_id", "category_id"),
    "train_id",
)
_NAME_COLUMNS = (
    *("name", "class", "class_name", "classname", "label", "label_name", "category", "category_name", "names", "title"),
)
_HEADINGS = {*_INDEX_COLUMNS, *_NAME_COLUMNS, "classes", "labels", "categories"}
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
    """``name`` without spaces around it, with one space where several are, and without characters of no width."""
    return " ".join(name.translate(_INVISIBLE).split())


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

    Line k is the name of index k (empty lines count, comments, which begin with ``#``, ``//`` or ``%``, do not); or
    every line is ``index name``, ``index: name``, ``index. name``, ``index=name``, ``index -> name``, or the name first
    with any mark but a space; or one line has all names with commas or semicolons between them. A CSV file with a
    header; a JSON or YAML list (its first entry is index 1, or index 0 if it is background), or an object from index to
    name, from name to index, or with such a thing under ``names``. CVAT's ``labelmap.txt``, ``name:r,g,b::``, and
    ``r g b name`` or ``name r g b``, with an index before it or not: from index 0 if background is first, else from 1.
    Background in any spelling (``special``) is read as ``background``, void and the like as ``ignore``. The text is
    UTF-8, or what its byte order mark says.
    Raises FusionerError where the file is missing, has no class, an index above 254, an index, name or colour twice
    (a name also in another form: "cat", "Cats"), a first line "background" or "name" without an index (it would be
    index 1), a line that is no name or not of the form of the others, and for another text encoding.
    """
    if not file.is_file():
        raise FusionerError(f"{file} is missing: write one name a line, line k for index k of the masks")
    return table_of(read_text(file), file)


def table_of(text: str, file: Path) -> NameTable:
    """What ``read_table`` gives for a ``file`` with this text."""
    entries = _entries(text, file)
    names: dict[int, str] = {}
    colours: dict[Colour, int] = {}
    seen: Counter[str] = Counter()
    zero = entries and entries[0].colour and entries[0].number is None and special(entries[0].name) == BACKGROUND
    for number, entry in enumerate(entries, start=0 if zero else 1):
        name = special(entry.name) or plain(entry.name)
        index = number if entry.number is None else entry.number
        if not name:
            raise FusionerError(f"{file} has no name at index {index}: write one, or delete the entry")
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
    lines = [line.strip() for line in re.sub(r"\r+\n", "\n", text.translate(_INVISIBLE)).splitlines()]
    lines = [re.sub(r"(?<=\S)\s+(#|//).*$", "", line) for line in lines if not line.startswith(("#", "//", "%"))]
    rows = [line for line in lines if line and not re.fullmatch("sep=.", line)]
    listed = rows and (all(row.startswith("- ") for row in rows) or any(re.match(r"names\s*:", row) for row in rows))
    if start[:1] in ("[", "{") or listed or suffix in (".yaml", ".yml", ".json"):
        return _structured(text, file)
    if len(rows) == 1:  # "1: cat, 2: dog" is two entries, "1: cat, striped" is one
        parts = [part.strip() for part in re.split("[,;]", rows[0]) if part.strip()]
        split = len(parts) > 1 and any(all(map(form.fullmatch, parts)) for form in _INDEXED)
        rows = parts if split or len(rows[0]) > _LONGEST else rows
    if rows and max(map(len, rows)) <= _LONGEST:
        if (table := _table(rows, suffix, file)) is not None:
            return table
        rows = _without_heading(rows, file, masks)
        if (found := _in_one_form(rows, file, masks)) is not None:
            _refuse_no_names([entry.name for entry in found], file)
            return found
    if len(rows) == 1 and re.search("[,;]", rows[0]):
        rows = lines = [part.strip() for part in re.split("[,;]", rows[0]) if part.strip()]
    _refuse_no_names([_bare(row) for row in rows], file, "," if suffix in (".csv", ".tsv") else "")
    before = rows[: 2 if rows and special(rows[0]) == IGNORED else 1]
    if masks and BACKGROUND in map(special, before) and not rows[0][0].isdigit():
        raise FusionerError(
            f"{file} begins with {rows[0]!r}, which would be index 1: 0 is background already, so delete the line, or "
            "write every line with its index ('0 background', '1 cat', ...)"
        )
    return [_Entry(_bare(line), number) for number, line in enumerate(lines, start=1) if line]


def _refuse_no_names(names: Sequence[str], file: Path, mark: str = "") -> None:
    """Raise FusionerError where one of ``names`` can be none, or holds ``mark``."""
    if odd := [name for name in names if _NO_NAME.fullmatch(name) or (mark and mark in name)]:
        raise FusionerError(
            f"{file} holds {_short(odd[0])}, which is no name: write one name a line, or every line with its index "
            "('1 cat'); columns of a table need the headings index and name"
        )


def _without_heading(rows: list[str], file: Path, masks: bool) -> list[str]:
    """The lines below a heading such as "index name". Raises FusionerError for one alone, as lines count then."""
    words = [_heading(cell) for cell in re.split(r"[\s,;]+", rows[0])]
    if len(rows) == 1 or not {*words} <= _HEADINGS:
        return rows
    if len(words) == 1 and masks:
        raise FusionerError(
            f"{file} begins with {rows[0]!r}, a heading, which would be index 1: delete the line, or write every line "
            "with its index ('1 cat', ...)"
        )
    return rows[1:]


def _in_one_form(rows: list[str], file: Path, masks: bool) -> list[_Entry] | None:
    """The entries of lines of one form; None for plain names.

    Raises FusionerError where most of the lines have a form and another has not.
    """
    rows = [re.sub(r'^"(\d+)"(?=\W)', r"\1", row) for row in rows]
    for form in (_LABELMAP, *_COLOURED, *_INDEXED):
        found = [match for row in rows if (match := form.fullmatch(row))]
        if len(found) == len(rows):
            entries = []
            first = 0 if special(found[0]["name"]) == BACKGROUND else 1
            for place, match in enumerate(found, start=first):
                given = match.groupdict()
                number = given.get("number") or (place if form is _LABELMAP else None)
                shade = _colour([given.get(channel) for channel in "rgb"], file)
                # Further columns of a table with tabs are notes.
                entries.append(
                    _Entry(_bare(match["name"].split("\t")[0]), None if number is None else int(number), shade)
                )
            return entries
        if masks and 2 * len(found) > len(rows):
            odd = next(row for row in rows if not form.fullmatch(row))
            raise FusionerError(
                f"{file} holds {_short(odd)}, which is not of the form of other lines ({_short(found[0][0])}): write "
                "every line with its index ('1 cat'), or none"
            )
    return None


def _structured(text: str, file: Path) -> list[_Entry]:
    """JSON or YAML."""
    try:
        try:
            given: Any = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, file))
        except (ValueError, RecursionError):
            given = _yaml(text, file)
    except FusionerError:
        raise
    except Exception as error:  # PyYAML's errors have many types, RecursionError among them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FusionerError(f"{file} is neither JSON nor YAML ({reason}): mend it, or write a name a line") from error
    if isinstance(given, str):  # a plain list of words is YAML's one long string
        return [_Entry(line.strip(), number) for number, line in enumerate(given.splitlines() or [given], start=1)]
    for key in ("names", "classes", "labels", "categories", "id2label"):
        if isinstance(given, Mapping) and isinstance(given.get(key), Mapping | list):
            given = given[key]
    triples: list[tuple[Any, Any, Any]] = [(None, None, None)]
    if isinstance(given, list):
        first = 0 if given and special(str(_name_in(given[0]))) == BACKGROUND else 1
        triples = []
        for place, row in enumerate(given, start=first):
            cells = row if isinstance(row, Mapping) else {}
            shade = next((cells[key] for key in ("color", "colour", "rgb") if key in cells), None)
            triples.append((next((cells[key] for key in _INDEX_COLUMNS if key in cells), place), _name_in(row), shade))
    elif isinstance(given, Mapping):
        backwards = given and all(_whole(value) and not _whole(key) for key, value in given.items())
        triples = [(value, key, None) if backwards else (key, value, None) for key, value in given.items()]
    entries = []
    for index, name, shade in triples:
        if not isinstance(name, str | int | float) or isinstance(name, bool) or not _whole(index):
            raise FusionerError(
                f"{file} holds {_short(name)} at {_short(index)}: expected a list of names, or an object from index to "
                "name"
            )
        values = shade if isinstance(shade, list) and len(shade) == 3 else [None]
        entries.append(_Entry(str(name), int(index), _colour(values, file)))
    return entries


def _yaml(text: str, file: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            _once([(key.value, None) for key, _ in node.value if isinstance(key.value, str)], file)
            return dict(super().construct_mapping(node, deep))

    return yaml.load(text, Loader)  # nosec B506: Loader is a SafeLoader


def _once(pairs: Sequence[tuple[Any, Any]], file: Path) -> dict[Any, Any]:
    """An object of these pairs. Raises FusionerError for one key twice, of which the first would be lost."""
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise FusionerError(f"{file} has {twice[0]!r} twice: give each index a name of its own")
    return dict(pairs)


def _whole(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and bool(re.fullmatch(r"\d{1,9}", str(value)))


def _name_in(row: Any) -> Any:
    """The name of a row. A list or an object, which may hold itself many times over, is None."""
    name = next((row[key] for key in _NAME_COLUMNS if key in row), None) if isinstance(row, Mapping) else row
    return name if isinstance(name, str | int | float) else None


def _table(rows: Sequence[str], suffix: str, file: Path) -> list[_Entry] | None:
    """The rows of a CSV file by its header; None where it has none and is not named so."""
    mark = next((mark for mark in (",", ";", "\t", '" "') if mark in rows[0]), ",").strip('"')
    try:
        cells = [
            [cell.strip() for cell in row]
            for row in csv.reader([f"{row}\n" for row in rows], delimiter=mark, skipinitialspace=True, strict=True)
        ]
    except csv.Error:
        return None
    head = [_heading(cell) for cell in cells[0]]
    name = next((head.index(column) for column in _NAME_COLUMNS if column in head), None)
    index = next((head.index(column) for column in (*_INDEX_COLUMNS, "") if column in head[: len(head) - 1]), None)
    colour = next(([head.index(c) for c in columns] for columns in _COLOUR_COLUMNS if {*columns} <= {*head}), None)
    if name is None or (index is None and colour is None and suffix not in (".csv", ".tsv")):
        return None
    found = []
    for place, row in enumerate([row for row in cells[1:] if any(row)], start=1):
        number = re.fullmatch(r"(\d{1,9})(\.0+)?", row[index]) if index is not None and index < len(row) else None
        if len(row) < len(head) or any(row[len(head) :]) or (index is not None and not number):
            raise FusionerError(
                f"{file} holds {_short(mark.join(row))}, which does not fit its headings "
                f"{_short(mark.join(cells[0]))}: write as many cells, and whole numbers as indices"
            )
        if number and not head[index or 0] and int(number[1]) != place:
            raise FusionerError(
                f"{file} has a column of numbers without a heading ({number[1]!r} first): call it index if it is that, "
                "or delete it"
            )
        shade = _colour([row[column] for column in colour], file) if colour else None
        found.append(_Entry(row[name], int(number[1]) if number else None if shade else place, shade))
    return found


def _heading(cell: str) -> str:
    return re.sub(r"[\s_-]+", "_", cell.strip(" \"':").casefold())


def _colour(values: Sequence[Any], file: Path) -> Colour | None:
    if None in values:
        return None
    numbers = [re.fullmatch(r"(\d{1,3})(\.0+)?", str(value).strip()) for value in values]
    shade = [int(number[1]) if number else 256 for number in numbers]
    if max(shade) > 255:
        raise FusionerError(
            f"{file} holds the colour {', '.join(str(value) for value in values)}: expected three whole numbers from 0 "
            "to 255"
        )
    return shade[0], shade[1], shade[2]


def _short(value: Any) -> str:
    """``value`` for a message; of a list or an object, which may be huge, its type."""
    shown = repr(value) if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return shown if len(shown) < 80 else f"{shown[:77]}..."


def _bare(name: str) -> str:
    """``name`` without a comma or semicolon after it, and without quotes around it."""
    name = name.strip().rstrip(",;").rstrip()
    return name[1:-1] if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'" else name
