"""OTLP JSON documents as Arrow tables, whole columns at a time: Arrow parses them on all cores, nothing is walked.

For documents as Tempo writes them, and attributes that are wanted by name. What is spelt otherwise (numbers where
Tempo writes texts, ids of another length) or is no plain value (arrays) is left to `lab.frames.otlp`, which walks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from lab.frames.ids import hex_ids
from lab.frames.otlp import KIND, KINDS, STATUS, STATUSES
from lab.frames.pieces import batches

_TEXT = pa.string()
_VALUES = {
    "stringValue": _TEXT,
    "intValue": _TEXT,
    "doubleValue": pa.float64(),
    "boolValue": pa.bool_(),
}
_ATTRIBUTES = pa.list_(pa.struct({"key": _TEXT, "value": pa.struct(_VALUES)}))
_SPAN = pa.struct(
    {name: _TEXT for name in ("traceId", "spanId", "parentSpanId", "name", "kind")}
    | {"startTimeUnixNano": _TEXT, "endTimeUnixNano": _TEXT, "attributes": _ATTRIBUTES}
    | {"status": pa.struct({"code": _TEXT, "message": _TEXT})}
)
_SCOPES = pa.list_(pa.struct({"spans": pa.list_(_SPAN)}))
_OWNERS = pa.list_(
    pa.struct({"resource": pa.struct({"attributes": _ATTRIBUTES}), "scopeSpans": _SCOPES})
)
_SCHEMA = pa.schema({"resourceSpans": _OWNERS, "batches": _OWNERS})


class NotPlain(Exception):
    """These documents must be walked."""


def span_table(documents: Sequence[bytes], wanted: Sequence[str]) -> pa.Table:
    """One row a span: the columns of the bulk endpoint (`lab.frames.arrow`), `kind` and `status` in words, then those
    of the wanted attributes that occur. Raises NotPlain, also for what is no OTLP JSON at all."""
    work = list(batches(documents))
    try:
        with ThreadPoolExecutor(
            min(len(work), os.cpu_count() or 1) or 1
        ) as pool:  # Arrow lets go of Python's lock
            parts = list(pool.map(lambda batch: _spans(_parse(batch), wanted), work))
        return pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, ValueError) as e:
        raise NotPlain(str(e)) from e


def _parse(documents: list[bytes]) -> pa.RecordBatch:
    # A line break is a blank here: inside texts JSON escapes it.
    lines = b"\n".join(d.replace(b"\n", b" ") if b"\n" in d else d for d in documents)
    table = pj.read_json(
        pa.BufferReader(lines),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=pj.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore"),
    )
    (batch,) = table.combine_chunks().to_batches()
    return batch


def _spans(batch: pa.RecordBatch, wanted: Sequence[str]) -> pa.Table:
    owners = pa.concat_arrays([pc.list_flatten(batch.column(i)) for i in range(2)])
    scopes, owner_of_scope = _below(owners.field("scopeSpans"))
    spans, scope_of_span = _below(scopes.field("spans"))
    service = _services(owners).take(owner_of_scope.take(scope_of_span))
    if spans.field("traceId").null_count or spans.field("spanId").null_count:
        raise NotPlain("a span without ids")
    status = spans.field("status")
    columns = {
        "trace_id": hex_ids(spans.field("traceId"), 32),
        "span_id": hex_ids(spans.field("spanId"), 16),
        "parent_span_id": hex_ids(spans.field("parentSpanId"), 16),
        "name": pc.fill_null(spans.field("name"), ""),
        "kind": _words(spans.field("kind"), KIND, KINDS[0]),
        "service_name": service,
        "start_time_unix_nano": pc.fill_null(spans.field("startTimeUnixNano"), "0").cast(
            pa.int64()
        ),
        "end_time_unix_nano": pc.fill_null(spans.field("endTimeUnixNano"), "0").cast(pa.int64()),
        "status": _words(status.field("code"), STATUS, STATUSES[0]),
        "status_message": pc.fill_null(status.field("message"), ""),
    }
    return pa.table(columns | _attributes(spans.field("attributes"), wanted))


def _below(lists: pa.ListArray) -> tuple[pa.Array, pa.Array]:
    """(the elements of all lists, of which row each is)."""
    return pc.list_flatten(lists), pc.list_parent_indices(lists)


def _services(owners: pa.StructArray) -> pa.Array:
    """The service.name of every resource, '' where it has none."""
    pairs, owner = _below(owners.field("resource").field("attributes"))
    is_name = pc.equal(pairs.field("key"), "service.name")
    names = pairs.field("value").field("stringValue").filter(is_name)
    row = np.full(len(owners), -1)
    row[np.asarray(owner.filter(is_name))] = np.arange(len(names))
    return pc.fill_null(_taken(names, row), "")


def _words(names: pa.Array, word_of: dict[Any, str], default: str) -> pa.Array:
    """OTLP's enum names in our words. Raises KeyError for an unknown one."""
    encoded = pc.fill_null(names, "").dictionary_encode()
    words = [default if name == "" else word_of[name] for name in encoded.dictionary.to_pylist()]
    return pa.array(words, _TEXT).take(encoded.indices)


def _attributes(lists: pa.ListArray, wanted: Sequence[str]) -> dict[str, pa.Array]:
    pairs, span = _below(lists)
    keys, span_row = pairs.field("key").dictionary_encode(), np.asarray(span)
    codes = np.asarray(keys.indices)
    code_of = {name: code for code, name in enumerate(keys.dictionary.to_pylist())}
    found = {}
    for name in wanted:
        if name in code_of:
            at = np.flatnonzero(codes == code_of[name])
            row = np.full(len(lists), -1)
            row[span_row[at]] = np.arange(len(at))
            found[name] = _taken(_plain(pairs.field("value").take(pa.array(at))), row)
    return found


def _plain(values: pa.StructArray) -> pa.Array:
    """The values of one attribute, which are all of one kind. Raises NotPlain for mixed ones, and for arrays."""
    kinds = [name for name in _VALUES if values.field(name).null_count < len(values)]
    if len(kinds) != 1 or values.field(kinds[0]).null_count:
        raise NotPlain("mixed values")
    column = values.field(kinds[0])
    return (
        column.cast(pa.int64()).cast(pa.float64(), safe=False) if kinds[0] == "intValue" else column
    )


def _taken(values: pa.Array, row: np.ndarray) -> pa.Array:
    """values[row], null where the row is -1."""
    return values.take(pa.array(row, mask=row < 0))
