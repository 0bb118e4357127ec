"""Attack a temporary trace store, and report the numbers of cases and of failures.

    python -m benchmarks.store_campaign --cases 1000000 --expanding 200 --kills 20

- fuzz: OTLP requests with values at the bounds of every protobuf field, as protobuf and as JSON,
  whole and damaged; and queries of every endpoint with parameters at their bounds. A failure is a
  5xx other than a 503 with Retry-After, a traceback in the log, a process that ended, or a store
  that takes more than 1.2 GB.
- expand: bodies in which one field is repeated up to six million times, beside other clients. A
  failure is a 5xx as above, or a store that takes more than 1.2 GB.
- kills: kill -9 while spans arrive. A failure is an acknowledged span that is missing or stored
  twice.

`--minutes`, SIGTERM and Ctrl-C end an attack early: its figures, then those of the attacks that
have not begun, count what was tried. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import gzip
import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import pyarrow as pa
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
ROUND = 96  # cases sent at once
MAX_RSS_MB = 1_200
STORE_CASES = 4_800  # cases on one store; more spans would only make queries slow
TRACES = tuple(bytes([i]) * 16 for i in range(1, 65))
TRACE_PATHS = ("/api/traces/ID", "/api/v2/traces/ID")
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
_SEARCHES = (
    "{}",
    "{ -span.x != 1 }",
    "{ span.x > 0 }",
    "{ event:timeSinceStart > 1s }",
    "{ kind = client || status = error }",
    "{ span.a - span.b > 1 }",
    "{ .x = 1.5 } | count() > 0",
    '{ link:spanID = "" }',
    '{ event.x = "a" }',
    "{ nestedSetLeft > 0 }",
    "{} >> {}",
    "{} | by(span.x)",
    "{ resource.service.name != nil }",
    "{} | avg(span.x) > 1",
    '{ instrumentation:name =~ ".*" }',
)
_METRICS = (
    "{} | rate()",
    "{} | quantile_over_time(duration, .5)",
    "{ span.x != nil } | max_over_time(span.x)",
    "{} | rate() by (span.x, resource.service.name)",
    "{} | histogram_over_time(duration)",
    "{ status = error } | count_over_time() by (event.x)",
)
_HOSTILE_QUERIES = ("{", "{ -span.x = }", "{ span.a - span.b }", "{ resource.service.name = nil }")
_PARAMETERS = {
    "/api/search": ("q", "start", "end", "limit", "spss", "tags", "minDuration", "maxDuration"),
    "/api/search/tags": ("scope", "start", "end", "limit"),
    "/api/v2/search/tags": ("scope", "start", "end", "limit"),
    "/api/search/tag/x/values": ("q", "start", "end", "limit"),
    "/api/v2/search/tag/span.x/values": ("q", "start", "end", "limit"),
    "/api/v2/search/tag/span.{/}/values": ("start", "end"),
    "/api/metrics/query_range": ("q", "start", "end", "since", "step", "exact", "exemplars"),
    "/api/metrics/query": ("q", "start", "end", "since", "exact"),
    **dict.fromkeys(TRACE_PATHS, ("start", "end")),
    "/api/lab/spans": ("q", "start", "end", "whole_traces", "columns", "limit"),
    "/api/lab/status": (),
    "/metrics": (),
    "/ready": (),
}
# Values with which a query is answered, so that one hostile value meets the code behind the checks.
_PLAUSIBLE = {
    "start": ("1699999000", "1700000000"),
    "end": ("1700000001", "1700003000"),
    "limit": ("20", "1"),
    "spss": ("3",),
    "tags": ("x=a", "service.name=x"),
    "minDuration": ("1ms", "0s"),
    "maxDuration": ("1h", "100ms"),
    "scope": ("span", "resource", "intrinsic", "none"),
    "since": ("1h",),
    "step": ("60s", "15"),
    "exact": ("true", "false"),
    "exemplars": ("0", "10"),
    "whole_traces": ("true", "false"),
    "columns": ("span_id", "span_id,name"),
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
    span.trace_id = r.choice(TRACES)
    span.span_id = r.randbytes(8)
    return request


def random_body(r: random.Random) -> tuple[bytes, dict[str, str]]:
    """Return a body and its headers: protobuf or JSON, one in ten with damaged bytes."""
    request = random_request(r)
    if r.random() < 0.2:
        body = json.dumps(_otlp_json(json_format.MessageToDict(request))).encode()
        headers = JSON
    else:
        body = request.SerializeToString()
        headers = PROTOBUF
    if r.random() < 0.1:
        body = _damaged(body, r)
    return body, headers


def _otlp_json(value: Any, name: str = "") -> Any:
    """Return protobuf's JSON with hexadecimal ids, as OTLP has them."""
    if isinstance(value, dict):
        return {key: _otlp_json(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_otlp_json(inner) for inner in value]
    if name in ("traceId", "spanId", "parentSpanId"):
        return base64.b64decode(value).hex()
    return value


def _damaged(body: bytes, r: random.Random) -> bytes:
    """Return a body that is cut off, or has up to four other bytes."""
    if r.random() < 0.3:
        return body[: r.randrange(len(body))]
    changed = bytearray(body)
    for _ in range(r.randint(1, 4)):
        changed[r.randrange(len(changed))] = r.choice((0, 0x7F, 0x80, 0xFF, r.randrange(256)))
    return bytes(changed)


def random_query(r: random.Random) -> tuple[str, dict[str, str]]:
    """Return the path and parameters of a query, one in four with values at the bounds."""
    weights = [1 + len(names) for names in _PARAMETERS.values()]
    path, names = r.choices(list(_PARAMETERS.items()), weights)[0]
    hostile = 0.1 if len(names) > 2 else 0.5
    plausible = _PLAUSIBLE | {"q": _METRICS if "metrics" in path else _SEARCHES}
    parameters = {}
    for name in names:
        if name != "q" and r.random() > 0.4:
            continue
        parameters[name] = r.choice(plausible[name])
        if r.random() < hostile:
            hostile_values = _NUMBERS + _TEXTS
            parameters[name] = r.choice(hostile_values + _HOSTILE_QUERIES * (name == "q"))
    if "tags" in parameters and r.random() < 0.9:
        parameters.pop("q")
    if path in TRACE_PATHS:
        path = path.replace("ID", r.choice(TRACES).hex())
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


def is_failure(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether a response is a 5xx other than a 503 with Retry-After."""
    if status == 503:
        return "Retry-After" not in headers
    return status >= 500


@dataclasses.dataclass
class Tally:
    """Counts of a fuzz, and its failures with their cases."""

    codes: Counter[str] = dataclasses.field(default_factory=Counter)
    failures: list[str] = dataclasses.field(default_factory=list)

    @property
    def cases(self) -> int:
        """The number of cases counted so far."""
        return self.codes.total()

    def fail(self, failure: str) -> None:
        """Count a failure, and print it at once: a campaign may be ended early."""
        self.failures.append(failure)
        _progress(failure[:4000])

    def result(self, **figures: Any) -> dict[str, Any]:
        """Return all counts, other figures of the attack, and the first failures."""
        counts = {"cases": self.cases, "failed": len(self.failures)}
        codes = dict(sorted(self.codes.items()))
        return counts | {"codes": codes} | figures | {"first": self.failures[:10]}

    async def send(self, name: str, case: str, request: Any) -> None:
        """Await one response and count it; `request` is aiohttp's context manager."""
        try:
            async with request as response:
                text = await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError) as e:
            self.codes[f"{name} {type(e).__name__}"] += 1
            self.fail(f"{e!r} {case}")
            return
        self.codes[f"{name} {response.status}"] += 1
        if is_failure(response.status, response.headers):
            self.fail(f"{response.status} {case}: {text[:200]}")


class Limit:
    """When to end early: after `minutes`, or at SIGTERM or Ctrl-C."""

    def __init__(self, minutes: float = math.inf) -> None:
        """Begin to count the minutes."""
        self._end = time.monotonic() + minutes * 60
        self._is_signalled = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT from now on."""
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, self._on_signal)

    def _on_signal(self, sign: int, frame: object) -> None:
        self._is_signalled = True

    @property
    def reached(self) -> bool:
        """Whether no more cases are to begin."""
        return self._is_signalled or time.monotonic() > self._end


def fuzz(folder: Path, cases: int, seed: int = 0, limit: Limit | None = None) -> dict[str, Any]:
    """Send hostile writes and queries, two queries per write; return counts and first failures.

    `ROUND` of them are sent at once, and every `STORE_CASES` the store begins anew.
    """
    r = random.Random(seed)
    limit = limit or Limit()
    tally = Tally()
    rss_mb = 0
    while tally.cases < cases and not limit.reached:
        data = folder / str(tally.cases)
        store = Store(data)
        asyncio.run(_fuzz_store(store, min(STORE_CASES, cases - tally.cases), r, tally, limit))

        for line in store.tracebacks:
            tally.fail(line)
        rss_mb = max(rss_mb, _peak_rss_mb(store.process.pid))
        if rss_mb > MAX_RSS_MB:
            tally.fail(f"{rss_mb} MB after {tally.cases} cases")
        store.end(signal.SIGTERM)
        shutil.rmtree(data)
        codes = json.dumps(dict(sorted(tally.codes.items())))
        _progress(f"fuzz: {tally.cases} cases, {len(tally.failures)} failed, {codes}")
    return tally.result(rss_mb=rss_mb)


def _progress(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


async def _fuzz_store(
    store: Store, cases: int, r: random.Random, tally: Tally, limit: Limit
) -> None:
    timeout = aiohttp.ClientTimeout(total=300)
    connector = aiohttp.TCPConnector(limit=16)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as client:
        for first in range(0, cases, ROUND):
            if limit.reached:
                return
            writes = []
            reads = []
            for i in range(first, min(first + ROUND, cases)):
                if i % 3 == 0:
                    body, headers = random_body(r)
                    sent = client.post(store.otlp, data=body, headers=headers)
                    case = f"{headers['Content-Type']} {body.hex()}"
                    writes.append(tally.send("write", case, sent))
                else:
                    path, parameters = random_query(r)
                    case = f"{path} {json.dumps(parameters)[:300]}"
                    sent = client.get(store.tempo + path, params=parameters)
                    reads.append(tally.send("read", case, sent))
            await asyncio.gather(*writes)
            await asyncio.gather(*reads)


def expand(folder: Path, cases: int, seed: int = 0, limit: Limit | None = None) -> dict[str, Any]:
    """Send bodies that expand to much more, with other clients beside them.

    A failure is a body that takes the store over `MAX_RSS_MB`, or an answer that is neither success
    nor refusal. Returns the longest waits of the others in s, and the largest memory in MB.
    """
    r = random.Random(seed)
    limit = limit or Limit()
    store = Store(folder)
    tally = Tally()
    rss_mb = 0
    others = Others(store)
    others.start()
    with httpx.Client(timeout=300) as client:
        while tally.cases < cases and not limit.reached:
            name, body = expanding_body(r)
            headers = PROTOBUF | {"Content-Encoding": "gzip"}
            others.case = name
            response = client.post(store.otlp, content=gzip.compress(body, 1), headers=headers)
            tally.codes[str(response.status_code)] += 1
            if is_failure(response.status_code, response.headers):
                tally.fail(f"{response.status_code} {name}")
            rss_mb = max(rss_mb, _peak_rss_mb(store.process.pid))
            if rss_mb > MAX_RSS_MB:
                tally.fail(f"{rss_mb} MB {name}")
            if tally.cases % 20 == 0:
                waits = f"{rss_mb} MB, longest waits {others.longest_s}"
                _progress(f"expand: {tally.cases} cases, {len(tally.failures)} failed, {waits}")
    for failure in others.stop() + store.tracebacks:
        tally.fail(failure)
    store.end(signal.SIGTERM)
    return tally.result(rss_mb=rss_mb, longest_waits_s=others.longest_s, over_1_s=others.late)


def _peak_rss_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert peak is not None
        return int(peak[1]) >> 10
    return psutil.Process(pid).memory_info().rss >> 20


def expanding_body(r: random.Random) -> tuple[str, bytes]:
    """Return a request in which one repeated field of the schema is repeated very often."""
    message = random_request(r)
    names, chosen = _random_field(r, message)
    count = int(10 ** r.uniform(4, 6.8))
    tag = _varint(chosen.number << 3 | 2) if chosen else b""
    element = tag + (b"\x00" if r.random() < 0.5 else b"\x02\x0a\x00")
    repeated = element * min(count, 2**25 // len(element)) if chosen else b""
    return ".".join(names) + f" x {count}", _with(message, names, repeated)


def _random_field(r: random.Random, message: Message) -> tuple[list[str], Field | None]:
    """Walk down to a repeated field; return the path to it, and None where the path ends early."""
    names = []
    inner = message
    while fields := [f for f in inner.DESCRIPTOR.fields if f.is_repeated or f.message_type]:
        chosen = r.choice(fields)
        names.append(chosen.name)
        child = getattr(inner, chosen.name)
        if chosen.is_repeated and (r.random() < 0.3 or chosen.message_type is None):
            return names, chosen
        inner = child.add() if chosen.is_repeated else child
        inner.SetInParent()
    return names, None


def _with(message: Message, names: list[str], repeated: bytes) -> bytes:
    """Serialize a message, with `repeated` at the end of its submessage at the path `names`."""
    if len(names) <= 1:
        return message.SerializeToString() + repeated
    name = names[0]
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    child = value[-1] if descriptor.is_repeated else value
    inner = _with(child, names[1:], repeated)
    return _varint(descriptor.number << 3 | 2) + _varint(len(inner)) + inner


class Others:
    """Clients that search, send a span, and read /ready while bodies expand."""

    def __init__(self, store: Store) -> None:
        self.case = ""
        self.longest_s: dict[str, float] = {}
        self.late: Counter[str] = Counter()
        self._failures: list[str] = []
        self._ended = threading.Event()
        span = _plain_request(random.Random(0), spans=1)[0]
        calls: dict[str, Callable[[httpx.Client], httpx.Response]] = {
            "ready": lambda client: client.get(f"{store.tempo}/ready"),
            "search": lambda client: client.get(f"{store.tempo}/api/search"),
            "write": lambda client: client.post(store.otlp, content=span, headers=PROTOBUF),
        }
        self._threads = [threading.Thread(target=self._ask, args=call) for call in calls.items()]

    def start(self) -> None:
        """Begin all clients."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[str]:
        """End all clients and return their failures."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        return self._failures

    def _ask(self, name: str, call: Callable[[httpx.Client], httpx.Response]) -> None:
        with httpx.Client(timeout=300) as client:
            while not self._ended.wait(0.05):
                started = time.monotonic()
                response = call(client)
                seconds = time.monotonic() - started
                if is_failure(response.status_code, response.headers):
                    self._failures.append(f"{name} {response.status_code} beside {self.case}")
                if seconds > 1:
                    self.late[name] += 1
                if seconds > self.longest_s.get(name, 0):
                    self.longest_s[name] = round(seconds, 2)


def kills(folder: Path, cycles: int, seed: int = 0, limit: Limit | None = None) -> dict[str, Any]:
    """Kill the store `cycles` times while spans arrive.

    Returns the numbers of acknowledged spans, and of those that are missing or stored twice.
    """
    r = random.Random(seed)
    limit = limit or Limit()
    acknowledged: set[str] = set()
    slowest_s = 0.0
    killed = 0
    while killed < cycles and not limit.reached:
        killed += 1
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
        "cases": killed,
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
    parser.add_argument("--expanding", type=int, default=200, help="bodies that expand")
    parser.add_argument("--kills", type=int, default=20, help="cycles of kill -9")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of all attacks together")
    options = parser.parse_args(argv)
    limit = Limit(options.minutes)
    limit.listen()
    failed = 0
    attacks = (
        ("fuzz", fuzz, options.cases),
        ("expand", expand, options.expanding),
        ("kills", kills, options.kills),
    )
    for name, attack, count in attacks:
        if count == 0:
            continue
        with tempfile.TemporaryDirectory(prefix="store-campaign-") as folder:
            started = time.monotonic()
            result = attack(Path(folder), count, options.seed, limit)
        result["seconds"] = round(time.monotonic() - started, 1)
        failed += result["failed"]
        print(name, json.dumps(result, indent=2), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
