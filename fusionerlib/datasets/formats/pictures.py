"""The image files below a folder, and how they are found again by the names that lists and COCO files give them."""

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

from fusionerlib.files import IMAGE_SUFFIXES, POINTERS

MASK_FOLDERS = ("masks", "SegmentationClass", "SegmentationObject", "overlays")
"""Folders that hold no pictures, though their files look like some."""
BESIDE = "_mask"
"""What the name of a mask ends in that lies beside its picture, as Roboflow writes them."""
_LONGEST_POINTER = 1024
_JUNK = ("__MACOSX", "@eaDir")
"""Folders of macOS and of Synology's drives."""
_DRIVE = re.compile(r"[A-Za-z]:[^\\/]")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class Pictures:
    """The image files below ``folder``, in the order of their paths; hidden files and folders are left out.

    skip: names of folders that are not looked into. A link to a folder is followed once. masks: where masks lie beside
    their pictures, as ``a_mask.png`` beside ``a.jpg``, whether these are the masks, and not the pictures; their keys
    are the pictures'.
    """

    def __init__(self, folder: Path, *, skip: Collection[str] = (), masks: bool | None = None) -> None:
        self.folder, self._masks = folder, masks
        self.files = [folder / name for name in sorted(_below(folder, skip))]
        if masks is not None:
            self.files = [file for file in self.files if without_suffix(file.name).endswith(BESIDE) == masks]
        self._depth = max((len(file.relative_to(folder).parts) for file in self.files), default=0)
        self._paths: dict[str, list[Path]] = defaultdict(list)
        self._folded: dict[str, list[Path]] = defaultdict(list)
        self._bare: dict[str, list[Path]] = defaultdict(list)
        for file in self.files:
            parts = _parts(file.relative_to(folder).as_posix())
            for start in range(len(parts)):
                tail = "/".join(parts[start:])
                self._paths[tail].append(file)
                self._folded[_key(tail)].append(file)
                self._bare[_bare_key(tail)].append(file)

    def key(self, file: Path) -> str:
        """The path of one of the files below the folder, with "/" and without its suffix."""
        key = without_suffix(file.relative_to(self.folder).as_posix())
        return key.removesuffix(BESIDE) if self._masks else key

    def expected(self, key: str) -> Path:
        """Where the PNG of a key would lie."""
        return self.folder / f"{key}{BESIDE if self._masks else ''}.png"

    def find(self, name: str, *, near: Iterable[str] = ()) -> list[Path]:
        """The files that ``name`` may mean: one if it is known, none if it is missing, several if it is not clear.

        ``name`` may be a path from anywhere, with "/" or a backslash, or a URL; in another Unicode form or case, or
        with ``%20``; with another suffix of an image, or without one. The longest end of the path that a file here has
        decides. A file in other folders than those of ``name`` is not meant: ``train/1.jpg`` is not ``val/1.jpg``.
        Nothing outside ``folder`` is ever looked at, whatever ``..`` or an absolute path say. near: names of folders;
        of several files, those in one of these are meant.
        """
        for parts in map(_parts, _written(name)):
            for start in range(max(0, len(parts) - self._depth), len(parts)):
                tail = "/".join(parts[start:])
                for index, form in ((self._paths, str), (self._folded, _key), (self._bare, _bare_key)):
                    found = dict.fromkeys(index.get(form(tail), ()))
                    whole = [file for file in found if len(self._folders(file)) == len(parts) - start - 1]
                    if whole or (found and start == 0):
                        return self._clearest(whole, list(found), set(near))
        return []

    def _clearest(self, whole: list[Path], found: list[Path], near: set[str]) -> list[Path]:
        """Those of ``found`` that are meant: the one at this very path, else those in a folder near, else all."""
        close = [file for file in found if near & set(self._folders(file))]
        return whole if len(whole) == 1 else close or found

    def _folders(self, file: Path) -> tuple[str, ...]:
        return file.relative_to(self.folder).parts[:-1]


def masks_of(masks: Pictures, keys: Collection[str]) -> dict[str, Path]:
    """The mask of each key: PNG before others, and in another case or Unicode form where none is written alike."""
    found: dict[str, Path] = {}
    for file in masks.files:
        if file.suffix.lower() == ".png" or masks.key(file) not in found:
            found[masks.key(file)] = file
    alike: dict[str, list[str]] = {}
    for key in found:
        if key not in keys:
            alike.setdefault(_folded(key), []).append(key)
    for key in keys:
        if key not in found and len(other := alike.get(_folded(key), [])) == 1:
            found[key] = found.pop(other[0])
    return found


def _folded(key: str) -> str:
    return unicodedata.normalize("NFC", key).casefold()


def absent(file: Path) -> str:
    """Why the content of ``file`` is not on this machine, and what brings it; "" where it is here."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            return "no regular file"  # reading a device or a pipe may never end
        size = status.st_size
        start = b"" if size > _LONGEST_POINTER else file.read_bytes()[:32]
    except OSError as error:
        return "a link to nothing" if file.is_symlink() else str(error.strerror)
    if not size:
        return "an empty file"
    return next((f"a pointer: run `{how}`" for mark, how in POINTERS.items() if start.startswith(mark)), "")


def without_suffix(name: str) -> str:
    """``name`` without the suffix of an image; another suffix stays."""
    end = next((suffix for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: -len(end)] if end and PurePosixPath(name).name.lower() != end else name


def _below(folder: Path, skip: Collection[str]) -> Iterator[str]:
    """The images below ``folder``; links to folders are followed last, so that a file has the path where it lies."""
    seen: set[str] = set()
    waiting: list[str] = [str(folder)]
    while waiting:
        links: list[str] = []
        for place, folders, names in (step for top in sorted(waiting) for step in os.walk(top)):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if name[0] != "." and name not in {*skip, *_JUNK}]
            links += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
            for name in names:
                if name.lower().endswith(IMAGE_SUFFIXES) and name[0] != ".":
                    yield os.path.relpath(os.path.join(place, name), folder)
        waiting = links


def _written(name: str) -> Iterator[str]:
    """``name`` as it is, and as it is meant if it is a URL, is quoted or has a query as in one, or begins with a drive.

    Label Studio writes the path of a local file as the query ``?d=``.
    """
    if not _URL.match(name):
        yield name
        yield from (unquote(name), name[2:] if _DRIVE.match(name) else name)
    with suppress(ValueError):
        path, query = urlsplit(name)[2:4]
        yield from (asked for asked in parse_qs(query).get("d", []))
        yield from (unquote(path), unquote_plus(path))


def _parts(name: str) -> list[str]:
    """The parts of a path, in one Unicode form; a part before ``..`` is taken back, one above the top is dropped."""
    parts: list[str] = []
    for part in unicodedata.normalize("NFC", name).replace("\\", "/").split("/"):
        if part == "..":
            del parts[-1:]
        elif part.strip() not in ("", "."):
            parts.append(part)
    return parts


def _key(tail: str) -> str:
    """``tail`` without case, quotes as in a URL, spaces around it and characters without width; one kind of space."""
    return re.sub(r"\s", " ", re.sub("[\ufeff\u200b]", "", unquote(tail).casefold())).strip()


def _bare_key(tail: str) -> str:
    return _key(without_suffix(tail.strip()))
