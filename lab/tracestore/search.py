"""/api/search: which traces match, newest first, with a few of the spans that matched."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import duckdb

from lab.tracestore.catalogue import Catalogue
from lab.tracestore.columns import MAP_TYPES, PROMOTED, quote
from lab.tracestore.errors import TraceQLInvalid
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.parse import parse
from lab.tracestore.traceql.spansets import Relation, SpansetCompiler, Window
from lab.tracestore.traceql.text import aggregate_text, field_text
from lab.tracestore.traceql.validate import validate, walk
from lab.tracestore.values import attribute_values, group_value, scalar_value, trace_hex

NO_ROOT = "<root span not yet received>"
_CORE = (
    "trace_id", "span_id", "parent_id", "start_ns", "end_ns", "dur_ns", "name", "kind", "status", "status_message",
    "service", "res_id", "scope_id",
)  # fmt: skip
_SUMMARY = (
    "SELECT trace_id, min(start_ns), max(end_ns), arg_min(name, start_ns) FILTER (parent_id = 0), "
    "arg_min(service, start_ns) FILTER (parent_id = 0) FROM chosen GROUP BY trace_id"
)
_STATS = "SELECT trace_id, coalesce(service, ''), count(*), count(*) FILTER (status = 2) FROM chosen GROUP BY ALL"


@dataclass(frozen=True)
class SearchRequest:
    """A search: the checked query, the window in unix ns, how many traces, how many spans of each spanset."""

    query: ast.Query
    start_ns: int = 0
    end_ns: int = 2**63 - 1
    limit: int = 20
    spans_per_set: int = 3


def read_query(text: str) -> ast.Query:
    """Parse and check a query for spansets. Raises TraceQLError."""
    query = validate(parse(text or "{}"))
    if query.pipeline is None:
        raise TraceQLInvalid("a metrics query cannot be searched; ask /api/metrics/query_range", query=text)
    return query


def search(store: SpanStore, con: duckdb.DuckDBPyConnection, request: SearchRequest) -> dict[str, Any]:
    """Tempo's SearchResponse."""
    traces = _matching_traces(store, con, request)
    found: list[dict[str, Any]] = []
    if traces:
        columns = ", ".join(quote(c) for c in _columns_of(store.catalogue, request.query))
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT {columns} FROM spans "
            "WHERE trace_id IN (SELECT unnest($ids::UUID[]))",
            {"ids": [str(t) for t in traces]},
        )
        found = _describe(store, con, request, traces)
        con.execute("DROP TABLE chosen")
    return {"traces": found, "metrics": {"inspectedTraces": len(found), "completedJobs": 1, "totalJobs": 1}}


def _columns_of(catalogue: Catalogue, query: ast.Query) -> list[str]:
    """What the chosen spans need of their row: to be described, matched again, and to show what was asked for."""
    wanted = dict.fromkeys(_CORE)
    for node in walk(query):
        if isinstance(node, ast.Intrinsic) and node.name.startswith(("event:", "link:")):
            wanted[node.name.split(":")[0] + "s"] = None
        if isinstance(node, ast.Attribute):
            for scope in ("event", "link"):
                if node.scope in ("", scope) and catalogue.types(scope, node.name):
                    wanted[f"{scope}s"] = None
            types = catalogue.types("span", node.name) if node.scope in ("", "span") else set()
            for kind in types:
                wanted[node.name if PROMOTED.get(node.name) == kind else f"a_{kind}"] = None
    return list(wanted)


def _matching_traces(store: SpanStore, con: duckdb.DuckDBPyConnection, request: SearchRequest) -> list[UUID]:
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
    sets = _spansets(matches, relation)
    shown = {rid for spansets in sets.values() for s in spansets for rid in s.rids[: request.spans_per_set]}
    spans = _rows(con, shown, request.query)
    summaries = {row[0]: row[1:] for row in con.execute(_SUMMARY).fetchall()}
    stats: dict[UUID, dict[str, Any]] = defaultdict(dict)
    for trace, service, count, errors in con.execute(_STATS).fetchall():
        stats[trace][service] = {"spanCount": count, **({"errorCount": errors} if errors else {})}
    return [_metadata(t, summaries[t], stats[t], sets[t], spans, request) for t in traces if t in sets]


@dataclass
class _Spanset:
    rids: list[int]
    attributes: list[dict[str, Any]]


def _spansets(matches: list[tuple], relation: Relation) -> dict[UUID, list[_Spanset]]:
    """Matches by trace, then by group, in the order of their first span."""
    sets: dict[UUID, dict[tuple, _Spanset]] = defaultdict(dict)
    groups = len(relation.groups)
    for trace, rid, _, *extra in matches:
        key = tuple(extra)
        if key not in sets[trace]:
            attributes = [
                {"key": f"by({field_text(e)})", "value": group_value(v)}
                for e, v in zip(relation.groups, extra[:groups], strict=True)
            ]
            attributes += [
                {"key": aggregate_text(a), "value": scalar_value(a, v)}
                for a, v in zip(relation.values, extra[groups:], strict=True)
            ]
            sets[trace][key] = _Spanset([], attributes)
        sets[trace][key].rids.append(rid)
    return {trace: list(by_group.values()) for trace, by_group in sets.items()}


def _rows(con: duckdb.DuckDBPyConnection, rids: set[int], query: ast.Query) -> dict[int, dict[str, Any]]:
    """rid -> the span as Tempo shows it in a search: its name, times, and the attributes that the query names."""
    wanted = list(dict.fromkeys(n for n in walk(query) if isinstance(n, ast.Attribute | ast.Intrinsic)))
    columns, joins = "", ""
    if any(isinstance(n, ast.Attribute) and n.scope in ("", "resource") for n in wanted):
        columns += "".join(f", r.a_{t} AS r_{t}" for t in MAP_TYPES)
        joins += " LEFT JOIN resources r ON r.id = s.res_id"
    if any(_of_the_scope(n) for n in wanted):
        columns += ", c.name AS c_name, c.version AS c_version" + "".join(f", c.a_{t} AS c_{t}" for t in MAP_TYPES)
        joins += " LEFT JOIN scopes c ON c.id = s.scope_id"
    cursor = con.execute(
        f"SELECT s.rowid AS rid, s.*{columns} FROM chosen s{joins} WHERE s.rowid IN (SELECT unnest($rids::BIGINT[]))",
        {"rids": list(rids)},
    )
    names = [d[0] for d in cursor.description]
    spans = {}
    for values in cursor.fetchall():
        row = dict(zip(names, values, strict=True))
        span = {
            "spanID": f"{row['span_id']:016x}",
            "name": row["name"],
            "startTimeUnixNano": str(row["start_ns"]),
            "durationNanos": str(row["dur_ns"]),
        }
        attributes = attribute_values(row, wanted)
        if attributes:
            span["attributes"] = attributes
        spans[row["rid"]] = span
    return spans


def _of_the_scope(node: ast.Attribute | ast.Intrinsic) -> bool:
    if isinstance(node, ast.Attribute):
        return node.scope in ("", "instrumentation")
    return node.name.startswith("instrumentation:")


def _metadata(
    trace: UUID,
    summary: tuple,
    stats: dict[str, Any],
    sets: list[_Spanset],
    spans: dict[int, dict[str, Any]],
    request: SearchRequest,
) -> dict[str, Any]:
    start_ns, end_ns, root_name, root_service = summary
    span_sets = []
    for s in sets:
        shown = {"spans": [spans[rid] for rid in s.rids[: request.spans_per_set]], "matched": len(s.rids)}
        if s.attributes:
            shown["attributes"] = s.attributes
        span_sets.append(shown)
    return {
        "traceID": trace_hex(trace),
        "rootServiceName": root_service or NO_ROOT,
        "rootTraceName": root_name or NO_ROOT,
        "startTimeUnixNano": str(start_ns),
        "durationMs": max(end_ns - start_ns, 0) // 10**6,
        "spanSet": span_sets[0],
        "spanSets": span_sets,
        "serviceStats": stats,
    }
