"""Faults of PromQL: of dashboards' panels, rules, KEDA triggers, and plain expressions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import promql_parser as promql

from lab.doctor.findings import Finding
from lab.doctor.names import PERCENT, Known, Metric, metric_of

RATES = ("rate", "irate", "increase")
# What may be done with a counter, or its buckets, without a rate.
COUNTS = ("absent", "absent_over_time", "changes", "resets", "timestamp", "present_over_time")
PRESENCE = ("count", "group")
AVERAGES = ("avg", "sum", "quantile", "stddev")
AVERAGES_OVER_TIME = ("avg_over_time", "sum_over_time", "quantile_over_time")
COMPARISONS = (">", ">=", "<", "<=", "==", "!=")
MIN_RANGE_S = 30.0
PYTHON_CLIENTS = ("vllm", "sglang", "trtllm")  # which write 1.0 for 1
MISTAKEN_LABELS = {"finish_reason": "finished_reason", "model": "model_name"}  # of vLLM
VARIABLE = "grafana_"
_VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)|\[\[(\w+)\]\]")
_QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`")
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

    def is_in_call(self, *functions: str) -> bool:
        return any(_function(node) in functions for node in self.above)

    def is_in_aggregate(self, *operators: str) -> bool:
        return any(_operator(node) in operators for node in self.above)


def check_query(query: Query, known: Known | None = None) -> list[Finding]:
    """Return the faults of one expression, each once."""
    try:
        tree = parse(query.expr)
    except ValueError as e:
        return [_found("syntax", query, f"{_short(query.expr)}: {e}")]
    uses = [use for use in _uses(tree, known) if not use.metric.name.startswith(VARIABLE)]
    findings: list[Finding] = []
    for check in (_names, _labels, _counters, _gauges, _shares, _ranges, _bounds, _busy):
        for use in uses:
            findings += check(query, use, known)
    for node, above in _walk(tree):
        for inner in (_histogram_quantile, _binary, _aggregate):
            findings += inner(query, node, above)
    if query.use == "scaler":
        findings += _scaler(query, tree)
    if known and any(use.metric.name in known.names for use in uses):
        findings = [each for each in findings if each.check != "bucket-missing"]  # a native one
    return list({(each.check, each.evidence): each for each in findings}.values())


def parse(expr: str) -> Any:
    """Return the syntax tree of an expression that may have Grafana's variables.

    Raises ValueError, with the parser's message, for anything else.
    """
    error: ValueError | None = None
    for stand_in in (rf"{VARIABLE}\g<name>", "1", ""):
        try:
            return promql.parse(_without_variables(expr, stand_in))
        except ValueError as e:
            error = error or e
    raise ValueError(f"{error}")


def _without_variables(expr: str, stand_in: str) -> str:
    """Return an expression with values in place of variables outside of quoted text."""
    expr = _DURATION.sub(lambda m: _DURATION_VARIABLE.sub("5m", m[0]), expr)
    pieces = []
    end = 0
    for quoted in _QUOTED.finditer(expr):
        pieces += [_replaced(expr[end : quoted.start()], stand_in), quoted[0]]
        end = quoted.end()
    return "".join([*pieces, _replaced(expr[end:], stand_in)])


def _replaced(text: str, stand_in: str) -> str:
    return _VARIABLE.sub(lambda m: stand_in.replace(r"\g<name>", m[1] or m[2] or m[3]), text)


def _children(node: Any) -> list[Any]:
    if isinstance(node, promql.MatrixSelector):
        return [node.vector_selector]
    if isinstance(node, promql.BinaryExpr):
        return [node.lhs, node.rhs]
    if isinstance(node, promql.Call):
        return list(node.args)
    return [node.expr] if hasattr(node, "expr") else []


def _walk(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield each node with those above it, without parentheses."""
    if not isinstance(node, promql.ParenExpr):
        yield node, above
        above = (*above, node)
    for child in _children(node):
        yield from _walk(child, above)


def _uses(node: Any, known: Known | None = None) -> list[_Use]:
    uses = []
    for each, above in _walk(node):
        if isinstance(each, promql.VectorSelector):
            for name in _names_of(each):
                uses.append(_Use(metric_of(name, known), each, above))
    return uses


def _names_of(selector: Any) -> list[str]:
    if selector.name:
        return [selector.name]
    for matcher in selector.matchers.matchers:
        if matcher.name == "__name__" and matcher.op in (promql.MatchOp.Equal, promql.MatchOp.Re):
            return [name for name in matcher.value.split("|") if re.fullmatch(r"[\w:]+", name)]
    return []


def _function(node: Any) -> str:
    return node.func.name if isinstance(node, promql.Call) else ""


def _operator(node: Any) -> str:
    if isinstance(node, promql.AggregateExpr):
        return str(node.op)
    return ""


def _is_binary(node: Any, *operators: str) -> bool:
    return isinstance(node, promql.BinaryExpr) and (not operators or str(node.op) in operators)


def _plain(node: Any) -> Any:
    """Return a node without parentheses around it."""
    while isinstance(node, promql.ParenExpr):
        node = node.expr
    return node


def _found(check: str, query: Query, evidence: str, hint: str = "") -> Finding:
    return Finding(check, query.target, query.where, evidence, hint)


def _short(text: str, size: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= size else text[: size - 3] + "..."


# Checks of a selector.


def _names(query: Query, use: _Use, known: Known | None) -> list[Finding]:
    metric = use.metric
    if metric.part == "_created" and not use.is_in_call("time", "timestamp"):
        return [_found("created-counted", query, f"{metric.name} is used as a number")]
    if not metric.fault:
        return []
    return [_found(metric.fault, query, f"{metric.name}: {metric.why}", metric.hint)]


def _labels(query: Query, use: _Use, known: Known | None) -> list[Finding]:
    metric = use.metric
    if metric.engine is None or metric.engine.key != "vllm" or "_vllm" in metric.name:
        return []
    own = known.labels.get(metric.name, frozenset()) if known else frozenset()
    findings = []
    for label in _labels_used(use):
        right = MISTAKEN_LABELS.get(label)
        if right and label not in own:
            evidence = f"{metric.name} has the label {right}, not {label}"
            findings.append(_found("wrong-label", query, evidence, f"use {right}"))
    return findings


def _labels_used(use: _Use) -> set[str]:
    labels = {matcher.name for matcher in use.selector.matchers.matchers}
    for node in use.above:
        if isinstance(node, promql.AggregateExpr) and node.modifier and _is_by(node):
            labels |= set(node.modifier.labels)
    return labels


def _counters(query: Query, use: _Use, known: Known | None) -> list[Finding]:
    """Return a counter, or a part of a histogram, that is used without a rate."""
    metric = use.metric
    is_part = metric.kind == "histogram" and metric.part in ("_sum", "_count", "_bucket")
    if not is_part and (metric.kind != "counter" or metric.part):
        return []
    if use.is_in_call("delta", "idelta", "deriv"):
        return [_found("delta-of-counter", query, f"{metric.name} is a counter")]
    if use.is_in_call(*RATES, *COUNTS) or use.is_in_aggregate(*PRESENCE):
        return []
    if _is_compared_with_its_past(use) or _is_only_a_condition(use):
        return []
    if metric.part == "_bucket":
        if not use.is_in_call("histogram_quantile"):
            return []
        evidence = f"histogram_quantile() of {metric.name} without rate()"
        return [_found("lifetime-quantile", query, evidence)]
    divided = [node for node in use.above if _is_binary(node, "/")]
    if divided and all(_is_raw(side) for side in (divided[-1].lhs, divided[-1].rhs)):
        if is_part and metric.engine is None and not _is_mean_of_one(divided[-1]):
            return []
        return [_found("lifetime-average", query, f"{metric.name} is divided without rate()")]
    if is_part and metric.engine is None:
        return []
    return [_found("counter-raw", query, f"{metric.name} is a counter, used without rate()")]


def _is_raw(node: Any) -> bool:
    """Return whether a side of a division is made of counters without a rate."""
    uses = _uses(node)
    kinds = {"counter", "histogram"}
    return bool(uses) and all(
        use.metric.kind in kinds and not use.is_in_call(*RATES) for use in uses
    )


def _is_mean_of_one(node: Any) -> bool:
    """Return whether a division is of a _sum by the _count of the same metric."""
    names = [{use.metric.name for use in _uses(side)} for side in (node.lhs, node.rhs)]
    return names[0] == {name.removesuffix("_count") + "_sum" for name in names[1]}


def _is_compared_with_its_past(use: _Use) -> bool:
    return any(
        other.metric.name == use.metric.name and other.selector.offset is not None
        for node in use.above
        if isinstance(node, promql.BinaryExpr)
        for other in _uses(node)
    )


def _is_only_a_condition(use: _Use) -> bool:
    """Return whether a selector is the right side of `and` or `unless`."""
    return any(
        _is_binary(node, "and", "unless") and not _contains(node.lhs, use.selector)
        for node in use.above
    )


def _contains(node: Any, other: Any) -> bool:
    text = str(other)
    return any(str(each) == text for each, _ in _walk(node))


def _gauges(query: Query, use: _Use, known: Known | None) -> list[Finding]:
    metric = use.metric
    if metric.kind in ("gauge", "share") and not metric.part and use.is_in_call(*RATES):
        return [_found("rate-of-gauge", query, f"{metric.name} is a gauge")]
    return []


def _shares(query: Query, use: _Use, known: Known | None) -> list[Finding]:
    if use.metric.kind != "share":
        return []
    findings = []
    for place, node in enumerate(use.above):
        summed = _operator(node) == "sum" or _function(node) == "sum_over_time"
        if not summed or _keeps_engines_apart(node):
            continue
        around = use.above[:place]
        inside = use.above[place + 1 :]
        compared = any(_is_binary(n, *COMPARISONS) for n in inside)
        if not compared and not any(_is_mean(n) for n in around):
            evidence = f"sum of {use.metric.name}, a share"
            findings.append(_found("share-summed", query, evidence))
    if not PERCENT.search(use.metric.name) or use.metric.engine:
        findings += _share_scale(query, use)
    return findings


def _keeps_engines_apart(node: Any) -> bool:
    if not isinstance(node, promql.AggregateExpr) or node.modifier is None or not _is_by(node):
        return False
    labels = set(node.modifier.labels)
    return bool(labels & {"engine", "dp_rank"}) or "GPU_I_ID" in labels


def _is_mean(node: Any) -> bool:
    """Return whether a node divides by a number of series."""
    if not _is_binary(node, "/"):
        return False
    divisor = _plain(node.rhs)
    return (
        _operator(divisor) == "count"
        or isinstance(divisor, promql.NumberLiteral)
        or bool([each for each, _ in _walk(divisor) if _operator(each) == "count"])
    )


def _share_scale(query: Query, use: _Use) -> list[Finding]:
    """Return a threshold or a unit of 0 to 100 for a share of 0 to 1."""
    if use.is_in_aggregate(*PRESENCE):
        return []
    numbers = [n for node in use.above for n in _factors(node)]
    if any(abs(number) >= 10 for number in numbers):
        return []
    name = use.metric.name
    for node in use.above:
        if _is_binary(node, *COMPARISONS):
            for side in (_plain(node.lhs), _plain(node.rhs)):
                if isinstance(side, promql.NumberLiteral) and side.val > 1:
                    return [_found("share-scale", query, f"{name} is compared with {side.val:g}")]
    if query.use == "scaler" and query.threshold is not None and query.threshold > 1:
        evidence = f"{name} is scaled by the threshold {query.threshold:g}"
        return [_found("share-scale", query, evidence)]
    divided = any(_is_binary(n, "/") for n in use.above)
    if query.unit == "percent" and not divided:
        return [_found("share-scale", query, f"{name} is drawn with the unit percent (0-100)")]
    return []


def _factors(node: Any) -> list[float]:
    if not _is_binary(node, "*"):
        return []
    sides = (_plain(node.lhs), _plain(node.rhs))
    return [side.val for side in sides if isinstance(side, promql.NumberLiteral)]


def _ranges(query: Query, use: _Use, known: Known | None) -> list[Finding]:
    findings = []
    for place, node in enumerate(use.above):
        if isinstance(node, promql.MatrixSelector) and use.is_in_call(*RATES):
            range_s = node.range.total_seconds()
            if range_s < MIN_RANGE_S:
                evidence = f"{use.metric.name}[{range_s:g}s]"
                findings.append(_found("range-too-short", query, evidence))
        if isinstance(node, promql.SubqueryExpr):
            outside = any(_function(each) in RATES for each in use.above[:place])
            inside = use.above[place + 1 :]
            rated = any(_function(each) in RATES for each in inside)
            if outside and not rated and any(_operator(each) == "sum" for each in inside):
                findings.append(_found("rate-after-sum", query, _short(str(node))))
    return findings


def _bounds(query: Query, use: _Use, known: Known | None) -> list[Finding]:
    """Return a `le` that no bucket has: by a store's buckets, or an engine's defaults."""
    metric = use.metric
    if metric.part != "_bucket" or metric.engine is None:
        return []
    for matcher in use.selector.matchers.matchers:
        if matcher.name != "le" or matcher.op != promql.MatchOp.Equal or "$" in matcher.value:
            continue
        why = _why_no_bound(metric, matcher.value, known)
        if why:
            return [_found("no-such-bound", query, f'{metric.name}{{le="{matcher.value}"}}: {why}')]
    return []


def _why_no_bound(metric: Metric, value: str, known: Known | None) -> str:
    assert metric.engine is not None
    there = known.bounds.get(metric.name) if known else None
    if there:
        return "" if value in there else f"the bounds are {', '.join(sorted(there, key=float))}"
    if value == "+Inf":
        return ""
    try:
        bound = float(value)
    except ValueError:
        return "it is not a number"
    if metric.engine.key in PYTHON_CLIENTS and value != repr(bound):
        return f"it is exposed as {bound!r}"
    defaults = metric.engine.bounds.get(metric.question)
    if defaults and bound not in defaults:
        return f"the default bounds are {', '.join(f'{each:g}' for each in defaults)}"
    return ""


def _busy(query: Query, use: _Use, known: Known | None) -> list[Finding]:
    """Return a rate of seconds that nothing divides."""
    metric = use.metric
    is_time = metric.part == "_sum" and metric.kind == "histogram" and "second" in metric.name
    if not is_time or metric.engine is None or query.unit not in ("s", "ms", "dtdurations"):
        return []
    if any(_is_binary(node, "/") for node in use.above):
        return []
    return [_found("busy-seconds", query, f"rate of {metric.name} with the unit seconds")]


# Checks of a node.


def _histogram_quantile(query: Query, node: Any, above: tuple[Any, ...]) -> list[Finding]:
    if _function(node) != "histogram_quantile":
        return []
    findings = []
    quantile = _plain(node.args[0])
    if isinstance(quantile, promql.NumberLiteral) and not 0 <= quantile.val <= 1:
        findings.append(
            _found("quantile-range", query, f"histogram_quantile({quantile.val:g}, ...)")
        )
    uses = _uses(node.args[1])
    for use in uses:
        if not use.metric.part and use.metric.kind == "histogram" and use.metric.engine:
            evidence = f"histogram_quantile() of {use.metric.name}"
            findings.append(_found("bucket-missing", query, evidence))
    if any(use.metric.part == "_bucket" for use in uses):
        for inner, _ in _walk(node.args[1]):
            if isinstance(inner, promql.AggregateExpr) and not _keeps(inner, "le"):
                findings.append(_found("le-lost", query, _short(str(inner))))
    for outer in above:
        if _operator(outer) in AVERAGES or _function(outer) in AVERAGES_OVER_TIME:
            evidence = f"{_operator(outer) or _function(outer)} of histogram_quantile()"
            findings.append(_found("quantile-of-quantiles", query, evidence))
    return findings


def _is_by(node: Any) -> bool:
    return node.modifier.type == promql.AggModifierType.By


def _keeps(node: Any, label: str) -> bool:
    """Return whether an aggregation keeps a label, or may: a variable can stand for any."""
    if node.modifier is None:
        return False
    labels = node.modifier.labels
    if any(each.startswith(VARIABLE) for each in labels):
        return True
    return (label in labels) == _is_by(node)


def _binary(query: Query, node: Any, above: tuple[Any, ...]) -> list[Finding]:
    if not _is_binary(node, "/", "-", "*", "+"):
        return []
    if node.modifier is not None and node.modifier.matching is not None:
        return []
    left = _uses(node.lhs)
    right = _uses(node.rhs)
    if len(left) != 1 or len(right) != 1:
        return []
    if _is_binary(node, "/") and left[0].metric.name == right[0].metric.name:
        differing = _differing(left[0].selector, right[0].selector)
        kept = [
            label
            for label in differing
            if _survives(node.lhs, label) and _survives(node.rhs, label)
        ]
        if kept:
            evidence = f"both sides keep the label {', '.join(kept)}: {_short(str(node))}"
            return [_found("labels-on-both-sides", query, evidence)]
    return _labels_differ(query, node, left[0], right[0])


def _differing(left: Any, right: Any) -> list[str]:
    """Return the labels that only one of two selectors restricts, or each in its own way."""
    sides = [
        {(m.name, m.value, str(m.op)) for m in side.matchers.matchers} for side in (left, right)
    ]
    return sorted({name for name, _, _ in sides[0] ^ sides[1]})


def _survives(node: Any, label: str) -> bool:
    return all(
        _keeps(each, label) for each, _ in _walk(node) if isinstance(each, promql.AggregateExpr)
    )


def _labels_differ(query: Query, node: Any, left: _Use, right: _Use) -> list[Finding]:
    groups = [_groups(side) for side in (node.lhs, node.rhs)]
    if None not in groups and groups[0] != groups[1]:
        names = [", ".join(sorted(group or ())) or "no label" for group in groups]
        evidence = f"the sides have {names[0]} and {names[1]}: {_short(str(node))}"
        return [_found("labels-differ", query, evidence)]
    if groups == [None, None]:
        families = [_family(use.metric) for use in (left, right)]
        if families[0] != families[1] and "" not in families:
            evidence = f"{left.metric.name} and {right.metric.name} have different labels"
            return [_found("labels-differ", query, evidence)]
    return []


def _groups(node: Any) -> frozenset[str] | None:
    """Return the labels that the outermost aggregation leaves; None if it is not known."""
    node = _plain(node)
    while isinstance(node, promql.BinaryExpr) and isinstance(
        _plain(node.rhs), promql.NumberLiteral
    ):
        node = _plain(node.lhs)
    if not isinstance(node, promql.AggregateExpr) or _operator(node) in ("topk", "bottomk"):
        return None
    if node.modifier is None:
        return frozenset()
    labels = node.modifier.labels
    if not _is_by(node) or any(label.startswith(VARIABLE) for label in labels):
        return None
    return frozenset(labels)


def _family(metric: Metric) -> str:
    """Return what decides a metric's labels: its engine, or who else exports it."""
    if metric.engine is not None:
        return metric.engine.key
    match = re.match(r"http_requests_total|DCGM_FI|node_|kube_", metric.name)
    return match[0] if match else ""


def _aggregate(query: Query, node: Any, above: tuple[Any, ...]) -> list[Finding]:
    """Return an unweighted mean of means."""
    if _operator(node) != "avg":
        return []
    inner = _plain(node.expr)
    if not _is_binary(inner, "/"):
        return []
    parts = [{use.metric.part for use in _uses(side)} for side in (inner.lhs, inner.rhs)]
    if parts == [{"_sum"}, {"_count"}] and all(use.is_in_call(*RATES) for use in _uses(inner)):
        return [_found("mean-of-means", query, _short(str(node)))]
    return []


def _scaler(query: Query, tree: Any) -> list[Finding]:
    if _is_single(tree):
        return []
    return [_found("scaler-many-series", query, _short(query.expr))]


def _is_single(node: Any) -> bool:
    """Return whether an expression has one result at most."""
    node = _plain(node)
    if isinstance(node, promql.NumberLiteral):
        return True
    if isinstance(node, promql.AggregateExpr):
        many = _operator(node) in ("topk", "bottomk", "count_values", "limitk", "limit_ratio")
        return node.modifier is None and not many
    if isinstance(node, promql.BinaryExpr):
        sides = [_is_single(node.lhs), _is_single(node.rhs)]
        return all(sides) if _is_binary(node, "or") else any(sides)
    if isinstance(node, promql.Call):
        if node.func.name in ("scalar", "vector", "absent", "time"):
            return True
        return bool(node.args) and _is_single(node.args[-1])
    return any(_is_single(child) for child in _children(node))


def check_queries(queries: Sequence[Query], known: Known | None = None) -> list[Finding]:
    """Return the faults of several expressions."""
    return [finding for query in queries for finding in check_query(query, known)]
