"""The lab's trace store: durable ingest over HTTP, the cost of queries, memory, disk and restart.

Compared with protobuf decoding alone, the upper limit of the ingest rate, and with arize-phoenix on
a small sample, from `.venvs/bench` (`python3 -m scripts.setup bench`) or from the interpreter
that `--phoenix` names. Client and server share the machine.

The number of spans is 200,000; with `--small` 50,000; with `--full` 1,000,000, which the bounds are
promised for; with `--spans N` any other. `--grow` measures at 1,000,000 spans, ingests up to
10,000,000 into the same store and measures again: `..._growth_ratio` is the ratio of the two.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks import tracestore_phoenix
from benchmarks.tracestore_corpus import (
    RANGE_NS,
    SPANS_PER_REQUEST,
    START_NS,
    requests,
    trace_id_of,
)
from lab.settings import REPO

FULL = 1_000_000
GROWN = 10_000_000
SENDERS = 8
REPEATS = 7

_SEARCH = "/api/search"
_RANGE = "/api/metrics/query_range"
_WINDOW = {"start": START_NS // 10**9, "end": (START_NS + RANGE_NS) // 10**9, "step": "60s"}
_BY_SERVICE = "by (resource.service.name)"
_QUANTILES = f"quantile_over_time(duration, .5, .95) {_BY_SERVICE}"
_TOKENS = "sum_over_time(span.gen_ai.usage.input_tokens) by (span.gen_ai.request.model)"


@dataclass(frozen=True)
class Query:
    """A query to time: the metric, the bound in seconds at a million spans, path and parameters."""

    metric: str
    bound_s: float
    path: str
    parameters: dict[str, Any]


def _search(metric: str, bound_s: float, traceql: str) -> Query:
    return Query(f"search_{metric}_p50_s", bound_s, _SEARCH, {"q": traceql})


def _range(metric: str, bound_s: float, traceql: str) -> Query:
    return Query(f"metrics_{metric}_6h_p50_s", bound_s, _RANGE, {"q": traceql, **_WINDOW})


NAME_AND_DURATION = _search("name_and_duration", 0.020, '{ name = "llm_request" && duration > 1s }')
_STRUCTURAL = '{ name = "POST /v1/responses" } >> { name = "llm_request" && status = error }'
QUERIES = (
    NAME_AND_DURATION,
    _search("promoted_attribute", 0.050, "{ span.gen_ai.usage.prompt_tokens > 1990 }"),
    _search("other_int_attribute", 0.250, "{ span.queue.depth > 990 }"),
    _search("other_string_attribute", 0.250, '{ span.custom.flag = "rare" }'),
    _search("promoted_attribute_without_match", 0.050, '{ span.gen_ai.request.model = "m11" }'),
    _search("other_attribute_without_match", 0.250, '{ span.custom.flag = "never" }'),
    _search("structural", 0.300, _STRUCTURAL),
    _range("rate_by_attribute", 0.150, f"{{}} | rate() {_BY_SERVICE}"),
    _range("quantile_by_attribute", 0.150, f'{{ name = "llm_request" }} | {_QUANTILES}'),
    _range("token_sum_by_model", 0.150, f"{{}} | {_TOKENS}"),
    Query("tags_p50_s", 0.050, "/api/v2/search/tags", {}),
    Query("tag_values_p50_s", 0.050, "/api/v2/search/tag/resource.service.name/values", {}),
)


def main(argv: list[str]) -> list[dict]:
    """Return the rows for `lab bench`."""
    options = _parser().parse_args(argv)
    spans = options.spans or (50_000 if options.small else FULL if options.full else 200_000)
    rows = [
        _row(
            "protobuf decoding alone",
            "ingest_spans_per_s",
            _decode_rate(),
            "higher",
            "one core, nothing stored",
        )
    ]
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as folder:
        if options.grow:
            return rows + _grow(Path(folder))
        rows += _measure(Path(folder), spans)

    phoenix = options.phoenix or tracestore_phoenix.installed()
    if phoenix:
        sample = 1_000 if options.small else tracestore_phoenix.SAMPLE
        rows += tracestore_phoenix.measure(phoenix, _small_sample, sample)
    else:
        fix = "`python3 -m scripts.setup bench` installs it"
        print(f"arize-phoenix is left out, because it is not in .venvs/bench; {fix}")
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab bench tracestore")
    add = parser.add_argument
    add("--small", action="store_true", help="50,000 spans")
    add("--full", action="store_true", help="1,000,000 spans")
    add("--spans", type=int, help="any other number of spans")
    add(
        "--grow",
        action="store_true",
        help="1,000,000 spans, then 10,000,000: about 7 minutes, 5 GB of disk",
    )
    add("--phoenix", type=Path, help="Python interpreter of another environment with arize-phoenix")
    return parser


def _row(
    subject: str, metric: str, value: float, better: str, note: str, bound: float | None = None
) -> dict:
    row = {"subject": subject, "metric": metric, "value": value, "better": better, "note": note}
    return row | ({"bound": bound} if bound is not None else {})


def _decode_rate() -> float:
    """Return the spans per second that protobuf alone decodes."""
    payloads = list(requests(20_000))
    began = time.perf_counter()
    for payload in payloads:
        ExportTraceServiceRequest.FromString(payload)
    return len(payloads) * SPANS_PER_REQUEST / (time.perf_counter() - began)


def _measure(folder: Path, spans: int) -> list[dict]:
    with Store(folder) as store:
        rows = _ingest_and_query(store, requests(spans), spans, promised=spans >= FULL)
        rows += _sizes(store, folder, spans)
    note = f"process start to ready, {spans:,} spans on disk"
    return [*rows, _row("lab", "start_to_ready_s", _restart_s(folder), "lower", note, 1.0)]


def _grow(folder: Path) -> list[dict]:
    """Measure one store at a million and at ten million spans; only the first rows have bounds."""
    source = requests(GROWN)
    with Store(folder) as store:
        first_million = itertools.islice(source, FULL // SPANS_PER_REQUEST)
        before = _ingest_and_query(store, first_million, FULL, promised=True)
        before += _sizes(store, folder, FULL)
        after = _ingest_and_query(store, source, GROWN, promised=False)
        after += _sizes(store, folder, GROWN)

    value_before = {row["metric"]: row["value"] for row in before}
    note = "at 10,000,000 spans, relative to 1,000,000"
    later = []
    growth = []
    for row in after:
        metric = row["metric"]
        ratio = row["value"] / value_before[metric]
        later.append(row | {"metric": f"{metric}_at_10m"})
        growth.append(_row("lab", f"{metric}_growth_ratio", ratio, row["better"], note))

    note = f"process start to ready, {GROWN:,} spans on disk"
    restart = _row("lab", "start_to_ready_s_at_10m", _restart_s(folder), "lower", note)
    return [*before, *later, *growth, restart]


def _ingest_and_query(
    store: Store, payloads: Iterator[bytes], spans: int, *, promised: bool
) -> list[dict]:
    """Ingest and time every query; rows have bounds only if `promised`."""
    scale = f"{spans:,} spans"
    ingest = store.ingest(payloads)
    note = (
        f"{scale}, {SENDERS} senders, {SPANS_PER_REQUEST} spans per request, "
        f"{ingest.refused} answered 429"
    )
    lag_note = "last acknowledgement until all spans can be queried"
    rate_bound = 40_000 if promised else None
    rows = [
        _row("lab", "ingest_spans_per_s", ingest.rate, "higher", note, rate_bound),
        _row("lab", "ingest_visible_lag_s", ingest.lag_s, "lower", lag_note),
        _row("lab", "ingest_rss_peak_mb", ingest.rss_mb, "lower", scale, 700),
    ]
    by_id = Query("trace_by_id_p50_s", 0.010, f"/api/v2/traces/{ingest.trace_id}", {})
    for query in (*QUERIES, by_id):
        seconds = _median_s(lambda query=query: store.get(query.path, query.parameters))
        bound_s = query.bound_s if promised else None
        rows.append(_row("lab", query.metric, seconds, "lower", scale, bound_s))
    return [*rows, _bulk(store, scale)]


def _sizes(store: Store, folder: Path, spans: int) -> list[dict]:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    disk_note = f"{spans:,} spans; log included"
    memory_note = f"{spans:,} spans, after the queries"
    return [
        _row("lab", "disk_bytes_per_span", size / spans, "lower", disk_note),
        _row("lab", "idle_rss_mb", store.rss_mb(), "lower", memory_note),
    ]


def _small_sample(spans: int) -> tuple[float, float]:
    """Ingest a sample with one sender.

    Returns the seconds from the first span sent until all can be queried, and the median seconds of
    a filter by name and duration.
    """
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as folder, Store(Path(folder)) as store:
        store.get("/api/lab/spans", {})  # Phoenix has also answered a query before
        ingest = store.ingest(requests(spans), senders=1)
        parameters = NAME_AND_DURATION.parameters | {"limit": 1000}
        query_s = _median_s(lambda: store.get(NAME_AND_DURATION.path, parameters))
        return spans / ingest.rate + ingest.lag_s, query_s


def _median_s(query: Callable[[], Any]) -> float:
    """Return the median seconds of a query, after one to warm up."""
    query()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        query()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _bulk(store: Store, note: str) -> dict:
    rows = 0

    def frame() -> None:
        nonlocal rows
        body = store.get("/api/lab/spans", {"q": "{}", "limit": 100_000})
        rows = len(pa.ipc.open_stream(io.BytesIO(body)).read_pandas())

    seconds = _median_s(frame)
    note = f"{rows:,} spans, all columns; {note}"
    return _row("lab", "bulk_to_pandas_p50_s", seconds, "lower", note, 0.5)


def _restart_s(folder: Path) -> float:
    """Return the median seconds from process start to ready, of three starts."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        with Store(folder):
            times.append(time.perf_counter() - began)
    return statistics.median(times)


@dataclass(frozen=True)
class Ingested:
    """The result of an ingest.

    - `rate` is in spans per second.
    - `lag_s` is the time from the last acknowledgement until all spans can be queried.
    - `rss_mb` is the peak resident memory of the store.
    - `refused` is the number of 429 responses.
    - `trace_id` is the id of a trace that was sent.
    """

    rate: float
    lag_s: float
    rss_mb: float
    refused: int
    trace_id: str


class Store:
    """A trace store in a separate process."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "lab.tracestore", "--port", "0", "--otlp-port", "0"]
        self.process = subprocess.Popen(
            [*command, "--data", str(folder)], cwd=REPO, stderr=subprocess.PIPE, text=True
        )
        for line in self.process.stderr:
            if ports := re.search(r'"port":(\d+),"otlp_port":(\d+)', line):
                self.port = int(ports[1])
                self.otlp_port = int(ports[2])
                break
        else:
            raise RuntimeError("the trace store did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=60)
        self.process.kill()

    def get(self, path: str, params: dict[str, Any]) -> bytes:
        """Return the body of a response. Raises httpx.HTTPStatusError."""
        return self.client.get(path, params=params).raise_for_status().content

    def rss_mb(self) -> float:
        """Return the resident memory of the process in MB."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def ingest(self, source: Iterator[bytes], senders: int = SENDERS) -> Ingested:
        """Send all payloads over several connections, repeating those that are refused with 429."""
        sending = _Sending(source, self.otlp_port)
        threads = [threading.Thread(target=sending.send) for _ in range(senders)]
        done = threading.Event()
        peak_mb = [0.0]

        def watch() -> None:
            while not done.wait(0.1):
                peak_mb[0] = max(peak_mb[0], self.rss_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        acknowledged = time.perf_counter()
        while "\ntracestore_pending_spans 0.0\n" not in self.get("/metrics", {}).decode():
            time.sleep(0.02)
        lag_s = time.perf_counter() - acknowledged
        done.set()
        watcher.join()

        rate = sending.sent * SPANS_PER_REQUEST / (acknowledged - began)
        return Ingested(rate, lag_s, peak_mb[0], sending.refused, sending.trace_id)


class _Sending:
    """The payloads of an ingest, shared by the threads that send them."""

    def __init__(self, source: Iterator[bytes], otlp_port: int) -> None:
        self.sent = 0
        self.refused = 0
        self.trace_id = ""
        self._source = source
        self._otlp_port = otlp_port
        self._lock = threading.Lock()

    def send(self) -> None:
        """Send payloads over one connection until there are no more."""
        connection = HTTPConnection("127.0.0.1", self._otlp_port, timeout=120)
        while (payload := self._next()) is not None:
            while _post(connection, payload) == 429:
                with self._lock:
                    self.refused += 1
                time.sleep(0.05)

    def _next(self) -> bytes | None:
        with self._lock:
            payload = next(self._source, None)
            if payload is not None:
                self.sent += 1
                self.trace_id = self.trace_id or trace_id_of(payload)
            return payload


def _post(connection: HTTPConnection, payload: bytes) -> int:
    """Return the status, 200 or 429. Raises RuntimeError for any other."""
    connection.request("POST", "/v1/traces", payload, {"Content-Type": "application/x-protobuf"})
    response = connection.getresponse()
    response.read()
    if response.status not in (200, 429):
        raise RuntimeError(f"the trace store answered {response.status}")
    return response.status
