"""The columns of the span table: what each means, how Arrow and DuckDB type it, and which attributes have their own.

An attribute of a span rests in exactly one place: its promoted column if it is one of `PROMOTED` and comes with that
type,
else the map of its type (`a_str`, `a_int`, `a_dbl`, `a_bool`), else, for arrays, nested lists and bytes, `a_json`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type, DuckDB type and meaning."""

    name: str
    arrow: pa.DataType
    duck: str
    meaning: str


# Attribute -> the type that it must come with to be promoted. Asked for by the lab on every request, so worth a column.
PROMOTED: dict[str, str] = {
    "gen_ai.operation.name": "str",
    "gen_ai.provider.name": "str",
    "gen_ai.request.model": "str",
    "gen_ai.response.model": "str",
    "gen_ai.tool.name": "str",
    "gen_ai.conversation.id": "str",
    "gen_ai.request.id": "str",
    "gen_ai.usage.input_tokens": "int",
    "gen_ai.usage.output_tokens": "int",
    "gen_ai.usage.cache_read.input_tokens": "int",
    "gen_ai.usage.prompt_tokens": "int",
    "gen_ai.usage.completion_tokens": "int",
    "gen_ai.latency.time_to_first_token": "dbl",
    "gen_ai.latency.e2e": "dbl",
    "gen_ai.latency.time_in_queue": "dbl",
    "gen_ai.latency.time_in_model_prefill": "dbl",
    "gen_ai.latency.time_in_model_decode": "dbl",
    "gen_ai.latency.time_in_model_inference": "dbl",
    "gen_ai.response.time_to_first_chunk": "dbl",
    "http.request.method": "str",
    "http.method": "str",
    "http.route": "str",
    "http.response.status_code": "int",
    "http.status_code": "int",
    "error.type": "str",
    "tool_name": "str",
    "user.id": "str",
    "session.id": "str",
    "lab.tenant": "str",
    "lab.scenario": "str",
    "lab.run": "str",
    "lab.request": "str",
}

ARROW_OF = {"str": pa.string(), "int": pa.int64(), "dbl": pa.float64(), "bool": pa.bool_(), "json": pa.string()}
DUCK_OF = {"str": "VARCHAR", "int": "BIGINT", "dbl": "DOUBLE", "bool": "BOOLEAN", "json": "VARCHAR"}
MAP_TYPES = ("str", "int", "dbl", "bool", "json")


def _map(type_name: str) -> tuple[pa.DataType, str]:
    return pa.map_(pa.string(), ARROW_OF[type_name]), f"MAP(VARCHAR, {DUCK_OF[type_name]})"


MAP_COLUMNS = tuple(
    Column(f"a_{t}", *_map(t), meaning=f"attributes of type {t} without a column of their own") for t in MAP_TYPES
)

CORE_COLUMNS = (
    Column("trace_id", pa.uuid(), "UUID", "16 bytes"),
    Column("span_id", pa.uint64(), "UBIGINT", "8 bytes, big-endian"),
    Column("parent_id", pa.uint64(), "UBIGINT", "0: a root"),
    Column("start_ns", pa.int64(), "BIGINT", "unix nanoseconds, as sent"),
    Column("end_ns", pa.int64(), "BIGINT", "unix nanoseconds, as sent"),
    Column("dur_ns", pa.int64(), "BIGINT", "end - start; 0 where the end lies before the start"),
    Column("name", pa.string(), "VARCHAR", ""),
    Column("kind", pa.uint8(), "UTINYINT", "OTLP's SpanKind"),
    Column("status", pa.uint8(), "UTINYINT", "OTLP's StatusCode: 0 unset, 1 ok, 2 error"),
    Column("status_message", pa.string(), "VARCHAR", "NULL: empty"),
    Column("service", pa.string(), "VARCHAR", "service.name of the resource; NULL: none"),
    Column("res_id", pa.int64(), "BIGINT", "row of `resources`"),
    Column("scope_id", pa.int64(), "BIGINT", "row of `scopes`"),
    Column("trace_state", pa.string(), "VARCHAR", "NULL: empty"),
    Column("flags", pa.uint32(), "UINTEGER", ""),
    Column("dropped_attributes", pa.uint32(), "UINTEGER", ""),
    Column("dropped_events", pa.uint32(), "UINTEGER", ""),
    Column("dropped_links", pa.uint32(), "UINTEGER", ""),
    Column("events", pa.string(), "VARCHAR", "JSON list of {t, n, a, d}: time, name, attributes, dropped; NULL: none"),
    Column("links", pa.string(), "VARCHAR", "JSON list of {t, s, w, a, d, f}: ids, state, attributes, dropped, flags"),
)

PROMOTED_COLUMNS = tuple(Column(k, ARROW_OF[t], DUCK_OF[t], f"attribute {k}") for k, t in PROMOTED.items())

SPAN_COLUMNS = CORE_COLUMNS + PROMOTED_COLUMNS + MAP_COLUMNS
SPAN_SCHEMA = pa.schema([(c.name, c.arrow) for c in SPAN_COLUMNS])

# Resources and instrumentation scopes repeat on every span, so each distinct one is stored once. `proto` is it whole.
OWNER_COLUMNS = (
    Column("id", pa.int64(), "BIGINT", "hash of the whole"),
    Column("name", pa.string(), "VARCHAR", "service.name, or the scope's name"),
    Column("version", pa.string(), "VARCHAR", "service.version, or the scope's version"),
    Column("schema_url", pa.string(), "VARCHAR", ""),
    Column("proto", pa.binary(), "BLOB", "OTLP protobuf"),
    *MAP_COLUMNS,
)
OWNER_SCHEMA = pa.schema([(c.name, c.arrow) for c in OWNER_COLUMNS])


def quote(name: str) -> str:
    """A DuckDB identifier."""
    return '"' + name.replace('"', '""') + '"'


def ddl(table: str, columns: tuple[Column, ...]) -> str:
    """CREATE TABLE IF NOT EXISTS for these columns."""
    body = ", ".join(f"{quote(c.name)} {c.duck}" for c in columns)
    return f"CREATE TABLE IF NOT EXISTS {table} ({body})"
