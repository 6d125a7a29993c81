"""Executed notebooks and their pages as they can be shared: without absolute paths of the machine that made them.

Of the lines of progress, which a log needs and a reader does not, the last one of each task stays.
A path becomes relative to the clone, else it begins with the run's name, with ``~`` for the home folder, or with
``site-packages``. Of any other one the last part is left, behind ``…/``.
"""

import html
import json
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fusionerlib.errors import FusionerError
from fusionerlib.files import write_text
from workbook.clone import find_clone

Places = dict[str, str]
"""What stands for each folder or file of this machine; "" for the clone, from which relative paths count."""

TOP = {"home", "root", "Users", "Volumes", "mnt", "media", "data", "srv", "opt", "usr", "var", "tmp", "private", "etc"}
"""First parts of paths that are shortened wherever they stand, beside the folders at the top of this machine."""
PROGRESS = re.compile(r"(?P<task>[^\n]+): \d+%, [\d,.]+ of [\d,.]+ [^\n]*\n?")
"""A line that tells how far a task is (``fusionerlib.progress``)."""
_COLOUR = r"(?:\x1b|\\x1b|\\u001b)\[[0-9;]*m"
_BEFORE = rf"(?P<before>{_COLOUR}|file://|(?<![\w.…~%/\\+-]))"
_BINARY = ("image/", "audio/", "video/", "application/pdf", "application/octet-stream")


def places_of(clone: Path, output: Path, given: Any = None) -> Places:
    """The folders of this machine that an executed notebook at ``output`` may name.

    given: its parameters; absolute paths in them are places of their own.
    """
    run = output.parent.parent if output.parent.name in ("notebooks", "pages") else output.parent
    python = Path(sysconfig.get_path("stdlib"))
    found: dict[Path, str] = {path: f"…/{path.name}" for path in _paths(given)}
    found |= {Path(sys.base_prefix): "…/python", Path(sys.prefix): "…/environment", python: python.name}
    found |= {Path(sysconfig.get_path(kind)): "site-packages" for kind in ("platlib", "purelib")}
    found |= {Path(tempfile.gettempdir()): "…", Path.home(): "~", run: run.name, clone: ""}
    found |= {
        path: path.relative_to(clone).as_posix() for path in found if path != clone and path.is_relative_to(clone)
    }
    # A link may be named by where it leads.
    both = {path.resolve(): short for path, short in found.items()} | found
    return {str(path): short for path, short in both.items() if len(path.parts) > 1}


def _paths(given: Any) -> Iterator[Path]:
    if isinstance(given, Mapping):
        given = list(given.values())
    if isinstance(given, list | tuple):
        for value in given:
            yield from _paths(value)
    elif isinstance(given, str | os.PathLike):
        parts = [os.fspath(given), *os.fspath(given).split(",")]
        yield from (path for part in parts if (path := Path(part.strip())).is_absolute())


def shareable_text(text: str, places: Places) -> str:
    """``text`` without absolute paths of this machine."""
    for place in sorted(places, key=len, reverse=True):
        for form in dict.fromkeys(_forms(place)):
            if form in text:
                found = rf"{_BEFORE}{re.escape(form)}(?![\w-]|\.\w)(?P<inside>[/\\]+(?=[^\s'\"<>/\\]))?"
                text = re.sub(found, partial(_relative, short=places[place]), text)
    return _OTHER.sub(lambda match: f"{match['before'].removeprefix('file://')}…/{match['name']}", text)


def _forms(place: str) -> Iterator[str]:
    """How ``place`` may be written: as it is, in an address, in HTML, in JSON, and by repr."""
    yield from (place, quote(place), html.escape(place), json.dumps(place)[1:-1], repr(place)[1:-1], ascii(place)[1:-1])


def _relative(match: re.Match[str], *, short: str) -> str:
    before = match["before"].removeprefix("file://")
    if not match["inside"]:
        return f"{before}{short or '.'}"
    return f"{before}{short}/" if short else before


def _other() -> re.Pattern[str]:
    names = TOP | {path.name for path in Path("/").iterdir() if path.is_dir()} if os.name == "posix" else TOP
    part = r"[^\s/\\'\"`<>|:;,()\[\]{}*?&]+"
    return re.compile(rf"{_BEFORE}/(?:{'|'.join(map(re.escape, sorted(names)))})(?:/{part})*/(?P<name>{part})/?")


_OTHER = _other()


def shareable(notebook: Any, places: Places) -> Any:
    """``notebook`` (the content of its file) without absolute paths in its metadata, sources and outputs."""
    if isinstance(notebook, str):
        return shareable_text(notebook, places)
    if isinstance(notebook, list):
        return [shareable(part, places) for part in last_progress(notebook)]
    if not isinstance(notebook, Mapping) or notebook.get("encoding") == "base64":
        return notebook
    kept = {key for key in notebook if key.startswith(_BINARY) and key != "image/svg+xml"}
    return {
        shareable_text(key, places): value if key in kept else shareable(value, places)
        for key, value in notebook.items()
    }


def last_progress(outputs: Sequence[Any]) -> list[Any]:
    """The outputs of a cell with one output in place of consecutive lines of progress: the last line of each task."""
    kept: list[Any] = []
    tasks: dict[str, str] = {}
    for output in outputs:
        text = "".join(output.get("text", "")) if _is_stream(output) else ""
        lines = [PROGRESS.fullmatch(line) for line in text.splitlines(keepends=True)]
        if not lines or None in lines:
            tasks = {}
            kept.append(output)
            continue
        if tasks:
            kept.pop()
        for line in filter(None, lines):
            tasks.pop(line["task"], None)
            tasks[line["task"]] = line[0]
        kept.append({**output, "text": "".join(tasks.values())})
    return kept


def _is_stream(output: Any) -> bool:
    return isinstance(output, Mapping) and output.get("output_type") == "stream"


def make_shareable(executed: Path, *, clone: Path, given: Any) -> None:
    """Rewrite the file of an executed notebook, which got the parameters ``given``, without absolute paths."""
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    made = shareable(notebook, places_of(clone.resolve(), executed.absolute(), given))
    if made != notebook:
        write_text(executed, json.dumps(made, sort_keys=True, indent=1, ensure_ascii=False) + "\n")


def clone_around(folder: Path) -> Path:
    """``find_clone()``, else ``folder``."""
    try:
        return find_clone()
    except FusionerError:
        return folder
