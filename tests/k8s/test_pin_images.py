"""`scripts.pin_images` writes the digests that a registry reports, or changes nothing."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab.errors import SetupError
from scripts.pin_images import pin

MANIFEST = json.dumps({"schemaVersion": 2}).encode()
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


class Registry(BaseHTTPRequestHandler):
    """A registry that wants an anonymous token, as public ones do."""

    def do_GET(self) -> None:
        host = self.headers["Host"]
        if self.path.startswith("/token?"):
            assert "scope=repository" in self.path
            self.reply(200, json.dumps({"token": "anonymous"}).encode(), {})
        elif self.headers.get("Authorization") != "Bearer anonymous":
            realm = f'Bearer realm="http://{host}/token",service="x",scope="repository:a:pull"'
            self.reply(401, b"", {"WWW-Authenticate": realm})
        elif "missing" in self.path:
            self.reply(404, b"", {})
        else:
            digest = "sha256:0" if "forged" in self.path else DIGEST
            self.reply(200, MANIFEST, {"Docker-Content-Digest": digest})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def write(folder: Path, registry: str, tag: str = "v1") -> tuple[Path, Path]:
    versions = folder / "versions.env"
    versions.write_text(
        f"# images\nTEMPO={registry}/grafana/tempo:{tag}\nLAB=llm-lab/lab:0.1.0\n"
        f"PYTHON_BASE={registry}/python:3.12@sha256:old\nKEDA_CHART=2.18.0\n"
        "RUNBOOKS_URL=http://127.0.0.1:8888/lab/tree\n"
    )
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text(f"FROM {registry}/python:3.12@sha256:old AS build\nRUN true\n")
    return versions, dockerfile


def test_images_are_pinned_by_what_the_registry_serves(tmp_path: Path, registry: str) -> None:
    """Every image but the lab's own gets its digest; an older digest is replaced."""
    versions, dockerfile = write(tmp_path, registry)
    pin(versions, dockerfile)
    assert versions.read_text() == (
        f"# images\nTEMPO={registry}/grafana/tempo:v1@{DIGEST}\nLAB=llm-lab/lab:0.1.0\n"
        f"PYTHON_BASE={registry}/python:3.12@{DIGEST}\nKEDA_CHART=2.18.0\n"
        "RUNBOOKS_URL=http://127.0.0.1:8888/lab/tree\n"
    )
    assert dockerfile.read_text() == f"FROM {registry}/python:3.12@{DIGEST} AS build\nRUN true\n"


@pytest.mark.parametrize("tag", ["missing", "forged"])
def test_nothing_changes_where_an_image_fails(tmp_path: Path, registry: str, tag: str) -> None:
    """An unknown tag, and a manifest of another digest than reported, are errors."""
    versions, dockerfile = write(tmp_path, registry, tag)
    before = (versions.read_text(), dockerfile.read_text())
    with pytest.raises(SetupError, match=tag):
        pin(versions, dockerfile)
    assert (versions.read_text(), dockerfile.read_text()) == before
