"""One file over HTTP: an interrupted download resumes, and the file gets its name only when it is whole and checked."""

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from fusionerlib.digests import sha256_of
from fusionerlib.errors import FusionerError, cannot_write, writing
from fusionerlib.private_hosts import private
from fusionerlib.progress import bar, need_room, size_text

CHUNK = 1 << 20
LONGEST_PAUSE = 30.0
HEADERS = {"User-Agent": "fusioner", "Accept-Encoding": "identity"}
MOST = 64 * 10**9
"""Bytes after which a file of unknown length is given up: three times the largest that is known here."""
RETRIED = {408, 425, 429, 500, 502, 503, 504}
"""HTTP status codes after which the request is repeated."""


class _Refused(Exception):
    """This address does not give the file, and repeating the request would not help."""


class _Interrupted(Exception):
    """The transfer stopped or can't be resumed; repeating the request may help."""


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
    accept: str = "",
    accepted: Collection[str] = (),
    most: int = MOST,
    quiet: bool = False,
) -> str:
    """Download ``target`` from the first of ``urls`` that gives it; returns its sha256 (hex).

    The bytes gather in ``<target>.part``. An interrupted transfer is resumed from there, in this call (up to ``tries``
    attempts in a row without a new byte, with pauses of ``pause`` seconds, doubled each time) and in the next.
    Without digests it is resumed only where the server says that the file is still the same (ETag or Last-Modified with
    If-Range); otherwise it starts again. A file that exists already is only checked.

    size, digests: length in bytes, and ``{"md5" or "sha256": hex}``, as published; the first digits of one suffice.
    timeout: seconds without a byte after which a connection counts as stalled. instead: another way for the user, for
    the message; "" names the option ``--from``. accept: what the user can do to accept a whole file with another
    digest, with ``{sha256}`` in it; such a file is then kept at ``unverified(target)``. With "" it is deleted.
    accepted: sha256 (hex) of files that are taken although the published digest differs, ``unverified(target)`` too.
    most: bytes after which a file of unknown length is given up. An address of the public network that redirects to a
    private one is refused; a private one, such as a mirror that was configured, may.
    Raises FusionerError where no address gives the published file, where the existing file is another one, and where
    the disk is full.
    """
    if target.exists():
        return check(target, size=size, digests=digests, accepted=accepted, quiet=quiet)
    if accepted and unverified(target).is_file() and sha256_of(unverified(target)) in accepted:
        unverified(target).replace(target)
        return check(target, digests={}, quiet=quiet)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    reasons = []
    hooks = {"response": [_refuse_redirect]}
    with httpx2.Client(follow_redirects=True, timeout=timeout, headers=HEADERS, event_hooks=hooks) as client:
        job = _Job(client, part, size=size, digests=digests or {}, tries=tries, pause=pause, most=most, quiet=quiet)
        for url in urls:
            try:
                sha256, problem = job.run(url)
                if sha256 in accepted:
                    problem = ""
                if problem and accept and sha256:
                    part.replace(unverified(target))
                    problem += (
                        f"; it is kept as {unverified(target).name}: {accept.format(sha256=sha256)} if you trust it"
                    )
                elif problem:
                    part.unlink()
                if problem:
                    raise _Refused(f"what it sends {problem}")
            except _Refused as refusal:
                reasons.append(f"{url}: {refusal}")
            except OSError as error:
                raise cannot_write(error.filename or part, error) from error
            else:
                part.replace(target)
                job.forget()
                return sha256
    if not part.exists() or not job.resumable:
        part.unlink(missing_ok=True)
        job.forget()
    kept = f" ({size_text(_length(part))} are kept, it resumes from there)" if part.exists() else ""
    raise FusionerError(
        f"{target.name} could not be downloaded: {'; '.join(reasons) or 'no address is known'}. Run the same command "
        f"again{kept}, or {instead or f'get the file in another way and pass --from {target.name}'}"
    )


def unverified(target: Path) -> Path:
    """Where a whole download of ``target`` with another digest than the published one is kept."""
    return target.with_name(f"{target.name}.unverified")


def check(
    file: Path,
    *,
    size: int | None = None,
    digests: Mapping[str, str] | None = None,
    accepted: Collection[str] = (),
    accept: str = "",
    quiet: bool = False,
) -> str:
    """The sha256 of ``file``; it is never deleted.

    accepted: sha256 that are taken although the published digest differs. accept: as in ``fetch``, for the message.
    Raises FusionerError naming the file where it is missing, or not as published.
    """
    if not file.is_file():
        raise FusionerError(f"{file} is not a file: give the path of the archive as it was downloaded")
    sha256, problem = _compare(file, size=size, digests=digests or {}, quiet=quiet)
    if problem and not sha256 and (accepted or accept):
        sha256, _ = _compare(file, size=None, digests={}, quiet=quiet)
    if problem and sha256 not in accepted:
        way = f", or {accept.format(sha256=sha256)} if you trust it" if accept and sha256 else ""
        raise FusionerError(f"{file} {problem}; delete it and download it again{way}")
    return sha256


def _compare(file: Path, *, size: int | None, digests: Mapping[str, str], quiet: bool) -> tuple[str, str]:
    """The file's sha256 ("" where its length is wrong), and what is wrong with it ("" for nothing)."""
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
            shown = published if len(published) == len(found) else f"{published}…"
            return sums["sha256"].hexdigest(), f"has {name} {found}, the published file {shown}: it is altered"
    return sums["sha256"].hexdigest(), ""


@dataclass(frozen=True)
class _Job:
    """The download of one ``.part`` file; ``<part>.tag`` holds the server's validator of the file it belongs to."""

    client: httpx2.Client
    part: Path
    size: int | None
    digests: Mapping[str, str]
    tries: int
    pause: float
    most: int
    quiet: bool

    @property
    def tag(self) -> Path:
        return self.part.with_name(f"{self.part.name}.tag")

    @property
    def resumable(self) -> bool:
        """Whether bytes of another request may be put behind those that are there."""
        return bool(self.digests) or bool(self.kept)

    @property
    def kept(self) -> str:
        """The validator in ``tag``, "" where there is none or it is damaged."""
        try:
            return _sendable(self.tag.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return ""

    def forget(self) -> None:
        """Drop the validator."""
        self.tag.unlink(missing_ok=True)

    def run(self, url: str) -> tuple[str, str]:
        """Download the file and compare it; returns what ``_compare`` does. Raises _Refused for a useless address."""
        if not self.resumable:
            self.part.unlink(missing_ok=True)
        pieces = self._fill(url)
        sha256, problem = self._compared()
        if problem and pieces > 1:
            # An earlier piece may be broken, or of an older file: download it whole.
            self.part.unlink()
            self._fill(url)
            sha256, problem = self._compared()
        return sha256, problem

    def _compared(self) -> tuple[str, str]:
        return _compare(self.part, size=self.size, digests=self.digests, quiet=self.quiet)

    def _fill(self, url: str) -> int:
        """Transfer until the file is whole; returns the number of pieces."""
        furthest = _length(self.part)
        failures, pieces = 0, int(furthest > 0)
        while True:
            pieces += 1
            try:
                self._transfer(url)
                return pieces
            except (httpx2.TooManyRedirects, httpx2.InvalidURL, httpx2.UnsupportedProtocol, UnicodeError) as error:
                raise _Refused(str(error)) from error
            except (httpx2.TransportError, _Interrupted) as error:
                failures = failures + 1 if _length(self.part) <= furthest else 0
                furthest = max(furthest, _length(self.part))
                if failures >= self.tries:
                    reason = str(error) or type(error).__name__
                    raise _Refused(f"{failures} attempts in a row brought nothing new; the last: {reason}") from error
            if not self.resumable:
                self.part.unlink(missing_ok=True)
            time.sleep(min(self.pause * 2 ** max(0, failures - 1), LONGEST_PAUSE))

    def _transfer(self, url: str) -> None:
        """One request for the bytes that the file lacks, appended to those that it has."""
        start = _length(self.part)
        if start and start == self.size:
            return
        asked = {"Range": f"bytes={start}-"} if start else {}
        if start and not self.digests:
            asked["If-Range"] = self.kept
        with self.client.stream("GET", url, headers=asked) as response:
            begins, whole = self._offered(response, start)
            with (
                self.part.open("r+b" if begins else "wb") as file,
                bar(self.part.stem, total=whole, done=begins, quiet=self.quiet) as shown,
            ):
                file.seek(begins)
                # No chunk size: httpx2 would hold back a chunk that never fills, and a cut would lose it.
                limit, there = self.most if whole is None else whole, begins
                for chunk in response.iter_raw():
                    there += len(chunk)
                    if there > limit:
                        file.truncate(begins)
                        raise _Refused(f"it sends more than {size_text(limit)} without an end")
                    file.write(chunk)
                    shown.update(len(chunk))
        if whole is not None and _length(self.part) < whole:
            raise _Interrupted(f"the connection ended at byte {_length(self.part)} of {whole}")

    def _offered(self, response: httpx2.Response, start: int) -> tuple[int, int | None]:
        """The first byte that the response brings, and the length of the whole file if known."""
        if response.status_code in RETRIED:
            raise _Interrupted(f"answer {response.status_code} {response.reason_phrase}")
        if response.status_code not in (200, 206, 416):
            raise _Refused(f"answer {response.status_code} {response.reason_phrase}")
        if response.status_code != 200 and not start:
            raise _Refused(f"answer {response.status_code} {response.reason_phrase}, to a request for the whole file")
        if "html" in response.headers.get("content-type", "").lower():
            raise _Refused("it answers with a web page, not with the file")
        if (coding := response.headers.get("content-encoding", "identity").lower()) not in ("identity", ""):
            raise _Refused(f"it sends the file in the coding {coding!r}, which was not asked for")
        begins, whole = 0, response.headers.get("content-length", "")
        if response.status_code != 200:
            # "bytes 100-999/1000"; the server may not know the whole ("*").
            span, _, whole = response.headers.get("content-range", "").removeprefix("bytes ").partition("/")
            first = span.partition("-")[0]
            changed = not self.digests and _validator(response) not in ("", self.kept)
            if response.status_code == 416 or first != str(start) or changed:
                self.part.unlink()
                raise _Interrupted(f"asked for the bytes from {start}, it has or sends others")
            begins = start
        elif not self.digests and (validator := _validator(response)):
            self.tag.write_text(validator, encoding="utf-8")
        else:
            self.forget()
        length = int(whole) if whole.isascii() and whole.isdigit() and len(whole) < 30 else self.size
        if self.size is not None and length != self.size:
            raise _Refused(f"it offers {length} bytes, the published file has {self.size}")
        if length is not None:
            need_room(self.part.parent, length - begins, what=self.part.stem)
        return begins, length


def _refuse_redirect(response: httpx2.Response) -> None:
    """Raise _Refused where an address of https redirects to one of http, and a public one to a private one.

    The former could be answered by anyone on the way, the latter would reach what only this machine can.
    """
    if not response.has_redirect_location:
        return
    following = response.url.join(response.headers["location"])
    if response.url.scheme == "https" and following.scheme == "http":
        raise _Refused(f"it redirects from https to http ({following.host}), which is not encrypted")
    if private(response.url.host):
        return
    if private(following.host):
        raise _Refused(f"it redirects to {following.host}, an address of a private network")


def _validator(response: httpx2.Response) -> str:
    """What identifies the file's version in an If-Range header, "" where the server sends nothing usable."""
    tag: str = response.headers.get("etag", "")
    return _sendable(tag if tag and not tag.startswith("W/") else response.headers.get("last-modified", ""))


def _sendable(value: str) -> str:
    """``value`` where it can stand in a header, else ""."""
    return value if value.isascii() and value.isprintable() and len(value) < 1000 else ""


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
