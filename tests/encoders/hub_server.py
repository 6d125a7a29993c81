"""A web server of the test's own that answers as a plain one and as the hub do."""

import functools
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "1" * 40
"""The one revision of every repository."""


class Server:
    """Files by path, served as a plain web server and as the hub do; what was asked for is kept."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.cut: set[str] = set()
        self.asked: list[str] = []
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
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        if status != 200 or content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if status == 404 else "GatedRepo")
            content = b""
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if self.path in self.known.cut else content)

    def log_message(self, *args: Any) -> None:
        """Says nothing."""
