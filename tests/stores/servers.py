"""Provide loopback HTTP servers that send configured responses, including invalid ones."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


@dataclass
class Reply:
    """A response; `cut` announces more bytes than are sent."""

    body: bytes = b""
    status: int = 200
    cut: bool = False
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class RecordingServer:
    """The URL of a running server, and the (path, parameters) and headers of every request."""

    url: str
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serving(
    respond: Callable[[str, dict[str, str]], Reply], *, tls: tuple[Path, Path] | None = None
) -> Iterator[RecordingServer]:
    """Serve `respond(path, parameters)` in a thread until the block ends.

    With `tls`, a (certificate, key), the server uses HTTPS.
    """
    recording = RecordingServer("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            params = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
            recording.requests.append((parts.path, params))
            recording.headers.append(dict(self.headers))
            reply = respond(parts.path, params)
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(reply.body) + (100 if reply.cut else 0)))
            if reply.content_type:
                self.send_header("Content-Type", reply.content_type)
            for name, text in reply.headers.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(reply.body)
            if reply.cut:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    recording.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield recording
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
