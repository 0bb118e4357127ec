"""A metrics query and the spans that it is about."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from lab.tracestore import windows
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fetch import fetch_plan
from lab.tracestore.traceql.spansets import SpansetCompiler

_SAMPLE = 20_000  # spans among which exemplars are looked for


@dataclass(frozen=True)
class MetricsRequest:
    """A metrics query over (start, end] in unix ns.

    `step_ns` is the whole range for an instant query.

    `exact` requests exact quantiles, also of floats: ours, not Tempo's.
    """

    query: ast.MetricsQuery
    start_ns: int
    end_ns: int
    step_ns: int
    instant: bool = False
    exact: bool = False
    exemplars: int = 0

    @property
    def intervals(self) -> int:
        """The number of intervals."""
        return 1 if self.instant else (self.end_ns - self.start_ns) // self.step_ns

    def timestamp_ms(self, interval: int) -> int:
        """Return the time (unix ms) that an interval is stamped with."""
        end_ns = self.end_ns if self.instant else self.start_ns + (interval + 1) * self.step_ns
        return end_ns // 10**6


class Spans:
    """The spans of a metrics query: those that its pipeline leaves and that start in the range."""

    def __init__(
        self, store: SpanStore, con: duckdb.DuckDBPyConnection, request: MetricsRequest
    ) -> None:
        """Find the traces that overlap the range, and prepare the compiler."""
        self.con = con
        self.request = request
        self.query = request.query
        self._estimated_spans = store.estimated_spans
        # The grid of a range may reach beyond the last time that a span can have.
        self._end_ns = min(request.end_ns, windows.END_OF_TIME)
        window = windows.overlapping(con, request.start_ns, self._end_ns)
        plan = fetch_plan(request.query)
        self.compiler = SpansetCompiler(store.catalogue, window, plan=plan)
        self.fields = self.compiler.fields()
        self._from: str | None = None

    @property
    def interval(self) -> str:
        """SQL of the number of the interval that a span starts in."""
        if self.request.instant:
            return "0"
        add = self.compiler.parameters.add
        start = f"{add(self.request.start_ns)}::BIGINT"
        return f"(s.start_ns - {start} - 1) // {add(self.request.step_ns)}::BIGINT"

    def sample(self) -> str:
        """Return `source` of a sample of the spans, where reading all again would take long."""
        count = self._estimated_spans
        if count <= _SAMPLE or "FROM spans s " not in self.source():
            return self.source()
        share = f"TABLESAMPLE system({100 * _SAMPLE / count:.3f} PERCENT)"
        return self.source().replace("FROM spans s ", f"FROM spans s {share} ", 1)

    def source(self) -> str:
        """Return FROM ... WHERE ... of the spans.

        All fields that a statement uses must be compiled before.
        """
        request = self.request
        add = self.compiler.parameters.add
        inside = (
            f"s.start_ns > {add(request.start_ns)}::BIGINT "
            f"AND s.start_ns <= {add(self._end_ns)}::BIGINT"
        )
        stages = self.query.pipeline.stages
        filters = [s for s in stages if isinstance(s, ast.Filter)]
        if len(filters) == len(stages):
            conditions = " AND ".join(f"({self.fields.filter(s)})" for s in filters)
            return f"FROM {self.compiler.source(self.fields.needs)} WHERE {inside} AND {conditions}"

        if self._from is None:
            relation = self.compiler.pipeline(self.query.pipeline)
            self._from = self.compiler.name(f"SELECT DISTINCT rid FROM ({relation.sql})")
        joined = f"{self.compiler.source(self.fields.needs)} JOIN {self._from} b ON b.rid = s.rowid"
        return f"FROM {joined} WHERE {inside}"

    def insert(self, table: str, body: str) -> None:
        """Run a SELECT over the spans into a temporary table."""
        self.compiler.prepare(self.con)
        sql = f"INSERT INTO {table} " + self.compiler.statement(body)
        self.con.execute(sql, self.compiler.parameters.of(sql))

    def execute(self, body: str) -> list[tuple]:
        """Run a SELECT over the spans."""
        self.compiler.prepare(self.con)
        sql = self.compiler.statement(body)
        return self.con.execute(sql, self.compiler.parameters.of(sql)).fetchall()
