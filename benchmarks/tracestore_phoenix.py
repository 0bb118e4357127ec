"""arize-phoenix and ours on the same small sample: until every span can be queried, and one filter by name and duration.

Phoenix answers a request before it has stored it, so both clocks stop when all spans can be found. It runs from an
environment of its own, its telemetry off, its database (SQLite) in a temporary folder, with a queue that refuses nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx

from benchmarks.tracestore_corpus import requests
from lab.settings import REPO

SAMPLE = 4_000
_REPEATS = 5
_COUNT = "{ projects { edges { node { recordCount } } } }"
_FILTER = {
    "queries": [{"filter": {"condition": "name == 'llm_request' and latency_ms > 1000"}}],
    "limit": 1000,
}


def installed() -> Path | None:
    """The interpreter of `.venvs/bench`, where Phoenix is there."""
    folder = REPO / ".venvs" / "bench"
    return (
        folder / "bin" / "python"
        if list(folder.glob("lib/python*/site-packages/phoenix/server"))
        else None
    )


def measure(
    python: Path, ours: Callable[[int], tuple[float, float]], spans: int = SAMPLE
) -> list[dict[str, Any]]:
    """Rows of both. `ours(spans)` ingests the sample into a new store of ours: (seconds until all found, median query)."""
    note = f"the same {spans:,} spans, one sender, until all can be queried"
    with (
        tempfile.TemporaryDirectory(prefix="lab-bench-phoenix-") as folder,
        _server(python, Path(folder)) as client,
    ):
        name = "arize-phoenix " + client.get("/arize_phoenix_version").text.strip()
        _count(client)
        began = time.perf_counter()
        _send(client.base_url.port, spans)
        while _count(client) < spans:
            time.sleep(0.2)
        took_s = time.perf_counter() - began
        query_s = median_s(lambda: client.post("/v1/spans", json=_FILTER).raise_for_status())
    our_s, our_query_s = ours(spans)
    return [
        _row(name, "small_sample_ingest_spans_per_s", spans / took_s, "higher", note),
        _row("lab", "small_sample_ingest_spans_per_s", spans / our_s, "higher", note),
        _row(
            name, "small_sample_filter_p50_s", query_s, "lower", "name and duration, all that match"
        ),
        _row("lab", "small_sample_filter_p50_s", our_query_s, "lower", "the same, /api/search"),
    ]


def median_s(question: Callable[[], Any]) -> float:
    """The median seconds of a question, after one to warm up."""
    times = []
    for _ in range(_REPEATS + 1):
        began = time.perf_counter()
        question()
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[_REPEATS // 2]


def _row(subject: str, metric: str, value: float, better: str, note: str) -> dict[str, Any]:
    return {"subject": subject, "metric": metric, "value": value, "better": better, "note": note}


def _send(port: int, spans: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    for payload in requests(spans):
        while True:
            connection.request(
                "POST", "/v1/traces", payload, {"Content-Type": "application/x-protobuf"}
            )
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                break
            if answer.status not in (429, 503):
                raise RuntimeError(f"the server answered {answer.status}")
            time.sleep(0.2)


def _count(client: httpx.Client) -> int:
    answer = client.post("/graphql", json={"query": _COUNT}).raise_for_status().json()
    return sum(edge["node"]["recordCount"] for edge in answer["data"]["projects"]["edges"])


@contextlib.contextmanager
def _server(python: Path, folder: Path) -> Iterator[httpx.Client]:
    """Phoenix as a process of its own."""
    port, grpc_port = _free_port(), _free_port()
    env = os.environ | {
        "PHOENIX_WORKING_DIR": str(folder), "PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc_port), "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false", "PHOENIX_MAX_SPANS_QUEUE_SIZE": "1000000",
    }  # fmt: skip
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [python, "-m", "phoenix.server.main", "serve"], env=env, stdout=log, stderr=log
    )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
    try:
        _wait(client, process, folder / "log")
        yield client
    finally:
        client.close()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()
        log.close()


def _wait(client: httpx.Client, process: subprocess.Popen, log: Path) -> None:
    for _ in range(3000):
        with contextlib.suppress(httpx.TransportError):
            if client.get("/healthz").status_code == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"Phoenix did not start: {log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
