"""A batch of spans into the database, and what it teaches the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lab.tracestore import extents
from lab.tracestore.columns import MAP_TYPES, PROMOTED, single_value


def insert_owners(con: duckdb.DuckDBPyConnection, table: str, owners: pa.Table) -> None:
    """Add the resources or scopes that the table does not have yet."""
    if owners.num_rows == 0:
        return
    con.register("new_owners", owners)
    con.execute(
        f"INSERT INTO {table} SELECT DISTINCT ON (id) * FROM new_owners "
        f"WHERE id NOT IN (SELECT id FROM {table})"
    )
    con.unregister("new_owners")


def insert_spans(con: duckdb.DuckDBPyConnection, spans: pa.Table) -> int:
    """Add the spans that are not there yet; returns how many."""
    if spans.num_rows == 0:
        return 0
    con.register("new_spans", spans)
    source = (
        "new_spans"
        if _all_distinct(spans)
        else "(SELECT DISTINCT ON (trace_id, span_id) * FROM new_spans)"
    )
    sql = f"INSERT INTO spans BY NAME SELECT * FROM {source} n"
    known = extents.of_table(con, "new_spans")
    if known is not None:  # only then, and only there, may one of them be in the database already
        sql += (
            " WHERE NOT EXISTS (SELECT 1 FROM spans s "
            "WHERE s.span_id = n.span_id AND s.trace_id = n.trace_id "
            f"AND s.start_ns BETWEEN {known[0]:d} AND {known[1]:d})"
        )
    added = single_value(con, sql)
    extents.add(con, "new_spans")
    con.unregister("new_spans")
    return added


def _all_distinct(spans: pa.Table) -> bool:
    """Return whether no (trace, span) id occurs twice.

    Compares a 64-bit mix of the ids; a false alarm only costs the slower path.
    """
    trace = spans.column("trace_id").combine_chunks()
    halves = np.frombuffer(b"".join(_storage_bytes(trace)), dtype=np.uint64).reshape(-1, 2)
    with np.errstate(over="ignore"):
        mix = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1] * np.uint64(
            0xC2B2AE3D27D4EB4F
        )
        mix = mix ^ spans.column("span_id").to_numpy() * np.uint64(0x165667B19E3779F9)
    mix.sort()  # np.unique takes twenty times as long
    return bool(np.diff(mix).all())


def _storage_bytes(array: pa.Array | pa.ChunkedArray) -> Iterator[bytes]:
    for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
        storage = chunk.storage
        yield storage.buffers()[1].to_pybytes()[
            storage.offset * 16 : (storage.offset + len(storage)) * 16
        ]


def keys_of(spans: pa.Table, resources: pa.Table, scopes: pa.Table) -> set[tuple[str, str, str]]:
    """(scope, key, type) of every attribute in a batch."""
    found = {
        ("span", k, t) for k, t in PROMOTED.items() if spans.column(k).null_count < spans.num_rows
    }
    for table, scope in ((spans, "span"), (resources, "resource"), (scopes, "instrumentation")):
        found |= _map_keys(table, scope)
    for column, scope in (("events", "event"), ("links", "link")):
        if spans.column(column).null_count < spans.num_rows:
            found |= _json_keys(spans.column(column), scope)
    return found


def _map_keys(table: pa.Table, scope: str) -> set[tuple[str, str, str]]:
    found: set[tuple[str, str, str]] = set()
    for t in MAP_TYPES:
        for chunk in table.column(f"a_{t}").chunks:
            found |= {(scope, k, t) for k in pc.unique(chunk.keys).to_pylist()}
    return found


_TYPE_OF_JSON = {"stringValue": "str", "intValue": "int", "doubleValue": "dbl", "boolValue": "bool"}


def _json_keys(column: pa.ChunkedArray, scope: str) -> set[tuple[str, str, str]]:
    found = set()
    for text in column.drop_null().to_pylist():
        for row in msgspec.json.decode(text):
            for key, value in row.get("a", {}).items():
                found.add((scope, key, _TYPE_OF_JSON.get(next(iter(value), ""), "json")))
    return found


def window_of(spans: pa.Table) -> tuple[int, int]:
    """First and last start (unix ns) of a table of spans."""
    starts = spans.column("start_ns").to_numpy()
    return int(np.min(starts)), int(np.max(starts))
