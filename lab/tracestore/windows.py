"""Windows select traces, as in Tempo: one that overlaps takes part with all of its spans."""

from __future__ import annotations

from uuid import UUID

import duckdb

from lab.tracestore.traceql.spansets import Window

END_OF_TIME = 2**63 - 1

# Traces that overlap the window and reach beyond it; of all others that overlap, every span does.
_EDGES = """
    SELECT trace_id, min(first_ns), max(last_ns) FROM extents GROUP BY trace_id
    HAVING min(first_ns) <= $end AND max(end_ns) >= $start
    AND (min(first_ns) < $start OR max(end_ns) > $end)
"""


def overlapping(con: duckdb.DuckDBPyConnection, start_ns: int, end_ns: int) -> Window:
    """Return the window of the traces that overlap [start_ns, end_ns] (unix ns)."""
    if start_ns <= 0 and end_ns >= END_OF_TIME:
        return Window()

    ((first, last),) = con.execute("SELECT min(first_ns), max(end_ns) FROM extents").fetchall()
    if first is None or (start_ns <= first and last <= end_ns):
        return Window()

    edges = con.execute(_EDGES, {"start": start_ns, "end": end_ns}).fetchall()
    return Window(
        start_ns,
        end_ns,
        edges=tuple(str(trace) for trace, _, _ in edges),
        first_ns=min([start_ns, *(first for _, first, _ in edges)]),
        last_ns=max([end_ns, *(last for _, _, last in edges)]),
    )


def newest_traces(
    con: duckdb.DuckDBPyConnection, window: Window, limit: int, offset: int
) -> list[tuple[UUID, int]]:
    """Return traces that overlap the window and their last start (unix ns), newest first."""
    if window == Window():
        return _newest(con, limit + offset)[offset:]
    return con.execute(
        "SELECT trace_id, max(last_ns) AS last FROM extents GROUP BY trace_id "
        "HAVING min(first_ns) <= $end AND max(end_ns) >= $start "
        f"ORDER BY last DESC, trace_id LIMIT {limit:d} OFFSET {offset:d}",
        {"start": window.start_ns, "end": window.end_ns},
    ).fetchall()


def _newest(con: duckdb.DuckDBPyConnection, limit: int) -> list[tuple[UUID, int]]:
    """Return the newest traces and their last start, from the newest extents only.

    Most traces have one extent. A trace's newest decides, so that the first `limit` traces among
    the newest extents are the newest traces.
    """
    extents = limit + limit // 4
    while True:
        rows = con.execute(
            f"SELECT trace_id, last_ns FROM extents ORDER BY last_ns DESC, trace_id "
            f"LIMIT {extents:d}"
        ).fetchall()
        newest: dict[UUID, int] = {}
        for trace, last_ns in rows:
            newest.setdefault(trace, last_ns)
        if len(newest) >= limit or len(rows) < extents:
            return list(newest.items())[:limit]
        extents *= 4
