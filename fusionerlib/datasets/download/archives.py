"""Safe unpacking of zip and tar archives: only wanted members, only plain files, nothing outside the folder."""

import bz2
import gzip
import io
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple

from fusionerlib.errors import FusionerError, cannot_write
from fusionerlib.progress import bar, need_room

ZIP_MAGIC = b"PK\x03\x04"
HEADER_BYTES = 1 << 20
"""Most bytes of one additional header of a tar entry; tarfile would read any number into memory."""
HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
COMPRESSIONS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, RuntimeError, OSError, ValueError, LookupError, ArithmeticError),
)
"""The exceptions for an archive that is cut short, altered, encrypted or of an unknown compression; some come from
headers that hold no numbers, or names that are no text."""


class Member(NamedTuple):
    """One entry of an archive. at: its position in bytes. read: opens its content."""

    name: str
    kind: Literal["file", "folder", "other"]
    size: int
    at: int
    read: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, *, take: Mapping[str, Sequence[str]], quiet: bool = False) -> int:
    """Unpack the files and folders ``take`` of ``archive`` (zip, or tar in any compression) into ``folder``.

    take: new path under ``folder`` ("." for itself) to the names that the file or folder may have in the archive; of
    several that match a member, the longest. Files get default permissions; macOS's companion files (``._x``) are left
    out. Returns the number of files.
    Raises FusionerError where a member's path is absolute or contains "..", a wanted member is a link or a device or
    occurs twice, one of ``take`` is missing, or the archive is broken or cut short.
    """
    wanted = {name: new for new, names in take.items() for name in names}
    counts = dict.fromkeys(take, 0)
    try:
        with archive.open("rb") as raw, bar(f"unpacking {archive.name}", total=_size(archive), quiet=quiet) as shown:
            zipped = raw.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            raw.seek(0)
            for member in (_zip_members if zipped else _tar_members)(raw):
                shown.update(max(0, member.at - shown.n))
                path = _inside(member.name)
                name = max((name for name in wanted if path.is_relative_to(name)), key=len, default=None)
                if name is None or member.kind == "folder" or path.name.startswith("._"):
                    continue
                if member.kind == "other":
                    raise tarfile.TarError(f"{member.name} is a link or a device")
                _write(member, folder / wanted[name] / path.relative_to(name))
                counts[wanted[name]] += 1
            shown.update(max(0, _size(archive) - shown.n))
    except FusionerError:
        raise
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno:
            raise cannot_write(error.filename or folder, error) from error
        raise FusionerError(
            f"{archive} can't be unpacked ({type(error).__name__}: {error}): it is cut short, altered or not the "
            "published archive; delete it and download it again"
        ) from error
    missing = [" or ".join(take[new]) for new, count in counts.items() if not count]
    if missing:
        raise FusionerError(
            f"{archive} has no file in {', '.join(missing)}: it is not the published archive, or packed in another "
            "way; download it again, or unpack it yourself and pass --link"
        )
    return sum(counts.values())


def _inside(name: str) -> PurePosixPath:
    """The path of a member. Raises TarError where it could lead out of the folder, on any operating system."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or name[1:2] == ":":
        raise tarfile.TarError(f"member {name!r} leads out of the folder")
    return path


def _write(member: Member, file: Path) -> None:
    need_room(_existing(file), member.size, what=member.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = member.read()
    if file.exists():
        raise tarfile.TarError(f"{member.name} comes twice")
    # Mode "x" does not follow an existing link.
    with file.open("xb") as out:
        if content is not None:
            shutil.copyfileobj(content, out, 1 << 20)
        if out.tell() != member.size:
            raise EOFError(f"{member.name} ends at byte {out.tell()} of {member.size}")


def _zip_members(raw: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(raw) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            plain = stat.S_ISREG(mode) or stat.S_IFMT(mode) == 0
            kind: Literal["file", "folder", "other"] = "folder" if info.is_dir() else "file" if plain else "other"
            yield Member(info.filename, kind, info.file_size, info.header_offset, partial(archive.open, info))


def _tar_members(raw: IO[bytes]) -> Iterator[Member]:
    start = raw.read(8)
    raw.seek(0)
    opener = next((opener for magic, opener in COMPRESSIONS.items() if start.startswith(magic)), None)
    stream = _LastRead(opener(raw) if opener else raw)
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as archive:
        for info in archive:
            kind: Literal["file", "folder", "other"] = "folder" if info.isdir() else "file" if info.isreg() else "other"
            yield Member(info.name, kind, info.size, raw.tell(), partial(archive.extractfile, info))
    # tarfile takes a broken or missing header for the end of the archive; the real end is a block of zeros.
    if stream.last != bytes(tarfile.BLOCKSIZE):
        raise EOFError("the end of the archive is missing")
    # The checksum of a compressed stream is compared only when its end is read.
    while stream.read(1 << 20):
        pass


class _Header(tarfile.TarInfo):
    """A tar entry whose additional headers (long names, pax records) are not read into memory at any size."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in HEADERS and not 0 <= self.size <= HEADER_BYTES:
            raise tarfile.TarError(f"a header of {self.size} bytes, expected at most {HEADER_BYTES}")
        return super()._proc_member(archive)  # type: ignore[misc]


class _LastRead(io.RawIOBase):
    """A stream that keeps the bytes of the last read."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.last = stream, b""

    def read(self, size: int = -1) -> bytes:
        self.last = self.stream.read(size)
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self.stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self.stream.tell())


def _size(archive: Path) -> int:
    return archive.stat().st_size


def _existing(file: Path) -> Path:
    return next(folder for folder in file.parents if folder.exists())
