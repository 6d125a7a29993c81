"""Digests of files by content, and a cache of them, so that a data set is read through only once.

What a file holds is known by its digest alone: size and time of modification stay as they are where masks are
renumbered, a picture without compression is exchanged, or a copy keeps the time (``cp -p``).
"""

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from fusionerlib.errors import FusionerError
from fusionerlib.files import exclusive, user_cache, write_text
from fusionerlib.progress import bar

READERS, AT_ONCE = 2, 64
"""Threads that read files, and files that a thread reads in turn: handing each one over would take longer than to read
a small file that the system has in memory."""
BLOCK = 1 << 20
"""Bytes that are read at once."""
SETTLED = 2 * 10**9
"""Nanoseconds that a file must have been left alone before its digest is kept: clocks of file systems are that coarse,
so a file that is changed again within them may keep its times."""
SHOWN_FROM = 2_000
"""Files to read from which on progress is shown."""

SEAL = "xxh3"
"""Key of the digest of a JSON object, inside it; named after the hash."""

State = tuple[int, int, int, int]
"""Size, time of modification, time of the last change of the file or its entry (both in ns), and inode.

Copying over a file with ``cp -p`` sets the first two, never the third."""
Known = dict[str, tuple[State, str]]
"""State and digest by absolute path."""

_known: Known = {}


def sha256_of(file: Path) -> str:
    """The sha256 of ``file`` in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest(path: str | Path) -> str:
    """The xxh3 digest (32 hex digits) of what ``path`` holds. Raises FusionerError where it can't be read."""
    digest = xxhash.xxh3_128()
    try:
        refuse_pipe(path)
        with open(path, "rb", buffering=0) as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """The xxh3 digest of ``text`` (32 hex digits)."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` (of JSON) with a last entry ``xxh3``, a digest over all others, which ``unsealed`` compares."""
    plain = json.loads(json.dumps({key: value for key, value in values.items() if key != SEAL}))
    return {**plain, SEAL: text_digest(_canonical(plain))}


def unsealed(text: str, *, required: bool = False) -> dict[str, Any]:
    """The object in the JSON ``text`` without its digest. Spaces and the order of keys may have changed.

    required: whether an object without a digest is refused too. Raises ValueError for a text that is no object of JSON,
    and where the digest is another one.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__} instead of an object")
    if (
        SEAL not in values
        and values
        and (last := list(values)[-1])
        and values[last] == text_digest(_canonical({key: value for key, value in values.items() if key != last}))
    ):
        del values[last]  # the name of the digest itself was damaged, nothing else
        return values
    kept = values.pop(SEAL, None)
    if kept is None and required:
        raise ValueError("its digest is missing")
    if kept is not None and kept != text_digest(_canonical(values)):
        raise ValueError("its content does not fit its digest, so it was changed or damaged after it was written")
    return values


def write_json(file: Path, values: Mapping[str, Any], *, durable: bool = False) -> None:
    """Write ``sealed(values)`` to ``file`` atomically. durable: as in ``files.write_bytes``."""
    write_text(file, json.dumps(sealed(values), indent=1), durable=durable)


def read_json(file: Path, *, what: str, remedy: str, required: bool = False) -> dict[str, Any]:
    """The object that ``write_json`` wrote to ``file``, without its digest.

    required: as in ``unsealed``. Raises FusionerError with ``what`` the file should be and the ``remedy`` where it is
    missing, damaged or something else.
    """
    try:
        refuse_pipe(file)
        return unsealed(file.read_text(encoding="utf-8"), required=required)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error) or type(error).__name__
        raise FusionerError(f"{file} can't be read as {what} ({reason}): {remedy}") from error


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def content_digests(files: Sequence[Path]) -> list[str]:
    """The xxh3 digest (32 hex digits) of what each of ``files`` holds, in their order.

    A file is read where its size, times or inode differ from those at which its digest was kept, in this process or in
    the user's cache folder (``fusioner/digests``). A cache that is damaged, in use or not writable costs time only.
    Raises FusionerError for a file that can't be read.
    """
    paths = [os.path.abspath(file) for file in files]
    cache = _cache_file(paths)
    states = {path: _state(path) for path in paths}
    if any(_found(path, state) is None for path, state in states.items()):
        _known.update(_stored(cache))
    now = time.time_ns()
    new = [path for path, state in states.items() if _found(path, state) is None]
    fresh: Known = {}
    if new:
        with (
            ThreadPoolExecutor(READERS) as pool,
            bar("checking files", total=len(new), unit="file", quiet=len(new) < SHOWN_FROM) as shown,
        ):
            parts = [new[start : start + AT_ONCE] for start in range(0, len(new), AT_ONCE)]
            for part, digests in zip(parts, pool.map(lambda part: list(map(file_digest, part)), parts), strict=True):
                fresh |= {path: (states[path], digest) for path, digest in zip(part, digests, strict=True)}
                shown.update(len(part))
        settled = {path: (state, digest) for path, (state, digest) in fresh.items() if max(state[1:3]) < now - SETTLED}
        _known.update(settled)
        _store(cache, settled)
    return [fresh[path][1] if path in fresh else _known[path][1] for path in paths]


def refuse_pipe(path: str | Path) -> None:
    """Raise OSError for what is neither a file nor a folder: a pipe would be waited for."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")


def _found(path: str, state: State) -> str | None:
    kept = _known.get(path)
    return kept[1] if kept is not None and kept[0] == state else None


def _state(path: str) -> State:
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
        raise FusionerError(f"{path} is not a file: put one there, or take it out of the data set")
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _unreadable(path: str | Path, error: OSError) -> FusionerError:
    reason = error.strerror or str(error)
    return FusionerError(f"{path} can't be read ({reason}): copy it there again, or take it out of the data set")


def _cache_file(paths: Sequence[str]) -> Path | None:
    """The cache of the files below the folder that all ``paths`` have in common; None where there can't be one."""
    if not paths:
        return None
    try:
        common = os.path.dirname(paths[0]) if len(paths) == 1 else os.path.commonpath(set(map(os.path.dirname, paths)))
        return user_cache() / "fusioner" / "digests" / f"{text_digest(common)}.json"
    except ValueError:  # files on two Windows drives; a user without a home
        return None


def _stored(cache: Path | None) -> Known:
    return {} if cache is None else dict(_rows(cache))


def _rows(cache: Path) -> Iterator[tuple[str, tuple[State, str]]]:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        for path, (size, modified, changed, inode, digest) in unsealed(cache.read_text("utf-8"), required=True).items():
            yield path, ((size, modified, changed, inode), digest)


def _store(cache: Path | None, new: Known) -> None:
    """Add ``new`` to the file ``cache``; another process may have added to it since it was read."""
    if cache is None or not new:
        return
    with suppress(OSError, FusionerError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(cache.with_suffix(".lock"), "keeping digests of files"):
            known = {**_stored(cache), **new}
            files = {path: [*state, digest] for path, (state, digest) in known.items() if os.path.exists(path)}
            write_text(cache, json.dumps(sealed(files)))
