"""Files that are never seen half written, and locks that never go stale."""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fusionerlib.errors import FusionerError


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, making its folder; readers see the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def plain_name(name: str) -> str:
    """``name`` as part of a file's name: an encoder's may hold a path, as ``vectors:tables/clip.parquet``."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


def fingerprint(*parts: object) -> str:
    """SHA-256 in hex of the ``repr`` of ``parts``: what decides a data set, an encoder or a store."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@contextmanager
def exclusive(path: Path, what: str, *, patience: float = 2.0) -> Iterator[TextIO]:
    """Hold ``path`` as a lock that dies with its holders (and the children it is handed to), so never goes stale.

    Raises FusionerError where another process holds it for more than ``patience`` seconds: one that was killed may
    take a moment to go.
    """
    with path.open("a", encoding="utf-8") as file:
        for last in [*[False] * round(patience / 0.1), True]:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if last:
                    raise FusionerError(f"{what} is going on in another process: wait for it, or stop it") from error
                time.sleep(0.1)
        yield file
