"""/api/search: the traces that match, newest first, each with a few of the spans that matched.

Where every span can be judged alone, the newest matching spans lead to the traces (`_by_spans`).
Structural operators, by(), aggregates and intrinsics of the trace need whole traces: these are
evaluated in portions, the newest traces first (`_by_traces`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import duckdb

from lab.tracestore import extents, windows
from lab.tracestore.columns import PROMOTED, quote
from lab.tracestore.errors import TraceQLInvalid
from lab.tracestore.search_response import (
    CORE,
    AttributeColumns,
    Row,
    Spanset,
    Trace,
    scopes_of,
)
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fetch import FetchPlan, fetch_plan
from lab.tracestore.traceql.fields import Needs
from lab.tracestore.traceql.parse import parse
from lab.tracestore.traceql.spansets import Relation, SpansetCompiler, Window
from lab.tracestore.traceql.text import aggregate_text, field_text
from lab.tracestore.traceql.validate import validate, walk
from lab.tracestore.values import ShownFields, group_value, scalar_value

_SPANS_PER_TRACE = 5  # spans read per requested trace, at first; then 8 times as many
_MAX_SPANS = 100_000
_TRACES_PER_TRACE = 5  # traces evaluated per requested trace, at first; then 8 times as many
_MIN_TRACES = 1_000  # fewer take hardly less time

_CORE_COLUMNS = ("trace_id", *(c.removeprefix("s.") for c in CORE.split(", ")))


@dataclass(frozen=True)
class SearchRequest:
    """A search: the checked query, the window (unix ns), how many traces and spans per spanset."""

    query: ast.Query
    start_ns: int = 0
    end_ns: int = 2**63 - 1
    limit: int = 20
    spans_per_set: int = 3


def read_query(text: str) -> ast.Query:
    """Parse and check a query for spansets. Raises TraceQLError."""
    query = validate(parse(text or "{}"))
    if isinstance(query, ast.MetricsQuery):
        raise TraceQLInvalid(
            "a metrics query cannot be searched; send it to /api/metrics/query_range", query=text
        )
    return query


def search(
    store: SpanStore, con: duckdb.DuckDBPyConnection, request: SearchRequest
) -> dict[str, Any]:
    """Return Tempo's SearchResponse."""
    traces = _Search(store, con, request).answer()
    return {
        "traces": traces,
        "metrics": {"inspectedTraces": len(traces), "completedJobs": 1, "totalJobs": 1},
    }


@dataclass(frozen=True)
class _Judged:
    """The condition of matching spans, and what it needs beside their rows."""

    compiler: SpansetCompiler
    needs: Needs
    condition: str


class _Search:
    """One search on one connection."""

    def __init__(
        self, store: SpanStore, con: duckdb.DuckDBPyConnection, request: SearchRequest
    ) -> None:
        self.store = store
        self.con = con
        self.request = request
        self.pipeline = request.query.pipeline
        self.plan: FetchPlan = fetch_plan(request.query)
        self.shown = ShownFields(self.plan)
        self.window = windows.overlapping(con, request.start_ns, request.end_ns)

    def answer(self) -> list[dict[str, Any]]:
        """Return the traces, newest first."""
        judged = self._judged_alone()
        if judged is not None:
            traces = self._by_spans(judged)
            return self._describe_spans(traces, judged) if traces else []

        traces = self._by_traces()
        return self._describe_traces(traces) if traces else []

    def _execute(self, compiler: SpansetCompiler, body: str) -> duckdb.DuckDBPyConnection:
        compiler.prepare(self.con)
        sql = compiler.statement(body)
        return self.con.execute(sql, compiler.parameters.of(sql))

    def _compiler(self, window: Window) -> SpansetCompiler:
        return SpansetCompiler(self.store.catalogue, window, plan=self.plan)

    # -- spans judged alone

    def _judged_alone(self) -> _Judged | None:
        """Return the condition of matching spans.

        None where a span cannot be judged without its trace.
        """
        stages = self.pipeline.stages
        only_filters = all(isinstance(s, ast.Filter | ast.Select) for s in stages)
        if not only_filters or not isinstance(stages[0], ast.Filter):
            return None

        compiler = self._compiler(self.window)
        fields = compiler.fields()
        filters = [s for s in stages if isinstance(s, ast.Filter)]
        conditions = [compiler.in_window(), *(fields.filter(f) for f in filters)]
        needs = fields.needs
        if needs.trace or needs.children or needs.nested_sets:
            return None
        return _Judged(compiler, needs, " AND ".join(f"({c})" for c in conditions))

    def _by_spans(self, judged: _Judged) -> list[UUID]:
        """Return the traces with the newest matching spans; ties go by the id."""
        limit = self.request.limit
        look = limit * _SPANS_PER_TRACE
        compiler = judged.compiler
        source = f"FROM {compiler.source(judged.needs)} WHERE {judged.condition}"
        newest = "ORDER BY s.start_ns DESC, s.trace_id"
        while look <= _MAX_SPANS:
            rows = self._execute(
                compiler, f"SELECT s.trace_id {source} {newest} LIMIT {look:d}"
            ).fetchall()
            traces = list(dict.fromkeys(row[0] for row in rows))
            if len(traces) >= limit or len(rows) < look:
                return traces[:limit]
            look *= 8

        newest = "GROUP BY s.trace_id ORDER BY max(s.start_ns) DESC, s.trace_id"
        body = f"SELECT s.trace_id {source} {newest} LIMIT {limit:d}"
        return [row[0] for row in self._execute(compiler, body).fetchall()]

    def _describe_spans(self, traces: list[UUID], judged: _Judged) -> list[dict[str, Any]]:
        """Read the spans of the traces once, each with whether it matches."""
        compiler = judged.compiler
        columns = self._attribute_columns(judged.needs, compiler)
        ids = compiler.parameters.add([str(t) for t in traces])
        cursor = self._execute(
            compiler,
            f"SELECT s.rowid AS rid, list_position({ids}::UUID[], s.trace_id) AS trace, "
            f"{CORE}, ({judged.condition}) AS matched{columns.sql} "
            f"FROM {compiler.source(judged.needs)} "
            f"WHERE s.trace_id IN (SELECT unnest({ids}::UUID[])) "
            f"AND {self._started(traces)}",
        )
        described = [Trace(t) for t in traces]
        for row in _dicts(cursor):
            trace = described[row["trace"] - 1]
            trace.add(row)
            if row["matched"]:
                trace.sets = trace.sets or [Spanset()]
                trace.sets[0].rows.append(row)
        return [self._shown(t, columns) for t in described if t.sets]

    def _started(self, traces: list[UUID]) -> str:
        """Return the condition of when the spans of these traces started."""
        extent = extents.of_traces(self.con, traces)
        return "FALSE" if extent is None else "s.start_ns BETWEEN {:d} AND {:d}".format(*extent)

    # -- whole traces

    def _by_traces(self) -> list[UUID]:
        """Return the matching traces, evaluating the newest first and only as many as needed."""
        limit = self.request.limit
        matches: list[tuple[int, UUID]] = []
        for traces, oldest_ns in self._portions():
            self._choose(traces)
            matches = sorted([*matches, *self._matches()], key=lambda m: (-m[0], m[1]))[:limit]
            if len(matches) == limit and matches[-1][0] > oldest_ns:
                break
        return [trace for _, trace in matches]

    def _portions(self) -> Iterator[tuple[list[UUID], int]]:
        """Yield traces of the window, newest first, and the last start (unix ns) of the oldest."""
        size = max(self.request.limit * _TRACES_PER_TRACE, _MIN_TRACES)
        offset = 0
        while True:
            rows = windows.newest_traces(self.con, self.window, size, offset)
            if rows:
                yield [trace for trace, _ in rows], rows[-1][1]
            if len(rows) < size:
                return
            offset += size
            size *= 8

    def _choose(self, traces: list[UUID]) -> None:
        """Copy the spans of these traces into the temporary table `chosen`."""
        columns = ", ".join(quote(c) for c in self._columns())
        self.con.execute(
            f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT {columns} FROM spans s "
            f"WHERE s.trace_id IN (SELECT unnest($ids::UUID[])) AND {self._started(traces)}",
            {"ids": [str(t) for t in traces]},
        )

    def _columns(self) -> list[str]:
        """Return the columns that the chosen spans need to be matched and shown."""
        columns = dict.fromkeys(_CORE_COLUMNS)
        references = [
            n for n in walk(self.request.query) if isinstance(n, ast.Attribute | ast.Intrinsic)
        ]
        for reference in references:
            scopes = scopes_of(reference, self.store.catalogue)
            columns |= dict.fromkeys(f"{s}s" for s in scopes if s in ("event", "link"))
            if isinstance(reference, ast.Attribute) and "span" in scopes:
                key = reference.name
                for kind in self.store.catalogue.types("span", key):
                    columns[key if PROMOTED.get(key) == kind else f"a_{kind}"] = None
        return list(columns)

    def _matches(self) -> list[tuple[int, UUID]]:
        """Return (start of its newest matching span in unix ns, trace) of the chosen that match."""
        compiler = self._compiler(Window(source="chosen"))
        relation = compiler.pipeline(self.pipeline)
        newest = "GROUP BY trace_id ORDER BY max(start_ns) DESC, trace_id"
        body = (
            f"SELECT max(start_ns), trace_id FROM ({relation.sql}) "
            f"{newest} LIMIT {self.request.limit:d}"
        )
        return self._execute(compiler, body).fetchall()

    def _describe_traces(self, traces: list[UUID]) -> list[dict[str, Any]]:
        self._choose(traces)
        compiler = self._compiler(Window(source="chosen"))
        relation = compiler.pipeline(self.pipeline)
        extra = "".join(f", {c}" for c in relation.extra_columns)
        body = f"SELECT DISTINCT rid, start_ns{extra} FROM ({relation.sql}) ORDER BY start_ns, rid"
        matches = self._execute(compiler, body).fetchall()

        compiler = self._compiler(Window(source="chosen"))
        needs = compiler.fields().needs
        columns = self._attribute_columns(needs, compiler)
        ids = compiler.parameters.add([str(t) for t in traces])
        cursor = self._execute(
            compiler,
            f"SELECT s.rowid AS rid, list_position({ids}::UUID[], s.trace_id) AS trace, "
            f"{CORE}{columns.sql} FROM {compiler.source(needs)}",
        )
        rows = {row["rid"]: row for row in _dicts(cursor)}
        described = [Trace(t) for t in traces]
        for row in rows.values():
            described[row["trace"] - 1].add(row)
        _add_spansets(described, matches, rows, relation)
        return [self._shown(t, columns) for t in described if t.sets]

    # -- the answer

    def _attribute_columns(self, needs: Needs, compiler: SpansetCompiler) -> AttributeColumns:
        return AttributeColumns(
            self.store.catalogue, self.plan.references, needs, compiler.parameters
        )

    def _shown(self, trace: Trace, columns: AttributeColumns) -> dict[str, Any]:
        names = {r.name for r in self.plan.references if isinstance(r, ast.Intrinsic)}
        if "span:childCount" in names or any(n.startswith("nestedSet") for n in names):
            trace.number()
        return trace.as_tempo(
            self.request.spans_per_set, lambda row: self.shown.of(columns.row(row))
        )


def _dicts(cursor: duckdb.DuckDBPyConnection) -> Iterator[Row]:
    names = [d[0] for d in cursor.description]
    return (dict(zip(names, row, strict=True)) for row in cursor.fetchall())


def _add_spansets(
    traces: list[Trace], matches: list[tuple], rows: dict[int, Row], relation: Relation
) -> None:
    """Add matches by trace, then by group, in the order of their first span."""
    sets: dict[tuple, Spanset] = {}
    groups = len(relation.groups)
    for rid, _, *extra in matches:
        row = rows[rid]
        key = (row["trace"], *extra)
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
            traces[row["trace"] - 1].sets.append(sets[key])
        sets[key].rows.append(row)
