"""Which spans are in an answer: ids and parents only. The rest of a span is `lab.frames`' business."""

from __future__ import annotations

import binascii
from collections import Counter

import msgspec
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab.stores.answers import SpansAnswer


class _Span(msgspec.Struct, gc=False):
    traceId: str
    spanId: str
    parentSpanId: str = ""


class _ScopeSpans(msgspec.Struct):
    spans: list[_Span] = []


class _ResourceSpans(msgspec.Struct):
    scopeSpans: list[_ScopeSpans] = []


class _Document(msgspec.Struct):
    resourceSpans: list[_ResourceSpans] = []
    batches: list[_ResourceSpans] = []


_decode = msgspec.json.Decoder(_Document).decode


def outline(answer: SpansAnswer) -> list[tuple[str, str, str]]:
    """(trace id as 32 hex digits, span id, parent id or '') of every span; span ids are opaque texts."""
    if answer.arrow is not None:
        return _from_arrow(answer.arrow)
    if answer.protobufs:
        return [
            (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
            for trace in map(TracesData.FromString, answer.protobufs)
            for owner in trace.resource_spans
            for scope in owner.scope_spans
            for span in scope.spans
        ]
    return [
        (_hex(span.traceId), span.spanId, span.parentSpanId)
        for document in map(_decode, answer.documents)
        for owner in document.resourceSpans or document.batches
        for scope in owner.scopeSpans
        for span in scope.spans
    ]


def span_counts(answer: SpansAnswer) -> Counter[str]:
    """Distinct spans of each trace."""
    return Counter(trace_id for trace_id, _ in {(t, s) for t, s, _ in outline(answer)})


def missing_parents(answer: SpansAnswer) -> dict[str, str]:
    """What each trace lacks as far as its own ids tell: a root, or parents that its spans name."""
    spans = outline(answer)
    there = {(trace_id, span_id) for trace_id, span_id, _ in spans}
    rooted = {trace_id for trace_id, _, parent in spans if not parent}
    lost = Counter(t for t, _, parent in spans if parent and (t, parent) not in there)
    problems = {t: f"{n} of its spans name a parent that is not there" for t, n in lost.items()}
    return {
        t: problems.get(t, "") if t in rooted else "it has no root span"
        for t in {t for t, _, _ in spans}
    }


def _from_arrow(stream: bytes) -> list[tuple[str, str, str]]:
    import pyarrow as pa

    with pa.ipc.open_stream(stream) as reader:
        table = reader.read_all().select(["trace_id", "span_id", "parent_span_id"])
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _hex(trace_id: str) -> str:
    return trace_id.lower() if len(trace_id) == 32 else binascii.a2b_base64(trace_id).hex()
