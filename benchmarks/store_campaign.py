"""Attack a trace store of its own, and report how many cases were tried and how many failed.

    python -m benchmarks.store_campaign --cases 100000 --kills 20

- fuzz: OTLP requests with values at every bound of every protobuf field, then queries of every endpoint, with parameters
  at every bound. A failure is a 5xx other than a 503 with Retry-After, or a process that ended.
- kills: kill -9 while spans arrive. A failure is an acknowledged span that is missing or there twice.
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
    "", "0", "-1", "1", "20", "1700000000", "1700000001", "9223372036854775807", "9223372036854775808", "-0", "+1", "1_0",
    "1e30", "nan", "inf", "0.5", "١", "9" * 25, "9" * 400, "9" * 5000, "1700000000.5", "2023-11-14T22:13:20Z", "1h", "1e30h",
    "9" * 30 + "h", "0s", "100ms", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "true", "x", " ", "%",
)  # fmt: skip
_QUERIES = (
    "{}", "{ -span.x != 1 }", "{ span.x > 0 }", "{ event:timeSinceStart > 1s }", "{ kind = client || status = error }",
    "{ span.a - span.b > 1 }", "{ .x = 1.5 } | count() > 0", "{} | rate()", "{} | quantile_over_time(duration, .5)",
    "{ link:spanID = \"\" }", "{ event.x = \"a\" }", "{ nestedSetLeft > 0 }", "{", "{} >> {}", "{} | by(span.x)",
    "{ resource.service.name = nil }", "{} | max_over_time(span.x)", "{} | avg(span.x) > 1", "{ instrumentation:name =~ \".*\" }",
)  # fmt: skip
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
    """Set each field of a message, or not, to a value at a bound of its type."""
    for field in message.DESCRIPTOR.fields:
        likely = 0.5 if depth < 8 else 0.1
        if field.containing_oneof:
            likely /= 4
        if r.random() > likely:
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
    elif field.type == Field.TYPE_ENUM:  # around the library's own check
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
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def random_request(r: random.Random) -> ExportTraceServiceRequest:
    """Return a request with at least one span, most of them valid."""
    request = ExportTraceServiceRequest()
    fill(request, r)
    span = request.resource_spans.add().scope_spans.add().spans.add()
    fill(span, r)
    span.trace_id = b"t" * 16
    span.span_id = r.randbytes(8)
    return request


def random_question(r: random.Random) -> tuple[str, dict[str, str]]:
    """Return a path and parameters at the bounds of their types."""
    path, names = r.choice(list(_PARAMETERS.items()))
    parameters = {}
    for name in names:
        if name == "q" and r.random() < 0.9:
            parameters[name] = r.choice(_QUERIES)
        elif r.random() < 0.4:
            parameters[name] = r.choice(_NUMBERS + _TEXTS)
    return path, parameters


class Store:
    """A trace store as a process on free ports."""

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
        """Log lines with a traceback."""
        return list(self._lines)

    def end(self, sign: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        self.process.send_signal(sign)
        self.process.wait(timeout=60)


def is_failure(answer: httpx.Response) -> bool:
    """Whether an answer is a 5xx other than a 503 that says when to come again."""
    if answer.status_code == 503:
        return "Retry-After" not in answer.headers
    return answer.status_code >= 500


def fuzz(folder: Path, cases: int, seed: int = 0) -> dict[str, Any]:
    """Send hostile requests and questions in turn; return the counts and the first failures."""
    r = random.Random(seed)
    store = Store(folder)
    codes: Counter[str] = Counter()
    failures: list[str] = []
    with httpx.Client(timeout=120) as client:
        for i in range(cases):
            if i % 3 == 0:
                body = random_request(r).SerializeToString()
                answer = client.post(store.otlp, content=body, headers=PROTOBUF)
                what = f"body {body.hex()[:400]}"
            else:
                path, parameters = random_question(r)
                answer = client.get(store.tempo + path, params=parameters)
                what = f"{path} {json.dumps(parameters)[:300]}"
            codes[f"{'write' if i % 3 == 0 else 'read'} {answer.status_code}"] += 1
            if is_failure(answer):
                failures.append(f"{answer.status_code} {what}: {answer.text[:200]}")
    failures += store.tracebacks
    store.end(signal.SIGTERM)
    return {"cases": cases, "failed": len(failures), "codes": dict(codes), "first": failures[:10]}


def kills(folder: Path, cycles: int, seed: int = 0) -> dict[str, Any]:
    """Kill the store again and again while spans arrive; return what was acknowledged, missing and double."""
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
                    answer = client.post(store.otlp, content=request, headers=PROTOBUF)
                    if answer.status_code == 200:
                        acknowledged |= ids
        except httpx.TransportError:
            pass
        killer.join()
    store = Store(folder)
    import pyarrow as pa

    answer = httpx.get(f"{store.tempo}/api/lab/spans", params={"columns": "span_id"}, timeout=300)
    stored = pa.ipc.open_stream(answer.content).read_all().column("span_id").to_pylist()
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
    """Run the campaign; return 1 where a case failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store_campaign")
    parser.add_argument("--cases", type=int, default=100_000, help="hostile requests and questions")
    parser.add_argument("--kills", type=int, default=20, help="cycles of kill -9")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
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
