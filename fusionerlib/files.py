"""Atomic writes, text of any encoding, file locks that end with their process, and fingerprints."""

import codecs
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from filelock import lock_descriptor

from fusionerlib.errors import FusionerError, writing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What an image file may end in, in small or capital letters."""
CHECKPOINT_FILES = ("config.json", "model.safetensors")
PACKAGED = "packaged"
"""Name of the checkpoint that comes with the installation."""


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write ``text`` to ``path`` as UTF-8, as ``write_bytes`` does."""
    # A file's name that is no text in this system's encoding stands in ``text`` by its bytes.
    write_bytes(path, text.encode("utf-8", "surrogateescape"), durable=durable)


def readable(name: str) -> str:
    """The name of a file as text that can be stored anywhere.

    Where the system's encoding is ASCII (``LANG=C``), Python keeps the other bytes of a name as lone surrogates, which
    neither Parquet nor JSON's readers take. Names in UTF-8 become what they are; other bytes become U+FFFD.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write ``content`` to ``path`` atomically, making its folder: readers see the old file or the new one.

    durable: wait until the disk has it, so that a power failure leaves no empty file either.
    Raises FusionerError where the system refuses (``errors.cannot_write``); then nothing is left of it.
    """
    with replacing(path, durable=durable) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A file beside ``path`` for the ``with`` block to write, which takes the name ``path`` at its end.

    The folder is made. durable: as in ``write_bytes``, which see for what is raised and left.
    """
    part = path.with_name(part_name(path.name))
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            if durable:
                to_disk(part)
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


LONGEST_NAME = 255
"""Bytes of a file's name on most systems."""


def part_name(name: str) -> str:
    """The name under which the file ``name`` is written: NAME.PID.part; a digest for a name as long as one may be."""
    part = f"{name}.{os.getpid()}.part"
    if len(os.fsencode(part)) > LONGEST_NAME >= len(os.fsencode(name)):
        return f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.{os.getpid()}.part"
    return part


def ready_folder(folder: Path) -> Path:
    """Make ``folder`` and check that files can be written in it; delete the parts of files that killed calls left.

    For the start of long work. Returns ``folder``. Raises FusionerError where the system refuses.
    """
    probe = folder / f".fusioner.{os.getpid()}.part"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.rglob("*.part"):
            if (found := _PART.search(left.name)) and left.is_file() and not running(int(found[1])):
                left.unlink(missing_ok=True)
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    return folder


_PART = re.compile(r"\.(\d+)\.part$")


def running(process: int) -> bool:
    """Whether a process of this number runs on this machine; True where that can't be known."""
    if os.name != "posix":
        return True  # there os.kill would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def claim(lock: Path, *, wait: bool) -> TextIO | None:
    """The file ``lock``, locked until it is closed or this process ends.

    wait: whether to wait for another process that holds it; if not, the result is None then.
    """
    held = _lock_file(lock)
    if lock_descriptor(held.fileno(), blocking=wait):
        return held
    held.close()
    return None


def _lock_file(path: Path) -> TextIO:
    """The file ``path``, made with its folder, open to be locked. Raises FusionerError where the system refuses."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.exists(path) and not path.is_file():  # a pipe would be waited for
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        return path.open("a", encoding="utf-8")


def inherited(file: TextIO) -> dict[str, Any]:
    """Arguments of ``subprocess.Popen`` with which the child keeps ``file`` open, and so its lock; {} on Windows."""
    return {"pass_fds": (file.fileno(),)} if os.name == "posix" else {}


def user_cache() -> Path:
    """The folder of this user's caches, XDG_CACHE_HOME or ``~/.cache``. Raises FusionerError for one without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise FusionerError(
            "this user has no home folder: set the environment variable XDG_CACHE_HOME to a folder that it may write to"
        ) from error


def unusable_cache(folder: Path | str, error: OSError, variable: str = "XDG_CACHE_HOME") -> FusionerError:
    """The message for the cache ``folder``, which this user may not read or write; ``variable`` moves it."""
    return FusionerError(
        f"{folder} can't be used ({error.strerror or error}): set the environment variable {variable} to a folder that "
        "this user may write to"
    )


@contextmanager
def using_cache(folder: Path, variable: str = "XDG_CACHE_HOME") -> Iterator[None]:
    """Raise ``unusable_cache`` for what the system refuses in the ``with`` block."""
    try:
        yield
    except OSError as error:
        raise unusable_cache(folder, error, variable) from error
    except FusionerError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise unusable_cache(folder, error.__cause__, variable) from error


def ready_cache() -> None:
    """Make the folder of this user's caches. Raises FusionerError where that can't be, or it may not be written to."""
    folder = user_cache()
    with using_cache(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def without_braces(folder: Path) -> Path:
    """``folder``; raises FusionerError for one that Snakemake would take for a pattern."""
    if {"{", "}"} & set(str(folder)):
        raise FusionerError(f"{folder} has braces, which Snakemake takes for a pattern: give a folder without them")
    return folder


_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte order marks, the longer ones first: UTF-32's begins as UTF-16's does."""


POINTERS = {b"version https://git-lfs": "git lfs pull", b"/annex/objects/": "git annex get"}
"""How a file begins whose content is not on this machine, and what brings it."""


def text_of(content: bytes, file: Path | str) -> str:
    """A text file's content: by its byte order mark, else as UTF-8. Raises FusionerError naming ``file`` otherwise."""
    if how := next((how for mark, how in POINTERS.items() if content.startswith(mark)), ""):
        raise FusionerError(f"{file} is a pointer to content that is not here: run `{how}`")
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    coding = _MARKS.get(mark, "utf-8")
    body = content[len(mark) :]
    try:
        text = body.decode(coding)
    except UnicodeDecodeError as error:
        lines = body[: error.start].splitlines()
        place = f"line {max(len(lines), 1)}, byte {body[error.start]:#04x}"
        raise FusionerError(
            f"{file} is not text in {coding.upper()} ({place}): save it as UTF-8 in a text editor"
        ) from error
    if "\0" in text:
        raise FusionerError(f"{file} holds zero bytes and is no text in UTF-8: save it as UTF-8 in a text editor")
    return text.lstrip("\ufeff")


def read_text(file: Path) -> str:
    """The text of ``file``, as ``text_of``. Raises FusionerError where it can't be read."""
    try:
        return text_of(file.read_bytes(), file)
    except OSError as error:
        raise FusionerError(f"{file} can't be read ({error.strerror}): expected a text file in UTF-8") from error


def read_lines(file: Path, *, split: bool = True) -> list[str]:
    """The entries of a text file: its lines, or a JSON list; without empty lines and lines that begin with ``#``.

    split: also divide a single line at its commas and semicolons. Raises FusionerError for another text encoding.
    """
    text = read_text(file).strip()
    if text.startswith("["):
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = None
        if isinstance(given, list) and all(isinstance(entry, str) for entry in given):
            return [entry.strip() for entry in given if entry.strip()]
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and line[0] != "#"]
    if split and len(lines) == 1:
        lines = [part.strip() for part in re.split("[,;]", lines[0]) if part.strip()]
    return lines


def to_disk(path: Path) -> None:
    """Wait until the disk has the file or folder ``path``; a folder is skipped where the system can't do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain_name(name: str) -> str:
    """``name`` with every run of other characters than letters, digits, ``_``, ``.`` and ``-`` replaced by one ``-``.

    For the part of a file's name that comes from an encoder: ``vectors:tables/clip.parquet`` holds a path.
    """
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


def fingerprint(*parts: object) -> str:
    """SHA-256 (64 hex digits) of the ``repr`` of ``parts``; equal parts give equal fingerprints in every process."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@contextmanager
def exclusive(path: Path, what: str, *, patience: float = 2.0) -> Iterator[TextIO]:
    """Lock the file ``path``, made if missing, for the ``with`` block; yields the open file.

    The operating system releases the lock when its holder ends, also when it is killed, so no lock is ever stale. On
    POSIX a child that inherits the file (``subprocess.Popen(..., pass_fds=[file.fileno()])``) keeps the lock too.
    Raises FusionerError where ``path`` can't be written, and where another process holds it for more than ``patience``
    seconds (a killed one may take a moment to end); ``what`` names the work in that message.
    """
    with _lock_file(path) as file:
        until = time.monotonic() + patience
        while not lock_descriptor(file.fileno(), blocking=False):
            if time.monotonic() >= until:
                raise FusionerError(f"{what} is going on in another process: wait for it, or stop it")
            time.sleep(0.1)
        yield file
