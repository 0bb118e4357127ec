"""Generate millions of spans for the trace store's benchmark, in traces of ten like the lab's.

Up to TEMPLATES OTLP requests are built with protobuf; the rest are copies of them with other ids
and times, because building a million spans one by one would take longer than ingesting them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SPANS_PER_TRACE = 10
SPANS_PER_REQUEST = 500
TEMPLATES = 40
START_NS = 1_700_000_000 * 10**9
RANGE_NS = 6 * 3600 * 10**9

# (name, service, kind, index of the parent)
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
    """Yield serialized OTLP requests with about `spans` spans in total, ordered by time.

    Ids are unique.
    """
    total = max(spans // SPANS_PER_REQUEST, 1)
    templates = [_Template(seed) for seed in range(min(TEMPLATES, total))]
    for i in range(total):
        yield templates[i % len(templates)].copy(i, i * RANGE_NS // total)


def trace_id_of(request: bytes) -> str:
    """Return the first trace id of a serialized request, in hexadecimal."""
    parsed = ExportTraceServiceRequest.FromString(request)
    return parsed.resource_spans[0].scope_spans[0].spans[0].trace_id.hex()


class _Template:
    """A serialized request, with the positions of its ids and times."""

    def __init__(self, seed: int) -> None:
        request = _request(random.Random(seed))
        serialized = request.SerializeToString()
        ids = []
        times = []
        position = 0
        for resource_spans in request.resource_spans:
            for span in resource_spans.scope_spans[0].spans:
                for span_or_trace_id in filter(None, _ids(span)):
                    position = serialized.index(span_or_trace_id, position)
                    position += len(span_or_trace_id)
                    ids.append(position - 3)
                for ns in (span.start_time_unix_nano, span.end_time_unix_nano):
                    position = serialized.index(ns.to_bytes(8, "little"), position)
                    times.append(position)
                    position += 8

        # The last three bytes of every id hold the copy's number, so ids are not sorted, as usual.
        self.raw = np.frombuffer(serialized, dtype=np.uint8)
        self.ids = np.array(ids)[:, None] + np.arange(3)
        self.times = np.array(times)[:, None] + np.arange(8)
        self.ns = self.raw[self.times].view("<u8").ravel()

    def copy(self, number: int, shift_ns: int) -> bytes:
        """Return the request with ids of copy `number`, and with its times shifted."""
        shifted = (self.ns + np.uint64(shift_ns)).astype("<u8")
        raw = self.raw.copy()
        raw[self.ids] = np.frombuffer(number.to_bytes(3, "big"), dtype=np.uint8)
        raw[self.times] = shifted.view(np.uint8).reshape(-1, 8)
        return raw.tobytes()


def _ids(span: Span) -> tuple[bytes, bytes, bytes]:
    return span.trace_id, span.span_id, span.parent_span_id


def _request(r: random.Random) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    scope_of = {}
    for service in dict.fromkeys(service for _, service, _, _ in _SHAPE):
        resource_spans = request.resource_spans.add()
        process = {"host.name": "laptop", "process.pid": r.randrange(10**4)}
        _put(resource_spans.resource, {"service.name": service} | process)
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.name = f"lab.{service}"
        scope_spans.scope.version = "1.0"
        scope_of[service] = scope_spans
    for _ in range(SPANS_PER_REQUEST // SPANS_PER_TRACE):
        _trace(r, scope_of)
    return request


def _trace(r: random.Random, scope_of: dict) -> None:
    trace_id = r.randbytes(13) + b"\0\0\0"
    ids = [r.randbytes(5) + b"\0\0\0" for _ in _SHAPE]
    start = START_NS + r.randrange(10**9)
    user = {
        "user.id": f"u{r.randrange(100)}",
        "session.id": f"s{r.randrange(1000)}",
        "lab.scenario": f"q{r.randrange(50)}",
    }
    for i, (name, service, kind, parent) in enumerate(_SHAPE):
        span = scope_of[service].spans.add(trace_id=trace_id, span_id=ids[i], name=name, kind=kind)
        if parent is not None:
            span.parent_span_id = ids[parent]
        span.start_time_unix_nano = start + i * 10**6
        span.end_time_unix_nano = span.start_time_unix_nano + int(r.lognormvariate(18, 1))
        if r.random() < 0.01:
            span.status.code = 2
        _put(span, _attributes(r, name) | (user if i < 3 else {}))


def _attributes(r: random.Random, name: str) -> dict[str, str | int | float]:
    if name == "llm_request":
        return _vllm_attributes(r)
    if name.startswith("chat"):
        return {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": f"m{r.randrange(4)}",
            "gen_ai.usage.input_tokens": r.randint(10, 2000),
            "gen_ai.usage.output_tokens": r.randint(1, 500),
        }
    return {
        "http.request.method": "POST",
        "http.route": "/v1/responses",
        "http.response.status_code": r.choice((200, 200, 200, 500)),
        "server.address": "127.0.0.1",
        "server.port": r.randint(8000, 8010),
        "queue.depth": r.randint(0, 1000),
        "custom.flag": r.choice(("a", "b", "c", "rare") if r.random() < 0.01 else ("a", "b", "c")),
    }


def _vllm_attributes(r: random.Random) -> dict[str, str | int | float]:
    prompt = r.randint(10, 2000)
    completion = r.randint(1, 500)
    queue_s = r.random() * 0.1
    prefill_s = prompt / 9000
    decode_s = completion / 60
    return {
        "gen_ai.request.id": f"req-{r.getrandbits(48):012x}",
        "gen_ai.usage.prompt_tokens": prompt,
        "gen_ai.usage.completion_tokens": completion,
        "gen_ai.latency.time_in_queue": queue_s,
        "gen_ai.latency.time_to_first_token": queue_s + prefill_s,
        "gen_ai.latency.e2e": queue_s + prefill_s + decode_s,
        "gen_ai.latency.time_in_model_prefill": prefill_s,
        "gen_ai.latency.time_in_model_decode": decode_s,
        "gen_ai.request.max_tokens": 512,
        "gen_ai.request.temperature": 0.7,
    }


def _put(message: Span | Resource, attributes: dict[str, str | int | float]) -> None:
    """Add attributes to a span or a resource."""
    for key, value in attributes.items():
        attribute = message.attributes.add(key=key)
        if isinstance(value, str):
            attribute.value.string_value = value
        elif isinstance(value, int):
            attribute.value.int_value = value
        else:
            attribute.value.double_value = value
