"""`python -m lab.tools` as a process: it starts, says what is wrong, and ends on SIGTERM."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lab.settings import REPO

pytestmark = pytest.mark.slow  # starts processes


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lab.tools", *arguments]
    return subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP/HTTP receiver that decodes what comes."""
    got: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()


def test_life_of_a_server(
    tmp_path: Path, receiver: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    """It makes its database, answers, logs JSON lines with the trace id, and sends every span
    before it ends.
    """
    otlp, got = receiver
    port, trace = free_port(), "0af7651916cd43dd8448eb211c80319c"
    process = start(
        "--port", str(port), "--db", str(tmp_path / "new" / "world.sqlite"), "--otlp-endpoint", otlp
    )
    try:
        _wait_until_healthy(process, port)
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        message["params"] = {"name": "quote_price", "arguments": {"gpu": "H100", "hours": 2}}
        headers = {
            "accept": "application/json, text/event-stream",
            "traceparent": f"00-{trace}-b7ad6b7169203331-01",
        }
        answer = httpx.post(
            f"http://127.0.0.1:{port}/mcp", json=message, headers=headers, timeout=60
        ).json()
        assert json.loads(answer["result"]["content"][0]["text"])["usd"] > 0
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=120)
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["trace_id"] for line in lines if line["message"] == "tool call"] == [trace]
    spans = [s for r in got for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]
    assert {s.name for s in spans} == {"POST /mcp", "execute_tool quote_price", "sqlite query"}
    assert {s.trace_id.hex() for s in spans} == {trace}


def _wait_until_healthy(process: subprocess.Popen[str], port: int) -> None:
    limit = time.monotonic() + 240
    while time.monotonic() < limit:
        assert process.poll() is None, process.communicate()
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server did not become healthy")


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    """A port in use: exit status 1 and a sentence, no traceback."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        process = start("--port", str(s.getsockname()[1]), "--db", str(tmp_path / "world.sqlite"))
        _, output = process.communicate(timeout=240)
    assert process.returncode == 1 and "cannot listen" in output and "Traceback" not in output


def test_a_foreign_database_is_told(tmp_path: Path) -> None:
    """A file that is not a database, or another one, is refused and not touched."""
    foreign = tmp_path / "world.sqlite"
    foreign.write_text("This is a letter to my aunt, and it is long enough to be no database." * 20)
    before = foreign.read_bytes()
    process = start("--port", str(free_port()), "--db", str(foreign))
    _, output = process.communicate(timeout=240)
    assert (
        process.returncode == 1
        and "not the help desk's database" in output
        and "Traceback" not in output
    )
    assert foreign.read_bytes() == before


def test_wrong_faults_are_told(tmp_path: Path) -> None:
    """A failure ratio above 1 is refused at the start."""
    process = start(
        "--port", str(free_port()), "--db", str(tmp_path / "w.sqlite"), "--failure-ratio", "3"
    )
    _, output = process.communicate(timeout=240)
    assert process.returncode == 1 and "out of range" in output
