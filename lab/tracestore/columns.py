"""The columns of the span table: their meaning, DuckDB type, and promoted attributes.

An attribute of a span is stored in exactly one place: in its promoted column if it is one of
`PROMOTED` and has that type, else in the map of its type (`a_str`, `a_int`, `a_dbl`, `a_bool`),
else (arrays, nested lists and bytes) in `a_json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True)
class Column:
    """A column: name, DuckDB type and meaning (`arrow` holds the same in Arrow's types)."""

    name: str
    duck: str
    meaning: str


# Attribute -> the type that it must have to be promoted: each is read often.
PROMOTED: dict[str, str] = {
    "gen_ai.operation.name": "str",
    "gen_ai.provider.name": "str",
    "gen_ai.request.model": "str",
    "gen_ai.response.model": "str",
    "gen_ai.tool.name": "str",
    "gen_ai.conversation.id": "str",
    "gen_ai.request.id": "str",
    "gen_ai.response.id": "str",
    "ai.response.id": "str",
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

DUCK_OF = {"str": "VARCHAR", "int": "BIGINT", "dbl": "DOUBLE", "bool": "BOOLEAN", "json": "VARCHAR"}
MAP_TYPES = ("str", "int", "dbl", "bool", "json")


MAP_COLUMNS = tuple(
    Column(
        f"a_{t}",
        f"MAP(VARCHAR, {DUCK_OF[t]})",
        f"attributes of type {t} that have no promoted column",
    )
    for t in MAP_TYPES
)

CORE_COLUMNS = (
    Column("trace_id", "UUID", "16 bytes"),
    Column("span_id", "UBIGINT", "8 bytes, big-endian"),
    Column("parent_id", "UBIGINT", "0: a root"),
    Column("start_ns", "BIGINT", "unix nanoseconds, as sent"),
    Column("end_ns", "BIGINT", "unix nanoseconds, as sent"),
    Column("dur_ns", "BIGINT", "end - start; 0 where the end lies before the start"),
    Column("name", "VARCHAR", ""),
    Column("kind", "UTINYINT", "OTLP's SpanKind"),
    Column("status", "UTINYINT", "OTLP's StatusCode: 0 unset, 1 ok, 2 error"),
    Column("status_message", "VARCHAR", "NULL: empty"),
    Column("service", "VARCHAR", "service.name of the resource; NULL: none"),
    Column("res_id", "BIGINT", "row of `resources`"),
    Column("scope_id", "BIGINT", "row of `scopes`"),
    Column("trace_state", "VARCHAR", "NULL: empty"),
    Column("flags", "UINTEGER", ""),
    Column("dropped_attributes", "UINTEGER", ""),
    Column("dropped_events", "UINTEGER", ""),
    Column("dropped_links", "UINTEGER", ""),
    Column(
        "events",
        "VARCHAR",
        "JSON list of {t, n, a, d}: time, name, attributes, dropped; NULL: none",
    ),
    Column(
        "links",
        "VARCHAR",
        "JSON list of {t, s, w, a, d, f}: ids, state, attributes, dropped, flags",
    ),
)

PROMOTED_COLUMNS = tuple(Column(k, DUCK_OF[t], f"attribute {k}") for k, t in PROMOTED.items())

SPAN_COLUMNS = CORE_COLUMNS + PROMOTED_COLUMNS + MAP_COLUMNS

# Resources and instrumentation scopes repeat on every span: each distinct one is stored once.
OWNER_COLUMNS = (
    Column("id", "BIGINT", "hash of the whole"),
    Column("name", "VARCHAR", "service.name, or the scope's name"),
    Column("version", "VARCHAR", "service.version, or the scope's version"),
    Column("schema_url", "VARCHAR", ""),
    Column("proto", "BLOB", "the whole as OTLP protobuf"),
    *MAP_COLUMNS,
)


def single_value(con: DuckDBPyConnection, sql: str, parameters: object = None) -> Any:
    """Return the only value that a query returns.

    The result is read to its end: an open one keeps its transaction open, and then DuckDB never
    checkpoints.
    """
    ((value,),) = con.execute(sql, parameters).fetchall()
    return value


def add_promoted(con: DuckDBPyConnection) -> None:
    """Add the columns of attributes that were promoted since the database was made.

    Their values move there from the maps.
    """
    present = {name for name, *_ in con.execute("DESCRIBE spans").fetchall()}
    for key in PROMOTED.keys() - present:
        kind = PROMOTED[key]
        others = f"list_filter(map_entries(a_{kind}), lambda e: e.key != $key)"
        con.execute("BEGIN")
        con.execute(f"ALTER TABLE spans ADD COLUMN {quote(key)} {DUCK_OF[kind]}")
        con.execute(
            f"UPDATE spans SET {quote(key)} = a_{kind}[$key], a_{kind} = map_from_entries({others})"
            f" WHERE a_{kind}[$key] IS NOT NULL",
            {"key": key},
        )
        con.execute("COMMIT")


def quote(name: str) -> str:
    """Quote a DuckDB identifier."""
    return '"' + name.replace('"', '""') + '"'


def ddl(table: str, columns: tuple[Column, ...]) -> str:
    """Return CREATE TABLE IF NOT EXISTS for these columns."""
    body = ", ".join(f"{quote(c.name)} {c.duck}" for c in columns)
    return f"CREATE TABLE IF NOT EXISTS {table} ({body})"
