"""OTLP JSON documents (a trace each, as Tempo sends them) walked into columns.

msgspec decodes straight into small objects of known shape, which is several times faster than dicts; attributes that
nobody asked for are decoded but never stored.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lab.errors import FrameError

_ABSENT = msgspec.Raw()


class _Value(msgspec.Struct, gc=False):
    stringValue: str | None = None
    intValue: str | int | None = None
    doubleValue: float | str | None = None
    boolValue: bool | None = None
    arrayValue: msgspec.Raw = _ABSENT
    kvlistValue: msgspec.Raw = _ABSENT
    bytesValue: str | None = None


class _KeyValue(msgspec.Struct, gc=False):
    key: str = ""
    value: _Value | None = None


class _Status(msgspec.Struct, gc=False):
    code: str | int = 0
    message: str = ""


class _Span(msgspec.Struct, gc=False):
    traceId: str
    spanId: str
    parentSpanId: str = ""
    name: str = ""
    kind: str | int = 0
    startTimeUnixNano: str | int = 0
    endTimeUnixNano: str | int = 0
    attributes: list[_KeyValue] = []
    status: _Status | None = None


class _ScopeSpans(msgspec.Struct):
    spans: list[_Span] = []


class _Resource(msgspec.Struct):
    attributes: list[_KeyValue] = []


class _ResourceSpans(msgspec.Struct):
    resource: _Resource | None = None
    scopeSpans: list[_ScopeSpans] = []


class _Document(msgspec.Struct):
    resourceSpans: list[_ResourceSpans] = []
    batches: list[_ResourceSpans] = []


_decode = msgspec.json.Decoder(_Document).decode
KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")
KIND = {**dict(enumerate(KINDS)), **{f"SPAN_KIND_{k.upper()}": k for k in KINDS}}
STATUS = {**dict(enumerate(STATUSES)), **{f"STATUS_CODE_{s.upper()}": s for s in STATUSES}}


@dataclass
class Columns:
    """Columns under construction; `attributes` holds (row numbers, values) for each attribute that was asked for."""

    trace_id: list[str] = field(default_factory=list)
    span_id: list[str] = field(default_factory=list)
    parent_id: list[str] = field(default_factory=list)
    service: list[str] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    start_ns: list[int] = field(default_factory=list)
    end_ns: list[int] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    status_message: list[str] = field(default_factory=list)
    attributes: dict[str, tuple[list[int], list[Any]]] = field(default_factory=dict)


def columns_of(documents: Iterable[bytes], wanted: Sequence[str] | None) -> Columns:
    """The spans of all documents, one after another. `wanted` None: every attribute there is.

    Raises FrameError for a document that is not OTLP JSON.
    """
    columns = Columns(attributes={name: ([], []) for name in wanted or ()})
    for document in documents:
        try:
            decoded = _decode(document)
            for owner in decoded.resourceSpans or decoded.batches:
                _add(columns, owner, wanted is None)
        except (msgspec.DecodeError, binascii.Error, KeyError, ValueError) as e:
            raise FrameError(
                "a trace is not OTLP JSON", got=f"{e}; it begins with {document[:120]!r}"
            ) from e
    return columns


def _add(columns: Columns, owner: _ResourceSpans, every: bool) -> None:
    service = _service(owner.resource)
    sinks, sink_of = columns.attributes, columns.attributes.get
    row = len(columns.trace_id)
    for scope in owner.scopeSpans:
        for span in scope.spans:
            columns.trace_id.append(_hex(span.traceId, 32))
            columns.span_id.append(_hex(span.spanId, 16))
            columns.parent_id.append(_hex(span.parentSpanId, 16) if span.parentSpanId else "")
            columns.service.append(service)
            columns.name.append(span.name)
            columns.kind.append(KIND[span.kind])
            columns.start_ns.append(int(span.startTimeUnixNano))
            columns.end_ns.append(int(span.endTimeUnixNano))
            status = span.status
            columns.status.append(STATUS[status.code] if status else "unset")
            columns.status_message.append(status.message if status else "")
            for attribute in span.attributes:
                sink = sink_of(attribute.key)
                if sink is None and every:
                    sink = sinks[attribute.key] = ([], [])
                if sink is not None:
                    sink[0].append(row)
                    sink[1].append(_plain(attribute.value))
            row += 1


def _hex(text: str, digits: int) -> str:
    """Ids are base64 in Tempo's JSON and hex in OTLP's own; '0000000000000000' is a root's parent in some."""
    found = text.lower() if len(text) == digits else binascii.a2b_base64(text).hex()
    return "" if digits == 16 and found == "0000000000000000" else found


def _plain(value: _Value | None) -> Any:
    """The value as a Python scalar; arrays, lists of pairs and bytes stay text."""
    if value is None:
        return None
    if value.stringValue is not None:
        return value.stringValue
    if value.intValue is not None:
        return int(value.intValue)
    if value.doubleValue is not None:
        return float(value.doubleValue) if value.doubleValue != "" else math.nan
    if value.boolValue is not None:
        return value.boolValue
    if value.arrayValue is not _ABSENT:
        return bytes(value.arrayValue).decode()
    if value.kvlistValue is not _ABSENT:
        return bytes(value.kvlistValue).decode()
    return value.bytesValue


def _service(resource: _Resource | None) -> str:
    for attribute in resource.attributes if resource else ():
        if attribute.key == "service.name" and attribute.value is not None:
            return attribute.value.stringValue or ""
    return ""
