"""Servers on loopback, for tests of what talks HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any, TypeVar

S = TypeVar("S", bound=HTTPServer)


@contextmanager
def serving(server: S) -> Iterator[S]:
    """Let a server serve inside the block, in a thread; it is closed after it."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def address_of(server: HTTPServer) -> str:
    """Return a server's address, without a slash at its end."""
    return f"http://127.0.0.1:{server.server_port}"


class Quiet:
    """Comes before `BaseHTTPRequestHandler`, so that nothing is printed."""

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


class Listener(ThreadingHTTPServer):
    """Keeps what is posted to it, and answers as told.

    Attributes:
        answers: Status and headers of the answers to come, in order; after these it answers 200.
        requests: Headers and bodies of what came.
        heard: Set by every request.
        hangs: Whether requests wait for `go_on` before they are answered.
        go_on: Ends the waiting.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ListenerHandler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.heard = threading.Event()
        self.hangs = False
        self.go_on = threading.Event()

    @property
    def bodies(self) -> list[Any]:
        """The bodies of what came, read as JSON."""
        return [json.loads(body) for _, body in self.requests]

    def shutdown(self) -> None:
        """Stop; requests that wait are answered."""
        self.go_on.set()
        super().shutdown()


class _ListenerHandler(Quiet, BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((dict(self.headers), body))
        self.server.heard.set()
        if self.server.hangs:
            self.server.go_on.wait()
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()
