"""TraceQL metrics: spans -> time series, with Tempo's steps, buckets, labels and gaps.

Interval i covers (start + i*step, start + (i+1)*step] and is stamped with its end. A range is aligned to the step and
begins one
step early. Counts are 0 where nothing happened; the other aggregates have no sample there. Quantiles come from power-
of-two
buckets and exist for integers and durations only, as in Tempo.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np

from lab.tracestore.errors import BadRequest, TraceQLInvalid
from lab.tracestore.seriesops import Label, Series, apply_second, combine
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fields import Slots
from lab.tracestore.traceql.parse import parse
from lab.tracestore.traceql.spansets import SpansetCompiler, Window
from lab.tracestore.traceql.text import attribute_text
from lab.tracestore.traceql.validate import validate
from lab.tracestore.values import any_value, trace_hex

MAX_INTERVALS = 10_000
MAX_SERIES = 1_000
_SECOND = 10**9


@dataclass(frozen=True)
class MetricsRequest:
    """A metrics query over (start, end] in unix ns. `step_ns` is the whole range for an instant query.

    `exact` asks for exact quantiles, also of floats: ours, not Tempo's.
    """

    query: ast.Query
    start_ns: int
    end_ns: int
    step_ns: int
    instant: bool = False
    exact: bool = False
    exemplars: int = 0

    @property
    def intervals(self) -> int:
        return 1 if self.instant else (self.end_ns - self.start_ns) // self.step_ns

    def timestamp_ms(self, interval: int) -> int:
        return (
            self.end_ns if self.instant else self.start_ns + (interval + 1) * self.step_ns
        ) // 10**6


def read_metrics_query(text: str) -> ast.Query:
    """Parse and check a metrics query. Raises TraceQLError."""
    query = validate(parse(text))
    if query.metrics is None:
        raise TraceQLInvalid("not a metrics query: add a function such as `| rate()`", query=text)
    return query


def default_step_ns(start_ns: int, end_ns: int) -> int:
    """About 240 points, on Tempo's grid: 50 ms under a minute, else whole 1 s, 5 s, 15 s, 1 m, 5 m or 1 h."""
    delta = end_ns - start_ns
    baseline = delta // 240
    if delta < 60 * _SECOND:
        grid = 50 * 10**6
        return baseline // grid * grid if baseline > grid else grid
    for grid_s in (3600, 300, 60, 15, 5, 1):
        grid = grid_s * _SECOND
        if baseline > grid:
            return baseline // grid * grid
    return _SECOND


def range_request(
    query: ast.Query, start_ns: int, end_ns: int, step_ns: int, **options: Any
) -> MetricsRequest:
    """A range query, aligned as Tempo aligns it: outwards to the step, and one step earlier. Raises BadRequest."""
    start = start_ns - start_ns % step_ns
    end = end_ns + -end_ns % step_ns
    start = start - step_ns if start > step_ns else start
    request = MetricsRequest(query, start, end, step_ns, **options)
    if request.intervals > MAX_INTERVALS + 1:
        raise BadRequest(
            f"the step is too small: more than {MAX_INTERVALS} intervals",
            got=f"{request.intervals}",
            fix="give a larger step",
        )
    return request


def evaluate(
    store: SpanStore, con: duckdb.DuckDBPyConnection, request: MetricsRequest
) -> list[Series]:
    """The series of a metrics query, in the order of their labels."""
    series = _expression(store, con, request, request.query.metrics)
    series = apply_second(series, request.query.second)
    shown = [s for s in series if not np.isnan(s.values).all()]
    return sorted(shown, key=lambda s: s.sort_key())


def _expression(
    store: SpanStore,
    con: duckdb.DuckDBPyConnection,
    request: MetricsRequest,
    node: ast.MetricsExpression,
) -> list[Series]:
    if isinstance(node, ast.MetricsMath):
        sides = [
            side if isinstance(side, int | float) else _expression(store, con, request, side)
            for side in (node.left, node.right)
        ]
        return combine(node.op, *sides)
    return apply_second(_Aggregation(store, con, request, node).series(), node.second)


class _Aggregation:
    """One `{...} | function() by (...)`."""

    def __init__(
        self,
        store: SpanStore,
        con: duckdb.DuckDBPyConnection,
        request: MetricsRequest,
        query: ast.MetricsQuery,
    ) -> None:
        self.con, self.request, self.query, self.aggregate = con, request, query, query.aggregate
        self.compiler = SpansetCompiler(store.catalogue, Window(request.start_ns, request.end_ns))
        self.fields = self.compiler.fields()
        self.labels = [attribute_text(a) for a in self.aggregate.by]
        self.by = [self.fields.slots(a) for a in self.aggregate.by]

    def series(self) -> list[Series]:
        match self.aggregate.op:
            case "rate" | "count_over_time":
                return self._counts()
            case "histogram_over_time":
                return self._histogram()
            case "quantile_over_time":
                return self._exact_quantiles() if self.request.exact else self._quantiles()
        return self._of_values()

    # -- SQL

    def _rows(
        self, columns: list[str], *, where: str = "TRUE", limit: int | None = None
    ) -> list[tuple]:
        """Rows of (interval, every slot of every label, columns...), grouped by all that is no aggregate."""
        request, p = self.request, self.compiler.parameters
        start, end = f"{p.add(request.start_ns)}::BIGINT", f"{p.add(request.end_ns)}::BIGINT"
        interval = (
            "0"
            if request.instant
            else f"(s.start_ns - {start} - 1) // {p.add(request.step_ns)}::BIGINT"
        )
        by = [sql for slots in self.by for sql in slots.values()]
        stages = self.query.pipeline.stages
        if all(isinstance(s, ast.Filter) for s in stages):
            condition = " AND ".join(f"({self.fields.condition(s.condition)})" for s in stages)
            source = self.compiler.source(self.fields.needs)
        else:
            whole = SpansetCompiler(self.compiler.catalogue, Window(), p)
            relation = whole.pipeline(self.query.pipeline)
            self.compiler.ctes += whole.ctes
            condition = "TRUE"
            source = self.compiler.source(self.fields.needs)
            source += f" JOIN (SELECT DISTINCT rid FROM ({relation.sql})) b ON b.rid = s.rowid"
        inside = f"s.start_ns > {start} AND s.start_ns <= {end}"
        selected = ", ".join([f"{interval} AS i", *by, *columns])
        body = f"SELECT {selected} FROM {source} WHERE {inside} AND {condition} AND {where} GROUP BY ALL"
        sql = self.compiler.statement(body)
        return self.con.execute(sql, p.of(sql)).fetchall()

    def _label_values(self, row: tuple) -> tuple[Label, ...]:
        """Labels of one row: nil ones are dropped, but where all are nil the first says so."""
        found, position = [], 1
        for name, slots in zip(self.labels, self.by, strict=True):
            for type_name in slots:
                if row[position] is not None and not any(label.name == name for label in found):
                    found.append(Label.of(name, any_value(type_name, row[position])))
                position += 1
        if not found and self.labels:
            found = [Label.of(self.labels[0], {"stringValue": "nil"})]
        return tuple(found)

    @property
    def _first_column(self) -> int:
        return 1 + sum(len(slots) for slots in self.by)

    def _collect(
        self,
        rows: list[tuple],
        fill: float,
        labels: Callable[[tuple], tuple[Label, ...]],
        value: Callable[[tuple], float],
    ) -> list[Series]:
        found: dict[tuple[Label, ...], Series] = {}
        for row in rows:
            key = labels(row)
            series = found.get(key)
            if series is None:
                if len(found) >= MAX_SERIES:
                    continue
                series = found[key] = Series(key, np.full(self.request.intervals, fill))
            series.values[row[0]] = value(row)
        return list(found.values())

    def _name(self) -> tuple[Label, ...]:
        return (Label.of("__name__", {"stringValue": self.aggregate.op}),)

    def _grouped_labels(self, row: tuple) -> tuple[Label, ...]:
        return self._label_values(row) if self.labels else self._name()

    # -- functions

    def _counts(self) -> list[Series]:
        at = self._first_column
        extra = (
            ["arg_min(s.trace_id, s.start_ns)", "min(s.start_ns)"] if self.request.exemplars else []
        )
        rows = self._rows(["count(*)", *extra])
        scale = 1.0 if self.aggregate.op == "count_over_time" else _SECOND / self.request.step_ns
        series = self._collect(rows, 0.0, self._grouped_labels, lambda row: row[at] * scale)
        if not series and not self.labels:
            series = [Series(self._name(), np.zeros(self.request.intervals))]
        return self._with_exemplars(series, rows, lambda row: row[at] * scale) if extra else series

    def _of_values(self) -> list[Series]:
        """min, max, avg and sum over time; durations of spans in seconds."""
        at = self._first_column
        value = self._value()
        function = self.aggregate.op.split("_")[0]
        extra = (
            ["arg_min(s.trace_id, s.start_ns)", "min(s.start_ns)"] if self.request.exemplars else []
        )
        rows = [row for row in self._rows([f"{function}({value})", *extra]) if row[at] is not None]
        series = self._collect(rows, math.nan, self._grouped_labels, lambda row: float(row[at]))
        return self._with_exemplars(series, rows, lambda row: float(row[at])) if extra else series

    def _value(self) -> str:
        attribute = self.aggregate.attribute
        if attribute == ast.Intrinsic("span:duration"):
            return f"s.dur_ns / {_SECOND}.0"
        parts = [f"({sql})::DOUBLE" for t, sql in self._numbers(attribute).items()]
        return f"coalesce({', '.join(parts)})" if parts else "NULL::DOUBLE"

    def _numbers(self, attribute: ast.Attribute | ast.Intrinsic) -> Slots:
        return {
            t: sql for t, sql in self.fields.slots(attribute).items() if t in ("int", "dbl", "dur")
        }

    def _buckets(self) -> list[tuple]:
        """Rows with (power-of-two bucket, count) at the end. Floats have no bucket; values under 2 are left out."""
        rows: list[tuple] = []
        for type_name, sql in self._numbers(self.aggregate.attribute).items():
            if type_name == "dbl":
                continue
            unit = _SECOND if type_name == "dur" else 1
            found = self._rows([f"{_log2_bucket(sql)} AS bucket", "count(*)"], where=f"{sql} >= 2")
            rows += [(*row[:-2], 2.0 ** row[-2] / unit, row[-1]) for row in found]
        return rows

    def _histogram(self) -> list[Series]:
        def labels(row: tuple) -> tuple[Label, ...]:
            named = self._label_values(row) if self.labels else ()
            return (*named, Label.of("__bucket", {"doubleValue": row[-2]}))

        return self._collect(self._buckets(), 0.0, labels, lambda row: row[-1])

    def _quantiles(self) -> list[Series]:
        histograms: dict[tuple[Label, ...], dict[int, list[tuple[float, int]]]] = {}
        for row in self._buckets():
            labels = self._label_values(row) if self.labels else ()
            histograms.setdefault(labels, {}).setdefault(row[0], []).append((row[-2], row[-1]))
        found = []
        for labels, intervals in histograms.items():
            for q in self.aggregate.quantiles:
                values = np.zeros(self.request.intervals)
                for i, buckets in intervals.items():
                    values[i] = log2_quantile(q, sorted(buckets))
                found.append(Series((*labels, Label.of("p", {"doubleValue": q})), values))
        return found[:MAX_SERIES]

    def _exact_quantiles(self) -> list[Series]:
        """Quantiles by linear interpolation between the values themselves; no value where there is no span."""
        value = self._value()
        columns = [f"quantile_cont({value}, {q!r})" for q in map(float, self.aggregate.quantiles)]
        at = self._first_column
        rows = self._rows(columns, where=f"{value} IS NOT NULL")
        found = []
        for n, q in enumerate(self.aggregate.quantiles):

            def labels(row: tuple, q: float = q) -> tuple[Label, ...]:
                named = self._label_values(row) if self.labels else ()
                return (
                    *named,
                    Label.of("p", {"doubleValue": q}),
                    Label.of("exact", {"boolValue": True}),
                )

            found += self._collect(rows, math.nan, labels, lambda row, n=n: float(row[at + n]))
        return found

    def _with_exemplars(
        self, series: list[Series], rows: list[tuple], value: Callable[[tuple], float]
    ) -> list[Series]:
        """Up to `exemplars` of the first trace in an interval of a series, newest intervals first."""
        left = self.request.exemplars
        by_labels: dict[tuple[Label, ...], list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda r: -r[0])[:left]:
            exemplar = {
                "labels": [{"key": "trace:id", "value": {"stringValue": trace_hex(row[-2])}}],
                "value": value(row),
                "timestampMs": str(row[-1] // 10**6),
            }
            by_labels.setdefault(self._grouped_labels(row), []).append(exemplar)
        return [replace(s, exemplars=by_labels.get(s.labels, [])) for s in series]


def _log2_bucket(sql: str) -> str:
    """ceil(log2(x)) of an integer x >= 2, exact also where the logarithm of a double is not."""
    rough = f"ceil(log2({sql}))::INTEGER"
    up = f"({sql} > (1::BIGINT << least({rough}, 62)))::INTEGER"
    down = f"({sql} <= (1::BIGINT << ({rough} - 1)))::INTEGER"
    return f"({rough} + {up} - {down})"


def log2_quantile(q: float, buckets: list[tuple[float, int]]) -> float:
    """Tempo's quantile of sorted (upper bound, count) buckets: exponential interpolation inside a power of two."""
    total = sum(count for _, count in buckets)
    if total == 0:
        return 0.0
    wanted = max(math.ceil(q * total), 1)
    seen = at = 0
    while at < len(buckets) - 1 and seen + buckets[at][1] <= wanted:
        seen += buckets[at][1]
        if seen == wanted:
            return buckets[at][0]
        at += 1
    if seen + buckets[at][1] == wanted:
        return buckets[at][0]
    share = (wanted - seen) / buckets[at][1]
    high = math.log2(buckets[at][0])
    low = math.log2(buckets[at - 1][0]) if at > 0 else high - 1
    return 2 ** (low + (high - low) * share)
