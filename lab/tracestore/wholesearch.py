"""A search that must see whole traces: structural operators, by(), aggregates, intrinsics of the trace.

First which traces match, then the spans of these few in a table of their own, on which the query runs again to say what
matched in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import duckdb

from lab.tracestore import extents, found
from lab.tracestore.catalogue import Catalogue
from lab.tracestore.columns import PROMOTED, quote
from lab.tracestore.found import Spanset, Trace
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.spansets import Relation, SpansetCompiler, Window
from lab.tracestore.traceql.text import aggregate_text, field_text
from lab.tracestore.values import attribute_values, group_value, scalar_value

if TYPE_CHECKING:
    from lab.tracestore.search import SearchRequest

_CORE = (*(c.removeprefix("s.") for c in found.CORE.split(", ")), "res_id", "scope_id")


def answer(
    store: SpanStore, con: duckdb.DuckDBPyConnection, request: SearchRequest
) -> list[dict[str, Any]]:
    """The traces of Tempo's SearchResponse, newest first."""
    traces = _matching_traces(store, con, request)
    if not traces:
        return []
    first, last = extents.of_traces(con, traces)
    columns = ", ".join(quote(c) for c in _columns_of(store.catalogue, request.query))
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT {columns} FROM spans "
        f"WHERE trace_id IN (SELECT unnest($ids::UUID[])) AND start_ns BETWEEN {first:d} AND {last:d}",
        {"ids": [str(t) for t in traces]},
    )
    try:
        return _describe(store, con, request, traces)
    finally:
        con.execute("DROP TABLE chosen")


def _columns_of(catalogue: Catalogue, query: ast.Query) -> list[str]:
    """What the chosen spans need of their row: to be described, matched again, and to show what was asked for."""
    wanted = dict.fromkeys(_CORE)
    for node in found.shown_nodes(query):
        scopes = found.scopes_of(node, catalogue)
        wanted |= dict.fromkeys(f"{scope}s" for scope in scopes if scope in ("event", "link"))
        if isinstance(node, ast.Attribute) and "span" in scopes:
            for kind in catalogue.types("span", node.name):
                wanted[node.name if PROMOTED.get(node.name) == kind else f"a_{kind}"] = None
    return list(wanted)


def _matching_traces(
    store: SpanStore, con: duckdb.DuckDBPyConnection, request: SearchRequest
) -> list[UUID]:
    compiler = SpansetCompiler(store.catalogue, Window(request.start_ns, request.end_ns))
    relation = compiler.pipeline(request.query.pipeline)
    sql = compiler.statement(
        f"SELECT trace_id FROM ({relation.sql}) GROUP BY trace_id "
        f"ORDER BY max(start_ns) DESC, trace_id LIMIT {request.limit:d}"
    )
    return [row[0] for row in con.execute(sql, compiler.parameters.of(sql)).fetchall()]


def _describe(
    store: SpanStore, con: duckdb.DuckDBPyConnection, request: SearchRequest, traces: list[UUID]
) -> list[dict[str, Any]]:
    compiler = SpansetCompiler(store.catalogue, Window(request.start_ns, request.end_ns, "chosen"))
    relation = compiler.pipeline(request.query.pipeline)
    extra = "".join(f", {c}" for c in relation.extra_columns)
    sql = compiler.statement(
        f"SELECT DISTINCT trace_id, rid, start_ns{extra} FROM ({relation.sql}) ORDER BY start_ns, rid"
    )
    matches = con.execute(sql, compiler.parameters.of(sql)).fetchall()

    fields, wanted = compiler.fields(), found.shown_nodes(request.query)
    columns = found.AttributeColumns(store.catalogue, wanted, fields.needs, compiler.parameters)
    sql = f"SELECT s.rowid AS rid, {found.CORE}{columns.sql} FROM {compiler.source(fields.needs)}"
    cursor = con.execute(sql, compiler.parameters.of(sql))
    names = [d[0] for d in cursor.description]
    rows = {row[0]: dict(zip(names, row, strict=True)) for row in cursor.fetchall()}
    by_trace = {t: Trace(t) for t in traces}
    for row in rows.values():
        by_trace[row["trace_id"]].add(row)
    _add_spansets(by_trace, matches, rows, relation)
    return [
        t.as_tempo(request.spans_per_set, lambda row: attribute_values(columns.row(row), wanted))
        for t in by_trace.values()
        if t.sets
    ]


def _add_spansets(
    by_trace: dict[UUID, Trace],
    matches: list[tuple],
    rows: dict[int, found.Row],
    relation: Relation,
) -> None:
    """Matches by trace, then by group, in the order of their first span."""
    sets: dict[tuple, Spanset] = {}
    groups = len(relation.groups)
    for trace, rid, _, *extra in matches:
        key = (trace, *extra)
        if key not in sets:
            attributes = [
                {"key": f"by({field_text(e)})", "value": group_value(v)}
                for e, v in zip(relation.groups, extra[:groups], strict=True)
            ]
            attributes += [
                {"key": aggregate_text(a), "value": scalar_value(a, v)}
                for a, v in zip(relation.values, extra[groups:], strict=True)
            ]
            sets[key] = Spanset([], attributes)
            by_trace[trace].sets.append(sets[key])
        sets[key].rows.append(rows[rid])
