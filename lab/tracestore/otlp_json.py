"""OTLP's JSON encoding: protobuf's, except that trace and span ids are hexadecimal."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lab.tracestore.anyvalue import double_to_json

_IDS = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id")
_MAX_DEPTH = 100


def request_from_json(obj: Any) -> ExportTraceServiceRequest:
    """Unknown fields are ignored, as the specification wants.

    Raises json_format.ParseError or ValueError.
    """
    if not isinstance(obj, dict):
        raise ValueError("the document must be an object with resourceSpans")
    for resource_spans in _objects(obj, "resourceSpans", "resource_spans"):
        for scope_spans in _objects(resource_spans, "scopeSpans", "scope_spans"):
            for span in _objects(scope_spans, "spans"):
                _hex_to_base64(span)
                for link in _objects(span, "links"):
                    _hex_to_base64(link)
    message = ExportTraceServiceRequest()
    json_format.ParseDict(obj, message, ignore_unknown_fields=True, max_recursion_depth=_MAX_DEPTH)
    return message


def _objects(obj: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    for name in names:
        if isinstance(obj.get(name), list):
            return [item for item in obj[name] if isinstance(item, dict)]
    return []


def _hex_to_base64(obj: dict[str, Any]) -> None:
    for name in _IDS:
        value = obj.get(name)
        if isinstance(value, str):
            try:
                obj[name] = base64.b64encode(bytes.fromhex(value)).decode()
            except ValueError as e:
                raise ValueError(f"{name} must be hexadecimal, not {value[:40]!r}") from e


def as_protobuf_json(message: Message) -> dict[str, Any]:
    """Return what json_format.MessageToDict returns for an OTLP message, in half the time.

    Ids are in base64, as in Tempo.
    """
    fields = {}
    for field, value in message.ListFields():
        name, encode = _encoder_of(field)
        fields[name] = encode(value)
    return fields


_ENCODERS: dict[int, Callable[[Any], Any]] = {
    **dict.fromkeys((FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_INT64), str),
    FieldDescriptor.TYPE_BYTES: lambda value: base64.b64encode(value).decode(),
    FieldDescriptor.TYPE_DOUBLE: double_to_json,
    FieldDescriptor.TYPE_MESSAGE: as_protobuf_json,
}


@functools.cache
def _encoder_of(field: FieldDescriptor) -> tuple[str, Callable[[Any], Any]]:
    """Return a field's name in JSON, and the function that encodes its value."""
    encode = _ENCODERS.get(field.type, lambda value: value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return field.json_name, lambda number: names.get(number, number)
    return field.json_name, (
        lambda values: [encode(value) for value in values]
    ) if field.is_repeated else encode
