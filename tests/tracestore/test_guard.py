"""Dangerous options, other web pages and half-open connections are refused."""

from __future__ import annotations

import os
import select
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from lab.tracestore import guard
from lab.tracestore.guard import HostGuard
from tests.tracestore.conftest import Running
from tests.tracestore.corpus import random_spans, request_of
from tests.tracestore.test_durability import REPO, Child


def run_store(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lab.tracestore", "--data", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=120)


@pytest.mark.parametrize(
    "options",
    [
        ("--max-age-hours", "-1"),
        ("--max-age-hours", "0"),
        ("--max-age-hours", "nan"),
        ("--max-age-hours", "inf"),
        ("--max-gib", "-1"),
        ("--max-gib", "0"),
        ("--max-gib", "nan"),
        ("--max-gib", "1e-9"),
        ("--port", "99999"),
        ("--otlp-port", "-1"),
        ("--grpc-port", "x"),
    ],
)
def test_options_that_would_delete_everything_are_refused(
    tmp_path: Path, options: tuple[str, str]
) -> None:
    """The exit status is 2, with the option's name, before anything is opened."""
    done = run_store(tmp_path / "data", *options)
    assert done.returncode == 2
    assert options[0] in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_data_folder_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    """A file instead of a folder gives one sentence with a fix, and no traceback."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        done = run_store(folder, "--port", "0", "--otlp-port", "0")
        assert done.returncode == 1
        assert "cannot be created" in done.stderr
        assert "Fix: " in done.stderr
        assert "Traceback" not in done.stderr


def test_only_the_owner_can_read_the_spans(tmp_path: Path) -> None:
    """Other users cannot read the files, and a host other than loopback raises a warning."""
    child = Child(tmp_path / "data")
    body = request_of(random_spans(1)).SerializeToString()
    kind = {"Content-Type": "application/x-protobuf"}
    httpx.post(f"{child.otlp}/v1/traces", content=body, headers=kind, timeout=60).raise_for_status()
    files = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    child.kill()
    assert len(files) > 4
    for path in files:
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("port", ["tempo", "otlp"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "[::1]:1234"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "10.0.0.7"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Host": "localhost:1234", "Origin": "http://localhost:1234"}, 200),
    ],
)
def test_other_pages_are_refused(
    running: Running, port: str, headers: dict[str, str], code: int
) -> None:
    """A foreign Host (DNS rebinding) or Origin is answered with 403 on both ports."""
    if port == "tempo":
        assert running.tempo.get("/api/search", headers=headers).status_code == code
        return
    body = request_of(random_spans(2)).SerializeToString()
    kind = {"Content-Type": "application/x-protobuf"}
    assert running.otlp.post("/v1/traces", content=body, headers=kind | headers).status_code == code


def test_names_are_allowed_by_option(tmp_path: Path) -> None:
    """`--allowed-host` can be repeated, for clients that use the name of a Service."""
    options = ("--allowed-host", "tempo", "--allowed-host", "tempo.lab.svc")
    child = Child(tmp_path, options=options)
    for host, code in (("tempo:3200", 200), ("tempo.lab.svc", 200), ("tempo.other", 403)):
        answer = httpx.get(f"{child.tempo}/api/echo", headers={"Host": host}, timeout=60)
        assert answer.status_code == code, host
    child.kill()


def test_a_store_on_all_interfaces_allows_addresses(tmp_path: Path) -> None:
    """On 0.0.0.0 any IP address is allowed as a host, as only names can be rebound."""
    wide = HostGuard("0.0.0.0", ["tempo"])
    assert [
        wide.allows_host(h) for h in ("10.0.0.7:3200", "[fe80::1]:1", "tempo", "evil.example", "")
    ] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_an_export_needs_a_header_that_a_page_cannot_send(running: Running) -> None:
    """A form on any page can POST, but cannot add a header."""
    running.export(request_of(random_spans(3)).SerializeToString())
    assert running.tempo.post("/api/lab/export", params={"name": "x"}).status_code == 403
    assert not (running.engine.folder / "exports").exists()
    done = running.tempo.post(
        "/api/lab/export", params={"name": "x"}, headers={guard.PAGE_HEADER: "1"}
    )
    assert done.status_code == 200


def test_half_open_connections_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection with half a request is closed after some time, and one in use is kept."""
    from tests.tracestore.conftest import start, stop

    monkeypatch.setattr(guard, "IDLE_S", 0.5)
    running, *rest = start(tmp_path)
    address = urlsplit(str(running.tempo.base_url))
    halves = [socket.create_connection((address.hostname, address.port)) for _ in range(20)]
    for i, half in enumerate(halves):
        half.sendall(b"GET /api/echo HTTP/1.1\r\n"[: i + 1])
        half.settimeout(20)
    deadline = time.monotonic() + 120
    while len(select.select(halves, [], [], 0)[0]) < len(halves):
        assert time.monotonic() < deadline, "half-open connections are kept"
        assert running.tempo.get("/api/echo").status_code == 200
    assert [half.recv(1000) for half in halves] == [b""] * 20
    for half in halves:
        half.close()
    stop(running, *rest)
