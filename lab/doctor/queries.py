"""Faults of PromQL: of dashboards' panels, rules, KEDA triggers, and plain expressions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser as promql

from lab.doctor.findings import Finding
from lab.doctor.names import PERCENT, Known, Metric, metric_of
from lab.engines import PARTS, Engine

Faults = Iterator[tuple[str, ...]]  # of (check, evidence) or (check, evidence, hint)

RATES = ("rate", "irate", "increase")
# What may be done with a counter, or its buckets, without a rate.
COUNTS = ("absent", "absent_over_time", "changes", "resets", "timestamp", "present_over_time")
PRESENCE = ("count", "group")
MANY = ("topk", "bottomk", "count_values", "limitk", "limit_ratio")
AVERAGES = (
    "avg",
    "sum",
    "quantile",
    "stddev",
    "avg_over_time",
    "sum_over_time",
    "quantile_over_time",
)
PARTITIONS = {"engine", "dp_rank", "GPU_I_ID"}  # labels of parts whose shares may be added up
COMPARISONS = (">", ">=", "<", "<=", "==", "!=")
MIN_RANGE_S = 30.0
PYTHON_CLIENTS = ("vllm", "sglang", "trtllm")  # which write 1.0 for 1
MISTAKEN_LABELS = {"finish_reason": "finished_reason", "model": "model_name"}  # of vLLM
WRONG_UNITS = {  # a panel's unit -> a metric that has another one
    "ms": r"_seconds(_bucket|_sum)?$",
    "s": r"_(ms|milliseconds)(_bucket|_sum)?$",
}
VARIABLE = "grafana_"
_NOTHING_KNOWN = Known()
TOTAL = re.compile(r"(?i)\b(total|cumulative)\b")  # in a panel's title
_VARIABLE_OR_QUOTED = re.compile(
    r"\$\{(\w+)(?::\w+)?\}|\$(\w+)|\[\[(\w+)\]\]"
    r"|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`"
)
_DURATION = re.compile(r"\[[^\]\[]*\$[^\]]*\]|\boffset\s+\$\{?\w+\}?")
_DURATION_VARIABLE = re.compile(r"\$\{?\w+(?::\w+)?\}?")


@dataclass(frozen=True)
class Query:
    """An expression, and where it is used: in a panel, an alert, a record, a scaler or alone.

    `unit` is a panel's; `threshold` a scaler's.
    """

    target: str
    where: str
    expr: str
    use: str = "plain"
    unit: str = ""
    threshold: float | None = None


@dataclass(frozen=True)
class _Use:
    """A selector in a query: its metric, and the nodes above it, the outermost first."""

    metric: Metric
    selector: Any
    above: tuple[Any, ...]

    def is_in(self, *names: str) -> bool:
        """Return whether it is in one of these functions, aggregations or binary operations."""
        return any(_name(node) in names for node in self.above)

    def numbers(self, *operators: str) -> list[float]:
        """Return the numbers that one of these binary operations above it has on a side."""
        operations = [node for node in self.above if _name(node) in operators]
        sides = [_plain(side) for node in operations for side in (node.lhs, node.rhs)]
        return [side.val for side in sides if isinstance(side, promql.NumberLiteral)]


def check_query(query: Query, known: Known) -> list[Finding]:
    """Return the faults of one expression, each once."""
    try:
        tree = parse(query.expr)
    except ValueError as e:
        return [Finding("syntax", query.target, query.where, f"{_short(query.expr)}: {e}")]

    uses = [use for use in _uses(tree, known) if not use.metric.name.startswith(VARIABLE)]
    uses = [use for use in uses if not _is_fallback(use, uses)]
    faults = {fault[:2]: fault for fault in _faults(query, tree, uses, known)}
    if any(use.metric.name in known.names for use in uses):  # a native histogram
        faults = {key: fault for key, fault in faults.items() if key[0] != "bucket-missing"}
    return [Finding(check, query.target, query.where, *rest) for check, *rest in faults.values()]


def _is_fallback(use: _Use, uses: list[_Use]) -> bool:
    """Return whether it is another version's name beside that of this one: `new or old`."""
    if use.metric.fault != "dead-name" or not use.metric.question:
        return False
    is_alternative = use.is_in("or") or not use.selector.name
    answer = (use.metric.question, use.metric.part)
    return is_alternative and any(
        (each.metric.question, each.metric.part) == answer and not each.metric.fault
        for each in uses
    )


def _faults(query: Query, tree: Any, uses: list[_Use], known: Known) -> Faults:
    for check_selector in SELECTOR_CHECKS:
        for use in uses:
            yield from check_selector(query, use, known)
    for node, above in _walk(tree):
        for check_node in NODE_CHECKS:
            yield from check_node(node, above)
    if query.use == "scaler" and not _is_single(tree):
        yield "scaler-many-series", _short(query.expr)


def parse(expr: str) -> Any:
    """Return the syntax tree of an expression that may have Grafana's variables.

    Raises ValueError, with the parser's message, for anything else.
    """
    errors = []
    for stand_in in (f"{VARIABLE}{{}}", "1", ""):
        try:
            return promql.parse(_without_variables(expr, stand_in))
        except ValueError as e:
            errors.append(e)
    raise errors[0]


def _without_variables(expr: str, stand_in: str) -> str:
    """Return an expression with values in place of variables outside of quoted text."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[3]
        return stand_in.format(name) if name else match[0]

    expr = _DURATION.sub(lambda match: _DURATION_VARIABLE.sub("5m", match[0]), expr)
    return _VARIABLE_OR_QUOTED.sub(replaced, expr)


def _children(node: Any) -> list[Any]:
    if isinstance(node, promql.Call):
        return list(node.args)
    names = ("vector_selector", "lhs", "rhs", "expr")
    return [getattr(node, name) for name in names if hasattr(node, name)]


def _walk(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield each node with those above it, without parentheses."""
    if not isinstance(node, promql.ParenExpr):
        yield node, above
        above = (*above, node)
    for child in _children(node):
        yield from _walk(child, above)


def _uses(node: Any, known: Known = _NOTHING_KNOWN) -> list[_Use]:
    return [
        _Use(metric_of(name, known), each, above)
        for each, above in _walk(node)
        if isinstance(each, promql.VectorSelector)
        for name in _names_of(each)
    ]


def _names_of(selector: Any) -> list[str]:
    if selector.name:
        return [selector.name]
    for matcher in selector.matchers.matchers:
        if matcher.name == "__name__" and matcher.op in (promql.MatchOp.Equal, promql.MatchOp.Re):
            return [name for name in matcher.value.split("|") if re.fullmatch(r"[\w:]+", name)]
    return []


def _name(node: Any) -> str:
    """Return the name of a function, or the operator of an aggregation or a binary operation."""
    if isinstance(node, promql.Call):
        return str(node.func.name)
    is_operation = isinstance(node, promql.AggregateExpr | promql.BinaryExpr)
    return str(node.op) if is_operation else ""


def _plain(node: Any) -> Any:
    """Return a node without parentheses around it."""
    while isinstance(node, promql.ParenExpr):
        node = node.expr
    return node


def _by(node: Any) -> set[str]:
    """Return the labels of an aggregation's `by`."""
    is_aggregation = isinstance(node, promql.AggregateExpr)
    return set(node.modifier.labels) if is_aggregation and node.modifier and _is_by(node) else set()


def _is_by(node: Any) -> bool:
    return bool(node.modifier.type == promql.AggModifierType.By)


def _short(text: str, size: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= size else text[: size - 3] + "..."


# Checks of a selector.


def _names(query: Query, use: _Use, known: Known) -> Faults:
    metric = use.metric
    if metric.part == "_created" and not use.is_in("time", "timestamp"):
        yield "created-counted", f"{metric.name} is used as a number"
    elif metric.fault:
        yield metric.fault, f"{metric.name}: {metric.why}", metric.hint


def _labels(query: Query, use: _Use, known: Known) -> Faults:
    metric = use.metric
    if metric.engine is None or metric.engine.key != "vllm" or "_vllm" in metric.name:
        return
    own = known.labels.get(metric.name, frozenset())
    used = {matcher.name for matcher in use.selector.matchers.matchers}.union(*map(_by, use.above))
    for label, right in MISTAKEN_LABELS.items():
        if label in used - own:
            yield "wrong-label", f"{metric.name} has the label {right}, not {label}", f"use {right}"


def _counters(query: Query, use: _Use, known: Known) -> Faults:
    """Yield a counter, or a part of a histogram, that is used without a rate."""
    metric = use.metric
    is_counter = metric.kind == "counter" and not metric.part
    if not is_counter and (metric.kind != "histogram" or metric.part not in PARTS):
        return
    if use.is_in("delta", "idelta", "deriv"):
        yield "delta-of-counter", f"{metric.name} is a counter"
    elif use.is_in(*RATES, *COUNTS, *PRESENCE) or _is_compared_with_its_past(use):
        return
    elif not _is_only_a_condition(use):
        is_a_total = query.use == "panel" and TOTAL.search(query.where) is not None
        yield from _lifetime(use, is_a_total)


def _lifetime(use: _Use, is_a_total: bool) -> Faults:
    """Yield what is made of all that a counter without a rate has counted since its start.

    A panel whose title says that it shows a total may show a counter.
    """
    metric = use.metric
    if metric.part == "_bucket":
        if use.is_in("histogram_quantile"):
            yield "lifetime-quantile", f"histogram_quantile() of {metric.name} without rate()"
        return

    # A part of an unknown metric may be anything.
    is_known = metric.engine is not None or not metric.part
    division = next((node for node in reversed(use.above) if _name(node) == "/"), None)
    if division is not None and _is_of_raw(division):
        if is_known or _is_mean_of_one(division):
            yield "lifetime-average", f"{metric.name} is divided without rate()"
    elif is_known and not is_a_total:
        yield "counter-raw", f"{metric.name} is a counter, used without rate()"


def _is_of_raw(division: Any) -> bool:
    """Return whether both sides of a division are made of counters without a rate."""
    for side in (division.lhs, division.rhs):
        uses = _uses(side)
        kinds = {use.metric.kind for use in uses}
        if not uses or any(use.is_in(*RATES) for use in uses):
            return False
        if not kinds <= {"counter", "histogram"}:
            return False
    return True


def _is_mean_of_one(node: Any) -> bool:
    """Return whether a division is of a _sum by the _count of the same metric."""
    sums = {use.metric.name for use in _uses(node.lhs)}
    return sums == {use.metric.name.removesuffix("_count") + "_sum" for use in _uses(node.rhs)}


def _is_compared_with_its_past(use: _Use) -> bool:
    return any(
        other.metric.name == use.metric.name and other.selector.offset is not None
        for node in use.above
        if isinstance(node, promql.BinaryExpr)
        for other in _uses(node)
    )


def _is_only_a_condition(use: _Use) -> bool:
    """Return whether a selector is the right side of `and` or `unless`."""
    text = str(use.selector)
    return any(
        _name(node) in ("and", "unless") and text not in {str(each) for each, _ in _walk(node.lhs)}
        for node in use.above
    )


def _gauges(query: Query, use: _Use, known: Known) -> Faults:
    metric = use.metric
    if metric.kind in ("gauge", "share") and not metric.part and use.is_in(*RATES):
        yield "rate-of-gauge", f"{metric.name} is a gauge"


def _share_sums(query: Query, use: _Use, known: Known) -> Faults:
    for place, node in enumerate(use.above if use.metric.kind == "share" else ()):
        if _name(node) not in ("sum", "sum_over_time") or _by(node) & PARTITIONS:
            continue
        is_compared = any(_name(inner) in COMPARISONS for inner in use.above[place + 1 :])
        if not is_compared and not any(map(_is_mean, use.above[:place])):
            yield "share-summed", f"sum of {use.metric.name}, a share"


def _is_mean(node: Any) -> bool:
    """Return whether a node divides by a number of series."""
    if _name(node) != "/":
        return False
    is_number = _is_number(node.rhs)
    return is_number or any(_name(each) == "count" for each, _ in _walk(node.rhs))


def _is_zero_to_one(use: _Use) -> bool:
    """Return whether a query takes the value of a share as it is, not times 100."""
    metric = use.metric
    if metric.kind != "share" or (PERCENT.search(metric.name) and not metric.engine):
        return False
    return not use.is_in(*PRESENCE) and all(abs(factor) < 10 for factor in use.numbers("*"))


def _share_scale(query: Query, use: _Use, known: Known) -> Faults:
    """Yield a threshold or a unit of 0 to 100 for a share of 0 to 1."""
    name = use.metric.name
    if not _is_zero_to_one(use):
        return
    bound = next((number for number in use.numbers(*COMPARISONS) if number > 1), None)
    if bound is not None:
        yield "share-scale", f"{name} is compared with {bound:g}"
    elif query.use == "scaler" and (query.threshold or 0) > 1:
        yield "share-scale", f"{name} is scaled by the threshold {query.threshold:g}"
    elif query.unit == "percent" and not use.is_in("/"):
        yield "share-scale", f"{name} is drawn with the unit percent (0-100)"


def _unit(query: Query, use: _Use, known: Known) -> Faults:
    """Yield a duration in seconds that is drawn as milliseconds, or the other way round."""
    name = use.metric.name
    pattern = WRONG_UNITS.get(query.unit)
    scales = [number for number in use.numbers("*", "/") if number not in (0, 1, 2)]
    if pattern and re.search(pattern, name) and not scales:
        yield "wrong-unit", f"{name} is drawn with the unit {query.unit}"


def _ranges(query: Query, use: _Use, known: Known) -> Faults:
    for node in use.above if use.is_in(*RATES) else ():
        if isinstance(node, promql.MatrixSelector) and node.range.total_seconds() < MIN_RANGE_S:
            yield "range-too-short", f"{use.metric.name}[{node.range.total_seconds():g}s]"


def _subqueries(query: Query, use: _Use, known: Known) -> Faults:
    for place, node in enumerate(use.above):
        outside = {_name(each) for each in use.above[:place]}
        inside = {_name(each) for each in use.above[place + 1 :]}
        is_rated = not outside.isdisjoint(RATES) and inside.isdisjoint(RATES)
        if isinstance(node, promql.SubqueryExpr) and is_rated and "sum" in inside:
            yield "rate-after-sum", _short(str(node))


def _bounds(query: Query, use: _Use, known: Known) -> Faults:
    """Yield a `le` that no bucket has: by a store's buckets, or an engine's defaults."""
    metric = use.metric
    if metric.part != "_bucket" or metric.engine is None:
        return
    there = known.bounds.get(metric.name)
    for matcher in use.selector.matchers.matchers:
        value = matcher.value
        if matcher.name != "le" or matcher.op != promql.MatchOp.Equal or "$" in value:
            continue
        if why := _not_among(there, value) if there else _not_usual(metric, metric.engine, value):
            yield "no-such-bound", f'{metric.name}{{le="{value}"}}: {why}'
            return


def _not_among(bounds: Iterable[str], value: str) -> str:
    return "" if value in bounds else f"the bounds are {', '.join(sorted(bounds, key=float))}"


def _not_usual(metric: Metric, engine: Engine, value: str) -> str:
    """Return why an engine has no such bound by default, '' if it does or may."""
    if value == "+Inf":
        return ""
    try:
        bound = float(value)
    except ValueError:
        return "it is not a number"
    if engine.key in PYTHON_CLIENTS and value != repr(bound):
        return f"it is exposed as {bound!r}"
    defaults = engine.bounds.get(metric.question, (bound,))
    texts = ", ".join(f"{each:g}" for each in defaults)
    return "" if bound in defaults else f"the default bounds are {texts}"


def _busy(query: Query, use: _Use, known: Known) -> Faults:
    """Yield a rate of seconds that nothing divides."""
    metric = use.metric
    is_time = metric.part == "_sum" and metric.kind == "histogram" and "second" in metric.name
    if not is_time or metric.engine is None or use.is_in("/"):
        return
    if query.unit in ("s", "ms", "dtdurations"):
        yield "busy-seconds", f"rate of {metric.name} with the unit seconds"


# Checks of a node.


def _quantile(node: Any, above: tuple[Any, ...]) -> Faults:
    """Yield a quantile outside of 0 to 1, and one that is averaged or added up."""
    if _name(node) != "histogram_quantile":
        return
    quantile = _plain(node.args[0])
    if isinstance(quantile, promql.NumberLiteral) and not 0 <= quantile.val <= 1:
        yield "quantile-range", f"histogram_quantile({quantile.val:g}, ...)"
    yield from _buckets(node.args[1])
    for outer in above:
        if _name(outer) in AVERAGES:
            yield "quantile-of-quantiles", f"{_name(outer)} of histogram_quantile()"


def _buckets(node: Any) -> Faults:
    """Yield what is not made of buckets, or loses their bounds, inside of histogram_quantile()."""
    metrics = [use.metric for use in _uses(node)]
    for metric in metrics:
        if not metric.part and metric.kind == "histogram" and metric.engine:
            yield "bucket-missing", f"histogram_quantile() of {metric.name}"
    if any(metric.part == "_bucket" for metric in metrics):
        for each in _aggregations(node):
            if not _keeps(each, "le"):
                yield "le-lost", _short(str(each))


def _aggregations(node: Any) -> list[Any]:
    return [each for each, _ in _walk(node) if isinstance(each, promql.AggregateExpr)]


def _keeps(node: Any, label: str) -> bool:
    """Return whether an aggregation keeps a label, or may: a variable can stand for any."""
    if node.modifier is None:
        return False
    labels = node.modifier.labels
    is_open = any(each.startswith(VARIABLE) for each in labels)
    return is_open or (label in labels) == _is_by(node)


def _two_sides(node: Any, above: tuple[Any, ...]) -> Faults:
    """Yield operations on two metrics whose series do not match each other."""
    if _name(node) not in ("/", "-", "*", "+"):
        return
    left = _uses(node.lhs)
    right = _uses(node.rhs)
    is_matched = node.modifier is not None and node.modifier.matching is not None
    if is_matched or len(left) != 1 or len(right) != 1:
        return
    kept = _kept_on_both(node, left[0], right[0])
    if kept and _name(node) == "/" and left[0].metric.name == right[0].metric.name:
        evidence = f"both sides keep the label {', '.join(kept)}: {_short(str(node))}"
        yield "labels-on-both-sides", evidence
    else:
        yield from _labels_differ(node, left[0].metric, right[0].metric)


def _kept_on_both(node: Any, left: _Use, right: _Use) -> list[str]:
    """Return the labels that the sides restrict differently, and keep."""
    restricted = [
        {(matcher.name, matcher.value, str(matcher.op)) for matcher in side.matchers.matchers}
        for side in (left.selector, right.selector)
    ]
    labels = sorted({name for name, _, _ in restricted[0] ^ restricted[1]})
    around = [*_aggregations(node.lhs), *_aggregations(node.rhs)]
    return [label for label in labels if all(_keeps(each, label) for each in around)]


def _labels_differ(node: Any, left: Metric, right: Metric) -> Faults:
    groups = [_groups(node.lhs), _groups(node.rhs)]
    families = {_family(left), _family(right)}
    if groups == [None, None]:
        if len(families) == 2 and "" not in families:
            yield "labels-differ", f"{left.name} and {right.name} have different labels"
    elif None not in groups and groups[0] != groups[1]:
        names = [", ".join(sorted(group or ())) or "no label" for group in groups]
        evidence = f"the sides have {names[0]} and {names[1]}: {_short(str(node))}"
        yield "labels-differ", evidence


def _groups(node: Any) -> frozenset[str] | None:
    """Return the labels that the outermost aggregation leaves; None if it is not known."""
    node = _plain(node)
    while isinstance(node, promql.BinaryExpr) and _is_number(node.rhs):
        node = _plain(node.lhs)
    if not isinstance(node, promql.AggregateExpr) or _name(node) in ("topk", "bottomk"):
        return None
    if node.modifier is None:
        return frozenset()
    labels = frozenset(node.modifier.labels)
    is_open = not _is_by(node) or any(label.startswith(VARIABLE) for label in labels)
    return None if is_open else labels


def _is_number(node: Any) -> bool:
    return isinstance(_plain(node), promql.NumberLiteral)


def _family(metric: Metric) -> str:
    """Return what decides a metric's labels: its engine, or who else exports it."""
    if metric.engine is not None:
        return metric.engine.key
    match = re.match(r"http_requests_total|DCGM_FI|node_|kube_", metric.name)
    return match[0] if match else ""


def _mean_of_means(node: Any, above: tuple[Any, ...]) -> Faults:
    """Yield an unweighted mean of means."""
    if _name(node) != "avg" or _name(_plain(node.expr)) != "/":
        return
    inner = _plain(node.expr)
    parts = [{use.metric.part for use in _uses(side)} for side in (inner.lhs, inner.rhs)]
    if parts == [{"_sum"}, {"_count"}] and all(use.is_in(*RATES) for use in _uses(inner)):
        yield "mean-of-means", _short(str(node))


def _is_single(node: Any) -> bool:
    """Return whether an expression has one result at most."""
    node = _plain(node)
    name = _name(node)
    if isinstance(node, promql.NumberLiteral) or name in ("scalar", "vector", "absent", "time"):
        return True
    if isinstance(node, promql.AggregateExpr):
        return node.modifier is None and name not in MANY
    children = _children(node)
    if isinstance(node, promql.Call):
        children = children[-1:]
    enough = all if name == "or" else any
    return bool(children) and enough(_is_single(child) for child in children)


# Each gets a query, a use of a metric in it, and the known series.
SELECTOR_CHECKS: tuple[Callable[[Query, _Use, Known], Faults], ...] = (
    _names,
    _labels,
    _counters,
    _gauges,
    _share_sums,
    _share_scale,
    _unit,
    _ranges,
    _subqueries,
    _bounds,
    _busy,
)
# Each gets a node of a query's tree, and the nodes above it.
NODE_CHECKS: tuple[Callable[[Any, tuple[Any, ...]], Faults], ...] = (
    _quantile,
    _two_sides,
    _mean_of_means,
)
