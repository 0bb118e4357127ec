"""Rows of the span table -> OTLP, as it was sent (the order of attributes apart)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import duckdb
import msgspec
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, TracesData

from lab.tracestore import extents
from lab.tracestore.anyvalue import from_json
from lab.tracestore.columns import PROMOTED

_TRACE_FIELD = 0x0A  # field 1, length-delimited
_STATUS_FIELD = 0x18  # field 3, varint
_PARTIAL = 1


def traces(con: duckdb.DuckDBPyConnection, trace_ids: list[UUID]) -> TracesData:
    """Every span of these traces, grouped by resource and scope, in the order of their start."""
    extent = extents.of_traces(con, trace_ids)
    if extent is None:
        return TracesData()
    # `*` and no list of columns: for a trace of usual size, DuckDB needs as long to read the query
    # as to read the spans.
    ids = ", ".join(f"'{t}'" for t in trace_ids)
    cursor = con.execute(
        f"SELECT * FROM spans WHERE trace_id IN ({ids}) "
        f"AND start_ns BETWEEN {extent[0]:d} AND {extent[1]:d}"
    )
    names = [d[0] for d in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return _assemble(con, sorted(rows, key=lambda row: (row["start_ns"], row["span_id"])))


def _assemble(con: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]]) -> TracesData:
    data = TracesData()
    resources = _owners(con, "resources", {r["res_id"] for r in rows})
    scopes = _owners(con, "scopes", {r["scope_id"] for r in rows})
    by_resource: dict[int, ResourceSpans] = {}
    by_scope: dict[tuple[int, int], ScopeSpans] = {}
    for row in rows:
        res_id = row["res_id"]
        scope_id = row["scope_id"]
        if res_id not in by_resource:
            by_resource[res_id] = rs = data.resource_spans.add()
            rs.resource.SetInParent()
            rs.resource.ParseFromString(resources[res_id][0])
            rs.schema_url = resources[res_id][1]
        if (res_id, scope_id) not in by_scope:
            by_scope[res_id, scope_id] = ss = by_resource[res_id].scope_spans.add()
            ss.scope.SetInParent()
            ss.scope.ParseFromString(scopes[scope_id][0])
            ss.schema_url = scopes[scope_id][1]
        _fill(by_scope[res_id, scope_id].spans.add(), row)
    return data


_known_owners: dict[
    int, tuple[bytes, str]
] = {}  # an id is a hash of what it stands for, so this never grows old
_MAX_KNOWN = 10_000


def _owners(
    con: duckdb.DuckDBPyConnection, table: str, ids: set[int]
) -> dict[int, tuple[bytes, str]]:
    found = {i: known for i in ids if (known := _known_owners.get(i)) is not None}
    missing = ", ".join(str(int(i)) for i in ids if i not in found)
    if missing:
        rows = con.execute(
            f"SELECT id, proto, schema_url FROM {table} WHERE id IN ({missing})"
        ).fetchall()
        new = {owner_id: (proto, url) for owner_id, proto, url in rows}
        if len(_known_owners) < _MAX_KNOWN:
            _known_owners.update(new)
        found |= new
    return found


def _fill(span: Span, row: dict[str, Any]) -> None:
    span.trace_id = row["trace_id"].bytes
    span.span_id = row["span_id"].to_bytes(8, "big")
    if row["parent_id"]:
        span.parent_span_id = row["parent_id"].to_bytes(8, "big")
    span.name = row["name"]
    span.kind = row["kind"]
    span.start_time_unix_nano = row["start_ns"]
    span.end_time_unix_nano = row["end_ns"]
    span.trace_state = row["trace_state"] or ""
    span.flags = row["flags"]
    span.status.SetInParent()
    span.status.code = row["status"]
    span.status.message = row["status_message"] or ""
    span.dropped_attributes_count = row["dropped_attributes"]
    span.dropped_events_count = row["dropped_events"]
    span.dropped_links_count = row["dropped_links"]
    _attributes(span.attributes, row)
    for e in msgspec.json.decode(row["events"] or "[]"):
        event = span.events.add()
        event.time_unix_nano = e["t"]
        event.name = e["n"]
        event.dropped_attributes_count = e.get("d", 0)
        _json_attributes(event.attributes, e.get("a", {}))
    for k in msgspec.json.decode(row["links"] or "[]"):
        link = span.links.add()
        link.trace_id = bytes.fromhex(k["t"])
        link.span_id = bytes.fromhex(k["s"])
        link.trace_state = k.get("w", "")
        link.dropped_attributes_count = k.get("d", 0)
        link.flags = k.get("f", 0)
        _json_attributes(link.attributes, k.get("a", {}))


_SETTER = {"str": "string_value", "int": "int_value", "dbl": "double_value", "bool": "bool_value"}


def _attributes(attributes: Any, row: dict[str, Any]) -> None:
    for key, kind in PROMOTED.items():
        if row[key] is not None:
            kv = attributes.add()
            kv.key = key
            setattr(kv.value, _SETTER[kind], row[key])
    for kind, setter in _SETTER.items():
        for key, value in row[f"a_{kind}"].items():
            kv = attributes.add()
            kv.key = key
            setattr(kv.value, setter, value)
    for key, text in row["a_json"].items():
        kv = attributes.add()
        kv.key = key
        from_json(msgspec.json.decode(text), kv.value)


def _json_attributes(attributes: Any, found: dict[str, Any]) -> None:
    for key, value in found.items():
        kv = attributes.add()
        kv.key = key
        from_json(value, kv.value)


def trace_by_id_response(trace: TracesData, *, partial: bool = False) -> bytes:
    """Return Tempo's TraceByIDResponse as protobuf.

    A Trace is OTLP's TracesData on the wire. Of the status only PARTIAL is written: COMPLETE is
    the default.
    """
    body = trace.SerializeToString()
    head = bytes([_TRACE_FIELD]) + _varint(len(body))
    return head + body + (bytes([_STATUS_FIELD, _PARTIAL]) if partial else b"")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
