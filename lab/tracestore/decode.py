"""OTLP protobuf -> columns.

One short loop over spans; all that can be done for a batch at once is done at the end.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from lab.tracestore import admission
from lab.tracestore.anyvalue import attributes_to_json, to_json
from lab.tracestore.arrow import ARROW_OF, OWNER_SCHEMA, SPAN_SCHEMA
from lab.tracestore.attributes import read as read_attributes
from lab.tracestore.columns import MAP_TYPES, PROMOTED
from lab.tracestore.errors import BadRequest
from lab.tracestore.otlp_lazy import RawRequest

_MAX_NS = 2**63
_MAX_KIND = 5
_MAX_STATUS = 2
_NO_TRACE = bytes(16)
_NO_SPAN = bytes(8)
_encode = msgspec.json.Encoder().encode
_FIELD_OF = {"string_value": "str", "int_value": "int", "double_value": "dbl", "bool_value": "bool"}


class MapLists:
    """A column of maps under construction: the keys and values of all rows, with their rows."""

    def __init__(self) -> None:
        """Begin an empty column."""
        self.rows: list[int] = []
        self.keys: list[str] = []
        self.values: list[Any] = []

    def to_arrow(self, type_name: str, rows: int) -> pa.Array:
        """One map a row.

        Of a key twice in a row the first stays: a map cannot hold both, and OTLP forbids it.
        """
        of_row = np.array(self.rows, dtype=np.int64)
        keys = pa.array(self.keys, pa.string())
        values = pa.array(self.values, ARROW_OF[type_name])
        codes = keys.dictionary_encode()
        mix = of_row * (len(codes.dictionary) + 1) + codes.indices.to_numpy()
        _, first = np.unique(mix, return_index=True)
        if len(first) != len(mix):
            first.sort()
            of_row = of_row[first]
            keys = keys.take(pa.array(first))
            values = values.take(pa.array(first))
        offsets = np.searchsorted(of_row, np.arange(rows + 1)).astype(np.int32)
        return pa.MapArray.from_arrays(pa.array(offsets), keys, values)


class Owners:
    """The distinct resources or scopes of a batch, by their serialized form.

    `kind` is their message class.
    """

    def __init__(self, kind: Any, fields: admission.Fields) -> None:
        """Begin without resources or scopes; `fields` are those that hold messages."""
        self.kind = kind
        self._fields = fields
        self.rows: dict[int, tuple[str | None, str | None, str, bytes]] = {}
        self.attributes: dict[int, Any] = {}
        self._known: dict[tuple[bytes, bytes], tuple[int, str | None]] = {}

    def add(
        self, proto: bytes, schema_url: bytes, allowance: admission.Allowance
    ) -> tuple[int, str | None]:
        """Return the id of this resource or scope, a hash of all its content, and its name.

        Raises DecodeError, or TooLarge where it holds more messages than are allowed.
        """
        known = self._known.get((proto, schema_url))
        if known is None:
            allowance.spend_on([proto], self._fields)
            message = self.kind.FromString(proto)
            name, version = _named(message)
            digest = hashlib.blake2b(proto + b"\0" + schema_url, digest_size=8).digest()
            owner_id = int.from_bytes(digest, "big", signed=True)
            self.rows[owner_id] = (name, version, schema_url.decode(), proto)
            self.attributes[owner_id] = message.attributes
            known = self._known[proto, schema_url] = (owner_id, name)
        return known

    def to_arrow(self) -> pa.Table:
        """Return the table of these resources or scopes (OWNER_SCHEMA)."""
        maps = {t: MapLists() for t in MAP_TYPES}
        for row, attributes in enumerate(self.attributes.values()):
            _collect(attributes, maps, row)
        names, versions, urls, protos = (
            zip(*self.rows.values(), strict=True) if self.rows else ((), (), (), ())
        )
        arrays = [
            pa.array(list(self.rows), pa.int64()),
            pa.array(names, pa.string()),
            pa.array(versions, pa.string()),
            pa.array(urls, pa.string()),
            pa.array(protos, pa.binary()),
            *(maps[t].to_arrow(t, len(self.rows)) for t in MAP_TYPES),
        ]
        return pa.Table.from_arrays(arrays, schema=OWNER_SCHEMA)


def _named(message: Any) -> tuple[str | None, str | None]:
    """Return the name and version of a scope, or of a resource's service."""
    if isinstance(message, InstrumentationScope):
        return message.name, message.version
    texts: dict[str, str] = {}
    for kv in message.attributes:
        if kv.value.WhichOneof("value") == "string_value":
            texts.setdefault(kv.key, kv.value.string_value)
    return texts.get("service.name"), texts.get("service.version")


def _collect(attributes: Any, maps: dict[str, MapLists], row: int) -> None:
    """Attributes of a resource or a scope into maps; nothing is promoted."""
    for kv in attributes:
        type_name = _FIELD_OF.get(kv.value.WhichOneof("value") or "", "json")
        m = maps[type_name]
        m.rows.append(row)
        m.keys.append(kv.key)
        m.values.append(
            _encode(to_json(kv.value)).decode() if type_name == "json" else _scalar(kv.value)
        )


def _scalar(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


class SpanBatch:
    """Spans under construction. `add` takes payloads; `tables` gives the tables of the database.

    Reading is optimistic: `tables` may still find that a payload is not OTLP. Of which it is, each
    alone will tell.
    """

    def __init__(self) -> None:
        """Begin an empty batch."""
        self.rows = 0
        self.rejected = 0
        self.reasons: dict[str, int] = {}
        self.messages = 0
        self.resources = Owners(Resource, admission.RESOURCE)
        self.scopes = Owners(InstrumentationScope, admission.SCOPE)
        self.ids: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
        self.times: tuple[list[int], list[int]] = ([], [])
        self.names: list[bytes] = []
        self.kinds: list[int] = []
        self.runs: dict[str, list[tuple[int, Any]]] = {
            c: [] for c in ("service", "res_id", "scope_id")
        }
        self.sparse: dict[str, tuple[list[int], list[Any]]] = {
            name: ([], []) for name, _ in _SPARSE
        }
        self.attributes: list[bytes] = []
        self.attribute_counts: list[int] = []

    def add(self, payload: bytes) -> tuple[int, int, str]:
        """Add one ExportTraceServiceRequest: (accepted, rejected, why rejected).

        Raises BadRequest or TooLarge.
        """
        rows = self.rows
        rejected = self.rejected
        self.reasons = {}
        first = len(self.attributes)
        first_events = len(self.sparse["events"][1])
        first_links = len(self.sparse["links"][1])
        admission.check_spans(payload)
        allowance = admission.Allowance()
        try:
            request = RawRequest.FromString(payload)
            for rs in request.resource_spans:
                res_id, service = self.resources.add(rs.resource, rs.schema_url, allowance)
                for ss in rs.scope_spans:
                    scope_id, _ = self.scopes.add(ss.scope, ss.schema_url, allowance)
                    before = self.rows
                    self._add_spans(ss.spans, allowance)
                    self._repeat(
                        self.rows - before, service=service, res_id=res_id, scope_id=scope_id
                    )
            allowance.spend(len(self.attributes) - first)
            allowance.spend_on(self._unpack("events", first_events), admission.EVENT)
            allowance.spend_on(self._unpack("links", first_links), admission.LINK)
        except (DecodeError, UnicodeDecodeError) as e:
            raise _not_otlp(payload, e) from e
        self.messages += admission.MAX_MESSAGES - allowance.left
        why = "; ".join(f"{reason} ({n} spans)" for reason, n in self.reasons.items())
        return self.rows - rows, self.rejected - rejected, why

    def _unpack(self, name: str, first: int) -> list[bytes]:
        """Turn the repeated fields of a payload into lists, and return all their elements.

        A repeated field would keep the whole payload in memory.
        """
        values = self.sparse[name][1]
        values[first:] = map(list, values[first:])
        return list(itertools.chain.from_iterable(values[first:]))

    def _repeat(self, times: int, **values: Any) -> None:
        if times:
            for name, value in values.items():
                self.runs[name].append((times, value))

    def _reject(self, reason: str) -> None:
        self.rejected += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def _add_spans(self, spans: Any, allowance: admission.Allowance) -> None:
        """Add spans one by one. The time per span here decides how fast the store ingests."""
        trace_ids, span_ids, parents = self.ids
        starts, ends = self.times
        names = self.names
        kinds = self.kinds
        attributes = self.attributes
        counts = self.attribute_counts
        sparse = self.sparse
        few = 100  # fewer attributes of one span are only counted at the end
        row = self.rows
        for s in spans:
            trace_id = s.trace_id
            span_id = s.span_id
            parent = s.parent_span_id
            start = s.start_time_unix_nano
            end = s.end_time_unix_nano
            if (
                len(trace_id) != 16
                or len(span_id) != 8
                or trace_id == _NO_TRACE
                or span_id == _NO_SPAN
            ):
                self._reject("trace id must be 16 bytes, span id 8, and neither all zero")
                continue
            if len(parent) != 8:
                if parent:
                    self._reject("parent span id must be 8 bytes or absent")
                    continue
                parent = _NO_SPAN
            if start | end >= _MAX_NS:  # either has the highest bit
                self._reject("time is after the year 2262")
                continue
            trace_ids.append(trace_id)
            span_ids.append(span_id)
            parents.append(parent)
            starts.append(start)
            ends.append(end)
            names.append(s.name)
            kinds.append(s.kind)
            own = s.attributes
            count = len(own)
            if count > few:
                allowance.check(count)
            counts.append(count)
            attributes += own[:]  # a slice is made in C, an iteration is not
            for name, field in _SPARSE:
                if value := getattr(s, field):
                    sparse[name][0].append(row)
                    sparse[name][1].append(value)
            row += 1
        self.rows = row

    def tables(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Return spans (SPAN_SCHEMA), resources and scopes (OWNER_SCHEMA).

        Raises BadRequest or TooLarge.
        """
        try:
            return self._spans(), self.resources.to_arrow(), self.scopes.to_arrow()
        except (DecodeError, UnicodeDecodeError, pa.ArrowInvalid) as e:
            raise _not_otlp(b"", e) from e

    def _spans(self) -> pa.Table:
        columns: dict[str, pa.Array] = {}
        trace_ids, span_ids, parents = self.ids
        columns["trace_id"] = _uuids(trace_ids)
        columns["span_id"] = pa.array(_big_endian(span_ids))
        columns["parent_id"] = pa.array(_big_endian(parents))
        start, end = (np.array(times, dtype=np.int64) for times in self.times)
        columns["start_ns"] = pa.array(start)
        columns["end_ns"] = pa.array(end)
        columns["dur_ns"] = pa.array(np.maximum(end - start, 0))
        columns["name"] = pa.array(self.names, pa.binary()).cast(pa.string())
        columns["kind"] = pa.array(_enum(self.kinds, _MAX_KIND))
        for name, runs in self.runs.items():
            columns[name] = _repeated(runs, SPAN_SCHEMA.field(name).type)
        columns |= self._sparse_columns()
        columns |= attribute_columns(self.attributes, self.attribute_counts)
        return pa.Table.from_arrays(
            [columns[name] for name in SPAN_SCHEMA.names], schema=SPAN_SCHEMA
        )

    def _sparse_columns(self) -> dict[str, pa.Array]:
        columns = {}
        for name in ("flags", "dropped_attributes", "dropped_events", "dropped_links"):
            dense = np.zeros(self.rows, dtype=np.uint32)
            index, values = self.sparse[name]
            dense[index] = values
            columns[name] = pa.array(dense)
        index, found = self.sparse["status"]
        statuses = [_status(blob) for blob in found]
        codes = np.zeros(self.rows, dtype=np.uint8)
        codes[index] = _enum([code for code, _ in statuses], _MAX_STATUS)
        columns["status"] = pa.array(codes)
        with_text = [(i, text) for i, (_, text) in zip(index, statuses, strict=True) if text]
        columns["status_message"] = _scatter(
            [i for i, _ in with_text], [text for _, text in with_text], self.rows, pa.string()
        )
        index, found = self.sparse["trace_state"]
        columns["trace_state"] = _scatter(
            index, [state.decode() for state in found], self.rows, pa.string()
        )
        for name, text in (("events", _events_json), ("links", _links_json)):
            index, found = self.sparse[name]
            columns[name] = _scatter(
                index, [text(blobs) for blobs in found], self.rows, pa.string()
            )
        return columns


# Column and field of values that most spans do not have
_SPARSE = (
    ("status", "status"),
    ("flags", "flags"),
    ("trace_state", "trace_state"),
    ("dropped_attributes", "dropped_attributes_count"),
    ("dropped_events", "dropped_events_count"),
    ("dropped_links", "dropped_links_count"),
    ("events", "events"),
    ("links", "links"),
)


def _not_otlp(payload: bytes, error: Exception) -> BadRequest:
    return BadRequest(
        "the body is not an OTLP ExportTraceServiceRequest",
        got=f"{len(payload)} bytes: {error}",
        fix="send protobuf with Content-Type application/x-protobuf, or JSON with application/json",
    )


def attribute_columns(blobs: list[bytes], counts: list[int]) -> dict[str, pa.Array]:
    """Return the promoted columns and maps of spans from their serialized attributes.

    Span i has `counts[i]` of the `blobs`, in order.
    """
    rows = len(counts)
    row_of = np.repeat(np.arange(rows), counts)
    found = read_attributes(blobs)
    names = found.keys.to_pylist()
    columns: dict[str, pa.Array] = {}
    for number, type_name in enumerate(MAP_TYPES):
        column = found.columns.get(number)
        index = column.index if column else np.empty(0, dtype=np.int64)
        values = column.values if column else pa.array([], ARROW_OF[type_name])
        codes = found.codes[index]
        of_row = row_of[index]
        index, codes, of_row, values = _without_repeated(index, codes, of_row, values, len(names))
        promoted = np.array([PROMOTED.get(name) == type_name for name in names], dtype=bool)
        for name in (k for k, t in PROMOTED.items() if t == type_name):
            own = (
                np.flatnonzero(codes == names.index(name))
                if name in names
                else np.empty(0, dtype=np.int64)
            )
            columns[name] = _scatter_array(of_row[own], values, own, rows)
        rest = np.flatnonzero(~promoted[codes]) if len(codes) else codes
        offsets = np.searchsorted(of_row[rest], np.arange(rows + 1)).astype(np.int32)
        keys = found.keys.take(pa.array(codes[rest])).cast(pa.string())
        columns[f"a_{type_name}"] = pa.MapArray.from_arrays(
            pa.array(offsets), keys, values.take(pa.array(rest))
        )
    return columns


def _without_repeated(
    index: np.ndarray, codes: np.ndarray, of_row: np.ndarray, values: pa.Array, keys: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, pa.Array]:
    """Drop repeated keys of a span but the first: a map cannot hold both, and OTLP forbids it."""
    _, first = np.unique(of_row * (keys + 1) + codes, return_index=True)
    if len(first) == len(index):
        return index, codes, of_row, values
    first.sort()
    return index[first], codes[first], of_row[first], values.take(pa.array(first))


def _scatter_array(rows: np.ndarray, values: pa.Array, take: np.ndarray, total: int) -> pa.Array:
    """Return an array of `total` with `values[take]` at `rows` and NULL elsewhere."""
    if len(rows) == 0:
        return pa.nulls(total, values.type)
    where = np.full(total, -1, dtype=np.int64)
    where[rows] = take
    return values.take(pa.array(where, mask=where < 0))


def _repeated(runs: list[tuple[int, Any]], arrow_type: pa.DataType) -> pa.Array:
    """Each value as many times as its run is long."""
    values = pa.array([value for _, value in runs], arrow_type)
    return values.take(pa.array(np.repeat(np.arange(len(runs)), [n for n, _ in runs])))


@functools.lru_cache(maxsize=1024)
def _status(blob: bytes) -> tuple[int, str]:
    status = Status.FromString(blob)
    return status.code, status.message


def _enum(numbers: list[int], highest: int) -> np.ndarray:
    """Return enum values as bytes.

    A number that OTLP does not define becomes 0, "unspecified".
    """
    values = np.array(numbers, dtype=np.int64)
    values[(values < 0) | (values > highest)] = 0
    return values.astype(np.uint8)


def _uuids(ids: list[bytes]) -> pa.Array:
    buffer = pa.py_buffer(b"".join(ids))
    return pa.ExtensionArray.from_storage(
        pa.uuid(), pa.Array.from_buffers(pa.binary(16), len(ids), [None, buffer])
    )


def _big_endian(ids: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(ids), dtype=">u8").astype(np.uint64)


def _scatter(index: list[int], values: list[Any], rows: int, arrow_type: pa.DataType) -> pa.Array:
    """Return an array of `rows` with values at `index` and NULL elsewhere."""
    if not index:
        return pa.nulls(rows, arrow_type)
    dense = pa.array(values, arrow_type)
    if len(index) == rows:
        return dense
    where = np.full(rows, -1, dtype=np.int32)
    where[index] = np.arange(len(index), dtype=np.int32)
    return dense.take(pa.array(where, mask=where < 0))


def _events_json(blobs: list[bytes]) -> str:
    rows = []
    for blob in blobs:
        e = Span.Event.FromString(blob)
        row: dict[str, Any] = {"t": min(e.time_unix_nano, _MAX_NS - 1), "n": e.name}
        if e.attributes:
            row["a"] = attributes_to_json(e.attributes)
        if e.dropped_attributes_count:
            row["d"] = e.dropped_attributes_count
        rows.append(row)
    return _encode(rows).decode()


def _links_json(blobs: list[bytes]) -> str:
    rows = []
    for blob in blobs:
        k = Span.Link.FromString(blob)
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
