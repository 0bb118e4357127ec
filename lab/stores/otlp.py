"""OTLP traces in every form that stores and files have, all of them turned into TracesData.

JSON occurs with ids in hex (OTLP's rule) or base64 (Tempo's), with enums as numbers or names, as
`resourceSpans` or `batches` (Tempo's first API), alone or inside `trace` (Tempo's second).

It is converted in four steps, in an eighth of the time that protobuf's json_format takes:

1. variants of OTLP's names are replaced (`_with_usual_names`);
2. msgspec checks and converts the values, and drops unknown fields (`_JSON`);
3. ids and enums become bytes and numbers (`_replace_texts`);
4. protobuf's constructor takes the nested dicts: that of `_Traces`, which is TracesData with the
   fields named as in JSON.

`_JSON` and `_Traces` are made of opentelemetry-proto's descriptors, at the end of this module.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any, TypedDict

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.proto_builder import MakeSimpleProtoClass
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status, TracesData

from lab.errors import FrameError
from lab.stores.answers import Provenance, SpansAnswer

JSON = "application/json"
PROTOBUF = "application/protobuf"  # exactly this: Tempo compares the whole of Accept
_PARTIAL = ("PARTIAL", 1)
_OWNERS = ("resourceSpans", "batches")
_SCOPES = ("scopeSpans", "instrumentationLibrarySpans")
_KINDS = dict(Span.SpanKind.items())
_CODES = dict(Status.StatusCode.items())
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
                first = next(_spans_of(trace), None)
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
        for span in _spans_of(body):
            parent = span.parent_span_id.hex() if any(span.parent_span_id) else ""
            ids.append((span.trace_id.hex(), span.span_id.hex(), parent))
    return ids


def span_counts(answer: SpansAnswer) -> Counter[str]:
    """Return the number of distinct spans of each trace."""
    return Counter(trace for trace, _ in {(trace, span) for trace, span, _ in span_ids(answer)})


def missing_parents(answer: SpansAnswer) -> dict[str, str]:
    """Return what each trace lacks by its ids: a root, or named parents; '' for nothing."""
    ids = span_ids(answer)
    problems = dict.fromkeys((trace for trace, _, _ in ids), "")
    present = {(trace, span) for trace, span, _ in ids}
    missing = Counter(t for t, _, parent in ids if parent and (t, parent) not in present)
    for trace, count in missing.items():
        problems[trace] = f"{count} of its spans name a parent that is not there"

    with_root = {trace for trace, _, parent in ids if not parent}
    for trace in problems.keys() - with_root:
        problems[trace] = "it has no root span"
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
            values = [_decode(text)]
        except json.JSONDecodeError:
            lines = [line for line in text.splitlines() if line.strip()]
            if not several or len(lines) < 2:
                raise
            values = [_decode(line) for line in lines]
    except (ValueError, RecursionError) as e:
        raise FrameError("a trace is not OTLP JSON", got=_excerpt(e, document)) from e
    for value in values:
        if not isinstance(value, dict):
            raise FrameError("a trace is not OTLP JSON", got=_excerpt("no object", document))
        yield value


def _decode(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text, parse_constant=str)  # some write NaN without the quotes


def _trace_of(value: dict[str, Any]) -> tuple[bytes, bool]:
    """Return the trace of one decoded JSON object, and whether it is partial."""
    try:
        return _protobuf_of(value), value.get("status") in _PARTIAL
    except (AttributeError, DecodeError, TypeError, ValueError, RecursionError) as e:
        raise FrameError("a trace is not OTLP JSON", got=_excerpt(e, json.dumps(value))) from e


def _protobuf_of(value: dict[str, Any]) -> bytes:
    if "data" in value and '"traceID"' in json.dumps(value["data"])[:10_000]:
        raise ValueError("it is Jaeger's own format: ask Jaeger's API 3 or Tempo for OTLP")
    if value and not {*_OWNERS, "trace", "metrics", "status"} & set(value):
        raise ValueError(f"it has none of {', '.join(_OWNERS)}")

    trace = msgspec.convert(_with_usual_names(value), _JSON, strict=False)
    spans = [
        span
        for owner in trace["resourceSpans"]
        for scope in owner["scopeSpans"]
        for span in scope.get("spans") or ()
    ]
    for span in spans:
        _replace_texts(span)
    if not spans:
        return b""
    body = _Traces(**trace).SerializeToString()
    _Traces.FromString(body)  # raises for values that are nested too deeply to be read
    return body


def _with_usual_names(value: dict[str, Any]) -> dict[str, Any]:
    """Return the document with OTLP's own names of its lists (`resourceSpans`, `scopeSpans`)."""
    owners = _joined(value.get("trace") or value, _OWNERS)
    return {"resourceSpans": [{**owner, "scopeSpans": _joined(owner, _SCOPES)} for owner in owners]}


def _joined(parent: dict[str, Any], names: tuple[str, ...]) -> list[Any]:
    return [child for name in names for child in parent.get(name) or ()]


def _replace_texts(span: dict[str, Any]) -> None:
    """Replace a span's ids by bytes and its enums by numbers. Raises ValueError."""
    span["traceId"] = _id(span.get("traceId") or "", 16)
    span["spanId"] = _id(span.get("spanId") or "", 8)
    span["parentSpanId"] = _id(span.get("parentSpanId") or "", 8)
    lengths = (len(span["traceId"]), len(span["spanId"]), len(span["parentSpanId"]))
    if lengths not in ((16, 8, 8), (16, 8, 0)):
        raise ValueError("a span has no ids, or ids of another length")
    for link in span.get("links") or ():
        link["traceId"] = _id(link.get("traceId") or "", 16)
        link["spanId"] = _id(link.get("spanId") or "", 8)
    span["kind"] = _enum(span.get("kind"), _KINDS)
    if status := span.get("status"):
        status["code"] = _enum(status.get("code"), _CODES)


@functools.lru_cache(maxsize=1024)  # the spans of a trace have most ids in common
def _id(text: str, size: int) -> bytes:
    """Return an id of `size` bytes from base64, or from hex, which may lack leading zeros."""
    if not text or len(text) == -(-size // 3) * 4 and text.endswith("="):
        return base64.urlsafe_b64decode(text)
    return bytes.fromhex(text.zfill(2 * size))


def _enum(value: str | int | None, numbers: dict[str, int]) -> int | None:
    """Return the number of an enum's name, or of a number as text; None for an unknown name."""
    if not isinstance(value, str):
        return value
    try:
        return numbers[value] if value in numbers else int(value)
    except ValueError:
        return None


def _spans_of(body: bytes) -> Iterator[Any]:
    """Yield the spans of TracesData. Raises FrameError for anything else."""
    try:
        traces = TracesData.FromString(body)
    except DecodeError as e:
        raise FrameError("a trace is not OTLP protobuf", got=_excerpt(e, body)) from e
    for owner in traces.resource_spans:
        for scope in owner.scope_spans:
            yield from scope.spans


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


# The types of OTLP's JSON, made of opentelemetry-proto's descriptors.


def _with_json_names() -> Descriptor:
    """Return TracesData with the fields named as in JSON: `spanId` for `span_id`."""
    pool = DescriptorPool()
    for module in (common_pb2, resource_pb2, trace_pb2):
        file = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        for message in file.message_type:
            _rename_fields(message)
        pool.Add(file)
    return pool.FindMessageTypeByName(TracesData.DESCRIPTOR.full_name)


def _rename_fields(message: DescriptorProto) -> None:
    for field in message.field:
        field.name = re.sub("_(.)", lambda match: match[1].upper(), field.name)
    for nested in message.nested_type:
        _rename_fields(nested)


def _json_type(message: Descriptor, made: dict[str, Any]) -> Any:
    """Return a TypedDict of the fields of a message; `made` has those that exist, by name."""
    if message.full_name in made:  # AnyValue contains itself
        return made[message.full_name]
    new: Any = TypedDict
    json_type = new(message.name, {}, total=False)
    made[message.full_name] = json_type
    for field in message.fields:
        value = _json_type_of_value(field, made)
        many = list[value] if field.is_repeated else value  # type: ignore[valid-type]
        json_type.__annotations__[field.name] = many | None
    return json_type


def _json_type_of_value(field: FieldDescriptor, made: dict[str, Any]) -> Any:
    if field.message_type:
        return _json_type(field.message_type, made)
    return bytes if field.name == "bytesValue" else _JSON_TYPES.get(field.type, int)


_JSON_TYPES = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BYTES: str,  # ids, in hex or base64
    FieldDescriptor.TYPE_BOOL: bool | str,  # without str, msgspec would take texts for booleans
    FieldDescriptor.TYPE_DOUBLE: float,
    FieldDescriptor.TYPE_ENUM: int | str,
}
_Traces = GetMessageClass(_with_json_names())
_JSON = _json_type(_Traces.DESCRIPTOR, {})
