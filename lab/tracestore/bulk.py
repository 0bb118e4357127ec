"""The spans of a TraceQL filter as one Arrow IPC stream.

Fetching thousands of traces one by one would be too slow. The endpoint is not part of Tempo's API.
Columns: see `COLUMNS`, followed by the promoted attributes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa

from lab.tracestore.columns import MAP_COLUMNS, MAP_TYPES, PROMOTED, quote
from lab.tracestore.errors import BadRequest
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.spansets import SpansetCompiler, Window
from lab.tracestore.traceql.text import KIND_NAMES, STATUS_NAMES

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
_BATCH_ROWS = 50_000


def _json_object(alias: str) -> str:
    """Return SQL for the maps of a row as one JSON object (arrays and bytes as OTLP JSON)."""
    parts = [
        f"CASE WHEN cardinality({alias}.a_{t}) > 0 THEN to_json({alias}.a_{t})[2:-2] END"
        for t in MAP_TYPES
        if t != "json"
    ]
    nested = (
        f"CASE WHEN cardinality({alias}.a_json) > 0 THEN to_json(map_from_entries(list_transform("
    )
    nested += f"map_entries({alias}.a_json), lambda e: {{k: e.key, v: e.value::JSON}})))[2:-2] END"
    return "'{' || concat_ws(',', " + ", ".join([*parts, nested]) + ") || '}'"


def _word(column: str, names: dict[int, str]) -> str:
    """Return SQL for the word of an enum column; the first word for a number that has none."""
    listed = ", ".join(f"'{names[i]}'" for i in range(len(names)))
    return f"coalesce([{listed}][s.{column}::INTEGER + 1], '{names[0]}')"


COLUMNS: dict[str, str] = {
    "trace_id": "replace(s.trace_id::VARCHAR, '-', '')",
    "span_id": "lpad(lower(to_hex(s.span_id)), 16, '0')",
    "parent_span_id": (
        "CASE WHEN s.parent_id = 0 THEN '' ELSE lpad(lower(to_hex(s.parent_id)), 16, '0') END"
    ),
    "name": "s.name",
    "kind": _word("kind", KIND_NAMES),
    "service_name": "coalesce(s.service, '')",
    "start_time_unix_nano": "s.start_ns",
    "end_time_unix_nano": "s.end_ns",
    "duration_nano": "s.dur_ns",
    "status": _word("status", STATUS_NAMES),
    "status_message": "coalesce(s.status_message, '')",
    "attributes": _json_object("s"),
    "resource": "r.resource",
    "events": "coalesce(s.events, '')",
} | {key: f"s.{quote(key)}" for key in PROMOTED}


def spans(
    store: SpanStore,
    con: duckdb.DuckDBPyConnection,
    query: ast.Query,
    window: Window,
    *,
    whole_traces: bool,
    columns: list[str],
    limit: int,
) -> pa.RecordBatchReader:
    """Return the matching spans, or with `whole_traces` all spans of the traces with a match.

    In no order.
    """
    compiler = SpansetCompiler(store.catalogue, window)
    stages = query.pipeline.stages
    filters = [s for s in stages if isinstance(s, ast.Filter)]
    if not whole_traces and len(filters) == len(stages):
        fields = compiler.fields()
        condition = " AND ".join(
            [compiler.in_window(), *(f"({fields.condition(s.condition)})" for s in filters)]
        )
        needs = fields.needs
        needs.resources = False
        source = compiler.source(needs)
        source = source.replace(" LEFT JOIN resources r ON r.id = s.res_id", "")
    else:
        relation = compiler.pipeline(query.pipeline)
        key = "trace_id" if whole_traces else "rid"
        column = "s.trace_id" if whole_traces else "s.rowid"
        source = f"spans s SEMI JOIN ({relation.sql}) b ON b.{key} = {column}"
        condition = "TRUE"
    maps = ", ".join(c.name for c in MAP_COLUMNS)
    resources = f"(SELECT id, {_json_object('x')} AS resource, {maps} FROM resources x)"
    selected = ", ".join(f"{COLUMNS[c]} AS {quote(c)}" for c in columns)
    body = (
        f"SELECT {selected} FROM {source} LEFT JOIN {resources} r ON r.id = s.res_id "
        f"WHERE {condition} LIMIT {limit:d}"
    )
    sql = compiler.statement(body)
    compiler.prepare(con)
    return con.sql(sql, params=compiler.parameters.of(sql)).to_arrow_reader(_BATCH_ROWS)


def read_columns(text: str) -> list[str]:
    """Return the requested columns, or all. Raises BadRequest for an unknown one."""
    columns = [c for c in text.split(",") if c] or list(COLUMNS)
    unknown = [c for c in columns if c not in COLUMNS]
    if unknown:
        raise BadRequest(
            f"unknown column {unknown[0][:60]!r}", fix=f"use some of {', '.join(COLUMNS)}"
        )
    return columns


class _Parts(io.RawIOBase):
    """A file that keeps what is written until it is taken."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self.parts.append(bytes(part))
        return len(part)

    def take(self) -> bytes:
        taken = b"".join(self.parts)
        self.parts = []
        return taken


def ipc_stream(reader: pa.RecordBatchReader) -> Iterator[bytes]:
    """Yield the parts of an Arrow IPC stream, one per batch."""
    sink = _Parts()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            yield sink.take()
    yield sink.take()
