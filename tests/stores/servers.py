"""Loopback HTTP servers that answer as they are told, also wrongly."""

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
    """What to answer. `cut`: promise more bytes than come."""

    body: bytes = b""
    status: int = 200
    cut: bool = False
    content_type: str = ""


@dataclass
class Told:
    """A server that was told what to answer, and every (path, parameters) that it was asked, and
    with which headers."""

    url: str
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def telling(
    answer: Callable[[str, dict[str, str]], Reply], *, tls: tuple[Path, Path] | None = None
) -> Iterator[Told]:
    """Serve `answer(path, parameters)` in a thread until the block ends; by HTTPS with
    (certificate, key)."""
    told = Told("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            params = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
            told.asked.append((parts.path, params))
            told.headers.append(dict(self.headers))
            reply = answer(parts.path, params)
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(reply.body) + (100 if reply.cut else 0)))
            if reply.content_type:
                self.send_header("Content-Type", reply.content_type)
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
    told.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
