"""Nested sets: a trace's tree as intervals, numbered as Tempo numbers them.

A walk through the tree counts one on the way down (left) and one on the way up (right), so a span
is below another if its interval lies inside the other's. A root's parent is -1, any other span's is
the left of its parent. What hangs below no root is all zero. The roots of one trace are numbered
one after the other.
"""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

# Siblings are walked in the order in which Tempo stores them: by resource, then by scope, each by
# its first span.
_READ = """
    SELECT rid, dense_rank() OVER (ORDER BY trace_id) - 1 AS trace, span_id, parent_id
    FROM (
        SELECT rowid AS rid, trace_id, span_id, parent_id, start_ns, res_id, scope_id,
            min(start_ns) OVER (PARTITION BY trace_id, res_id) AS resource_ns,
            min(start_ns) OVER (PARTITION BY trace_id, res_id, scope_id) AS scope_ns
        FROM {source}
    )
    ORDER BY trace_id, resource_ns, res_id, scope_ns, scope_id, start_ns, span_id
"""


def register(con: duckdb.DuckDBPyConnection, source: str, table: str) -> None:
    """Create a temporary table with the nested sets of the spans of a relation.

    Columns: rid (the row of the span), n_left, n_right, n_parent.
    """
    columns = con.execute(_READ.format(source=source)).fetchnumpy()
    left, right, parent = number(columns["trace"], columns["span_id"], columns["parent_id"])
    numbered = {"rid": columns["rid"], "n_left": left, "n_right": right, "n_parent": parent}

    con.register("numbered", pa.table(numbered))
    con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT * FROM numbered")
    con.unregister("numbered")


def number(
    trace: np.ndarray, span: np.ndarray, parent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return left, right and parent of each span.

    The spans are given in the order in which siblings are walked, as (number of the trace, span id,
    parent's span id or 0).
    """
    if len(trace) == 0:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, empty

    above = _rows_of_parents(trace, span, parent)
    levels = _levels(above, parent == 0)
    size = np.ones(len(trace), dtype=np.int64)
    for rows in reversed(levels[1:]):
        np.add.at(size, above[rows], size[rows])

    left = np.zeros(len(trace), dtype=np.int64)
    nested_parent = np.zeros(len(trace), dtype=np.int64)
    for depth, rows in enumerate(levels):
        group = trace[rows] if depth == 0 else above[rows]
        base = np.ones(len(rows), dtype=np.int64) if depth == 0 else left[above[rows]] + 1
        left[rows] = base + 2 * _sum_of_earlier(group, size[rows])
        nested_parent[rows] = -1 if depth == 0 else left[above[rows]]

    right = np.where(left > 0, left + 2 * size - 1, 0)
    return left, right, nested_parent


def _rows_of_parents(trace: np.ndarray, span: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Return the row of each span's parent.

    -1 where it is not among the spans, or is the span itself.
    """
    order = np.lexsort((span, trace))
    keys = _keys(trace[order], span[order])
    wanted = _keys(trace, parent)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    rows = np.where(keys[place] == wanted, order[place], -1)
    itself = rows == np.arange(len(rows))
    return np.where((parent == 0) | itself, -1, rows)


def _keys(trace: np.ndarray, span: np.ndarray) -> np.ndarray:
    keys = np.empty(len(trace), dtype=[("trace", np.int64), ("span", np.uint64)])
    keys["trace"] = trace
    keys["span"] = span
    return keys


def _levels(above: np.ndarray, is_root: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each level below the roots, ascending.

    Rows that no root is above of are in none.
    """
    children = np.argsort(above, kind="stable")
    first = np.searchsorted(above[children], np.arange(len(above)), side="left")
    last = np.searchsorted(above[children], np.arange(len(above)), side="right")

    levels = [np.flatnonzero(is_root)]
    while len(levels[-1]):
        rows = levels[-1]
        counts = last[rows] - first[rows]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        below = children[np.repeat(first[rows], counts) + within]
        levels.append(np.sort(below))
    return levels[:-1] or levels


def _sum_of_earlier(group: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return for each row the sum of the sizes of the rows before it in its group."""
    if len(group) == 0:
        return np.zeros(0, dtype=np.int64)

    order = np.argsort(group, kind="stable")
    running = np.cumsum(size[order]) - size[order]
    starts = np.flatnonzero(np.r_[True, group[order][1:] != group[order][:-1]])
    base = np.repeat(running[starts], np.diff(np.r_[starts, len(order)]))
    result = np.empty(len(group), dtype=np.int64)
    result[order] = running - base
    return result
