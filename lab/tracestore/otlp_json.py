"""OTLP's JSON, which is protobuf's JSON but for one thing: trace and span ids are hexadecimal."""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_IDS = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id")
_MAX_DEPTH = 100


def request_from_json(obj: Any) -> ExportTraceServiceRequest:
    """Unknown fields are ignored, as the specification wants. Raises json_format.ParseError or ValueError."""
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
