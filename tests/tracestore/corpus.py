"""Generate small random traces with everything that queries use, and write them to a store."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from lab.tracestore.decode import SpanBatch
from lab.tracestore.store import SpanStore
from tests.tracestore.slow_traceql import Span, Value

T0 = 1_700_000_000_000_000_000
NAMES = ("chat", "llm_request", "tool", "GET /a")
TEXTS = ("a", "b", "200", "gpt", "")
_FIELD = {"str": "string_value", "int": "int_value", "dbl": "double_value", "bool": "bool_value"}


def random_value(r: random.Random) -> Value:
    kind = r.choice(("str", "int", "int", "dbl", "bool", "str[]", "int[]"))
    scalar = {
        "str": lambda: r.choice(TEXTS),
        "int": lambda: r.choice((-7, -1, 0, 1, 2, 3, 200, 500)),
        "dbl": lambda: r.choice((-1.5, 0.0, 0.25, 1.0, 2.0, 3.5)),
        "bool": lambda: r.random() < 0.5,
    }
    if kind.endswith("[]"):
        return (kind, [scalar[kind[:-2]]() for _ in range(r.randint(1, 3))])
    return (kind, scalar[kind]())


def random_spans(seed: int, traces: int = 6) -> list[Span]:
    """Return traces of 1 to 8 spans in random trees.

    Some have no root, some have two, and some have a span with a missing parent.
    """
    r = random.Random(seed)
    spans = []
    for _ in range(traces):
        trace, ids = r.getrandbits(127) + 1, []
        resources = [random_resource(r) for _ in range(2)]
        for i in range(r.randint(1, 8)):
            span_id = r.getrandbits(63) + 1
            parent = (
                r.choice(ids)
                if ids and r.random() < 0.85
                else (r.getrandbits(63) + 1 if r.random() < 0.3 else 0)
            )
            start = T0 + r.randint(0, 20) * 10**9 + len(spans)
            spans.append(
                Span(
                    trace,
                    span_id,
                    parent,
                    r.choice(NAMES),
                    start,
                    start + r.choice((0, 1, 2, 3, 10**6, 5 * 10**8, 2 * 10**9)),
                    kind=r.randint(0, 5),
                    status=r.choice((0, 0, 1, 2)),
                    message=r.choice(("", "", "boom")),
                    attributes=random_attributes(r),
                    resource=resources[i % 2],
                    events=random_events(r, start),
                )
            )
            ids.append(span_id)
    return spans


def random_attributes(r: random.Random) -> dict[str, Value]:
    attributes = {k: random_value(r) for k in ("foo", "bar") if r.random() < 0.6}
    if r.random() < 0.5:
        attributes["gen_ai.request.model"] = ("str", r.choice(("m1", "m2")))
    if r.random() < 0.5:
        attributes["gen_ai.usage.prompt_tokens"] = r.choice(
            (("int", r.randint(0, 9)), ("str", "7"), ("dbl", 2.5))
        )
    return attributes


def random_resource(r: random.Random) -> dict[str, Value]:
    resource = {"service.name": ("str", r.choice(("api", "vllm")))} if r.random() < 0.9 else {}
    if r.random() < 0.5:
        resource["foo"] = random_value(r)
    return resource


def random_events(r: random.Random, start: int) -> list[tuple[int, str, dict[str, Value]]]:
    return [
        (
            start + r.randint(0, 3),
            r.choice(("exception", "token")),
            {"e": ("str", r.choice(TEXTS))} if r.random() < 0.7 else {},
        )
        for _ in range(r.choice((0, 0, 0, 1, 2)))
    ]


def set_value(into: AnyValue, value: Value) -> None:
    kind, content = value
    if kind.endswith("[]"):
        into.array_value.SetInParent()
        for item in content:
            set_value(into.array_value.values.add(), (kind[:-2], item))
    else:
        setattr(into, _FIELD[kind], content)


def add_attributes(message: Any, attributes: dict[str, Value]) -> None:
    for key, value in attributes.items():
        kv = message.attributes.add()
        kv.key = key
        set_value(kv.value, value)


def request_of(spans: list[Span]) -> ExportTraceServiceRequest:
    """Return the spans as OTLP, with one ResourceSpans per span."""
    request = ExportTraceServiceRequest()
    for s in spans:
        rs = request.resource_spans.add()
        add_attributes(rs.resource, s.resource)
        span = rs.scope_spans.add().spans.add()
        span.trace_id, span.span_id = s.trace.to_bytes(16, "big"), s.id.to_bytes(8, "big")
        if s.parent:
            span.parent_span_id = s.parent.to_bytes(8, "big")
        span.name, span.kind = s.name, s.kind
        span.start_time_unix_nano, span.end_time_unix_nano = s.start, s.end
        span.status.code, span.status.message = s.status, s.message
        add_attributes(span, s.attributes)
        for at, name, attributes in s.events:
            event = span.events.add(time_unix_nano=at, name=name)
            add_attributes(event, attributes)
    return request


def load(store: SpanStore, request: ExportTraceServiceRequest) -> int:
    """Write a request straight into the database, bypassing the queue."""
    batch = SpanBatch()
    batch.add(request.SerializeToString())
    return store.insert(*batch.tables())


def store_of(folder: Path, spans: list[Span]) -> SpanStore:
    store = SpanStore(folder, threads=1)
    load(store, request_of(spans))
    return store
