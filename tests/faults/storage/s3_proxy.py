"""A proxy before an S3 server that makes trouble: requests that fail, are slow, or are not answered at all."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

#: What the driver asks for to switch the trouble: ``GET /trouble/KIND``.
KINDS = ("none", "slow", "one-in-five", "gone")
_SLOW = 0.3


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.kind = "none"
        self.back = threading.Event()
        self.back.set()
        self.rng = random.Random(3)
        self.requests = 0
        self.failed = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients give up; that is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def _handle(self) -> None:
        if self.path.startswith("/trouble/"):
            self._switch(self.path.rpartition("/")[2])
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests += 1
        kind = self.server.kind
        if kind == "gone":
            self.server.back.wait(120)  # the client has long given up
            self.close_connection = True
            return
        if kind == "slow":
            time.sleep(_SLOW)
        fails = kind == "one-in-five" and self.server.rng.random() < 0.2
        if fails and self.server.rng.random() < 0.5:
            self.server.failed += 1
            self._answer(503, [], b"")
            return
        status, headers, content = self._forward(body)
        if fails:  # it is done, and nobody is told
            self.server.failed += 1
            self.close_connection = True
            return
        self._answer(status, headers, content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle  # noqa: N815 - as the base class calls them

    def _switch(self, kind: str) -> None:
        self.server.kind = kind
        if kind == "gone":
            self.server.back.clear()
        else:
            self.server.back.set()
        self._answer(200, [], f"{self.server.requests} {self.server.failed}".encode())

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.behind, timeout=30)
        try:
            # The signature covers the host, so that one stays.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, Any]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", len(content))
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def proxy(endpoint: str) -> Iterator[str]:
    """Run one before an endpoint; answers its own."""
    server = _Server(urlsplit(endpoint).netloc)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.back.set()
        server.shutdown()
        server.server_close()
