"""Spans by the million for the trace store's benchmark: traces of ten spans as the lab's own stack writes them.

A few hundred requests are built with protobuf; the rest are copies in which ids and times are changed in place, because building
a million spans one by one would take longer than ingesting them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SPANS_PER_TRACE = 10
SPANS_PER_REQUEST = 500
TEMPLATES = 40
START_NS = 1_700_000_000 * 10**9
RANGE_NS = 6 * 3600 * 10**9

# name, service, kind; each span is the child of `parent`
_SHAPE = (
    ("lab.request", "lab-client", 3, None),
    ("POST /v1/responses", "llama-stack", 2, 0),
    ("chat lab-model", "llama-stack", 3, 1),
    ("llm_request", "vllm", 2, 2),
    ("invoke_mcp_tool", "llama-stack", 3, 1),
    ("POST /mcp", "lab-tools", 2, 4),
    ("execute_tool lookup_order", "lab-tools", 1, 5),
    ("chat lab-model", "llama-stack", 3, 1),
    ("llm_request", "vllm", 2, 7),
    ("HTTP POST", "llama-stack", 3, 7),
)


def requests(spans: int) -> Iterator[bytes]:
    """Serialized OTLP requests with together about `spans` spans, in the order of time, each id once."""
    templates = [
        _Template(seed) for seed in range(min(TEMPLATES, max(spans // SPANS_PER_REQUEST, 1)))
    ]
    total = max(spans // SPANS_PER_REQUEST, 1)
    for i in range(total):
        yield templates[i % len(templates)].copy(i, i * RANGE_NS // total)


def trace_id_of(request: bytes) -> str:
    """The first trace id of a request, in hexadecimal."""
    return (
        ExportTraceServiceRequest.FromString(request)
        .resource_spans[0]
        .scope_spans[0]
        .spans[0]
        .trace_id.hex()
    )


class _Template:
    """One request, and where in its bytes ids and times lie."""

    def __init__(self, seed: int) -> None:
        request = _request(random.Random(seed))
        self.raw = np.frombuffer(request.SerializeToString(), dtype=np.uint8)
        text, at = self.raw.tobytes(), 0
        ids, times = [], []
        for rs in request.resource_spans:
            for span in rs.scope_spans[0].spans:
                for part in (span.trace_id, span.span_id, span.parent_span_id):
                    if part:
                        at = text.index(part, at)
                        at += len(part)
                        ids.append(at - 3)
                for ns in (span.start_time_unix_nano, span.end_time_unix_nano):
                    at = text.index(ns.to_bytes(8, "little"), at)
                    times.append(at)
                    at += 8
        # The last three bytes of every id say which copy it is of: so ids are in no order, as in life.
        self.ids = np.array(ids)[:, None] + np.arange(3)
        self.times = np.array(times)[:, None] + np.arange(8)
        self.ns = self.raw[self.times].view("<u8").ravel()

    def copy(self, number: int, shift_ns: int) -> bytes:
        raw = self.raw.copy()
        raw[self.ids] = np.frombuffer(number.to_bytes(3, "big"), dtype=np.uint8)
        raw[self.times] = (
            (self.ns + np.uint64(shift_ns)).astype("<u8").view(np.uint8).reshape(-1, 8)
        )
        return raw.tobytes()


def _request(r: random.Random) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    by_service = {}
    for service in dict.fromkeys(s for _, s, _, _ in _SHAPE):
        rs = request.resource_spans.add()
        _put(
            rs.resource,
            {"service.name": service, "host.name": "laptop", "process.pid": r.randrange(10**4)},
        )
        by_service[service] = rs.scope_spans.add()
        by_service[service].scope.name, by_service[service].scope.version = f"lab.{service}", "1.0"
    for _ in range(SPANS_PER_REQUEST // SPANS_PER_TRACE):
        _trace(r, by_service)
    return request


def _trace(r: random.Random, by_service: dict) -> None:
    trace_id, ids = r.randbytes(13) + b"\0\0\0", [r.randbytes(5) + b"\0\0\0" for _ in _SHAPE]
    start = START_NS + r.randrange(10**9)
    who = {
        "user.id": f"u{r.randrange(100)}",
        "session.id": f"s{r.randrange(1000)}",
        "lab.scenario": f"q{r.randrange(50)}",
    }
    for i, (name, service, kind, parent) in enumerate(_SHAPE):
        span = by_service[service].spans.add(
            trace_id=trace_id, span_id=ids[i], name=name, kind=kind
        )
        if parent is not None:
            span.parent_span_id = ids[parent]
        span.start_time_unix_nano = start + i * 10**6
        span.end_time_unix_nano = span.start_time_unix_nano + int(r.lognormvariate(18, 1))
        if r.random() < 0.01:
            span.status.code = 2
        _put(span, _attributes(r, name) | (who if i < 3 else {}))


def _attributes(r: random.Random, name: str) -> dict[str, str | int | float]:
    if name == "llm_request":
        prompt, completion = r.randint(10, 2000), r.randint(1, 500)
        queue, prefill, decode = r.random() * 0.1, prompt / 9000, completion / 60
        return {
            "gen_ai.request.id": f"req-{r.getrandbits(48):012x}", "gen_ai.usage.prompt_tokens": prompt,
            "gen_ai.usage.completion_tokens": completion, "gen_ai.latency.time_in_queue": queue,
            "gen_ai.latency.time_to_first_token": queue + prefill, "gen_ai.latency.e2e": queue + prefill + decode,
            "gen_ai.latency.time_in_model_prefill": prefill, "gen_ai.latency.time_in_model_decode": decode,
            "gen_ai.request.max_tokens": 512, "gen_ai.request.temperature": 0.7,
        }  # fmt: skip
    if name.startswith("chat"):
        return {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": f"m{r.randrange(4)}",
            "gen_ai.usage.input_tokens": r.randint(10, 2000), "gen_ai.usage.output_tokens": r.randint(1, 500),
        }  # fmt: skip
    return {
        "http.request.method": "POST", "http.route": "/v1/responses", "http.response.status_code": r.choice((200, 200, 200, 500)),
        "server.address": "127.0.0.1", "server.port": r.randint(8000, 8010), "queue.depth": r.randint(0, 1000),
        "custom.flag": r.choice(("a", "b", "c", "rare") if r.random() < 0.01 else ("a", "b", "c")),
    }  # fmt: skip


def _put(owner: object, attributes: dict[str, str | int | float]) -> None:
    for key, value in attributes.items():
        kv = owner.attributes.add(key=key)
        if isinstance(value, str):
            kv.value.string_value = value
        elif isinstance(value, int):
            kv.value.int_value = value
        else:
            kv.value.double_value = value
