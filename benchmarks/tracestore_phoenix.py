"""Compare the lab's trace store with arize-phoenix on the same small sample.

Measured are the time until every span can be queried, and a filter by name and duration. Phoenix
responds to a write before it has stored the spans, so both times end when all spans are found. It
runs in a separate environment with its telemetry off, with a database (SQLite) in a temporary
folder, and with a queue that is long enough to refuse nothing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx

from benchmarks._process import free_port
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
    """Return the interpreter of `.venvs/bench`, or None if Phoenix is not installed there."""
    folder = REPO / ".venvs" / "bench"
    if list(folder.glob("lib/python*/site-packages/phoenix/server")):
        return folder / "bin" / "python"
    return None


def measure(
    python: Path, measure_lab: Callable[[int], tuple[float, float]], spans: int = SAMPLE
) -> list[dict[str, Any]]:
    """Return the rows of Phoenix, which runs on the interpreter `python`, and of the lab.

    `measure_lab(spans)` ingests the sample into an empty trace store of the lab and returns the
    seconds until all spans are found, and the median seconds of the query.
    """
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
        phoenix_s = time.perf_counter() - began
        phoenix_query_s = median_s(
            lambda: client.post("/v1/spans", json=_FILTER).raise_for_status()
        )

    lab_s, lab_query_s = measure_lab(spans)
    ingest = "small_sample_ingest_spans_per_s"
    query = "small_sample_filter_p50_s"
    note = f"the same {spans:,} spans, one sender, until all can be queried"
    query_note = "name and duration, all that match"
    return [
        _row(name, ingest, spans / phoenix_s, "higher", note),
        _row("lab", ingest, spans / lab_s, "higher", note),
        _row(name, query, phoenix_query_s, "lower", query_note),
        _row("lab", query, lab_query_s, "lower", "the same, /api/search"),
    ]


def median_s(query: Callable[[], Any]) -> float:
    """Return the median seconds of a query, after one to warm up."""
    times = []
    for _ in range(_REPEATS + 1):
        began = time.perf_counter()
        query()
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[_REPEATS // 2]


def _row(subject: str, metric: str, value: float, better: str, note: str) -> dict[str, Any]:
    return {"subject": subject, "metric": metric, "value": value, "better": better, "note": note}


def _send(port: int, spans: int) -> None:
    """Send the sample, retrying when the server refuses. Raises RuntimeError for other errors."""
    headers = {"Content-Type": "application/x-protobuf"}
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    for payload in requests(spans):
        while True:
            connection.request("POST", "/v1/traces", payload, headers)
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                break
            if response.status not in (429, 503):
                raise RuntimeError(f"the server answered {response.status}")
            time.sleep(0.2)


def _count(client: httpx.Client) -> int:
    """Return the number of spans that can be queried."""
    response = client.post("/graphql", json={"query": _COUNT}).raise_for_status().json()
    return sum(edge["node"]["recordCount"] for edge in response["data"]["projects"]["edges"])


@contextlib.contextmanager
def _server(python: Path, folder: Path) -> Iterator[httpx.Client]:
    """Run Phoenix in a separate process and yield a client for it."""
    port = free_port()
    env = os.environ | {
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_MAX_SPANS_QUEUE_SIZE": "1000000",
    }
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
    """Wait until Phoenix is healthy. Raises RuntimeError if it ends or needs over five minutes."""
    for _ in range(3000):
        with contextlib.suppress(httpx.TransportError):
            if client.get("/healthz").status_code == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"Phoenix did not start: {log.read_text()[-2000:]}")
