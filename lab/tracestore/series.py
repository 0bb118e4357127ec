"""TraceQL metrics: spans -> time series, with Tempo's steps, buckets, labels and gaps.

Interval i covers (start + i*step, start + (i+1)*step] and is stamped with its end. A range is
aligned to the step and begins one step early. Counts are 0 where nothing happened; the other
aggregates have no sample there. Quantiles come from power-of-two buckets and exist for integers and
durations only, as in Tempo.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np

from lab.tracestore.compare import compare
from lab.tracestore.errors import BadRequest, TraceQLInvalid
from lab.tracestore.metrics_source import MetricsRequest, Spans
from lab.tracestore.seriesops import Label, Series, apply_second
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fetch import DEDICATED
from lab.tracestore.traceql.fields import Slots
from lab.tracestore.traceql.parse import parse
from lab.tracestore.traceql.text import attribute_text
from lab.tracestore.traceql.validate import validate
from lab.tracestore.values import any_value

MAX_INTERVALS = 10_000
MAX_SERIES = 1_000  # in an answer, as in Tempo
MAX_VALUES = 20_000_000  # series times intervals that are held at once
MAX_EXEMPLARS = 100
_EXAMPLES = 2  # spans read per exemplar: some are of the same trace or interval
_SECOND = 10**9
_NIL = {"stringValue": "nil"}
_TRACE_ID_TEXT = "ltrim(replace(exemplar_trace::VARCHAR, '-', ''), '0')"
_COMBINE: dict[str, Callable[[float, float], float]] = {
    "min": min,
    "max": max,
    "sum": operator.add,
}


@dataclass(frozen=True)
class MetricsResult:
    """The series of an answer; `message` says what is missing, if anything is."""

    series: list[Series]
    message: str = ""


def read_metrics_query(text: str) -> ast.MetricsQuery:
    """Parse and check a metrics query. Raises TraceQLError."""
    query = validate(parse(text))
    if not isinstance(query, ast.MetricsQuery):
        raise TraceQLInvalid("not a metrics query: add a function such as `| rate()`", query=text)
    return query


def default_step_ns(start_ns: int, end_ns: int) -> int:
    """Return a step for about 240 points, on Tempo's grid.

    It is a multiple of 50 ms below a minute, else of 1 s, 5 s, 15 s, 1 m, 5 m or 1 h.
    """
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


def exemplars_of(query: ast.Query, requested: int) -> int:
    """Return how many exemplars to answer with: the query's hint wins over the parameter.

    By default as many as allowed.
    """
    hint = query.hints.get("exemplars")
    if isinstance(hint, bool):
        return min(requested or MAX_EXEMPLARS, MAX_EXEMPLARS) if hint else 0
    if isinstance(hint, int):
        return min(max(hint, 0), MAX_EXEMPLARS)
    return min(requested or MAX_EXEMPLARS, MAX_EXEMPLARS)


def range_request(
    query: ast.MetricsQuery, start_ns: int, end_ns: int, step_ns: int, **options: Any
) -> MetricsRequest:
    """Return a range query, aligned as Tempo aligns it: outwards to the step, and one step earlier.

    Raises BadRequest.
    """
    if (end_ns - start_ns) // step_ns > MAX_INTERVALS:
        raise BadRequest(
            f"the step is too small: more than {MAX_INTERVALS} intervals",
            got=f"{(end_ns - start_ns) // step_ns}",
            fix="use a larger step",
        )

    start = start_ns - start_ns % step_ns
    end = end_ns + -end_ns % step_ns
    start = start - step_ns if start > step_ns else start
    return MetricsRequest(query, start, end, step_ns, **options)


def evaluate(
    store: SpanStore, con: duckdb.DuckDBPyConnection, request: MetricsRequest
) -> MetricsResult:
    """Return the series of a metrics query, in the order of their labels."""
    query = request.query
    spans = Spans(store, con, request)
    if isinstance(query.aggregate, ast.Compare):
        series = compare(spans, query.aggregate)
        complete = True
    else:
        aggregation = _Aggregation(spans, query.aggregate)
        series = apply_second(aggregation.series(), query.second)
        complete = aggregation.complete

    series = [s for s in series if not np.isnan(s.values).all()]
    series.sort(key=Series.sort_key)
    if complete and len(series) <= MAX_SERIES:
        return MetricsResult(series)
    limit = f"maximum series limit of {MAX_SERIES}"
    if not complete:
        limit = f"maximum of {MAX_VALUES} values"
    return MetricsResult(
        series[:MAX_SERIES], f"Response exceeds {limit}, a partial response is returned."
    )


@dataclass
class _Group:
    """One series under construction, and example spans (interval, trace, start ns, value) of it."""

    values: np.ndarray
    examples: list[tuple] = field(default_factory=list)


class _Aggregation:
    """One `{...} | function() by (...)`."""

    def __init__(self, spans: Spans, aggregate: ast.MetricsAggregate) -> None:
        self.spans = spans
        self.request = spans.request
        self.aggregate = aggregate
        self.complete = True
        self.labels = [attribute_text(a) for a in self.aggregate.by]
        self.by = [spans.fields.group_slots(a) for a in self.aggregate.by]
        self._first_column = 1 + sum(len(slots) for slots in self.by)  # behind interval and labels
        # Without arrays, which cannot be hashed, and floats, of which 0.0 and -0.0 are equal.
        slots = [slot for of_label in self.by for slot in of_label]
        self._is_hashable = not any(slot == "dbl" or slot.endswith("[]") for slot in slots)
        self._known_labels: dict[Hashable, tuple[Label, ...]] = {}

    def series(self) -> list[Series]:
        """Return the series before the second stage."""
        match self.aggregate.op:
            case "rate" | "count_over_time":
                return self._counts()
            case "histogram_over_time":
                return self._histogram()
            case "quantile_over_time":
                return self._exact_quantiles() if self.request.exact else self._quantiles()
        return self._of_values()

    # -- labels

    def _labels(self, row: tuple) -> tuple[Label, ...]:
        """Return the labels of a row.

        Absent values are left out, but for the first where all are absent: only histograms and
        quantiles, which have a label more, leave it out too.
        """
        values = row[1 : self._first_column]
        key = values if self._is_hashable else repr(values)
        known = self._known_labels.get(key)
        if known is None:
            known = self._known_labels[key] = self._new_labels(row)
        return known

    def _new_labels(self, row: tuple) -> tuple[Label, ...]:
        labels = []
        position = 1
        for name, reference, slots in zip(self.labels, self.aggregate.by, self.by, strict=True):
            values = row[position : position + len(slots)]
            position += len(slots)
            value = _label_value(slots, values)
            if value is None and isinstance(reference, ast.Attribute):
                value = _NIL if (reference.scope, reference.name) in DEDICATED else None
            if value is not None:
                labels.append(Label.of(name, value))
        may_be_empty = self.aggregate.op in ("histogram_over_time", "quantile_over_time")
        if not labels and self.labels and not may_be_empty:
            labels = [Label.of(self.labels[0], _NIL)]
        return tuple(labels)

    def _named(self, row: tuple) -> tuple[Label, ...]:
        if self.labels:
            return self._labels(row)
        return (Label.of("__name__", {"stringValue": self.aggregate.op}),)

    # -- rows

    def _rows(self, columns: list[str], where: str = "TRUE") -> list[tuple]:
        """Return rows of (interval, every slot of every label, columns ...).

        They are grouped by everything that is not an aggregate.
        """
        selected = self._selected(columns)
        return self.spans.execute(
            f"SELECT {selected} {self.spans.source()} AND {where} GROUP BY ALL"
        )

    def _selected(self, columns: list[str]) -> str:
        by = [sql for slots in self.by for sql in slots.values()]
        return ", ".join([f"{self.spans.interval} AS i", *by, *columns])

    def _collect(
        self,
        rows: Iterable[tuple],
        fill: float,
        labels: Callable[[tuple], tuple[Label, ...]],
        combine: Callable[[float, float], float] = operator.add,
    ) -> dict[tuple[Label, ...], _Group]:
        """Gather rows into series by their labels; rows of one series and interval are combined."""
        groups: dict[tuple[Label, ...], _Group] = {}
        column = self._first_column
        may_be_new = math.isnan(fill)
        for row in rows:
            if row[column] is None:
                continue
            key = labels(row)
            group = groups.get(key)
            if group is None:
                if len(groups) * self.request.intervals >= MAX_VALUES:
                    self.complete = False
                    continue
                group = groups[key] = _Group(np.full(self.request.intervals, fill))

            interval = row[0]
            value = float(row[column])
            before = group.values[interval]
            is_new = may_be_new and math.isnan(before)
            group.values[interval] = value if is_new else combine(before, value)
        return groups

    # -- functions

    def _counts(self) -> list[Series]:
        groups = self._collect(self._rows(["count(*)"]), 0.0, self._named)
        if not groups and not self.labels:
            groups = {self._named(()): _Group(np.zeros(self.request.intervals))}

        is_rate = self.aggregate.op == "rate"
        scale = _SECOND / self.request.step_ns if is_rate else 1.0
        for group in groups.values():
            group.values = group.values * scale
        self._add_examples(groups, self._named)
        return self._finished(groups)

    def _of_values(self) -> list[Series]:
        """Return min, max, avg or sum over time; durations of spans in seconds."""
        value = self._value()
        where = f"({value}) IS NOT NULL"
        function = self.aggregate.op.removesuffix("_over_time")
        if function == "avg":
            groups = self._averages(value, where)
        else:
            rows = self._rows([f"{function}({value})"], where)
            groups = self._collect(rows, math.nan, self._named, _COMBINE[function])
        self._add_examples(groups, self._named, value=value, where=where)
        return self._finished(groups)

    def _averages(self, value: str, where: str) -> dict[tuple[Label, ...], _Group]:
        rows = self._rows([f"sum({value})", f"count({value})"], where)
        counts = self._collect([(*row[:-2], row[-1]) for row in rows], 0.0, self._named)
        groups = self._collect([row[:-1] for row in rows], math.nan, self._named)
        for labels, group in groups.items():
            with np.errstate(invalid="ignore", divide="ignore"):
                group.values = group.values / counts[labels].values
        return groups

    def _value(self) -> str:
        attribute = self.aggregate.operand
        if attribute == ast.Intrinsic("span:duration"):
            return f"s.dur_ns / {_SECOND}.0"
        parts = [f"({sql})::DOUBLE" for sql in self._numbers(attribute).values()]
        return f"coalesce({', '.join(parts)})" if parts else "NULL::DOUBLE"

    def _numbers(self, attribute: ast.Attribute | ast.Intrinsic) -> Slots:
        slots = self.spans.fields.slots(attribute)
        return {t: sql for t, sql in slots.items() if t in ("int", "dbl", "dur")}

    def _buckets(self) -> _Buckets | None:
        """Return the buckets of the attribute. None for floats, which have none."""
        slots = self._numbers(self.aggregate.operand)
        if "dur" in slots:
            return _Buckets(slots["dur"], _SECOND)
        return _Buckets(slots["int"], 1) if "int" in slots else None

    def _histogram(self) -> list[Series]:
        buckets = self._buckets()
        if buckets is None:
            return []

        column = self._first_column + 1
        bounds: dict[int, Label] = {}

        def labels(row: tuple) -> tuple[Label, ...]:
            power = row[column]
            if power not in bounds:
                bounds[power] = Label.of("__bucket", {"doubleValue": buckets.upper_bound(power)})
            return (*self._labels(row), bounds[power])

        groups = self._collect(self._rows(["count(*)", buckets.power], buckets.where), 0.0, labels)
        self._add_examples(groups, labels, columns=["1", buckets.power], where=buckets.where)
        return self._finished(groups)

    def _quantiles(self) -> list[Series]:
        buckets = self._buckets()
        if buckets is None:
            return []

        counts: dict[tuple[Label, ...], dict[int, dict[float, int]]] = {}
        column = self._first_column
        for row in self._rows(["count(*)", buckets.power], buckets.where):
            in_interval = counts.setdefault(self._labels(row), {}).setdefault(row[0], {})
            upper = buckets.upper_bound(row[column + 1])
            in_interval[upper] = in_interval.get(upper, 0) + row[column]

        examples = {labels: _Group(np.zeros(0)) for labels in counts}
        self._add_examples(examples, self._labels, value=buckets.value, where=buckets.where)
        groups: dict[tuple[Label, ...], _Group] = {}
        for labels, intervals in counts.items():
            if len(groups) * self.request.intervals >= MAX_VALUES:
                self.complete = False
                break
            of_labels = [_Group(self._quantile(q, intervals)) for q in self.aggregate.quantiles]
            _assign_examples(of_labels, examples[labels].examples)
            for q, group in zip(self.aggregate.quantiles, of_labels, strict=True):
                groups[(*labels, Label.of("p", {"doubleValue": q}))] = group
        return self._finished(groups)

    def _quantile(self, q: float, intervals: dict[int, dict[float, int]]) -> np.ndarray:
        values = np.zeros(self.request.intervals)
        for i, counts in intervals.items():
            values[i] = log2_quantile(q, sorted(counts.items()))
        return values

    def _exact_quantiles(self) -> list[Series]:
        """Quantiles by linear interpolation between the values themselves.

        No value where there is no span.
        """
        value = self._value()
        column = self._first_column
        groups: dict[tuple[Label, ...], _Group] = {}
        for q in self.aggregate.quantiles:
            quantile = f"quantile_cont({value}, {float(q)!r})"
            rows = self._rows([quantile], f"({value}) IS NOT NULL")
            marks = (Label.of("p", {"doubleValue": q}), Label.of("exact", {"boolValue": True}))

            def labels(row: tuple, marks: tuple[Label, ...] = marks) -> tuple[Label, ...]:
                return (*self._labels(row), *marks)

            numbers = [row for row in rows if row[column] is not None]
            groups |= self._collect(numbers, math.nan, labels, lambda _, new: new)
        return self._finished(groups)

    # -- exemplars

    def _add_examples(
        self,
        groups: dict[tuple[Label, ...], _Group],
        labels: Callable[[tuple], tuple[Label, ...]],
        *,
        columns: Sequence[str] = ("1",),
        value: str = "NULL::DOUBLE",
        where: str = "TRUE",
    ) -> None:
        """Add example spans to the groups. Without a value, an exemplar has that of its sample.

        `columns` are what the rows of `labels` have behind the slots of the labels.
        """
        if not self.request.exemplars or not groups:
            return

        example = ["s.trace_id AS exemplar_trace", "s.start_ns", f"({value}) AS value"]
        selected = self._selected([*columns, *example])
        rows = self._drawn(selected, self.spans.sample(), where)
        if len(rows) < self.request.exemplars:  # rare spans are not in a sample
            rows = self._drawn(selected, self.spans.source(), where)
        for row in rows:
            group = groups.get(labels(row))
            if group is not None:
                group.examples.append((row[0], *row[-3:]))

    def _drawn(self, selected: str, source: str, where: str) -> list[tuple]:
        """Return some spans of `source`, drawn by a hash of their start."""
        limit = self.request.exemplars * _EXAMPLES
        drawn = f"SELECT {selected} {source} AND {where} ORDER BY hash(s.start_ns) LIMIT {limit:d}"
        # The ids of all spans as text would take longer than all the rest.
        return self.spans.execute(
            f"SELECT * REPLACE ({_TRACE_ID_TEXT} AS exemplar_trace) FROM ({drawn})"
        )

    def _finished(self, groups: dict[tuple[Label, ...], _Group]) -> list[Series]:
        """Return the series with exemplars: at most one per interval and one per trace."""
        left = self.request.exemplars
        traces: set[str] = set()
        finished = []
        for labels, group in groups.items():
            series = Series(labels, group.values)
            intervals: set[int] = set()
            for interval, trace, start_ns, value in sorted(group.examples, key=lambda e: e[2]):
                if left <= 0 or trace in traces or interval in intervals:
                    continue
                left -= 1
                traces.add(trace)
                intervals.add(interval)
                exemplar = self._exemplar(series, interval, trace, start_ns, value)
                series.exemplars.append(exemplar)
            finished.append(series)
        return finished

    def _exemplar(
        self, series: Series, interval: int, trace: str, start_ns: int, value: float | None
    ) -> dict[str, Any]:
        own = [label for label in series.labels if label.name in self.labels]
        labels = [{"key": label.name, "value": label.value} for label in own]
        labels.append({"key": "trace:id", "value": {"stringValue": trace}})
        return {
            "labels": labels,
            "value": float(series.values[interval]) if value is None else float(value),
            "timestampMs": str(start_ns // 10**6),
        }


def _label_value(slots: Slots, values: tuple) -> dict[str, Any] | None:
    """Return the AnyValue of the slot that has a value.

    An array of one is its element, a longer one the text nil.
    """
    for slot, value in zip(slots, values, strict=True):
        if value is None:
            continue
        if not slot.endswith("[]"):
            return any_value(slot, value)
        return any_value(slot[:-2], value[0]) if len(value) == 1 else _NIL
    return None


def _assign_examples(groups: list[_Group], examples: list[tuple]) -> None:
    """Give each example span to the quantile nearest to its value, in the span's interval."""
    for example in examples:
        distances = [abs(group.values[example[0]] - example[-1]) for group in groups]
        groups[int(np.argmin(distances))].examples.append(example)


@dataclass(frozen=True)
class _Buckets:
    """Buckets of powers of two, for the integers of an SQL expression; `unit` is 1 of a label.

    Values under 2 are left out.
    """

    sql: str
    unit: int

    @property
    def where(self) -> str:
        """SQL of whether a value has a bucket."""
        return f"{self.sql} >= 2"

    @property
    def value(self) -> str:
        """SQL of the value in units."""
        return f"({self.sql}) / {self.unit}.0"

    @property
    def power(self) -> str:
        """SQL of ceil(log2(x)), which is the number of bits of x - 1.

        A double's logarithm may round up to the next power, never down below one.
        """
        below = f"(({self.sql}) - 1)"
        rough = f"least(floor(log2({below}))::INTEGER, 62)"
        return f"({rough} + 1 - ((1::BIGINT << {rough}) > {below})::INTEGER)"

    def upper_bound(self, power: int) -> float:
        """Return the upper bound of a bucket in units."""
        return 2.0**power / self.unit


def log2_quantile(q: float, buckets: list[tuple[float, int]]) -> float:
    """Return Tempo's quantile of sorted (upper bound, count) buckets.

    Inside a power of two it is interpolated exponentially.
    """
    total = sum(count for _, count in buckets)
    if total == 0:
        return 0.0

    rank = max(math.ceil(q * total), 1)
    below = 0
    place = 0
    while place < len(buckets) - 1 and below + buckets[place][1] <= rank:
        below += buckets[place][1]
        if below == rank:
            return buckets[place][0]
        place += 1
    if below + buckets[place][1] == rank:
        return buckets[place][0]

    share = (rank - below) / buckets[place][1]
    high = math.log2(buckets[place][0])
    low = math.log2(buckets[place - 1][0]) if place > 0 else high - 1
    return 2 ** (low + (high - low) * share)
