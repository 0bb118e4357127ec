"""OTLP read only as deep as needed: spans are opened, what lies inside them stays bytes.

On the wire a message inside a message is just bytes with a length. Declared as `bytes`, attributes,
status, events, resource and scope cost one Python object each instead of several for every
attribute; `attributes` then reads the attributes of a whole batch at once. Field numbers are OTLP's
(opentelemetry/proto/trace/v1/trace.proto).
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_F = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "lab.tracestore.raw"

# message -> (field, number, type or message name, repeated)
_MESSAGES: dict[str, tuple[tuple[str, int, Any, bool], ...]] = {
    "Request": (("resource_spans", 1, "ResourceSpans", True),),
    "ResourceSpans": (
        ("resource", 1, _F.TYPE_BYTES, False),
        ("scope_spans", 2, "ScopeSpans", True),
        ("schema_url", 3, _F.TYPE_BYTES, False),
    ),
    "ScopeSpans": (
        ("scope", 1, _F.TYPE_BYTES, False),
        ("spans", 2, "Span", True),
        ("schema_url", 3, _F.TYPE_BYTES, False),
    ),
    "Span": (
        ("trace_id", 1, _F.TYPE_BYTES, False),
        ("span_id", 2, _F.TYPE_BYTES, False),
        ("trace_state", 3, _F.TYPE_BYTES, False),
        ("parent_span_id", 4, _F.TYPE_BYTES, False),
        ("name", 5, _F.TYPE_BYTES, False),
        ("kind", 6, _F.TYPE_INT32, False),
        ("start_time_unix_nano", 7, _F.TYPE_FIXED64, False),
        ("end_time_unix_nano", 8, _F.TYPE_FIXED64, False),
        ("attributes", 9, _F.TYPE_BYTES, True),
        ("dropped_attributes_count", 10, _F.TYPE_UINT32, False),
        ("events", 11, _F.TYPE_BYTES, True),
        ("dropped_events_count", 12, _F.TYPE_UINT32, False),
        ("links", 13, _F.TYPE_BYTES, True),
        ("dropped_links_count", 14, _F.TYPE_UINT32, False),
        ("status", 15, _F.TYPE_BYTES, False),
        ("flags", 16, _F.TYPE_FIXED32, False),
    ),
}


def _request_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="lab/tracestore/raw.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            declared = message.field.add(name=field, number=number)
            declared.label = _F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            if isinstance(kind, str):
                declared.type = _F.TYPE_MESSAGE
                declared.type_name = f".{_PACKAGE}.{kind}"
            else:
                declared.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Request"))


RawRequest = _request_class()
