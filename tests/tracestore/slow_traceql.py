"""Evaluate TraceQL in a slow and obvious way: a checked syntax tree, in Python, span by span.

The store's SQL must give the same answers. A value is (type, value), and None means that it is nil.
Types are str, int, dbl, bool, dur, status and kind, and the same with [] for arrays.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fetch import ABSENT, ANY, EXISTS, Condition, FetchPlan

Value = tuple[str, Any] | None
_SLOT = {
    ast.Type.STRING: "str",
    ast.Type.INT: "int",
    ast.Type.FLOAT: "dbl",
    ast.Type.BOOLEAN: "bool",
    ast.Type.DURATION: "dur",
    ast.Type.STATUS: "status",
    ast.Type.KIND: "kind",
}
NUMBERS = ("int", "dbl", "dur")


@dataclass
class Span:
    trace: int
    id: int
    parent: int
    name: str
    start: int
    end: int
    kind: int = 0
    status: int = 0
    message: str = ""
    attributes: dict[str, Value] = field(default_factory=dict)
    resource: dict[str, Value] = field(default_factory=dict)
    events: list[tuple[int, str, dict[str, Value]]] = field(default_factory=list)

    @property
    def service(self) -> str | None:
        name = self.resource.get("service.name")
        return name[1] if name and name[0] == "str" else None


class Corpus:
    """Spans by trace, and the evaluation of queries over them."""

    def __init__(self, spans: list[Span]) -> None:
        self.traces: dict[int, list[Span]] = defaultdict(list)
        self.by_id = {}
        self.plan: FetchPlan | None = None  # if set, attributes are read like by Tempo's storage
        for s in spans:
            self.traces[s.trace].append(s)
            self.by_id[s.trace, s.id] = s

    # -- values of one span

    def value(self, node: Any, s: Span) -> Value:
        match node:
            case ast.Static():
                return (_SLOT[node.type], node.value)
            case ast.Intrinsic():
                return self.intrinsic(node.name, s)
            case ast.Attribute():
                return self.attribute(node, s)
            case ast.Exists():
                if node.negated:
                    return ("bool", self.absent(node.operand, s))
                return ("bool", self.value(node.operand, s) is not None)
            case ast.Unary():
                return self.unary(node, s)
            case ast.Binary():
                left, right = self.value(node.left, s), self.value(node.right, s)
                if self.unread(node.left, left, node.right) or self.unread(
                    node.right, right, node.left
                ):
                    return ("bool", False)
                return self.binary(node.op, left, right)
        raise TypeError(node)

    # -- what Tempo reads

    def unread(self, node: Any, value: Value, other: Any) -> bool:
        """Return whether Tempo skips a value compared with a literal number of another type.

        Nothing is skipped if all attributes of the scope are read.
        """
        if self.plan is None or value is None or not isinstance(node, ast.Attribute):
            return False
        if not isinstance(other, ast.Static) or not other.type.is_numeric:
            return False
        scopes = [node.scope] if node.scope else ["span", "resource"]
        is_open = any(self.plan.is_open(scope) for scope in scopes)
        return not is_open and value[0].removesuffix("[]") != _SLOT[other.type]

    def evaluated(self, condition: ast.FieldExpression, s: Span) -> bool:
        """Return whether Tempo evaluates a filter on this span; it matters only under negation."""
        if self.plan is None or not self.plan.conditions or not negates(condition):
            return True
        read = [self.is_read(c, s) for c in self.plan.conditions]
        return all(read) if self.plan.requires_all else any(read)

    def is_read(self, c: Condition, s: Span) -> bool:
        value = self.value(c.attribute, s)
        if c.op in (ANY, EXISTS):
            return value is not None
        if c.op == ABSENT:
            return self.absent(c.attribute, s)
        return self.value(ast.Binary(c.op, c.attribute, c.operand), s) == ("bool", True)

    def absent(self, node: Any, s: Span) -> bool:
        """For events, return whether any of them lacks the attribute, or there is none."""
        if isinstance(node, ast.Attribute) and node.scope == "event":
            return not s.events or any(node.name not in a for _, _, a in s.events)
        return self.value(node, s) is None

    def unary(self, node: ast.Unary, s: Span) -> Value:
        operand = self.value(node.operand, s)
        if operand is None:
            return None
        if node.op == "!":
            return ("bool", not operand[1]) if operand[0] == "bool" else None
        return (operand[0], -operand[1]) if operand[0] in NUMBERS else None

    def intrinsic(self, name: str, s: Span) -> Value:
        trace = self.traces[s.trace]
        roots = sorted((t for t in trace if t.parent == 0), key=lambda t: t.start)
        match name:
            case "span:name":
                return ("str", s.name)
            case "span:duration":
                return ("dur", max(s.end - s.start, 0))
            case "span:kind":
                return ("kind", s.kind)
            case "span:status":
                return ("status", s.status)
            case "span:statusMessage":
                return ("str", s.message)
            case "span:id":
                return ("str", f"{s.id:016x}")
            case "span:parentID":
                return ("str", f"{s.parent:016x}")
            case "span:childCount":
                return ("int", sum(1 for t in trace if t.parent == s.id))
            case "trace:id":
                return ("str", f"{s.trace:x}")
            case "trace:duration":
                return ("dur", max(t.end for t in trace) - min(t.start for t in trace))
            case "trace:rootName":
                return ("str", roots[0].name if roots else "")
            case "trace:rootService":
                return ("str", (roots[0].service or "") if roots else "")
            case "event:name":
                return ("str[]", [n for _, n, _ in s.events]) if s.events else None
            case "event:timeSinceStart":
                return ("dur[]", [t - s.start for t, _, _ in s.events]) if s.events else None
        raise KeyError(name)

    def attribute(self, node: ast.Attribute, s: Span) -> Value:
        places = {"span": s.attributes, "resource": s.resource}
        for scope in [node.scope] if node.scope else ["span", "resource"]:
            if scope == "event":
                values = [a[node.name] for _, _, a in s.events if node.name in a]
                if values:
                    assert len({t for t, _ in values}) == 1
                    return (values[0][0] + "[]", [v for _, v in values])
            elif node.name in places.get(scope, {}):
                return places[scope][node.name]
        return None

    # -- operators

    def binary(self, op: str, a: Value, b: Value) -> Value:
        if op in ("&&", "||"):
            return self.logic(op, a, b)
        if op in ("+", "-", "*", "/", "%", "^"):
            return self.arithmetic(op, a, b)
        if a is None or b is None:
            return ("bool", False)
        if a[0].endswith("[]") and b[0].endswith("[]"):
            return ("bool", False)
        if a[0].endswith("[]"):
            return self.array(op, [(a[0][:-2], v) for v in a[1]], b, flipped=False)
        if b[0].endswith("[]"):
            return self.array(op, [(b[0][:-2], v) for v in b[1]], a, flipped=True)
        return ("bool", compare(op, a, b))

    def array(self, op: str, elements: list[Value], other: Value, *, flipped: bool) -> Value:
        if elements and not comparable(op, elements[0], other):
            return ("bool", False)
        hits = [compare(op, other, e) if flipped else compare(op, e, other) for e in elements]
        return ("bool", all(hits) if op in ("!=", "!~") else any(hits))

    def logic(self, op: str, a: Value, b: Value) -> Value:
        left, right = a == ("bool", True), b == ("bool", True)
        return ("bool", left and right if op == "&&" else left or right)

    def arithmetic(self, op: str, a: Value, b: Value) -> Value:
        if a is None or b is None or a[0] not in NUMBERS or b[0] not in NUMBERS:
            return None
        if a[0] == b[0] == "int":
            return integer(op, a[1], b[1])
        x, y = float(a[1]), float(b[1])
        try:
            match op:
                case "+":
                    return ("dbl", x + y)
                case "-":
                    return ("dbl", x - y)
                case "*":
                    return ("dbl", x * y)
                case "/":
                    return (
                        "dbl",
                        x / y
                        if y
                        else math.nan
                        if x == 0 or x != x
                        else math.copysign(math.inf, x),
                    )
                case "%":
                    return ("dbl", math.fmod(x, y)) if y else ("dbl", math.nan)
                case "^":
                    return ("dbl", math.pow(x, y))
        except (OverflowError, ValueError):
            return None
        raise ValueError(op)

    # -- pipelines: a spanset is (group keys, aggregates, spans)

    def pipeline(
        self, query: ast.Query, plan: FetchPlan | None = None
    ) -> dict[int, list[tuple[tuple, tuple, list[Span]]]]:
        self.plan = plan
        sets_by_trace = {}
        for trace, spans in self.traces.items():
            sets = self.stages(query.pipeline, [((), (), spans)])
            sets = [s for s in sets if s[2]]
            if sets:
                sets_by_trace[trace] = sets
        return sets_by_trace

    def stages(self, pipeline: ast.Pipeline, sets: list) -> list:
        for stage in pipeline.stages:
            sets = [s for s in self.stage(stage, sets) if s[2]]
        return sets

    def stage(self, stage: Any, sets: list) -> list:
        match stage:
            case ast.Filter():
                return [
                    (g, v, [s for s in spans if self.holds(stage.condition, s)])
                    for g, v, spans in sets
                ]
            case ast.SpansetOp():
                return [(g, v, self.operator(stage, spans)) for g, v, spans in sets]
            case ast.Pipeline():
                return self.stages(stage, sets)
            case ast.Select():
                return sets
            case ast.Coalesce():
                everything = [s for _, _, spans in sets for s in spans]
                return [((), (), everything)]
            case ast.GroupBy():
                return [item for spanset in sets for item in self.group(stage, spanset)]
            case ast.ScalarFilter():
                return [item for spanset in sets for item in self.scalar(stage, spanset)]
        raise TypeError(stage)

    def holds(self, condition: ast.FieldExpression, s: Span) -> bool:
        return self.evaluated(condition, s) and self.value(condition, s) == ("bool", True)

    def group(self, stage: ast.GroupBy, spanset: tuple) -> list:
        groups: dict[Any, list[Span]] = defaultdict(list)
        for s in spanset[2]:
            groups[self.group_key(stage.operand, s)].append(s)
        return [((*spanset[0], key), spanset[1], spans) for key, spans in groups.items()]

    def group_key(self, operand: Any, s: Span) -> Any:
        """Return the value to group by: the element of an array of one, and the first of events."""
        value = self.value(operand, s)
        if value is None or not value[0].endswith("[]"):
            return value
        kind = value[0].removesuffix("[]")
        is_event = isinstance(operand, ast.Attribute) and operand.scope == "event"
        if is_event or len(value[1]) == 1:
            return (kind, value[1][0])
        return (value[0], tuple(value[1]))

    def scalar(self, stage: ast.ScalarFilter, spanset: tuple) -> list:
        groups, values, spans = spanset
        if stage.left.operand is None:
            result: Value = ("int", len(spans))
        else:
            present = [
                f
                for f in (self.value(stage.left.operand, s) for s in spans)
                if f is not None and f[0] in NUMBERS
            ]
            if not present:
                return []
            numbers = [n for _, n in present]
            result = (
                "dbl",
                {"min": min, "max": max, "sum": math.fsum, "avg": lambda n: math.fsum(n) / len(n)}[
                    stage.left.op
                ](numbers),
            )
        static = (_SLOT[stage.right.type], stage.right.value)
        return [(groups, (*values, result[1]), spans)] if compare(stage.op, result, static) else []

    def operator(self, node: ast.SpansetOp, spans: list[Span]) -> list[Span]:
        def side(n: Any) -> list[Span]:
            return [s for _, _, matched in self.stage(n, [((), (), spans)]) for s in matched]

        left, right = side(node.left), side(node.right)
        both = list({s.id: s for s in left + right}.values())
        if node.op == "||":
            return both
        if node.op == "&&":
            return both if left and right else []
        mark, kin = (node.op[0], node.op[1:]) if node.op[0] in "!&" else ("", node.op)
        pairs = [(a, b) for a in left for b in right if a.id != b.id and self.kin(kin, a, b)]
        if mark == "!":
            return [b for b in right if not any(p[1] is b for p in pairs)]
        hits = {b.id: b for _, b in pairs}
        if mark == "&":
            hits |= {a.id: a for a, _ in pairs}
        return list(hits.values())

    def kin(self, kin: str, a: Span, b: Span) -> bool:
        match kin:
            case ">":
                return b.parent == a.id
            case "<":
                return a.parent == b.id
            case "~":
                return a.parent == b.parent
            case ">>":
                return a.id in self.ancestors(b)
            case "<<":
                return b.id in self.ancestors(a)
        raise ValueError(kin)

    def ancestors(self, s: Span) -> set[int]:
        seen: set[int] = set()
        current = s
        while current is not None and current.parent and current.parent not in seen:
            seen.add(current.parent)
            current = self.by_id.get((s.trace, current.parent))
        return seen


def negates(node: Any) -> bool:
    match node:
        case ast.Unary():
            return node.op == "!" or negates(node.operand)
        case ast.Exists():
            return negates(node.operand)
        case ast.Binary():
            return negates(node.left) or negates(node.right)
    return False


def comparable(op: str, a: Value, b: Value) -> bool:
    if op in ("=~", "!~"):
        return a[0] == b[0] == "str"
    if a[0] in NUMBERS and b[0] in NUMBERS:
        return True
    return a[0] == b[0] and (op in ("=", "!=") or a[0] == "str")


def compare(op: str, a: Value, b: Value) -> bool:
    if not comparable(op, a, b):
        return False
    x, y = a[1], b[1]
    match op:
        case "=":
            return x == y
        case "!=":
            return x != y
        case ">":
            return x > y
        case ">=":
            return x >= y
        case "<":
            return x < y
        case "<=":
            return x <= y
        case "=~":
            return re.fullmatch(y, x, re.S) is not None
        case "!~":
            return re.fullmatch(y, x, re.S) is None
    raise ValueError(op)


def integer(op: str, x: int, y: int) -> Value:
    if op in ("/", "%") and y == 0:
        return None
    match op:
        case "+":
            result = x + y
        case "-":
            result = x - y
        case "*":
            result = x * y
        case "/":
            result = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        case "%":
            result = int(math.fmod(x, y))
        case "^":
            try:
                result = math.trunc(math.pow(x, y))
            except (OverflowError, ValueError):
                return None
        case _:
            raise ValueError(op)
    return ("int", result) if -(2**63) <= result < 2**63 else None
