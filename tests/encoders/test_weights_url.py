"""Weights from a plain address: whole or not at all, resumed, one download at a time."""

import hashlib
from pathlib import Path

import pytest

from fusionerlib.encoders.base import EncoderSpec, WeightFile
from fusionerlib.encoders.weights import LOCK, fetch, locate, present
from fusionerlib.errors import FusionerError
from fusionerlib.files import exclusive
from tests.encoders.hub_server import BYTES, Server, spec_of


def files_in(folder: Path) -> list[str]:
    """The files in ``folder`` at any depth, without the locks and the record of digests."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name not in (LOCK, "digests.json"))


def at_url(server: Server, *, sha256: str = "") -> EncoderSpec:
    server.files["/some.pth"] = BYTES
    return spec_of(WeightFile(file="some.pth", url=f"{server.url}/some.pth", sha256=sha256, bytes=len(BYTES)))


def test_a_file_from_a_url(caches: Path, server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    spec = at_url(server, sha256=hashlib.sha256(BYTES).hexdigest()[:8])
    with pytest.raises(
        FusionerError, match=rf"needs some.pth \(2.1 MB\) of {server.url}/some.pth, not on this machine"
    ):
        locate(spec)
    assert not present(spec) and not server.asked
    assert fetch(spec) == [caches / "torch" / "hub" / "checkpoints" / "some.pth"]
    assert locate(spec).read_bytes() == BYTES and present(spec)
    assert "some.pth: 100%" in capfd.readouterr().err
    assert fetch(spec) == [locate(spec)] and server.asked == ["GET /some.pth"]  # once


def test_what_is_not_the_published_file_is_kept_aside_until_it_is_accepted(caches: Path, server: Server) -> None:
    spec, found = at_url(server, sha256="0" * 64), hashlib.sha256(BYTES).hexdigest()
    told = rf"has sha256 {found}.*altered.*some\.pth\.unverified.*`fusioner fetch some-encoder --accept-digest {found}`"
    with pytest.raises(FusionerError, match=rf"some-encoder.*some\.pth.*{told}.*text_weights=PATH"):
        fetch(spec)
    assert files_in(caches) == ["some.pth.unverified"] and not present(spec)
    with pytest.raises(FusionerError, match=told):
        fetch(spec, accept_digest="1" * 64)
    asked = len(server.asked)
    fetch(spec, accept_digest=found)
    assert len(server.asked) == asked and files_in(caches) == ["some.pth"]
    assert fetch(spec) == [locate(spec)] and locate(spec).read_bytes() == BYTES


def test_a_file_that_was_altered_on_the_disk_is_noticed(caches: Path, server: Server) -> None:
    spec = at_url(server)
    (path,) = fetch(spec)
    path.write_bytes(BYTES[::-1])
    with pytest.raises(
        FusionerError, match=rf"expected {hashlib.sha256(BYTES).hexdigest()}: it is kept as .*unverified"
    ):
        fetch(spec)
    assert not present(spec)
    assert fetch(spec) == [path] and path.read_bytes() == BYTES


def test_a_download_that_is_refused_leaves_nothing(caches: Path, server: Server) -> None:
    spec = at_url(server)
    server.files.clear()
    told = rf"'some-encoder': some\.pth .*{spec.files[0].url}: .*answer 404 Not Found.*text_weights=PATH"
    with pytest.raises(FusionerError, match=told):
        fetch(spec)
    assert not files_in(caches)


@pytest.mark.parametrize("sha256", [hashlib.sha256(BYTES).hexdigest()[:8], ""])
def test_a_broken_download_resumes_where_it_stopped(caches: Path, server: Server, sha256: str) -> None:
    spec = at_url(server, sha256=sha256)
    server.cut.add("/some.pth")
    with pytest.raises(FusionerError, match=r"1\.0 MB are kept, it resumes from there\), or .* set text_weights=PATH$"):
        fetch(spec)
    assert files_in(caches) == ["some.pth.part", *([] if sha256 else ["some.pth.part.tag"])] and not present(spec)
    server.cut.clear()
    fetch(spec)
    assert server.ranges[-1] == "bytes=1048576-" and server.sent[-1] == len(BYTES) - 1048576
    assert locate(spec).read_bytes() == BYTES and files_in(caches) == ["some.pth"]


def test_only_one_process_downloads_from_urls_at_a_time(caches: Path, server: Server) -> None:
    spec, folder = at_url(server), caches / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    with (
        exclusive(folder / LOCK, "a download"),
        pytest.raises(FusionerError, match=r"'some-encoder': .* is going on in another process"),
    ):
        fetch(spec)
    assert not server.asked
    assert fetch(spec) == [folder / "some.pth"]
