"""What Tempo reads of each span before it evaluates a query; it decides what a search shows.

Tempo's storage reads an attribute only as far as the query's conditions want it. For
`{ kind = server } >> { status = error }` it reads `kind` where it is server and `status` where it
is error, and a search shows what was read. `select()`, `by()` and operands of arithmetic read
without a condition. Conditions that are only joined by `&&` (`all_conditions`) also decide which
spans are evaluated at all: for `{ !span.retry }` those that have the attribute.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab.tracestore.traceql import ast

Reference = ast.Attribute | ast.Intrinsic

ANY = ""
EXISTS = "exists"
ABSENT = "absent"
_BOOLEAN = {"=", "!=", "<", "<=", ">", ">=", "=~", "!~", "&&", "||"}
_FLIPPED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}

# Attributes that Tempo keeps in columns of their own by default. Read without a condition they are
# never absent: a span without the attribute has the text "nil". (Observed; Tempo's own list has two
# more, which behave as all others.)
DEDICATED = {
    ("resource", "cluster"): ast.Type.STRING,
    ("resource", "container"): ast.Type.STRING,
    ("resource", "k8s.cluster.name"): ast.Type.STRING,
    ("resource", "k8s.container.name"): ast.Type.STRING,
    ("resource", "k8s.namespace.name"): ast.Type.STRING,
    ("resource", "k8s.pod.name"): ast.Type.STRING,
    ("resource", "namespace"): ast.Type.STRING,
    ("resource", "pod"): ast.Type.STRING,
    ("span", "http.method"): ast.Type.STRING,
    ("span", "http.request.method"): ast.Type.STRING,
    ("span", "http.route"): ast.Type.STRING,
    ("span", "http.status_code"): ast.Type.INT,
    ("span", "http.url"): ast.Type.STRING,
    ("span", "server.address"): ast.Type.STRING,
    ("span", "url.path"): ast.Type.STRING,
    ("span", "url.route"): ast.Type.STRING,
}


@dataclass(frozen=True)
class Condition:
    """What is read of an attribute: values for which `value op operand` holds.

    Without an operand, `op` is one of the words above.
    """

    attribute: Reference
    op: str = ANY
    operand: ast.Static | None = None


@dataclass
class FetchPlan:
    """The conditions of a query.

    `second` are read without regard to `all_conditions`, for the spans that matched.
    """

    conditions: list[Condition] = field(default_factory=list)
    second: list[Condition] = field(default_factory=list)
    all_conditions: bool = True
    _columns: dict[tuple[Reference, str], list[Condition]] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def references(self) -> list[Reference]:
        """The attributes that are read, each once."""
        return list(dict.fromkeys(c.attribute for c in (*self.conditions, *self.second)))

    @property
    def requires_all(self) -> bool:
        """Whether spans are evaluated only if they meet all conditions.

        These are joined by `&&`, and each is of one known scope.
        """
        scoped = all(
            isinstance(c.attribute, ast.Intrinsic) or c.attribute.scope for c in self.conditions
        )
        return self.all_conditions and scoped

    def is_open(self, scope: str) -> bool:
        """Whether attributes of `scope` are read whatever their type: some condition names none."""
        return any(
            c.op in (ANY, EXISTS) and _reads(c.attribute, scope)
            for c in (*self.conditions, *self.second)
        )

    def column(self, reference: Reference, scope: str) -> list[Condition]:
        """Return the conditions that apply to a reference's column.

        Attributes of a scope share the column.
        """
        key = (reference, scope)
        if key not in self._columns:
            self._columns[key] = self._column(reference, scope)
        return self._columns[key]

    def _column(self, reference: Reference, scope: str) -> list[Condition]:
        every = (*self.conditions, *self.second)
        if isinstance(reference, ast.Intrinsic):
            return [c for c in every if c.attribute == reference]
        if (scope, reference.name) in DEDICATED:
            return [
                c
                for c in every
                if _reads(c.attribute, scope) and c.attribute.name == reference.name
            ]
        return [
            c
            for c in every
            if _reads(c.attribute, scope) and (scope, c.attribute.name) not in DEDICATED
        ]


def _reads(reference: Reference, scope: str) -> bool:
    """Whether a condition on this attribute is looked up in `scope`."""
    if isinstance(reference, ast.Intrinsic):
        return False
    if reference.scope:
        return reference.scope == scope
    return scope in ("span", "resource")


def fetch_plan(query: ast.Query) -> FetchPlan:
    """Return what Tempo reads for a query."""
    extractor = _Extractor()
    extractor.pipeline(query.pipeline)
    if isinstance(query, ast.MetricsQuery) and isinstance(query.aggregate, ast.MetricsAggregate):
        extractor.aggregate(query.aggregate)
    return extractor.plan


class _Extractor:
    def __init__(self) -> None:
        self.plan = FetchPlan()

    def pipeline(self, pipeline: ast.Pipeline) -> None:
        selected = False
        for stage in pipeline.stages:
            if selected:
                self._to_second_pass(stage)
            else:
                self.stage(stage)
            selected = selected or isinstance(stage, ast.Select)

    def stage(self, stage: ast.Node) -> None:
        match stage:
            case ast.Filter():
                self.field(stage.condition)
            case ast.SpansetOp():
                self.stage(stage.left)
                self.stage(stage.right)
                self.plan.all_conditions = False
            case ast.Pipeline():
                self.pipeline(stage)
            case ast.GroupBy():
                self.field(stage.operand)
                self.plan.all_conditions = False
            case ast.ScalarFilter() | ast.ScalarOp():
                self.stage(stage.left)
                self.stage(stage.right)
            case ast.Aggregate():
                self.plan.all_conditions = False
                if stage.operand is not None:
                    self.field(stage.operand)
            case ast.Select():
                self.plan.second += [Condition(a) for a in stage.attributes]

    def _to_second_pass(self, stage: ast.Node) -> None:
        later = _Extractor()
        later.stage(stage)
        read = {c.attribute for c in self.plan.conditions if c.op == ANY}
        new = (*later.plan.conditions, *later.plan.second)
        self.plan.second += [c for c in new if c.attribute not in read]

    def aggregate(self, aggregate: ast.MetricsAggregate) -> None:
        attribute = [] if aggregate.attribute is None else [aggregate.attribute]
        self.plan.second += [Condition(a) for a in (*attribute, *aggregate.by)]

    # -- field expressions

    def add(self, *condition: Any) -> None:
        self.plan.conditions.append(Condition(*condition))

    def field(self, node: ast.FieldExpression) -> None:
        match node:
            case ast.Attribute() | ast.Intrinsic():
                self.add(node)
            case ast.Exists():
                if isinstance(node.operand, ast.Attribute | ast.Intrinsic):
                    self.add(node.operand, ABSENT if node.negated else EXISTS)
                else:
                    self.field(node.operand)
            case ast.Unary():
                self.field(node.operand)
            case ast.Binary():
                self._binary(node)

    def _binary(self, node: ast.Binary) -> None:
        sides = (node.left, node.right)
        named = [isinstance(side, ast.Attribute | ast.Intrinsic) for side in sides]
        literal = [isinstance(side, ast.Static) for side in sides]
        if any(named) and any(literal):
            attribute: Any = sides[named.index(True)]
            operand: Any = sides[literal.index(True)]
            self._comparison(attribute, node.op, operand, flipped=named[1])
            return

        self.field(node.left)
        self.field(node.right)
        if not any(named) and not all(literal) and not literal[0]:
            self.plan.all_conditions = self.plan.all_conditions and node.op != "||"

    def _comparison(
        self, attribute: Reference, op: str, operand: ast.Static, *, flipped: bool
    ) -> None:
        of_truth = operand.type is ast.Type.BOOLEAN and op in ("&&", "||")
        if op not in _BOOLEAN or of_truth:
            self.add(attribute)
            return
        self.add(attribute, _FLIPPED.get(op, op) if flipped else op, operand)


# ---- which values pass


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=~": lambda value, pattern: re.fullmatch(pattern, value, re.S) is not None,
    "!~": lambda value, pattern: re.fullmatch(pattern, value, re.S) is None,
}


def passes(conditions: list[Condition], kind: ast.Type, value: Any) -> bool:
    """Whether a value of this type is read, under any of the conditions of its column."""
    for condition in conditions:
        if condition.op in (ANY, EXISTS):
            return True
        if condition.operand is None or condition.operand.type is not kind:
            continue
        try:
            if _COMPARE[condition.op](value, condition.operand.value):
                return True
        except re.error:  # RE2 accepts what Python does not: do not hide the value
            return True
    return False
