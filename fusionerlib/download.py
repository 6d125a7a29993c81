"""One file over HTTP: it goes on where it stopped, and gets its name only when it is whole and checked."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from fusionerlib.errors import FusionerError
from fusionerlib.progress import bar, need_room, size_text

CHUNK = 1 << 20
LONGEST_PAUSE = 30.0
HEADERS = {"User-Agent": "fusioner", "Accept-Encoding": "identity"}
LATER = {408, 425, 429, 500, 502, 503, 504}
"""Answers after which it is worth asking again."""


class _Refused(Exception):
    """This address will not give the file, however often it is asked."""


class _Interrupted(Exception):
    """The transfer stopped, or can't go on where it had stopped; asking again may help."""


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    size: int | None = None,
    digests: Mapping[str, str] | None = None,
    timeout: float = 30.0,
    tries: int = 5,
    pause: float = 1.0,
    instead: str = "",
    quiet: bool = False,
) -> str:
    """Download ``target`` from the first of ``urls`` that gives it; returns its sha256.

    The bytes gather in ``<target>.part``. An interrupted transfer goes on from there, in this call (up to ``tries``
    attempts in a row without a new byte; ``pause`` seconds, then twice as long, in between) and in the next one.
    A file that is there already is only checked.
    size, digests: bytes, and ``{"md5" or "sha256": hex}``, as published; of a digest its first digits will do. Without
    digests nothing would tell whether the server still has the file that ``.part`` began with, so each attempt starts
    from the first byte and nothing is kept.
    timeout: seconds without a byte after which a connection counts as stalled. instead: what else a person can do, for
    the error; the option ``--from`` where it is "".
    Raises FusionerError where no address gives the published file, where the file that is there is another one, and
    where the disk has no room.
    """
    if target.exists():
        return check(target, size=size, digests=digests, quiet=quiet)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    reasons = []
    with httpx2.Client(follow_redirects=True, timeout=timeout, headers=HEADERS) as client:
        job = _Job(client, part, size=size, digests=digests or {}, tries=tries, pause=pause, quiet=quiet)
        for url in urls:
            try:
                sha256 = job.run(url)
            except _Refused as refusal:
                reasons.append(f"{url}: {refusal}")
            except OSError as error:
                raise FusionerError(f"{part} can't be written ({error}): make room or give another root") from error
            else:
                part.replace(target)
                return sha256
    if not digests:
        part.unlink(missing_ok=True)
    kept = f" ({size_text(_length(part))} are kept, it goes on from there)" if part.exists() else ""
    raise FusionerError(
        f"{target.name} could not be downloaded: {'; '.join(reasons) or 'no address is known'}. Run the same command "
        f"again{kept}, or {instead or f'get the file in another way and pass --from {target.name}'}"
    )


def check(file: Path, *, size: int | None = None, digests: Mapping[str, str] | None = None, quiet: bool = False) -> str:
    """The sha256 of ``file``. Raises FusionerError naming it where it is missing or not as published."""
    if not file.is_file():
        raise FusionerError(f"{file} is not a file: give the path of the archive as it was downloaded")
    sha256, problem = _compare(file, size=size, digests=digests or {}, quiet=quiet)
    if problem:
        raise FusionerError(f"{file} {problem}; delete it and download it again")
    return sha256


def _compare(file: Path, *, size: int | None, digests: Mapping[str, str], quiet: bool) -> tuple[str, str]:
    """The file's sha256, and what is wrong with it ("" for nothing)."""
    length = _length(file)
    if size is not None and length != size:
        kind = "it is cut short" if length < size else "it is another file"
        return "", f"has {length} bytes, the published file {size}: {kind}"
    sums = {name: hashlib.new(name) for name in {"sha256", *digests}}
    with file.open("rb") as content, bar(f"checking {file.name}", total=length, quiet=quiet) as shown:
        while chunk := content.read(CHUNK):
            for one in sums.values():
                one.update(chunk)
            shown.update(len(chunk))
    for name, published in digests.items():
        if not (found := sums[name].hexdigest()).startswith(published):
            rest = "…" if len(published) < len(found) else ""
            return "", f"has {name} {found}, the published file {published}{rest}: it is altered"
    return sums["sha256"].hexdigest(), ""


@dataclass(frozen=True)
class _Job:
    """The filling of one ``.part`` file."""

    client: httpx2.Client
    part: Path
    size: int | None
    digests: Mapping[str, str]
    tries: int
    pause: float
    quiet: bool

    def run(self, url: str) -> str:
        """Fill and check the file; returns its sha256. Raises _Refused where this address is of no use."""
        if not self.digests:
            self.part.unlink(missing_ok=True)
        pieces = self._fill(url)
        sha256, problem = self._compared()
        if problem and pieces > 1:
            # An earlier piece may be broken, or of an older file: once more as a whole.
            self.part.unlink()
            self._fill(url)
            sha256, problem = self._compared()
        if problem:
            self.part.unlink()
            raise _Refused(f"what it sends {problem}")
        return sha256

    def _compared(self) -> tuple[str, str]:
        return _compare(self.part, size=self.size, digests=self.digests, quiet=self.quiet)

    def _fill(self, url: str) -> int:
        """Transfer until the file is whole; returns of how many pieces it was made."""
        furthest = _length(self.part)
        failures, pieces = 0, int(furthest > 0)
        while True:
            pieces += 1
            try:
                self._transfer(url)
                return pieces
            except (httpx2.TooManyRedirects, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise _Refused(str(error)) from error
            except (httpx2.TransportError, _Interrupted) as error:
                failures = failures + 1 if _length(self.part) <= furthest else 0
                furthest = max(furthest, _length(self.part))
                if failures >= self.tries:
                    reason = str(error) or type(error).__name__
                    raise _Refused(f"{failures} attempts in a row brought nothing new; the last: {reason}") from error
            if not self.digests:
                self.part.unlink(missing_ok=True)
            time.sleep(min(self.pause * 2 ** max(0, failures - 1), LONGEST_PAUSE))

    def _transfer(self, url: str) -> None:
        """One request for what the file lacks, written behind what it has."""
        start = _length(self.part)
        if start and start == self.size:
            return
        asked = {"Range": f"bytes={start}-"} if start else {}
        with self.client.stream("GET", url, headers=asked) as response:
            begins, whole = self._offered(response, start)
            with (
                self.part.open("r+b" if begins else "wb") as file,
                bar(self.part.stem, total=whole, done=begins, quiet=self.quiet) as shown,
            ):
                file.seek(begins)
                # No chunk size: httpx2 would hold back a chunk that never fills, and a cut would lose it.
                for chunk in response.iter_raw():
                    file.write(chunk)
                    shown.update(len(chunk))
        if whole is not None and _length(self.part) < whole:
            raise _Interrupted(f"the connection ended at byte {_length(self.part)} of {whole}")

    def _offered(self, response: httpx2.Response, start: int) -> tuple[int, int | None]:
        """The first byte that the answer brings, and the whole file's length where it is known."""
        if response.status_code in LATER:
            raise _Interrupted(f"answer {response.status_code} {response.reason_phrase}")
        if response.status_code not in (200, 206, 416):
            raise _Refused(f"answer {response.status_code} {response.reason_phrase}")
        if response.headers.get("content-type", "").startswith("text/html"):
            raise _Refused("it answers with a web page, not with the file")
        begins, whole = 0, response.headers.get("content-length", "")
        if response.status_code != 200:
            # "bytes 100-999/1000"; the server may not know the whole ("*").
            span, _, whole = response.headers.get("content-range", "").removeprefix("bytes ").partition("/")
            first = span.partition("-")[0]
            if response.status_code == 416 or first != str(start):
                self.part.unlink()
                raise _Interrupted(f"asked for the bytes from {start}, it has or sends others")
            begins = start
        length = int(whole) if whole.isdigit() else self.size
        if self.size is not None and length != self.size:
            raise _Refused(f"it offers {length} bytes, the published file has {self.size}")
        if length is not None:
            need_room(self.part.parent, length - begins, what=self.part.stem)
        return begins, length


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
