"""OTLP traces in every form that stores and files have, all of them turned into TracesData.

JSON is converted by protobuf's own library. It occurs with ids in hex (OTLP's rule) or base64
(Tempo's), with enums as numbers or names, as `resourceSpans` or `batches` (Tempo's first API),
alone or inside `trace` (Tempo's second).
"""

from __future__ import annotations

import base64
import json
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.proto_builder import MakeSimpleProtoClass
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab.errors import FrameError
from lab.stores.answers import Provenance, SpansAnswer

JSON = "application/json"
PROTOBUF = "application/protobuf"  # exactly this: Tempo compares the whole of Accept
_PARTIAL = ("PARTIAL", 1)
_OWNERS = ("resourceSpans", "batches")
_SCOPES = ("scopeSpans", "instrumentationLibrarySpans")
_ID_BYTES = {"traceId": 16, "spanId": 8, "parentSpanId": 8}
# tempopb.TraceByIDResponse, whose fields are numbered in this order; `trace` is left as the bytes
# that it is.
_TraceById = MakeSimpleProtoClass(
    OrderedDict(
        trace=FieldDescriptor.TYPE_BYTES,
        metrics=FieldDescriptor.TYPE_BYTES,
        status=FieldDescriptor.TYPE_INT32,
    ),
    full_name="lab.stores.TraceByIDResponse",
)


def read_otlp_json(*documents: bytes | str) -> SpansAnswer:
    """Return the spans of OTLP JSON, for example of files that a collector's file exporter wrote.

    A document is one JSON object, or several, one per line. Raises FrameError for anything else.
    """
    protobufs = []
    partial: list[str] = []
    for document in documents:
        for value in _json_values(document):
            trace, cut = _trace_of(value)
            protobufs.append(trace)
            if cut:
                first = next(_spans_of(_parse(trace)), None)
                partial.append(first.trace_id.hex() if first else "")
    provenance = Provenance("OTLP JSON", "", f"{len(documents)} documents", 0.0, 0.0)
    return SpansAnswer(provenance, tuple(filter(None, protobufs)), partial=tuple(partial))


def trace_of_json(body: bytes) -> tuple[bytes, bool]:
    """Return (the trace as TracesData, b'' for none; whether Tempo reports it as cut).

    Raises FrameError for anything that is not a trace.
    """
    (value,) = _json_values(body, several=False)
    return _trace_of(value)


def trace_of_protobuf(body: bytes) -> tuple[bytes, bool]:
    """Return the same of Tempo's TraceByIDResponse. Raises FrameError."""
    try:
        response = _TraceById.FromString(body)
    except DecodeError as e:
        raise FrameError("a trace is not OTLP protobuf", got=_excerpt(e, body)) from e
    return response.trace, response.status in _PARTIAL


def span_ids(answer: SpansAnswer) -> list[tuple[str, str, str]]:
    """Return (trace id, span id, parent id or '') of every span, in hex digits.

    Raises FrameError.
    """
    if answer.arrow is not None:
        return _ids_in_arrow(answer.arrow)
    ids = []
    for body in answer.protobufs:
        for span in _spans_of(_parse(body)):
            parent = span.parent_span_id.hex() if any(span.parent_span_id) else ""
            ids.append((span.trace_id.hex(), span.span_id.hex(), parent))
    return ids


def span_counts(answer: SpansAnswer) -> Counter[str]:
    """Return the number of distinct spans of each trace."""
    return Counter(trace for trace, _ in {(trace, span) for trace, span, _ in span_ids(answer)})


def missing_parents(answer: SpansAnswer) -> dict[str, str]:
    """Return what each trace lacks by its ids: a root, or named parents; '' for nothing."""
    ids = span_ids(answer)
    present = {(trace, span) for trace, span, _ in ids}
    with_root = {trace for trace, _, parent in ids if not parent}
    missing = Counter(t for t, _, parent in ids if parent and (t, parent) not in present)
    problems = {}
    for trace in {trace for trace, _, _ in ids}:
        problems[trace] = ""
        if trace not in with_root:
            problems[trace] = "it has no root span"
        elif missing[trace]:
            problems[trace] = f"{missing[trace]} of its spans name a parent that is not there"
    return problems


def column_names(stream: bytes) -> frozenset[str]:
    """Return the columns of an Arrow stream; none where it is not one."""
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(stream) as reader:
            return frozenset(reader.schema.names)
    except (pa.ArrowException, OSError, ValueError):
        return frozenset()


def _json_values(document: bytes | str, *, several: bool = True) -> Iterator[dict[str, Any]]:
    try:
        text = document.decode() if isinstance(document, bytes) else document
        try:
            values = [json.loads(text, parse_constant=str)]  # NaN is a text in OTLP's JSON
        except json.JSONDecodeError:
            lines = [line for line in text.splitlines() if line.strip()]
            if not several or len(lines) < 2:
                raise
            values = [json.loads(line, parse_constant=str) for line in lines]
    except (ValueError, RecursionError) as e:
        raise FrameError("a trace is not OTLP JSON", got=_excerpt(e, document)) from e
    for value in values:
        if not isinstance(value, dict):
            raise FrameError("a trace is not OTLP JSON", got=_excerpt("no object", document))
        yield value


def _trace_of(value: dict[str, Any]) -> tuple[bytes, bool]:
    """Return the trace of one decoded JSON object, and whether it is partial."""
    try:
        message = _message_of(value)
    except (json_format.ParseError, AttributeError, TypeError, ValueError, RecursionError) as e:
        raise FrameError("a trace is not OTLP JSON", got=_excerpt(e, json.dumps(value))) from e
    has_spans = any(True for _ in _spans_of(message))
    return message.SerializeToString() if has_spans else b"", value.get("status") in _PARTIAL


def _message_of(value: dict[str, Any]) -> TracesData:
    if "data" in value and '"traceID"' in json.dumps(value["data"])[:10_000]:
        raise ValueError("it is Jaeger's own format: ask Jaeger's API 3 or Tempo for OTLP")
    if value and not {*_OWNERS, "trace", "metrics", "status"} & set(value):
        raise ValueError(f"it has none of {', '.join(_OWNERS)}")

    trace = value.get("trace") or value
    owners = [_with_binary_ids(owner) for name in _OWNERS for owner in trace.get(name) or ()]
    message = json_format.ParseDict(
        {"resourceSpans": owners}, TracesData(), ignore_unknown_fields=True
    )
    for span in _spans_of(message):
        parent_bytes = len(span.parent_span_id)
        if (len(span.trace_id), len(span.span_id)) != (16, 8) or parent_bytes not in (0, 8):
            raise ValueError("a span has no ids, or ids of another length")
    return message


def _with_binary_ids(owner: dict[str, Any]) -> dict[str, Any]:
    """Return resource spans as protobuf's JSON has them: current names, and ids in base64."""
    scopes = []
    for scope in (scope for name in _SCOPES for scope in owner.get(name) or ()):
        spans = []
        for span in scope.get("spans") or ():
            links = [_with_base64(link) for link in span.get("links") or ()]
            spans.append({**_with_base64(span), "links": links})
        scopes.append({"scope": scope.get("scope"), "spans": spans})
    return {"resource": owner.get("resource"), "scopeSpans": scopes}


def _with_base64(span: dict[str, Any]) -> dict[str, Any]:
    return span | {
        name: _base64(span[name], size) for name, size in _ID_BYTES.items() if name in span
    }


def _base64(text: str, size: int) -> str:
    """Return an id of `size` bytes in base64; in hex it may lack its leading zeros."""
    if not text or len(text) == -(-size // 3) * 4 and text.endswith("="):
        return text
    return base64.b64encode(bytes.fromhex(text.zfill(2 * size))).decode()


def _spans_of(traces: TracesData) -> Iterator[Any]:
    for owner in traces.resource_spans:
        for scope in owner.scope_spans:
            yield from scope.spans


def _parse(body: bytes) -> TracesData:
    try:
        return TracesData.FromString(body)
    except DecodeError as e:
        raise FrameError("a trace is not OTLP protobuf", got=_excerpt(e, body)) from e


def _ids_in_arrow(stream: bytes) -> list[tuple[str, str, str]]:
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(stream) as reader:
            table = reader.read_all().select(["trace_id", "span_id", "parent_span_id"])
        table.validate(full=True)  # a damaged offset would end the process
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    except (pa.ArrowException, OSError, KeyError, ValueError) as e:
        raise FrameError("the store's Arrow stream cannot be read", got=str(e)[:300]) from e


def _excerpt(error: object, document: bytes | str) -> str:
    return f"{str(error)[:300]}; it begins with {document[:120]!r}"
