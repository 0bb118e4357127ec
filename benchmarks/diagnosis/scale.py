"""`lab investigate` on a large window: wall time and peak memory, as a user would run it.

    python -m benchmarks.diagnosis.scale --requests 10000

The traces of the recording `notebooks` are copied under new ids, at even distances, into a
temporary trace store: half a baseline, half a window. There is no Prometheus. The command runs
three times in a process of its own; the median counts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pyarrow.parquet as pq
from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, TracesData

from benchmarks._process import child_environment, free_port, running
from lab.schema import Attr
from lab.settings import REPO
from lab.stores.timestamps import utc

RECORDING = REPO / "data/recorded/notebooks/traces.parquet"
REPEATS = 3
BATCH = 200
SECONDS_PER_REQUEST = 0.2
ARRIVED_S = 30.0


def main(argv: list[str]) -> int:
    """Print the size of the window, the seconds, and the peak memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diagnosis.scale")
    parser.add_argument("--requests", type=int, default=10_000, help="window and baseline together")
    options = parser.parse_args(argv)
    port, otlp = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as folder:
        command = [sys.executable, "-m", "lab.tracestore", "--data", folder]
        with running([*command, "--port", str(port), "--otlp-port", str(otlp)]):
            wait_ready(f"http://127.0.0.1:{port}/ready")
            length_s = options.requests * SECONDS_PER_REQUEST
            start = time.time() - length_s - ARRIVED_S
            spans = fill(f"http://127.0.0.1:{otlp}/v1/traces", options.requests, start)
            middle = utc(start + length_s / 2)
            window = f"{middle}/{utc(start + length_s)}"
            baseline = f"{utc(start)}/{middle}"
            times_s, peak_mb = measure(window, baseline, f"http://127.0.0.1:{port}", Path(folder))
    print(f"{options.requests} requests, {spans} spans")
    print(f"seconds: {', '.join(f'{t:.2f}' for t in times_s)}; {statistics.median(times_s):.2f}")
    print(f"peak resident memory: {peak_mb:.0f} MB")
    return 0


def wait_ready(url: str) -> None:
    """Wait until the trace store answers."""
    for _ in range(300):
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(url)


def fill(url: str, requests: int, start: float) -> int:
    """Send copies of the recorded traces; return the number of spans."""
    documents = pq.read_table(RECORDING).column("document").to_pylist()
    originals = [
        json_format.Parse(text.replace('"batches"', '"resourceSpans"', 1), TracesData())
        for text in documents
    ]
    spans = 0
    batch: list[ResourceSpans] = []
    for number, original in enumerate(itertools.islice(itertools.cycle(originals), requests)):
        start_ns = round((start + number * SECONDS_PER_REQUEST) * 1e9)
        trace = copied(original, number, number // len(originals), start_ns)
        spans += sum(len(s.spans) for r in trace.resource_spans for s in r.scope_spans)
        batch += trace.resource_spans
        if number % BATCH == BATCH - 1 or number == requests - 1:
            send(url, batch)
            batch = []
    return spans


def copied(original: TracesData, number: int, cycle: int, start_ns: int) -> TracesData:
    """Return a copy of a trace with another id and session, which begins at another time."""
    trace = TracesData()
    trace.CopyFrom(original)
    spans = [s for r in trace.resource_spans for scope in r.scope_spans for s in scope.spans]
    shift_ns = start_ns - min(span.start_time_unix_nano for span in spans)
    trace_id = random.Random(number).randbytes(16)
    for span in spans:
        span.trace_id = trace_id
        span.start_time_unix_nano += shift_ns
        span.end_time_unix_nano += shift_ns
        for event in span.events:
            event.time_unix_nano += shift_ns
        for attribute in span.attributes:
            if attribute.key == Attr.SESSION:
                attribute.value.string_value += f"-{cycle}"
    return trace


def send(url: str, resource_spans: list[ResourceSpans]) -> None:
    """Send one OTLP request; wait where the store asks for it."""
    body = TracesData(resource_spans=resource_spans).SerializeToString()
    headers = {"Content-Type": "application/x-protobuf"}
    while (answer := httpx.post(url, content=body, headers=headers, timeout=60)).status_code == 429:
        time.sleep(0.2)
    answer.raise_for_status()


def measure(window: str, baseline: str, tempo: str, folder: Path) -> tuple[list[float], float]:
    """Return the wall time of each run in seconds, and the largest resident memory in MB."""
    command = [*(sys.executable, "-m", "lab.cli", "investigate", window, "--baseline", baseline)]
    command += ["--tempo", tempo, "--prometheus", f"http://127.0.0.1:{free_port()}"]
    times_s = []
    peak_kb = 0
    for _ in range(REPEATS):
        began = time.monotonic()
        with (folder / "answer.txt").open("w") as out:
            process = subprocess.Popen(command, env=child_environment(), stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        times_s.append(time.monotonic() - began)
        peak_kb = max(peak_kb, usage.ru_maxrss)
        if os.waitstatus_to_exitcode(status) not in (0, 1):
            raise RuntimeError(f"lab investigate failed: {(folder / 'answer.txt').read_text()}")
    return times_s, peak_kb / 1000


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
