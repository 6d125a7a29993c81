"""Downloads from a real local HTTP server that cuts, stalls, corrupts, redirects and ignores what it is asked."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusionerlib.download import check, fetch
from fusionerlib.errors import FusionerError
from fusionerlib.progress import size_text
from tests.publisher import CONTENT, Publisher

SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()
KNOWN: dict[str, Any] = {"size": len(CONTENT), "digests": {"md5": MD5, "sha256": SHA256}}
QUICK: dict[str, Any] = {"pause": 0.0, "quiet": True}


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    server = Publisher()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def left(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_file_arrives_whole_through_redirects(publisher: Publisher, tmp_path: Path) -> None:
    publisher.plan = ["redirect:one", "redirect:two"]
    target = tmp_path / "new" / "file.tar"
    assert fetch([publisher.url()], target, **KNOWN, **QUICK) == SHA256
    assert left(target.parent) == {"file.tar": CONTENT}
    assert [path for path, _ in publisher.asked] == ["/file.tar", "/one", "/two"]
    assert fetch([publisher.url()], target, **KNOWN, **QUICK) == SHA256
    assert len(publisher.asked) == 3, "a file that is there is not asked for again"


def test_a_cut_connection_goes_on_where_it_stopped(publisher: Publisher, tmp_path: Path) -> None:
    publisher.plan = ["cut:100000", "503", "cut:50000", "redirect:moved"]
    assert fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK) == SHA256
    assert publisher.ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert publisher.sent == len(CONTENT), "no byte is sent twice"
    assert left(tmp_path) == {"f": CONTENT}


def test_a_stalled_connection_is_given_up_and_goes_on(publisher: Publisher, tmp_path: Path) -> None:
    publisher.plan = ["stall:4000"]
    assert fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK, timeout=0.15) == SHA256
    assert publisher.met_stalled, "it waited for the server instead of its own timeout"
    assert publisher.ranges == [None, "bytes=4000-"]


def test_the_next_call_goes_on_too(publisher: Publisher, tmp_path: Path) -> None:
    publisher.plan = ["cut:200000", "503", "503"]
    with pytest.raises(
        FusionerError, match=r"f could not be downloaded: .*2 attempts .*503.*200 kB are kept, it resumes.*--from f"
    ):
        fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK, tries=2)
    assert left(tmp_path) == {"f.part": CONTENT[:200000]}
    assert fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK) == SHA256
    assert publisher.ranges[-1] == "bytes=200000-" and publisher.sent == len(CONTENT)


def test_attempts_with_progress_are_not_counted(publisher: Publisher, tmp_path: Path) -> None:
    publisher.plan = ["cut:30000"] * 8
    assert fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK, tries=2) == SHA256


def test_the_first_digits_of_a_checksum_are_enough(publisher: Publisher, tmp_path: Path) -> None:
    known: dict[str, Any] = {"digests": {"sha256": SHA256[:8]}, **QUICK}
    publisher.plan = ["cut:200000"]
    assert fetch([publisher.url()], tmp_path / "f", **known) == SHA256
    assert publisher.ranges == [None, "bytes=200000-"]
    publisher.plan = ["corrupt"]
    with pytest.raises(FusionerError, match=f"has sha256 [0-9a-f]{{64}}, the published file {SHA256[:8]}…: it is alt"):
        fetch([publisher.url()], tmp_path / "g", **known)
    assert left(tmp_path) == {"f": CONTENT}


@pytest.mark.parametrize(("how", "again"), [("whole", []), ("shifted", [None])])
def test_a_server_that_ignores_the_range_does_no_harm(
    publisher: Publisher, tmp_path: Path, how: str, again: list[None]
) -> None:
    publisher.plan = ["cut:100000", how]
    assert fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK) == SHA256
    assert publisher.ranges == [None, "bytes=100000-", *again]
    assert left(tmp_path) == {"f": CONTENT}


def test_a_server_that_always_starts_over_and_cuts_is_given_up(publisher: Publisher, tmp_path: Path) -> None:
    publisher.plan = ["cut:1000", *["rewind:900"] * 9]
    with pytest.raises(FusionerError, match="3 attempts in a row brought nothing new"):
        fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK, tries=3)
    assert publisher.ranges[:2] == [None, "bytes=1000-"] and len(publisher.asked) == 4


def test_altered_bytes_are_refused_and_leave_nothing(publisher: Publisher, tmp_path: Path) -> None:
    publisher.plan = ["corrupt"]
    with pytest.raises(FusionerError, match=f"sends has (md5|sha256) .*published file ({MD5}|{SHA256}): it is altered"):
        fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK)
    assert left(tmp_path) == {} and len(publisher.asked) == 1


def test_a_broken_earlier_piece_is_fetched_anew(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"of another file")
    assert fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK) == SHA256
    assert publisher.ranges == ["bytes=15-", None] and left(tmp_path) == {"f": CONTENT}


@pytest.mark.parametrize(("how", "again"), [("properly", [None]), ("whole", [])])
def test_a_part_longer_than_the_file_is_fetched_anew(
    publisher: Publisher, tmp_path: Path, how: str, again: list[None]
) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT + b"tail")
    publisher.plan = [how]
    assert fetch([publisher.url()], tmp_path / "f", digests={"md5": MD5}, **QUICK) == SHA256
    assert publisher.ranges == [f"bytes={len(CONTENT) + 4}-", *again]


def test_a_whole_part_needs_no_server(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT)
    assert fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK) == SHA256
    assert publisher.asked == []


@pytest.mark.parametrize(
    ("how", "told"),
    [("404", "answer 404 Not Found"), ("page", "web page"), ("longer", "offers 300004 bytes, .* has 300000")],
)
def test_the_next_address_is_tried(publisher: Publisher, tmp_path: Path, how: str, told: str) -> None:
    urls = [publisher.url("first"), publisher.url("second")]
    publisher.plan = [how]
    assert fetch(urls, tmp_path / "f", **KNOWN, **QUICK) == SHA256
    publisher.plan = [how, how]
    with pytest.raises(FusionerError, match=f"/first: .*{told}.*; .*/second: .*{told}"):
        fetch(urls, tmp_path / "g", **KNOWN, **QUICK)


def test_without_a_published_checksum_nothing_is_pieced_together(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"old")
    publisher.plan = ["cut:100000", f"endless:{len(CONTENT)}"]
    assert fetch([publisher.url()], tmp_path / "f", **QUICK) == SHA256
    assert publisher.ranges == [None, None] and left(tmp_path) == {"f": CONTENT}


def test_without_a_published_checksum_nothing_is_kept(publisher: Publisher, tmp_path: Path) -> None:
    publisher.plan = ["cut:100000"] * 2
    with pytest.raises(
        FusionerError, match=r"received 100000 .*300000\)\. Run the same command again, or get the file"
    ):
        fetch([publisher.url()], tmp_path / "f", **QUICK, tries=1)
    assert left(tmp_path) == {}
    with pytest.raises(FusionerError, match=r"again, or ask the library$"):
        publisher.plan = ["503"]
        fetch([publisher.url()], tmp_path / "f", **QUICK, tries=1, instead="ask the library")


def test_without_a_checksum_a_servers_tag_tells_that_the_file_is_the_same(publisher: Publisher, tmp_path: Path) -> None:
    publisher.tag, publisher.plan = '"one"', ["cut:100000", "cut:50000", "503", "503"]
    with pytest.raises(FusionerError, match=r"150 kB are kept, it resumes from there"):
        fetch([publisher.url()], tmp_path / "f", **QUICK, tries=2)
    assert left(tmp_path) == {"f.part": CONTENT[:150000], "f.part.tag": b'"one"'}
    assert fetch([publisher.url()], tmp_path / "f", **QUICK) == SHA256
    assert publisher.ranges[-1] == "bytes=150000-" and publisher.sent == len(CONTENT)
    assert left(tmp_path) == {"f": CONTENT}


@pytest.mark.parametrize("how", ["properly", "ignored"])
def test_without_a_checksum_a_changed_file_starts_again(publisher: Publisher, tmp_path: Path, how: str) -> None:
    (tmp_path / "f.part").write_bytes(b"of an older file")
    (tmp_path / "f.part.tag").write_text('"old"')
    publisher.tag = '"new"'
    if how == "ignored":  # a server that sends the range whatever If-Range says; its ETag tells
        publisher.plan = ["careless"]
    assert fetch([publisher.url()], tmp_path / "f", **QUICK) == SHA256
    assert publisher.ranges == ["bytes=16-", *([None] if how == "ignored" else [])]
    assert left(tmp_path) == {"f": CONTENT}


def test_a_weak_tag_is_no_reason_to_resume(publisher: Publisher, tmp_path: Path) -> None:
    publisher.tag, publisher.plan = 'W/"one"', ["cut:100000"]
    assert fetch([publisher.url()], tmp_path / "f", **QUICK) == SHA256
    assert publisher.ranges == [None, None]


def test_a_whole_file_of_another_digest_is_kept_aside_where_it_can_be_accepted(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.plan = ["corrupt"]
    with pytest.raises(FusionerError, match=r"f\.unverified: say `yes ([0-9a-f]{64})` if you trust it") as raised:
        fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK, accept="say `yes {sha256}`")
    (content,) = left(tmp_path).values()
    assert list(left(tmp_path)) == ["f.unverified"] and hashlib.sha256(content).hexdigest() in str(raised.value)
    publisher.plan = ["longer"]  # an answer of another length is no whole file
    with pytest.raises(FusionerError, match="offers 300004 bytes"):
        fetch([publisher.url()], tmp_path / "g", **KNOWN, **QUICK, accept="say `yes {sha256}`")
    assert list(left(tmp_path)) == ["f.unverified"]


def test_an_answer_of_unknown_length_that_ends_early_is_noticed(publisher: Publisher, tmp_path: Path) -> None:
    publisher.plan = ["endless:1000"]
    assert fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK) == SHA256
    assert publisher.ranges == [None, "bytes=1000-"]


def test_a_circle_of_redirects_and_a_dead_address_are_told(publisher: Publisher, tmp_path: Path) -> None:
    publisher.plan = ["redirect:file.tar"] * 40
    with pytest.raises(FusionerError, match=r"redirects.*; http://127.0.0.1:9/x: 2 attempts"):
        fetch([publisher.url(), "http://127.0.0.1:9/x"], tmp_path / "f", **KNOWN, **QUICK, tries=2)
    with pytest.raises(FusionerError, match="no address is known"):
        fetch([], tmp_path / "f", **QUICK)


def test_a_full_disk_is_told_before_the_transfer(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=200_000))
    with pytest.raises(FusionerError, match=r"f needs 300 kB .*200 kB are free"):
        fetch([publisher.url()], tmp_path / "f", **KNOWN, **QUICK)
    assert left(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "told"),
    [(CONTENT[:-1], "has 299999 bytes, .* 300000: it is cut short"), (CONTENT[::-1], "has .* it is altered")],
)
def test_a_file_of_ones_own_is_checked_and_named(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "VOC.tar"
    with pytest.raises(FusionerError, match=r"VOC\.tar is not a file"):
        check(file, **KNOWN)
    file.write_bytes(content)
    for look in (check, lambda file, **known: fetch([], file, **known)):
        with pytest.raises(FusionerError, match=rf"VOC\.tar {told}; delete it and download it again"):
            look(file, **KNOWN, quiet=True)
    file.write_bytes(CONTENT)
    assert check(file, **KNOWN, quiet=True) == SHA256


def test_sizes_read_well() -> None:
    sizes = [0, 25, 466_062, 1_048_576, 90_868_376, 1_421_700_479, 20_000_000_000]
    told = ["0 B", "25 B", "466 kB", "1.0 MB", "91 MB", "1.4 GB", "20 GB"]
    assert [size_text(size) for size in sizes] == told
