"""What others send: endless streams, redirects into private networks, huge headers, archives that were changed."""

import hashlib
import io
import json
import socketserver
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
import torch

from fusionerlib import FusionerError
from fusionerlib.datasets.download.archives import HEADER_BYTES, unpack
from fusionerlib.datasets.download.prepare import prepare
from fusionerlib.download import _refuse_redirect, _Refused, check, fetch, unverified
from fusionerlib.encoders import weights
from fusionerlib.encoders.base import WeightFile
from fusionerlib.encoders.published import read
from fusionerlib.hub import checkpoint_of, upload
from fusionerlib.private_hosts import private
from tests.datasets.published import FSS_COUNTS, described, fss_files, pack
from tests.encoders.hub_server import COMMIT, spec_of

SENT = b"0123456789" * 1000
SHA256 = hashlib.sha256(SENT).hexdigest()


class Web(ThreadingHTTPServer):
    """A server, and a proxy for any address. ``answers``: by host, or path, a location to redirect to, "endless", or
    JSON to send; anything else sends SENT, as a plain server and as the hub do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.answers: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Web

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(body=True)

    do_PUT = do_POST

    def answer(self, *, body: bool) -> None:
        self.server.asked.append(self.path)
        answer = next((answer for part, answer in self.server.answers.items() if part in self.path), "")
        redirects = "://" in answer and answer[0] != "{"
        content = b"" if redirects else answer.encode() if answer[:1] == "{" else SENT
        # 307 keeps the method of a request that brings something.
        self.send_response((307 if self.command == "POST" else 302) if redirects else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{SHA256}"')
        if redirects:
            self.send_header("Location", answer)
        if answer != "endless":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if answer == "endless":
            try:
                for _ in range(10**6):
                    self.wfile.write(SENT)
            except OSError:
                pass  # it was hung up on
        elif body:
            self.wfile.write(content)
        self.close_connection = True


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("known", ["nothing", "size", "digest"])
def test_an_endless_stream_is_given_up(web: Web, tmp_path: Path, known: str) -> None:
    web.answers = {"file": "endless"}
    given = {"nothing": {}, "size": {"size": 123_456}, "digest": {"digests": {"sha256": SHA256}}}[known]
    with pytest.raises(FusionerError, match="without an end") as raised:
        fetch([f"{web.url}/file"], tmp_path / "file", most=10**6, pause=0.0, quiet=True, **given)
    assert "file could not be downloaded" in str(raised.value)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 10**6


PRIVATE = (
    "http://127.0.0.1:{port}/file",
    "http://localhost:{port}/file",
    "http://[::1]:{port}/file",
    "http://169.254.169.254/latest/meta-data",
    "http://10.0.0.7/file",
    "http://192.168.1.1/file",
    "http://172.16.3.4/file",
    "http://0.0.0.0:{port}/file",
    "http://[fe80::1]/file",
    "http://[fd00::1]/file",
    "http://[::ffff:127.0.0.1]:{port}/file",
    "http://2130706433:{port}/file",
    "http://100.64.0.1/file",
    "http://127.1:{port}/file",
    "http://0x7f000001:{port}/file",
    "http://017700000001:{port}/file",
    "http://localhost.:{port}/file",
    "http://files.localhost:{port}/file",
    "http://metadata.google.internal/computeMetadata/v1",
    "http://printer/file",
    "http://someone@127.0.0.1:{port}/file",
    "http://[::ffff:7f00:1]:{port}/file",
    "http://[::127.0.0.1]/file",
    "http://[64:ff9b::a00:7]/file",
    "http://[2002:a00:7::1]/file",
    "http://224.0.0.1/file",
    "http://[ff02::1]/file",
    "http://255.255.255.255/file",
    "http://[::ffff:0:127.0.0.1]/file",
    "http://[fec0::1]/file",
    "http://[fe80::1%25eth0]/file",
    "http://[5f00::1]/file",
    "http://192.88.99.1/file",
    "http://localhost.localdomain/file",
    "http://kubernetes.default.svc/file",
    "http://%31%32%37.0.0.1/file",
    "http://localhost%00.example.com/file",
)


@pytest.fixture
def proxied(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """``web`` as the proxy for every address."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, web.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return web


@pytest.mark.parametrize("address", PRIVATE)
def test_a_public_address_may_not_redirect_to_a_private_one(proxied: Web, tmp_path: Path, address: str) -> None:
    # Two steps: the second public address redirects inside.
    proxied.answers = {
        "files.example": "http://mirror.example/file",
        "mirror.example": address.format(port=proxied.server_port),
    }
    with pytest.raises(FusionerError, match="an address of a private network"):
        fetch(["http://files.example/file"], tmp_path / "file", pause=0.0, tries=1, quiet=True)
    assert len(proxied.asked) == 2, "the private address was not asked"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["127。0。0。1", "[::1%25lo]", "LOCALHOST."])
def test_other_spellings_of_this_machine_are_private(host: str) -> None:
    assert private(httpx2.URL("http://files.example/start").join(f"http://{host}/file").host)


@pytest.mark.parametrize("host", ["93.184.216.34", "[2606:2800:220:1::1]", "[2002:5db8:d822::1]", "files.example"])
def test_public_hosts_are_public(host: str) -> None:
    assert not private(host)


def hub_at(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub asks ``address``, and finds its caches empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


FILE = WeightFile(file="model.safetensors", repo="some/encoder", bytes=len(SENT))
ASKING: dict[str, Callable[[Path], object]] = {
    "fetch": lambda folder: weights.fetch(spec_of(FILE)),
    "load": lambda folder: checkpoint_of("hf://some/checkpoint"),
    "push": lambda folder: upload(folder, "some/checkpoint", private=False, token="hf_none", message="m"),
}


@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.parametrize("way", ASKING)
def test_a_public_hub_may_not_lead_to_a_private_address(
    proxied: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, address: str
) -> None:
    hub_at("http://hub.example", tmp_path, monkeypatch)
    (tmp_path / "README.md").write_text("a card")
    proxied.answers = {"hub.example": address.format(port=proxied.server_port)}
    with pytest.raises(FusionerError, match=r"an address of a private network.*HF_ENDPOINT"):
        ASKING[way](tmp_path)
    assert proxied.asked and all(path.startswith("http://hub.example/") for path in proxied.asked)
    assert not list((tmp_path / "hub").rglob("snapshots/*/*")), "nothing came"


def test_a_public_hub_may_not_have_weights_sent_to_a_private_address(
    proxied: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of an upload stands in an answer, and is no redirect."""
    hub_at("http://hub.example", tmp_path / "caches", monkeypatch)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(SENT)
    inside = f"http://127.0.0.1:{proxied.server_port}/upload"
    action = {"oid": SHA256, "size": len(SENT), "actions": {"upload": {"href": inside}}}
    mode = {"path": "model.safetensors", "uploadMode": "lfs", "shouldIgnore": False}
    proxied.answers = {
        "/api/repos/create": json.dumps({"url": "http://hub.example/some/checkpoint"}),
        "/preupload/": json.dumps({"files": [mode]}),
        "/objects/batch": json.dumps({"transfer": "basic", "objects": [action]}),
        "hub.example": "{}",
    }
    with pytest.raises(FusionerError, match="an address of a private network"):
        upload(folder, "some/checkpoint", private=False, token="hf_none", message="m")
    assert any("/objects/batch" in path for path in proxied.asked)
    assert all(path.startswith("http://hub.example/") for path in proxied.asked)


def test_a_hub_of_one_s_own_may_be_private_and_the_client_is_left_as_it_was(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, get_session

    hub_at(web.url, tmp_path, monkeypatch)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    web.answers = {"/resolve/": f"http://localhost:{web.server_port}/stored"}
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    [file] = weights.fetch(spec_of(FILE))
    assert file.read_bytes() == SENT
    assert "/stored" in web.asked
    assert not [hook for hook in get_session().event_hooks["request"] if hook.__module__.startswith("fusionerlib")]
    assert not constants.HF_HUB_DISABLE_XET


def test_a_mirror_that_was_configured_may_be_private_and_redirect(web: Web, tmp_path: Path) -> None:
    web.answers = {"start": f"http://localhost:{web.server_port}/file"}
    assert fetch([f"{web.url}/start"], tmp_path / "file", pause=0.0, quiet=True) == SHA256


def test_a_public_redirect_to_a_public_address_is_followed(proxied: Web, tmp_path: Path) -> None:
    proxied.answers = {"files.example": "http://93.184.216.34/file"}
    assert fetch(["http://files.example/start"], tmp_path / "file", pause=0.0, quiet=True) == SHA256


@pytest.mark.parametrize(
    ("asked", "location", "refused"),
    [
        ("https://files.example/a", "http://93.184.216.34/a", "from https to http"),
        ("https://93.184.216.34/a", "http://93.184.216.34/b", "from https to http"),
        ("https://127.0.0.1/a", "http://127.0.0.1/b", "from https to http"),
        ("https://93.184.216.34/a", "https://127.0.0.1/a", "private network"),
        ("https://93.184.216.34/a", "//93.184.216.34/b", ""),
        ("http://93.184.216.34/a", "https://93.184.216.34/a", ""),
        ("http://93.184.216.34/a", "http://93.184.216.34/b", ""),
    ],
)
def test_an_encrypted_address_may_not_redirect_to_a_plain_one(asked: str, location: str, refused: str) -> None:
    response = httpx2.Response(302, headers={"location": location}, request=httpx2.Request("GET", asked))
    with pytest.raises(_Refused, match=refused) if refused else nullcontext():
        _refuse_redirect(response)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_huge_header_of_a_tar_is_not_read_into_memory(tmp_path: Path, kind: bytes, mode: str) -> None:
    file, size = tmp_path / "a.tar", 40 * HEADER_BYTES
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        header = tarfile.TarInfo("././@Header")
        header.type, header.size = kind, size
        archive.addfile(header, io.BytesIO(bytes(size)))
        plain = tarfile.TarInfo("kit/a.txt")
        plain.size = 1
        archive.addfile(plain, io.BytesIO(b"a"))
    tracemalloc.start()
    with pytest.raises(FusionerError, match=r"a header of \d+ bytes"):
        unpack(file, tmp_path / "out", take={"kit": ["kit"]}, quiet=True)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 * HEADER_BYTES


def test_long_names_of_usual_length_are_read(tmp_path: Path) -> None:
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        file, name = tmp_path / f"{kind}.tar", f"kit/{'long/' * 60}a.txt"
        with tarfile.open(file, "w", format=kind) as archive:
            plain = tarfile.TarInfo(name)
            plain.size = 1
            archive.addfile(plain, io.BytesIO(b"a"))
        assert unpack(file, tmp_path / str(kind), take={"kit": ["kit"]}, quiet=True) == 1


def test_an_archive_with_another_digest_is_kept_and_can_be_accepted(tmp_path: Path) -> None:
    [archive] = pack(fss_files(), tmp_path / "mine")
    rows = described("fss", [archive], FSS_COUNTS)
    changed = archive.read_bytes() + b"\n"  # after the end of a zip: another digest, the same content
    archive.write_bytes(changed)
    found = hashlib.sha256(changed).hexdigest()
    with pytest.raises(FusionerError) as raised:
        prepare(["fss"], tmp_path / "root", archives=[archive], quiet=True, catalogue=rows)
    assert archive.read_bytes() == changed, "a user's file is never deleted"
    assert str(archive) in str(raised.value)
    [made] = prepare(["fss"], tmp_path / "root", archives=[archive], quiet=True, catalogue=rows, accept_digest=found)
    [used] = made.archives
    assert used.sha256 == found and used.checked == "accepted"


def test_a_download_with_another_digest_is_kept_and_needs_no_second_one(web: Web, tmp_path: Path) -> None:
    target, wrong = tmp_path / "file", {"sha256": "0" * 64}
    accept = "repeat the command with --accept-digest {sha256}"
    with pytest.raises(FusionerError, match=f"--accept-digest {SHA256}"):
        fetch([f"{web.url}/file"], target, digests=wrong, accept=accept, pause=0.0, quiet=True)
    assert unverified(target).read_bytes() == SENT
    asked = len(web.asked)
    assert fetch([f"{web.url}/file"], target, digests=wrong, accept=accept, accepted={SHA256}, quiet=True) == SHA256
    assert len(web.asked) == asked and target.read_bytes() == SENT
    with pytest.raises(FusionerError, match="is altered"):
        check(target, digests=wrong, quiet=True)
    assert target.read_bytes() == SENT


@pytest.mark.parametrize(
    "held",
    [
        lambda: [torch.zeros(2)],
        lambda: {"state_dict": [torch.zeros(2)]},
        lambda: torch.zeros(2),
        lambda: 3,
        lambda: {},
        lambda: {"a": "b"},
        lambda: (torch.zeros(1), {"a": torch.zeros(1)}),
        lambda: None,
        lambda: {1: torch.zeros(2)},
    ],
)
def test_a_torch_file_of_anything_but_named_tensors_is_told(tmp_path: Path, held: Callable[[], object]) -> None:
    file = tmp_path / "weights.pth"
    torch.save(held(), file)
    with pytest.raises(FusionerError, match=r"weights\.pth"):
        read(file)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02", b"text", b"\x80\x04K\x01.", bytes(1000)])
def test_a_torch_file_that_is_none_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(FusionerError, match=r"weights\.pth"):
        read(file)


class Raw(socketserver.ThreadingTCPServer):
    """A server that answers every request with ``sent``, byte by byte as it stands there, and hangs up."""

    daemon_threads = True

    def __init__(self, sent: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Raw)
        self.sent = sent

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file"


class _Raw(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(65536)
        with suppress(OSError):
            self.request.sendall(self.server.sent)  # type: ignore[attr-defined]


@contextmanager
def sending(*lines: str) -> Iterator[Raw]:
    head = "\r\n".join([f"HTTP/1.1 {lines[0]}", *lines[1:]]).encode("latin-1")
    with Raw(head + b"\r\n\r\n" + SENT) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


WHOLE = f"Content-Length: {len(SENT)}"
ODD_ANSWERS = [
    ("200 OK", "Content-Length: \xb2"),
    ("200 OK", "Content-Length: -1"),
    ("200 OK", f"Content-Length: {'9' * 20}"),
    ("200 OK", WHOLE, "Content-Type: TEXT/HTML"),
    ("200 OK", WHOLE, "Content-Type: application/xhtml+xml"),
    ("200 OK", WHOLE, "Content-Encoding: gzip"),
    ("206 Partial", WHOLE, f"Content-Range: bytes 0-9999/{len(SENT)}"),
    ("206 Partial", WHOLE, "Content-Range: bytes 0-9999/\xb2"),
    ("206 Partial", WHOLE, f"Content-Range: bytes 0-9999/{'9' * 5000}"),
    ("206 Partial", WHOLE),
    ("416 Range", "Content-Length: 0"),
    ("200 OK", f"Content-Length: {2 * len(SENT)}", 'ETag: "\xe9"'),
    ("200 OK", f"Content-Length: {2 * len(SENT)}", "Last-Modified: \xb2"),
    ("302 Found", "Location: file:///etc/passwd", "Content-Length: 0"),
    ("302 Found", "Location: ftp://127.0.0.1/x", "Content-Length: 0"),
    ("302 Found", "Location: http://[::1/", "Content-Length: 0"),
    ("302 Found", "Location: /file", "Content-Length: 0"),
    ("302 Found", f"Location: http://{'a' * 300}.example/", "Content-Length: 0"),
    ("200 OK", f"X: {'a' * 10**6}", WHOLE),
]


@pytest.mark.parametrize("lines", ODD_ANSWERS, ids=lambda lines: " ".join(lines)[:40])
def test_an_answer_that_brings_no_file_is_told(lines: tuple[str, ...], tmp_path: Path) -> None:
    """Three were tracebacks, five said that the disk was full, and a page and a packed file were taken for the file."""
    with sending(*lines) as server, pytest.raises(FusionerError) as raised:
        fetch([server.url], tmp_path / "file", pause=0.0, tries=2, quiet=True)
    told = str(raised.value)
    assert "file could not be downloaded" in told or "GB are free: make room" in told
    assert "can't be written" not in told and not (tmp_path / "file").exists()


@pytest.mark.parametrize("tag", [b"\xff\xfe\x00", '"é"'.encode(), b'"a"\r\nX: y', b"", b"a" * 10**5])
def test_a_damaged_validator_of_a_part_starts_the_download_anew(web: Web, tmp_path: Path, tag: bytes) -> None:
    (tmp_path / "file.part").write_bytes(b"other")
    (tmp_path / "file.part.tag").write_bytes(tag)
    assert fetch([f"{web.url}/file"], tmp_path / "file", pause=0.0, quiet=True) == SHA256
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_what_is_in_the_way_of_a_download_is_named(web: Web, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FusionerError, match="taken is a file, not a folder"):
        fetch([f"{web.url}/file"], tmp_path / "taken" / "file", quiet=True)
    for name in ("a.part", "b.part.tag"):
        (tmp_path / name).mkdir()
        with pytest.raises(FusionerError, match=rf"{name} can't be written: a folder of this name is there; move it"):
            fetch([f"{web.url}/file"], tmp_path / name[0], pause=0.0, tries=1, quiet=True)
