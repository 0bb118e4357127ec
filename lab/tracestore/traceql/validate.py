"""Check that a parsed query makes sense, as Tempo does.

Types fit, filters are boolean, aggregates depend on the span. Raises TraceQLInvalid for what is
wrong, TraceQLUnsupported for what is right but answered neither here nor, mostly, by Tempo.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TypeVar

import duckdb

from lab.tracestore.errors import TraceQLInvalid, TraceQLUnsupported
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.ast import Type

Q = TypeVar("Q", bound=ast.Query)

MAX_GROUP_BY = 5
MAX_SPANSET_OPERATORS = 20
MAX_GROUPINGS = 5
MAX_ARITHMETIC_OPERATORS = 100

_INTRINSIC_TYPES = {
    "span:duration": Type.DURATION,
    "span:name": Type.STRING,
    "span:status": Type.STATUS,
    "span:statusMessage": Type.STRING,
    "span:kind": Type.KIND,
    "span:id": Type.STRING,
    "span:parentID": Type.STRING,
    "span:childCount": Type.INT,
    "trace:duration": Type.DURATION,
    "trace:rootName": Type.STRING,
    "trace:rootService": Type.STRING,
    "trace:id": Type.STRING,
    "event:name": Type.STRING,
    "event:timeSinceStart": Type.DURATION,
    "link:traceID": Type.STRING,
    "link:spanID": Type.STRING,
    "instrumentation:name": Type.ATTRIBUTE,
    "instrumentation:version": Type.ATTRIBUTE,
    "nestedSetLeft": Type.INT,
    "nestedSetRight": Type.INT,
    "nestedSetParent": Type.INT,
    "parent": Type.NIL,
}
_BOOLEAN_OPS = {"&&", "||", "=", "!=", "=~", "!~", ">", ">=", "<", "<="}
_EQUALITY = {"=", "!="}
_ORDER = {">", ">=", "<", "<="}
_OPS_OF = {
    Type.BOOLEAN: {"&&", "||"} | _EQUALITY,
    Type.INT: {"+", "-", "*", "/", "%", "^"} | _EQUALITY | _ORDER,
    Type.STRING: {"=~", "!~"} | _EQUALITY | _ORDER,
    Type.NIL: _EQUALITY,
    Type.STATUS: _EQUALITY,
    Type.KIND: _EQUALITY,
}
_OPS_OF[Type.FLOAT] = _OPS_OF[Type.DURATION] = _OPS_OF[Type.INT]


def implied_type(node: ast.FieldExpression | ast.ScalarExpression | ast.Stage) -> Type:
    """Return the type of an expression as far as the query tells.

    ATTRIBUTE where only the span can.
    """
    match node:
        case ast.Static():
            return node.type
        case ast.Attribute():
            return Type.ATTRIBUTE
        case ast.Intrinsic():
            return _INTRINSIC_TYPES[node.name]
        case ast.Exists():
            return Type.BOOLEAN
        case ast.Unary():
            return implied_type(node.operand)
        case ast.Aggregate():
            return Type.INT if node.operand is None else implied_type(node.operand)
        case ast.Pipeline():
            return implied_type(node.stages[-1])
        case ast.Binary() | ast.ScalarOp():
            if node.op in _BOOLEAN_OPS:
                return Type.BOOLEAN
            left = implied_type(node.left)
            return left if left is not Type.ATTRIBUTE else implied_type(node.right)
    raise TypeError(node)


def references_span(node: ast.FieldExpression) -> bool:
    """Whether anything in the expression depends on the span."""
    match node:
        case ast.Static():
            return False
        case ast.Attribute() | ast.Intrinsic():
            return True
        case ast.Unary() | ast.Exists():
            return references_span(node.operand)
        case ast.Binary():
            return references_span(node.left) or references_span(node.right)
    raise TypeError(node)


def walk(node: object) -> Iterator[ast.Node]:
    """Return every node below and including this one."""
    stack = [node]
    while stack:
        current = stack.pop()
        if isinstance(current, ast.Node):
            yield current
            stack.extend(vars(current).values())
        elif isinstance(current, tuple):
            stack.extend(current)


def validate(query: Q) -> Q:
    """Check a parsed query and hand it back."""
    checker = _Checker(query.text)
    checker.pipeline(query.pipeline)
    if isinstance(query, ast.MetricsQuery):
        checker.metrics(query)
    checker.size(query)
    return query


class _Checker:
    def __init__(self, text: str) -> None:
        self.text = text

    def invalid(self, message: str, node: ast.Node) -> TraceQLInvalid:
        return TraceQLInvalid(message, query=self.text, position=node.pos)

    def not_supported(self, construct: str, node: ast.Node) -> TraceQLUnsupported:
        return TraceQLUnsupported(
            f"{construct} is not supported", query=self.text, position=node.pos, construct=construct
        )

    # -- pipelines

    def pipeline(self, pipeline: ast.Pipeline) -> None:
        for stage in pipeline.stages:
            self.stage(stage)

    def stage(self, stage: ast.Node) -> None:
        match stage:
            case ast.Filter():
                self.filter(stage)
            case ast.SpansetOp():
                self.stage(stage.left)
                self.stage(stage.right)
            case ast.Pipeline():
                self.pipeline(stage)
            case ast.ScalarFilter():
                self.scalar_filter(stage)
            case ast.GroupBy():
                if not references_span(stage.operand):
                    raise self.invalid("grouping field expressions must reference the span", stage)
                self.field(stage.operand)
            case ast.Select():
                for attribute in stage.attributes:
                    self.field(attribute)
            case ast.Aggregate():
                self.aggregate(stage)

    def filter(self, node: ast.Filter) -> None:
        self.field(node.condition)
        if implied_type(node.condition) not in (Type.ATTRIBUTE, Type.BOOLEAN):
            raise self.invalid(
                "span filter field expressions must resolve to a boolean", node.condition
            )

    def scalar_filter(self, node: ast.ScalarFilter) -> None:
        self.scalar(node.left)
        self.scalar(node.right)
        self._operands(node)
        if not isinstance(node.left, ast.Aggregate):
            raise self.not_supported(
                "a scalar filter whose left side is not one aggregate", node.left
            )
        if not isinstance(node.right, ast.Static):
            raise self.not_supported(
                "a scalar filter whose right side is not one literal", node.right
            )

    def scalar(self, node: ast.Node) -> None:
        match node:
            case ast.ScalarOp():
                self.scalar(node.left)
                self.scalar(node.right)
                self._operands(node)
            case ast.Aggregate():
                self.aggregate(node)
            case ast.Pipeline():
                self.pipeline(node)

    def aggregate(self, node: ast.Aggregate) -> None:
        if node.operand is None:
            return
        self.field(node.operand)
        kind = implied_type(node.operand)
        if kind is not Type.ATTRIBUTE and not kind.is_numeric:
            raise self.invalid("aggregate field expressions must resolve to a number type", node)
        if not references_span(node.operand):
            raise self.invalid("aggregate field expressions must reference the span", node)

    # -- field expressions

    def field(self, node: ast.FieldExpression) -> None:
        match node:
            case ast.Attribute(parent=True):
                raise self.not_supported("parent.", node)
            case ast.Intrinsic(name="parent"):
                raise self.not_supported("parent", node)
            case ast.Unary():
                self.field(node.operand)
                self._unary(node)
            case ast.Exists():
                self.field(node.operand)
                self._exists(node)
            case ast.Binary():
                self.field(node.left)
                self.field(node.right)
                self._operands(node)
                if node.op in ("=~", "!~"):
                    self._regex(node)

    def _unary(self, node: ast.Unary) -> None:
        kind = implied_type(node.operand)
        fits = kind.is_numeric if node.op == "-" else kind is Type.BOOLEAN
        if kind is not Type.ATTRIBUTE and not fits:
            raise self.invalid(f"illegal operation {node.op} for the given type {kind.value}", node)

    def _exists(self, node: ast.Exists) -> None:
        if not node.negated:
            return
        if isinstance(node.operand, ast.Intrinsic):
            raise self.invalid(
                f"{node.operand.name} = nil is not valid because intrinsics cannot be nil", node
            )
        if node.operand == ast.Attribute("resource", "service.name"):
            raise self.invalid(
                "resource.service.name = nil is not valid because it cannot be nil", node
            )

    def _operands(self, node: ast.Binary | ast.ScalarOp | ast.ScalarFilter) -> None:
        left = implied_type(node.left)
        right = implied_type(node.right)
        if not _match(left, right):
            raise self.invalid(
                "binary operations must operate on the same type: "
                f"{left.value} {node.op} {right.value}",
                node,
            )
        for kind in (left, right):
            if kind is not Type.ATTRIBUTE and node.op not in _OPS_OF[kind]:
                raise self.invalid(
                    f"illegal operation {node.op} for the given type {kind.value}", node
                )

    def _regex(self, node: ast.Binary) -> None:
        pattern = node.right
        if not isinstance(pattern, ast.Static) or pattern.type is not Type.STRING:
            raise self.invalid(f"the right side of {node.op} must be a string literal", node)
        problem = regex_problem(pattern.value)
        if problem:
            raise self.invalid(f"invalid regex: {problem}", pattern)

    # -- metrics

    def metrics(self, node: ast.MetricsQuery) -> None:
        if isinstance(node.aggregate, ast.MetricsAggregate):
            self._aggregate_over_time(node.aggregate)
        else:
            self._compare(node.aggregate)
            if node.second:
                raise self.invalid(
                    "compare() cannot be used with second stage functions", node.second[0]
                )
        for stage in node.second:
            if isinstance(stage, ast.TopBottom) and stage.limit <= 0:
                raise self.invalid(f"{stage.op}(): limit must be greater than 0", stage)

    def _compare(self, node: ast.Compare) -> None:
        self.filter(node.selection)
        if node.limit <= 0:
            raise self.invalid("compare(): the number of values must be greater than 0", node)
        if node.start_ns == node.end_ns == 0:
            return
        if node.start_ns <= 0 or node.end_ns <= 0:
            raise self.invalid("compare(): timestamps must be positive unix nanoseconds", node)
        if node.end_ns <= node.start_ns:
            raise self.invalid("compare(): the end must be after the start", node)

    def _aggregate_over_time(self, node: ast.MetricsAggregate) -> None:
        for attribute in (node.attribute, *node.by):
            if attribute is not None:
                self.field(attribute)
        for q in node.quantiles:
            if not 0 <= q <= 1:
                raise self.invalid(f"quantile must be between 0 and 1: {q:g}", node)
        limit = MAX_GROUP_BY - (
            node.op in ("quantile_over_time", "histogram_over_time", "avg_over_time")
        )
        if len(node.by) > limit:
            raise self.not_supported(f"metrics group by {len(node.by)} values", node)

    # -- right, but too expensive for those who share the store

    def size(self, query: ast.Query) -> None:
        """Limit what costs a table of its own: operators between spansets, and groupings."""
        nodes = list(walk(query))
        operators = [n for n in nodes if isinstance(n, ast.Binary) and n.op not in _BOOLEAN_OPS]
        spanset_operators = [n for n in nodes if isinstance(n, ast.SpansetOp)]
        groupings = [n for n in nodes if isinstance(n, ast.GroupBy)]
        limits = (
            (spanset_operators, MAX_SPANSET_OPERATORS, "operators between spansets"),
            (groupings, MAX_GROUPINGS, "by()"),
            (operators, MAX_ARITHMETIC_OPERATORS, "arithmetic operators"),
        )
        for used, limit, construct in limits:
            if len(used) > limit:
                last = max(used, key=lambda node: node.pos)
                raise TraceQLUnsupported(
                    f"more than {limit} {construct}: not supported",
                    query=self.text,
                    position=last.pos,
                    construct=construct,
                )


def _match(left: Type, right: Type) -> bool:
    return (
        left is right
        or Type.ATTRIBUTE in (left, right)
        or Type.NIL in (left, right)
        or (left.is_numeric and right.is_numeric)
    )


@functools.cache
def _re2() -> duckdb.DuckDBPyConnection:
    """Return an empty database, kept because opening one takes longer than most queries."""
    return duckdb.connect(config={"threads": 1})


def regex_problem(pattern: str) -> str:
    """Why a regular expression is not one for RE2.

    Empty where it is (DuckDB's own RE2 is asked).
    """
    try:
        with _re2().cursor() as con:
            con.execute("SELECT regexp_full_match('', ?, 's')", [pattern]).fetchone()
    except duckdb.Error as e:
        return str(e).splitlines()[0][:200]
    return ""
