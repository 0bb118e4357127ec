"""Attack a temporary trace store, and report the numbers of cases and of failures.

    python -m benchmarks.store_campaign --cases 100000 --kills 20

- fuzz: OTLP requests with values at the bounds of every protobuf field, and queries of every
  endpoint with parameters at their bounds. A failure is a 5xx other than a 503 with Retry-After, a
  traceback in the log, or a process that ended.
- kills: kill -9 while spans arrive. A failure is an acknowledged span that is missing or stored
  twice.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PROTOBUF = {"Content-Type": "application/x-protobuf"}
T0 = 1_700_000_000 * 10**9

_INTEGERS = {
    Field.TYPE_INT64: (-(2**63), -1, 0, 1, 2**63 - 1),
    Field.TYPE_UINT32: (0, 1, 2**31, 2**32 - 1),
    Field.TYPE_FIXED32: (0, 1, 2**31, 2**32 - 1),
    Field.TYPE_FIXED64: (0, 1, T0, T0 + 10**9, 2**63 - 1, 2**63, 2**64 - 1),
    Field.TYPE_INT32: (-(2**31), -1, 0, 2**31 - 1),
    Field.TYPE_ENUM: (-(2**31), -257, -1, 0, 1, 2, 3, 5, 6, 127, 128, 255, 256, 2**31 - 1),
}
_DOUBLES = (0.0, -0.0, 1.5, -1e308, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    "",
    "a",
    "x",
    "x.y",
    "é\u2028",
    "\x00",
    '"',
    "k" * 300,
    "gen_ai.usage.input_tokens",
    "service.name",
    "{/}",
)
_BYTES = (b"", b"\x00" * 16, b"\x00" * 8, b"\xff" * 16, b"\xff" * 8, b"t" * 16, b"s" * 8, b"short")
_NUMBERS = (
    *("", "0", "-1", "1", "20", "1700000000", "1700000001"),
    *("9223372036854775807", "9223372036854775808", "-0", "+1", "1_0"),
    *("1e30", "nan", "inf", "0.5", "١", "9" * 25, "9" * 400, "9" * 5000, "1700000000.5"),
    *("2023-11-14T22:13:20Z", "1h", "1e30h", "9" * 30 + "h", "0s", "100ms"),
    *("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "true", "x", " ", "%"),
)
_QUERIES = (
    "{}",
    "{ -span.x != 1 }",
    "{ span.x > 0 }",
    "{ event:timeSinceStart > 1s }",
    "{ kind = client || status = error }",
    "{ span.a - span.b > 1 }",
    "{ .x = 1.5 } | count() > 0",
    "{} | rate()",
    "{} | quantile_over_time(duration, .5)",
    '{ link:spanID = "" }',
    '{ event.x = "a" }',
    "{ nestedSetLeft > 0 }",
    "{",
    "{} >> {}",
    "{} | by(span.x)",
    "{ resource.service.name = nil }",
    "{} | max_over_time(span.x)",
    "{} | avg(span.x) > 1",
    '{ instrumentation:name =~ ".*" }',
)
_PARAMETERS = {
    "/api/search": ("q", "start", "end", "limit", "spss", "tags", "minDuration", "maxDuration"),
    "/api/search/tags": ("scope", "start", "end", "limit"),
    "/api/v2/search/tags": ("scope", "start", "end", "limit"),
    "/api/search/tag/x/values": ("q", "start", "end", "limit"),
    "/api/v2/search/tag/span.x/values": ("q", "start", "end", "limit"),
    "/api/v2/search/tag/{x}/y/values": ("start", "end"),
    "/api/metrics/query_range": ("q", "start", "end", "since", "step", "exact", "exemplars"),
    "/api/metrics/query": ("q", "start", "end", "since", "exact"),
    "/api/traces/" + "74" * 16: ("start", "end"),
    "/api/v2/traces/" + "74" * 16: ("start", "end"),
    "/api/lab/spans": ("q", "start", "end", "whole_traces", "columns", "limit"),
    "/api/lab/status": (),
    "/metrics": (),
    "/ready": (),
}


def fill(message: Message, r: random.Random, depth: int = 0) -> None:
    """Set a random selection of a message's fields to values at the bounds of their types."""
    for field in message.DESCRIPTOR.fields:
        probability = 0.5 if depth < 8 else 0.1
        if field.containing_oneof:
            probability /= 4
        if r.random() > probability:
            continue
        count = r.choice((1, 1, 2, 3)) if field.is_repeated else 1
        for _ in range(count):
            _fill_field(message, field, r, depth)


def _fill_field(message: Message, field: Field, r: random.Random, depth: int) -> None:
    if field.type == Field.TYPE_MESSAGE:
        if depth < 14:
            inner = getattr(message, field.name)
            fill(inner.add() if field.is_repeated else inner, r, depth + 1)
        return
    value = _value(field, r)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    elif field.type == Field.TYPE_ENUM:  # bypasses the check of the protobuf library
        message.MergeFromString(bytes([field.number << 3]) + _varint(value))
    else:
        setattr(message, field.name, value)


def _value(field: Field, r: random.Random) -> Any:
    if field.type == Field.TYPE_BYTES:
        usual = {"trace_id": b"t" * 16, "span_id": r.randbytes(8)}.get(field.name)
        return usual if usual and r.random() < 0.8 else r.choice(_BYTES)
    if field.type == Field.TYPE_STRING:
        return r.choice(_TEXTS)
    if field.type == Field.TYPE_BOOL:
        return r.random() < 0.5
    if field.type == Field.TYPE_DOUBLE:
        return r.choice(_DOUBLES)
    return r.choice(_INTEGERS[field.type])


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def random_request(r: random.Random) -> ExportTraceServiceRequest:
    """Return an OTLP request with at least one span; most requests are valid."""
    request = ExportTraceServiceRequest()
    fill(request, r)
    span = request.resource_spans.add().scope_spans.add().spans.add()
    fill(span, r)
    span.trace_id = b"t" * 16
    span.span_id = r.randbytes(8)
    return request


def random_query(r: random.Random) -> tuple[str, dict[str, str]]:
    """Return the path and parameters of a query, with values at the bounds of their types."""
    path, names = r.choice(list(_PARAMETERS.items()))
    parameters = {}
    for name in names:
        if name == "q" and r.random() < 0.9:
            parameters[name] = r.choice(_QUERIES)
        elif r.random() < 0.4:
            parameters[name] = r.choice(_NUMBERS + _TEXTS)
    return path, parameters


class Store:
    """A trace store in a separate process, on free ports."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "lab.tracestore", "--port", "0", "--otlp-port", "0"]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*command, "--data", str(folder)], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if ports := re.search(r'"port":(\d+),"otlp_port":(\d+)', line):
                self.tempo = f"http://127.0.0.1:{ports[1]}"
                self.otlp = f"http://127.0.0.1:{ports[2]}/v1/traces"
                self.start_s = time.monotonic() - self.started
                self._lines: list[str] = []
                threading.Thread(target=self._read, daemon=True).start()
                return
        raise RuntimeError("the store did not start")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "Traceback" in line:
                self._lines.append(line)

    @property
    def tracebacks(self) -> list[str]:
        """The log lines that contain a traceback."""
        return list(self._lines)

    def end(self, sign: int = signal.SIGKILL) -> None:
        """Send a signal and wait until the process has ended."""
        self.process.send_signal(sign)
        self.process.wait(timeout=60)


def is_failure(response: httpx.Response) -> bool:
    """Return whether a response is a 5xx other than a 503 with Retry-After."""
    if response.status_code == 503:
        return "Retry-After" not in response.headers
    return response.status_code >= 500


def fuzz(folder: Path, cases: int, seed: int = 0) -> dict[str, Any]:
    """Alternate hostile writes and queries; return the counts and the first failures."""
    r = random.Random(seed)
    store = Store(folder)
    codes: Counter[str] = Counter()
    failures: list[str] = []
    with httpx.Client(timeout=120) as client:
        for i in range(cases):
            if i % 3 == 0:
                body = random_request(r).SerializeToString()
                response = client.post(store.otlp, content=body, headers=PROTOBUF)
                kind = "write"
                case = f"body {body.hex()[:400]}"
            else:
                path, parameters = random_query(r)
                response = client.get(store.tempo + path, params=parameters)
                kind = "read"
                case = f"{path} {json.dumps(parameters)[:300]}"
            codes[f"{kind} {response.status_code}"] += 1
            if is_failure(response):
                failures.append(f"{response.status_code} {case}: {response.text[:200]}")
    failures += store.tracebacks
    store.end(signal.SIGTERM)
    return {"cases": cases, "failed": len(failures), "codes": dict(codes), "first": failures[:10]}


def kills(folder: Path, cycles: int, seed: int = 0) -> dict[str, Any]:
    """Kill the store `cycles` times while spans arrive.

    Returns the numbers of acknowledged spans, and of those that are missing or stored twice.
    """
    r = random.Random(seed)
    acknowledged: set[str] = set()
    slowest_s = 0.0
    for _ in range(cycles):
        store = Store(folder)
        slowest_s = max(slowest_s, store.start_s)
        killer = threading.Timer(r.uniform(0.05, 1.5), store.end)
        killer.start()
        try:
            with httpx.Client(timeout=30) as client:
                while True:
                    request, ids = _plain_request(r)
                    response = client.post(store.otlp, content=request, headers=PROTOBUF)
                    if response.status_code == 200:
                        acknowledged |= ids
        except httpx.TransportError:
            pass
        killer.join()

    store = Store(folder)
    url = f"{store.tempo}/api/lab/spans"
    response = httpx.get(url, params={"columns": "span_id"}, timeout=300)
    stored = pa.ipc.open_stream(response.content).read_all().column("span_id").to_pylist()
    store.end(signal.SIGTERM)
    missing = len(acknowledged - set(stored))
    double = len(stored) - len(set(stored))
    return {
        "cases": cycles,
        "failed": missing + double,
        "acknowledged": len(acknowledged),
        "missing": missing,
        "double": double,
        "slowest_start_s": round(slowest_s, 2),
    }


def _plain_request(r: random.Random, spans: int = 200) -> tuple[bytes, set[str]]:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    ids = set()
    for _ in range(spans):
        span_id = r.randbytes(8)
        ids.add(span_id.hex())
        scope.spans.add(
            trace_id=r.randbytes(16),
            span_id=span_id,
            name="work",
            start_time_unix_nano=T0,
            end_time_unix_nano=T0 + 10**6,
        )
    return request.SerializeToString(), ids


def main(argv: list[str] | None = None) -> int:
    """Run the campaign; return 1 if a case failed, otherwise 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store_campaign")
    parser.add_argument("--cases", type=int, default=100_000, help="hostile writes and queries")
    parser.add_argument("--kills", type=int, default=20, help="cycles of kill -9")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices")
    options = parser.parse_args(argv)
    failed = 0
    for name, attack, count in (("fuzz", fuzz, options.cases), ("kills", kills, options.kills)):
        with tempfile.TemporaryDirectory(prefix="store-campaign-") as folder:
            started = time.monotonic()
            result = attack(Path(folder), count, options.seed)
        result["seconds"] = round(time.monotonic() - started, 1)
        failed += result["failed"]
        print(name, json.dumps(result, indent=2), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
