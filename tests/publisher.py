"""A publisher's web server, as good and as bad as they are."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

CONTENT = np.random.default_rng(5).bytes(300_000)


class Publisher(ThreadingHTTPServer):
    """Serves CONTENT at every path. ``plan``: how to answer, one entry a request, then properly.

    asked: path and Range header of every request. sent: how many bytes of content left. tag: the ETag of the content,
    "" for none; a range whose If-Range is another one gets the whole content.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan: list[str] = []
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.tag = ""
        self.stalling, self.met_stalled = threading.Event(), False
        self.over = threading.Event()

    def url(self, path: str = "file.tar") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    @property
    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: Publisher

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        server.met_stalled |= server.stalling.is_set()
        how, _, number = (server.plan.pop(0) if server.plan else "properly").partition(":")
        if how in ("404", "503"):
            return self._head(int(how), {"Content-Length": "0"})
        if how == "redirect":
            return self._head(302, {"Location": f"/{number}", "Content-Length": "0"})
        if how == "page":
            return self._head(200, {"Content-Length": "0", "Content-Type": "text/html; charset=utf-8"})
        content = CONTENT + b"more" if how == "longer" else CONTENT
        if how == "corrupt":
            content = content[:1000] + bytes([content[1000] ^ 255]) + content[1001:]
        if how != "careless" and self.headers.get("If-Range", server.tag) != server.tag:
            asked = None
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and how not in ("whole", "rewind") else 0
        if first >= len(content):
            return self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
        if how == "shifted":
            first += 7
        headers = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if first else {}
        if server.tag:
            headers["ETag"] = server.tag
        if how != "endless":
            headers["Content-Length"] = str(len(content) - first)
        self._head(206 if first else 200, headers)
        piece = (
            content[first : first + int(number)] if how in ("cut", "stall", "endless", "rewind") else content[first:]
        )
        server.sent += len(piece)  # before the client can have it all
        self.wfile.write(piece)
        self.wfile.flush()
        if how == "stall":
            server.stalling.set()
            server.over.wait(20)
        self.close_connection = True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
