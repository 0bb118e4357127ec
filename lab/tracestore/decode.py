"""OTLP protobuf -> columns. The hot loop of the store: plain lists in the loop, Arrow arrays at the end."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lab.tracestore.anyvalue import attributes_to_json, to_json
from lab.tracestore.columns import ARROW_OF, MAP_TYPES, OWNER_SCHEMA, PROMOTED, SPAN_SCHEMA
from lab.tracestore.errors import BadRequest

_MAX_NS = 2**63
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_encode = msgspec.json.Encoder().encode
_FIELD_OF = {"string_value": "str", "int_value": "int", "double_value": "dbl", "bool_value": "bool"}


class MapLists:
    """A column of maps under construction: the keys and values of all rows, and of which row each is."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.keys: list[str] = []
        self.values: list[Any] = []

    def to_arrow(self, type_name: str, rows: int) -> pa.Array:
        """One map a row. Of a key twice in a row the first stays: a map cannot hold both, and OTLP forbids it."""
        of_row = np.array(self.rows, dtype=np.int64)
        keys, values = pa.array(self.keys, pa.string()), pa.array(self.values, ARROW_OF[type_name])
        codes = keys.dictionary_encode()
        mix = of_row * (len(codes.dictionary) + 1) + codes.indices.to_numpy()
        _, first = np.unique(mix, return_index=True)
        if len(first) != len(mix):
            first.sort()
            of_row, keys, values = of_row[first], keys.take(pa.array(first)), values.take(pa.array(first))
        offsets = np.searchsorted(of_row, np.arange(rows + 1)).astype(np.int32)
        return pa.MapArray.from_arrays(pa.array(offsets), keys, values)


class Owners:
    """Distinct resources or scopes of a batch."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[str | None, str | None, str, bytes]] = {}
        self.attributes: dict[int, Any] = {}

    def add(self, message: Any, name: str | None, version: str | None, schema_url: str) -> int:
        """The id of this resource or scope: a hash of all that it says."""
        proto = message.SerializeToString(deterministic=True)
        digest = hashlib.blake2b(proto + b"\0" + schema_url.encode(), digest_size=8).digest()
        owner_id = int.from_bytes(digest, "big", signed=True)
        if owner_id not in self.rows:
            self.rows[owner_id] = (name, version, schema_url, proto)
            self.attributes[owner_id] = message.attributes
        return owner_id

    def to_arrow(self) -> pa.Table:
        maps = {t: MapLists() for t in MAP_TYPES}
        for row, attributes in enumerate(self.attributes.values()):
            _collect(attributes, maps, row)
        names, versions, urls, protos = zip(*self.rows.values(), strict=True) if self.rows else ((), (), (), ())
        arrays = [
            pa.array(list(self.rows), pa.int64()),
            pa.array(names, pa.string()),
            pa.array(versions, pa.string()),
            pa.array(urls, pa.string()),
            pa.array(protos, pa.binary()),
            *(maps[t].to_arrow(t, len(self.rows)) for t in MAP_TYPES),
        ]
        return pa.Table.from_arrays(arrays, schema=OWNER_SCHEMA)


def _collect(attributes: Any, maps: dict[str, MapLists], row: int) -> None:
    """Attributes of a resource or a scope into maps; nothing is promoted."""
    for kv in attributes:
        type_name = _FIELD_OF.get(kv.value.WhichOneof("value") or "", "json")
        m = maps[type_name]
        m.rows.append(row)
        m.keys.append(kv.key)
        m.values.append(_encode(to_json(kv.value)).decode() if type_name == "json" else _scalar(kv.value))


def _scalar(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


class SpanBatch:
    """Spans under construction. `add` takes payloads; `to_arrow` gives the table of `columns.SPAN_SCHEMA`."""

    def __init__(self) -> None:
        self.rows = 0
        self.rejected = 0
        self.reasons: dict[str, int] = {}
        self.resources, self.scopes = Owners(), Owners()
        self.ids: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
        self.plain: dict[str, list[Any]] = {
            c: []
            for c in ("start_ns", "end_ns", "name", "kind", "status", "flags",
                      "dropped_attributes", "dropped_events", "dropped_links")
        }  # fmt: skip
        self.runs: dict[str, list[tuple[int, Any]]] = {c: [] for c in ("service", "res_id", "scope_id")}
        self.sparse: dict[str, tuple[list[int], list[Any]]] = {
            c: ([], []) for c in ("status_message", "trace_state", "events", "links", *PROMOTED)
        }
        self.maps = {t: MapLists() for t in MAP_TYPES}
        self.promoted = {t: {k: self.sparse[k] for k, kt in PROMOTED.items() if kt == t} for t in ("str", "int", "dbl")}

    def add(self, payload: bytes) -> tuple[int, int, str]:
        """Add one ExportTraceServiceRequest: (accepted, rejected, why rejected).

        Raises BadRequest where the payload is not one; then nothing of it was added.
        """
        try:
            request = ExportTraceServiceRequest.FromString(payload)
        except DecodeError as e:
            raise BadRequest(
                "the body is not an OTLP ExportTraceServiceRequest", had=f"{len(payload)} bytes: {e}",
                do="send protobuf with Content-Type application/x-protobuf, or JSON with application/json",
            ) from e  # fmt: skip
        rows, rejected = self.rows, self.rejected
        self.reasons = {}
        for rs in request.resource_spans:
            service = version = None
            for kv in rs.resource.attributes:
                if kv.key == "service.name" and service is None and kv.value.WhichOneof("value") == "string_value":
                    service = kv.value.string_value
                elif kv.key == "service.version":
                    version = kv.value.string_value or None
            res_id = self.resources.add(rs.resource, service, version, rs.schema_url)
            for ss in rs.scope_spans:
                scope_id = self.scopes.add(ss.scope, ss.scope.name, ss.scope.version, ss.schema_url)
                before = self.rows
                self._add_spans(ss.spans)
                n = self.rows - before
                if n:
                    self.runs["service"].append((n, service))
                    self.runs["res_id"].append((n, res_id))
                    self.runs["scope_id"].append((n, scope_id))
        why = "; ".join(f"{reason} ({n} spans)" for reason, n in self.reasons.items())
        return self.rows - rows, self.rejected - rejected, why

    def _reject(self, reason: str) -> None:
        self.rejected += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def _add_spans(self, spans: Any) -> None:
        """The loop over spans. Long, because a call per span or per attribute would cost a third of the speed."""
        trace_ids, span_ids, parents = self.ids
        p = self.plain
        starts, ends, names, kinds, codes = p["start_ns"], p["end_ns"], p["name"], p["kind"], p["status"]
        flags, d_attributes = p["flags"], p["dropped_attributes"]
        d_events, d_links = p["dropped_events"], p["dropped_links"]
        messages, states = self.sparse["status_message"], self.sparse["trace_state"]
        all_events, all_links = self.sparse["events"], self.sparse["links"]
        m_str, m_int, m_dbl, m_bool, m_json = (self.maps[t] for t in MAP_TYPES)
        str_rows, str_keys, str_values = m_str.rows, m_str.keys, m_str.values
        int_rows, int_keys, int_values = m_int.rows, m_int.keys, m_int.values
        dbl_rows, dbl_keys, dbl_values = m_dbl.rows, m_dbl.keys, m_dbl.values
        p_str, p_int, p_dbl = self.promoted["str"], self.promoted["int"], self.promoted["dbl"]
        row = self.rows
        for s in spans:
            trace_id, span_id, parent = s.trace_id, s.span_id, s.parent_span_id
            start, end = s.start_time_unix_nano, s.end_time_unix_nano
            if len(trace_id) != 16 or len(span_id) != 8 or trace_id == _NO_TRACE or span_id == _NO_SPAN:
                self._reject("trace id must be 16 bytes, span id 8, and neither all zero")
                continue
            if len(parent) != 8:
                if parent:
                    self._reject("parent span id must be 8 bytes or absent")
                    continue
                parent = _NO_SPAN
            if start >= _MAX_NS or end >= _MAX_NS:
                self._reject("time is after the year 2262")
                continue
            trace_ids.append(trace_id)
            span_ids.append(span_id)
            parents.append(parent)
            starts.append(start)
            ends.append(end)
            names.append(s.name)
            kinds.append(s.kind & 0xFF)
            if s.HasField("status"):
                status = s.status
                codes.append(status.code & 0xFF)
                if status.message:
                    messages[0].append(row)
                    messages[1].append(status.message)
            else:
                codes.append(0)
            flags.append(s.flags)
            d_attributes.append(s.dropped_attributes_count)
            d_events.append(s.dropped_events_count)
            d_links.append(s.dropped_links_count)
            if s.trace_state:
                states[0].append(row)
                states[1].append(s.trace_state)
            for kv in s.attributes:
                key, value = kv.key, kv.value
                kind = value.WhichOneof("value")
                if kind == "string_value":
                    own = p_str.get(key)
                    if own is None:
                        str_rows.append(row)
                        str_keys.append(key)
                        str_values.append(value.string_value)
                    elif not own[0] or own[0][-1] != row:
                        own[0].append(row)
                        own[1].append(value.string_value)
                elif kind == "int_value":
                    own = p_int.get(key)
                    if own is None:
                        int_rows.append(row)
                        int_keys.append(key)
                        int_values.append(value.int_value)
                    elif not own[0] or own[0][-1] != row:
                        own[0].append(row)
                        own[1].append(value.int_value)
                elif kind == "double_value":
                    own = p_dbl.get(key)
                    if own is None:
                        dbl_rows.append(row)
                        dbl_keys.append(key)
                        dbl_values.append(value.double_value)
                    elif not own[0] or own[0][-1] != row:
                        own[0].append(row)
                        own[1].append(value.double_value)
                elif kind == "bool_value":
                    m_bool.rows.append(row)
                    m_bool.keys.append(key)
                    m_bool.values.append(value.bool_value)
                else:
                    m_json.rows.append(row)
                    m_json.keys.append(key)
                    m_json.values.append(_encode(to_json(value)).decode())
            if s.events:
                all_events[0].append(row)
                all_events[1].append(_events_json(s.events))
            if s.links:
                all_links[0].append(row)
                all_links[1].append(_links_json(s.links))
            row += 1
        self.rows = row

    def to_arrow(self) -> pa.Table:
        """The table of SPAN_SCHEMA, in the order of arrival."""
        trace_ids, span_ids, parents = self.ids
        columns: dict[str, Any] = {
            name: pa.array(values, SPAN_SCHEMA.field(name).type) for name, values in self.plain.items()
        }
        columns["trace_id"] = _uuids(trace_ids)
        columns["span_id"] = pa.array(_big_endian(span_ids))
        columns["parent_id"] = pa.array(_big_endian(parents))
        start, end = columns["start_ns"].to_numpy(), columns["end_ns"].to_numpy()
        columns["dur_ns"] = pa.array(np.maximum(end - start, 0))
        for name, runs in self.runs.items():
            values = list(chain.from_iterable([v] * n for n, v in runs))
            columns[name] = pa.array(values, SPAN_SCHEMA.field(name).type)
        for name, (index, values) in self.sparse.items():
            columns[name] = _scatter(index, values, self.rows, SPAN_SCHEMA.field(name).type)
        for t in MAP_TYPES:
            columns[f"a_{t}"] = self.maps[t].to_arrow(t, self.rows)
        return pa.Table.from_arrays([columns[name] for name in SPAN_SCHEMA.names], schema=SPAN_SCHEMA)


def _uuids(ids: list[bytes]) -> pa.Array:
    buffer = pa.py_buffer(b"".join(ids))
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.Array.from_buffers(pa.binary(16), len(ids), [None, buffer]))


def _big_endian(ids: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(ids), dtype=">u8").astype(np.uint64)


def _scatter(index: list[int], values: list[Any], rows: int, arrow_type: pa.DataType) -> pa.Array:
    """An array of `rows` with values at `index` and NULL elsewhere."""
    if not index:
        return pa.nulls(rows, arrow_type)
    dense = pa.array(values, arrow_type)
    if len(index) == rows:
        return dense
    where = np.full(rows, -1, dtype=np.int32)
    where[index] = np.arange(len(index), dtype=np.int32)
    return dense.take(pa.array(where, mask=where < 0))


def _events_json(events: Any) -> str:
    rows = []
    for e in events:
        row: dict[str, Any] = {"t": e.time_unix_nano, "n": e.name}
        if e.attributes:
            row["a"] = attributes_to_json(e.attributes)
        if e.dropped_attributes_count:
            row["d"] = e.dropped_attributes_count
        rows.append(row)
    return _encode(rows).decode()


def _links_json(links: Any) -> str:
    rows = []
    for k in links:
        row: dict[str, Any] = {"t": k.trace_id.hex(), "s": k.span_id.hex()}
        if k.trace_state:
            row["w"] = k.trace_state
        if k.attributes:
            row["a"] = attributes_to_json(k.attributes)
        if k.dropped_attributes_count:
            row["d"] = k.dropped_attributes_count
        if k.flags:
            row["f"] = k.flags
        rows.append(row)
    return _encode(rows).decode()
