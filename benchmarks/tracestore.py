"""The trace store: durable ingest over HTTP, then what questions cost. Beside it the floor, protobuf decoding alone, and Phoenix.

`--small` 50,000 spans; alone 200,000; `--full` 1,000,000, the scale that the bounds are promised for; `--spans N` any other.
`--grow` goes on to 10,000,000 in the same store and asks everything again: `..._growth_ratio` is how much longer it took.
arize-phoenix is measured too, on a small sample, from `.venvs/bench` (`python3 -m scripts.setup bench`) or where `--phoenix` says.
Client and server share the machine.
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

FULL, GROWN = 1_000_000, 10_000_000
SENDERS = 8
REPEATS = 7
_WINDOW = {"start": START_NS // 10**9, "end": (START_NS + RANGE_NS) // 10**9}
_STRUCTURAL = '{ name = "POST /v1/responses" } >> { name = "llm_request" && status = error }'

# metric, bound at a million spans, path, parameters
QUESTIONS: tuple[tuple[str, float, str, dict[str, Any]], ...] = (
    ("search_name_and_duration_p50_s", 0.020, "/api/search", {"q": '{ name = "llm_request" && duration > 1s }'}),
    ("search_promoted_attribute_p50_s", 0.050, "/api/search", {"q": "{ span.gen_ai.usage.prompt_tokens > 1990 }"}),
    ("search_other_int_attribute_p50_s", 0.250, "/api/search", {"q": "{ span.queue.depth > 990 }"}),
    ("search_other_string_attribute_p50_s", 0.250, "/api/search", {"q": '{ span.custom.flag = "rare" }'}),
    ("search_promoted_attribute_without_match_p50_s", 0.050, "/api/search", {"q": '{ span.gen_ai.request.model = "m11" }'}),
    ("search_other_attribute_without_match_p50_s", 0.250, "/api/search", {"q": '{ span.custom.flag = "never" }'}),
    ("search_structural_p50_s", 0.300, "/api/search", {"q": _STRUCTURAL}),
    ("metrics_rate_by_attribute_6h_p50_s", 0.150, "/api/metrics/query_range",
     {"q": "{} | rate() by (resource.service.name)", "step": "60s"} | _WINDOW),
    ("metrics_quantile_by_attribute_6h_p50_s", 0.150, "/api/metrics/query_range",
     {"q": '{ name = "llm_request" } | quantile_over_time(duration, .5, .95) by (resource.service.name)', "step": "60s"} | _WINDOW),
    ("metrics_token_sum_by_model_6h_p50_s", 0.150, "/api/metrics/query_range",
     {"q": "{} | sum_over_time(span.gen_ai.usage.input_tokens) by (span.gen_ai.request.model)", "step": "60s"} | _WINDOW),
    ("tags_p50_s", 0.050, "/api/v2/search/tags", {}),
    ("tag_values_p50_s", 0.050, "/api/v2/search/tag/resource.service.name/values", {}),
)  # fmt: skip


def main(argv: list[str]) -> list[dict]:
    """Rows for `lab bench`."""
    parser = argparse.ArgumentParser(prog="lab bench tracestore")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--spans", type=int)
    parser.add_argument(
        "--grow",
        action="store_true",
        help="1,000,000 spans, then 10,000,000: about 7 minutes, 5 GB of disk",
    )
    parser.add_argument(
        "--phoenix", type=Path, help="Python interpreter of another environment with arize-phoenix"
    )
    options = parser.parse_args(argv)
    spans = options.spans or (50_000 if options.small else FULL if options.full else 200_000)
    rows = [
        _row(
            "protobuf decoding alone",
            "ingest_spans_per_s",
            _decode_rate(),
            "higher",
            "one core, nothing kept",
        )
    ]
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as folder:
        if options.grow:
            return rows + _grow(Path(folder))
        rows += _measure(Path(folder), spans)
    phoenix = options.phoenix or tracestore_phoenix.installed()
    if phoenix:
        rows += tracestore_phoenix.measure(
            phoenix, _small_sample, 1_000 if options.small else tracestore_phoenix.SAMPLE
        )
    else:
        print(
            "arize-phoenix is left out: it is not in .venvs/bench; `python3 -m scripts.setup bench` installs it"
        )
    return rows


def _row(
    subject: str, metric: str, value: float, better: str, note: str, bound: float | None = None
) -> dict:
    row = {"subject": subject, "metric": metric, "value": value, "better": better, "note": note}
    return row | ({"bound": bound} if bound is not None else {})


def _decode_rate() -> float:
    payloads = list(requests(20_000))
    began = time.perf_counter()
    for payload in payloads:
        ExportTraceServiceRequest.FromString(payload)
    return len(payloads) * SPANS_PER_REQUEST / (time.perf_counter() - began)


def _measure(folder: Path, spans: int) -> list[dict]:
    with Store(folder) as store:
        rows = _ingest_and_ask(store, requests(spans), spans, promised=spans >= FULL)
        rows += _sizes(store, folder, spans)
    seconds, note = _restart_s(folder), f"process start to ready, {spans:,} spans on disk"
    return [*rows, _row("lab", "start_to_ready_s", seconds, "lower", note, 1.0)]


def _grow(folder: Path) -> list[dict]:
    """The same store at a million spans and at ten; the second rows carry no bound."""
    source = requests(GROWN)
    with Store(folder) as store:
        first = _ingest_and_ask(
            store, itertools.islice(source, FULL // SPANS_PER_REQUEST), FULL, promised=True
        )
        first += _sizes(store, folder, FULL)
        then = _ingest_and_ask(store, source, GROWN, promised=False)
        then += _sizes(store, folder, GROWN)
    small, note = (
        {row["metric"]: row["value"] for row in first},
        "at 10,000,000 spans, of what it was at 1,000,000",
    )
    growth = [
        _row(
            "lab",
            f"{row['metric']}_growth_ratio",
            row["value"] / small[row["metric"]],
            row["better"],
            note,
        )
        for row in then
    ]
    later = [row | {"metric": f"{row['metric']}_at_10m"} for row in then]
    seconds, note = _restart_s(folder), f"process start to ready, {GROWN:,} spans on disk"
    return [*first, *later, *growth, _row("lab", "start_to_ready_s_at_10m", seconds, "lower", note)]


def _ingest_and_ask(
    store: Store, payloads: Iterator[bytes], spans: int, *, promised: bool
) -> list[dict]:
    note, ingest = f"{spans:,} spans", store.ingest(payloads)
    rows = [
        _row("lab", "ingest_spans_per_s", ingest.rate, "higher",
             f"{note}, {SENDERS} senders, {SPANS_PER_REQUEST} spans a request, {ingest.refused} answered 429",
             40_000 if promised else None),
        _row("lab", "ingest_visible_lag_s", ingest.lag_s, "lower", "last acknowledgement until all can be queried"),
        _row("lab", "ingest_rss_peak_mb", ingest.rss_mb, "lower", note, 700),
    ]  # fmt: skip
    for metric, bound, path, params in QUESTIONS:
        seconds = _median(lambda p=path, q=params: store.get(p, q))
        rows.append(_row("lab", metric, seconds, "lower", note, bound if promised else None))
    seconds = _median(lambda: store.get(f"/api/v2/traces/{ingest.trace_id}", {}))
    rows.append(
        _row("lab", "trace_by_id_p50_s", seconds, "lower", note, 0.010 if promised else None)
    )
    return [*rows, _bulk(store, note)]


def _sizes(store: Store, folder: Path, spans: int) -> list[dict]:
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return [
        _row("lab", "disk_bytes_per_span", size / spans, "lower", f"{spans:,} spans; log included"),
        _row(
            "lab", "idle_rss_mb", store.rss_mb(), "lower", f"{spans:,} spans, after the questions"
        ),
    ]


def _small_sample(spans: int) -> tuple[float, float]:
    """Seconds from the first span sent until all can be found, and the median of a filter by name and duration."""
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as folder, Store(Path(folder)) as store:
        store.get("/api/lab/spans", {})  # as Phoenix has, it has answered a question before
        ingest = store.ingest(requests(spans), senders=1)
        path, params = QUESTIONS[0][2:]
        return spans / ingest.rate + ingest.lag_s, _median(
            lambda: store.get(path, params | {"limit": 1000})
        )


def _median(question: Callable[[], Any]) -> float:
    question()  # warm
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        question()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _bulk(store: Store, note: str) -> dict:
    rows = 0

    def frame() -> None:
        nonlocal rows
        body = store.get("/api/lab/spans", {"q": "{}", "limit": 100_000})
        rows = len(pa.ipc.open_stream(io.BytesIO(body)).read_pandas())

    seconds = _median(frame)
    return _row(
        "lab", "bulk_to_pandas_p50_s", seconds, "lower", f"{rows:,} spans, all columns; {note}", 0.5
    )


def _restart_s(folder: Path) -> float:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        with Store(folder):
            times.append(time.perf_counter() - began)
    return statistics.median(times)


class Ingested:
    """What one ingest run showed."""

    def __init__(
        self, rate: float, lag_s: float, rss_mb: float, refused: int, trace_id: str
    ) -> None:
        self.rate, self.lag_s, self.rss_mb, self.refused, self.trace_id = (
            rate,
            lag_s,
            rss_mb,
            refused,
            trace_id,
        )


class Store:
    """A trace store as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lab.tracestore", "--port", "0", "--otlp-port", "0", "--data", str(folder)],
            cwd=REPO, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for line in self.process.stderr:
            if ports := re.search(r'"port":(\d+),"otlp_port":(\d+)', line):
                self.port, self.otlp_port = map(int, ports.groups())
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
        answer = self.client.get(path, params=params)
        answer.raise_for_status()
        return answer.content

    def rss_mb(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def ingest(self, source: Iterator[bytes], senders: int = SENDERS) -> Ingested:
        """Send from several connections at once, again where 429 says so, until everything is acknowledged."""
        lock, sent, refused, peak, trace_id = threading.Lock(), [0], [0], [0.0], [""]

        def payloads() -> Iterator[bytes]:
            while True:
                with lock:
                    payload = next(source, None)
                if payload is None:
                    return
                sent[0] += 1
                trace_id[0] = trace_id[0] or trace_id_of(payload)
                yield payload

        def send() -> None:
            connection = HTTPConnection("127.0.0.1", self.otlp_port, timeout=120)
            for payload in payloads():
                while _post(connection, payload) == 429:
                    refused[0] += 1
                    time.sleep(0.05)

        def watch() -> None:
            while not done.wait(0.1):
                peak[0] = max(peak[0], self.rss_mb())

        done = threading.Event()
        threads = [threading.Thread(target=send) for _ in range(senders)]
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
        rate = sent[0] * SPANS_PER_REQUEST / (acknowledged - began)
        return Ingested(rate, lag_s, peak[0], refused[0], trace_id[0])


def _post(connection: HTTPConnection, payload: bytes) -> int:
    connection.request("POST", "/v1/traces", payload, {"Content-Type": "application/x-protobuf"})
    answer = connection.getresponse()
    answer.read()
    if answer.status not in (200, 429):
        raise RuntimeError(f"the trace store answered {answer.status}")
    return answer.status
