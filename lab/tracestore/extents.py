"""When each trace began: one row for a trace in every batch that brought spans of it.

Spans lie on disk roughly in the order of time, and DuckDB keeps the lowest and highest start of
each row group. Who knows when a trace's spans start reads only the row groups around that time,
however many spans there are. This small table knows. It may promise more than there is (a span that
came twice, or was forgotten), never less.
"""

from __future__ import annotations

from uuid import UUID

import duckdb

DDL = (
    "CREATE TABLE IF NOT EXISTS extents "
    "(trace_id UUID, first_ns BIGINT, last_ns BIGINT, end_ns BIGINT)"
)

Extent = tuple[int, int]  # the first and the last start (unix ns)


def fill_if_new(con: duckdb.DuckDBPyConnection) -> None:
    """For a database from before there was this table."""
    if not con.execute("SELECT 1 FROM extents LIMIT 1").fetchall():
        add(con, "spans")


def add(con: duckdb.DuckDBPyConnection, spans: str) -> None:
    """Remember the traces of a table of spans."""
    con.execute(
        "INSERT INTO extents SELECT trace_id, min(start_ns), max(start_ns), max(end_ns) "
        f"FROM {spans} GROUP BY trace_id"
    )


def of_table(con: duckdb.DuckDBPyConnection, spans: str) -> Extent | None:
    """Where spans of the traces in `spans` may lie already; None: none of these traces is known."""
    return _extent(con, f"trace_id IN (SELECT trace_id FROM {spans})", {})


def of_traces(con: duckdb.DuckDBPyConnection, traces: list[UUID]) -> Extent | None:
    """Where the spans of these traces lie; None: there is none."""
    if len(traces) == 1:  # the most frequent case, and twice as fast
        return _extent(con, "trace_id = $id", {"id": traces[0]})
    return _extent(
        con, "trace_id IN (SELECT unnest($ids::UUID[]))", {"ids": [str(t) for t in traces]}
    )


def _extent(
    con: duckdb.DuckDBPyConnection, condition: str, parameters: dict[str, object]
) -> Extent | None:
    rows = con.execute(
        f"SELECT first_ns, last_ns FROM extents WHERE {condition}", parameters
    ).fetchall()
    return (min(first for first, _ in rows), max(last for _, last in rows)) if rows else None


def delete_before(con: duckdb.DuckDBPyConnection, cutoff_ns: int) -> None:
    """Forget what ended before `cutoff_ns` (unix ns)."""
    con.execute("DELETE FROM extents WHERE end_ns < $cutoff", {"cutoff": cutoff_ns})
