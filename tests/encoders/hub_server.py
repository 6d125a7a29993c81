"""A web server of the test's own that answers as a plain one and as the hub do."""

import functools
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fusionerlib.encoders.base import EncoderSpec, WeightFile

COMMIT = "1" * 40
"""The one revision of every repository."""
BYTES = bytes(range(256)) * 8192
"""What a file of weights may hold, 2 MB."""


class Server:
    """Files by path, served as a plain web server and as the hub do; what was asked for is kept.

    cut: paths of which only the first half is sent. ranges, sent: the Range header and the bytes of each GET.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.cut: set[str] = set()
        self.asked: list[str] = []
        self.ranges: list[str | None] = []
        self.sent: list[int] = []
        handler = functools.partial(_Handler, self)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def repository(self, name: str, files: dict[str, bytes], *, revision: str = "main") -> None:
        self.files |= {f"/{name}/resolve/{revision}/{file}": content for file, content in files.items()}


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, server: Server, *args: Any) -> None:
        self.known = server
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.known.asked.append(f"{self.command} {self.path}")
        content = self.known.files.get(self.path)
        status = 404 if content is None else 403 if self.path in self.known.gated else 200
        asked, start = self.headers.get("Range"), 0
        if status == 200 and content is not None and asked:
            status, start = 206, int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        if status not in (200, 206) or content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if status == 404 else "GatedRepo")
            content = b""
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            piece = content[start : len(content) // 2 if self.path in self.known.cut else None]
            self.known.ranges.append(asked)
            self.known.sent.append(len(piece))
            self.wfile.write(piece)

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


def spec_of(*files: WeightFile) -> EncoderSpec:
    """A spec of an encoder of these files, with nothing else to know of it."""
    known = {"name": "some-encoder", "role": "text", "family": "", "space": "", "width": 0, "parameters": 0}
    return EncoderSpec(**known, loader="", pretraining="", licence="", tokens=("mean",), files=files)
