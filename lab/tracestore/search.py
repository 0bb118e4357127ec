"""/api/search: which traces match, newest first, with a few of the spans that matched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import duckdb

from lab.tracestore import extents, found, wholesearch
from lab.tracestore.errors import TraceQLInvalid
from lab.tracestore.found import Spanset, Trace
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.parse import parse
from lab.tracestore.traceql.spansets import SpansetCompiler, Window
from lab.tracestore.traceql.validate import validate
from lab.tracestore.values import attribute_values

_FIRST_LOOK = 5  # spans read for each trace wanted, at first; then ever more
_MAX_LOOK = 100_000


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
        raise TraceQLInvalid(
            "a metrics query cannot be searched; ask /api/metrics/query_range", query=text
        )
    return query


def search(
    store: SpanStore, con: duckdb.DuckDBPyConnection, request: SearchRequest
) -> dict[str, Any]:
    """Tempo's SearchResponse."""
    stages = request.query.pipeline.stages
    if all(isinstance(s, ast.Filter | ast.Select) for s in stages) and isinstance(
        stages[0], ast.Filter
    ):
        filtered = _Filtered(store, con, request)
        traces = filtered.answer() if filtered.alone else wholesearch.answer(store, con, request)
    else:
        traces = wholesearch.answer(store, con, request)
    return {
        "traces": traces,
        "metrics": {"inspectedTraces": len(traces), "completedJobs": 1, "totalJobs": 1},
    }


class _Filtered:
    """A search in which every span is judged alone.

    Then the newest matching spans tell the newest traces: they are read from the new end, and only as far as needed.
    """

    def __init__(
        self, store: SpanStore, con: duckdb.DuckDBPyConnection, request: SearchRequest
    ) -> None:
        self.store, self.con, self.request = store, con, request
        self.compiler = SpansetCompiler(store.catalogue, Window(request.start_ns, request.end_ns))
        fields = self.compiler.fields()
        filters = [s.condition for s in request.query.pipeline.stages if isinstance(s, ast.Filter)]
        conditions = [self.compiler.in_window(), *(fields.condition(c) for c in filters)]
        self.condition = " AND ".join(f"({c})" for c in conditions)
        self.needs = fields.needs

    @property
    def alone(self) -> bool:
        """Whether a span can really be judged without the others of its trace."""
        return not (self.needs.trace or self.needs.children)

    def answer(self) -> list[dict[str, Any]]:
        traces = self._newest()
        return self._describe(traces) if traces else []

    def _execute(self, sql: str, **more: object) -> duckdb.DuckDBPyConnection:
        return self.con.execute(sql, self.compiler.parameters.of(sql) | more)

    def _newest(self) -> list[UUID]:
        """The traces with the newest matching spans; ties go by the id."""
        source, limit = (
            f"FROM {self.compiler.source(self.needs)} WHERE {self.condition}",
            self.request.limit,
        )
        look = limit * _FIRST_LOOK
        while look <= _MAX_LOOK:
            rows = self._execute(
                f"SELECT s.trace_id {source} ORDER BY s.start_ns DESC, s.trace_id LIMIT {look:d}"
            ).fetchall()
            traces = list(dict.fromkeys(row[0] for row in rows))
            if len(traces) >= limit or len(rows) < look:
                return traces[:limit]
            look *= 8
        grouped = f"SELECT s.trace_id {source} GROUP BY s.trace_id ORDER BY max(s.start_ns) DESC, s.trace_id"
        return [row[0] for row in self._execute(f"{grouped} LIMIT {limit:d}").fetchall()]

    def _describe(self, traces: list[UUID]) -> list[dict[str, Any]]:
        wanted = found.shown_nodes(self.request.query)
        columns = found.AttributeColumns(
            self.store.catalogue, wanted, self.needs, self.compiler.parameters
        )
        first, last = extents.of_traces(self.con, traces)
        cursor = self._execute(
            f"SELECT s.rowid AS rid, {found.CORE}, ({self.condition}) AS matched{columns.sql} "
            f"FROM {self.compiler.source(self.needs)} WHERE s.trace_id IN (SELECT unnest($traces::UUID[])) "
            f"AND s.start_ns BETWEEN {first:d} AND {last:d}",
            traces=[str(t) for t in traces],
        )
        names = [d[0] for d in cursor.description]
        by_trace = {t: Trace(t) for t in traces}
        for values in cursor.fetchall():
            row = dict(zip(names, values, strict=True))
            trace = by_trace[row["trace_id"]]
            trace.add(row)
            if row["matched"]:
                trace.sets = trace.sets or [Spanset()]
                trace.sets[0].rows.append(row)
        return [
            t.as_tempo(
                self.request.spans_per_set, lambda row: attribute_values(columns.row(row), wanted)
            )
            for t in by_trace.values()
            if t.sets
        ]
