"""What may stand where in a TraceQL pipeline.

Tempo's grammar has separate rules for spansets, wrapped pipelines, scalars and metrics, which share
brackets and operators. Here each part of the query is a `Piece` of some kind, and `combine` says
which kinds an operator joins, and into what.

The kinds are:

- spanset: { } and operators between them
- pipe: a pipeline of spansets in brackets; wrapped: operators between such
- number: a literal number, or arithmetic of such; static: any other literal
- scalar: an aggregate, or arithmetic with one; filter: a scalar compared with a scalar
- pipescalar: ( pipeline | aggregate ); pipefilter: such, compared
- by, coalesce, select: the functions of these names
- metrics: rate() and so on, with comparisons; top: topk and bottomk, with comparisons
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

from lark import Token, Tree

from lab.tracestore.traceql import ast
from lab.tracestore.traceql.expressions import Builder
from lab.tracestore.traceql.literals import literal, place

COMPARISONS = {"=", "!=", "<", "<=", ">", ">="}
STRUCTURAL = {
    ">", ">>", "<", "<<", "~", "!>", "!>>", "!<", "!<<", "!~", "&>", "&>>", "&<", "&<<", "&~",
}  # fmt: skip
_ARITHMETIC = {"+", "-", "*", "/", "%", "^"}
_SPANSETS = {"spanset", "pipe", "wrapped"}
_AGGREGATES = {"count", "min", "max", "avg", "sum"}
_OVER_TIME = {
    "min_over_time",
    "max_over_time",
    "avg_over_time",
    "sum_over_time",
    "quantile_over_time",
    "histogram_over_time",
}
_FOLD = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True)
class Piece:
    """A part of a query, and what kind of part it is."""

    kind: str
    node: Any
    pos: int
    bracketed: bool = False  # spansets: every operand stands in brackets
    value: float = 0.0  # numbers: folded, seconds for durations
    second: tuple[ast.SecondStage, ...] = ()  # metrics: comparisons that follow


class PipelineReader:
    """Reads the pipeline level of a query with the builder's means."""

    def __init__(self, builder: Builder) -> None:
        """Read with this builder of field expressions."""
        self.b = builder

    # -- the whole query

    def query(self, tree: Tree, hints: dict[str, Any]) -> ast.Query:
        """Return the tree of a whole query."""
        pieces = self.pieces(tree)
        first = pieces[0]
        text = self.b.text
        if len(pieces) == 1 and first.kind in ("wrapped", "pipe", "pipefilter"):
            node = (
                first.node
                if isinstance(first.node, ast.Pipeline)
                else ast.Pipeline((first.node,), pos=first.pos)
            )
            return ast.Query(text, node, hints=hints)
        if any(p.kind == "metrics" for p in pieces):
            return self._metrics(pieces, hints)
        return ast.Query(text, self._pipeline(pieces), hints=hints)

    def pieces(self, tree: Tree) -> list[Piece]:
        """Return the stages of a pipeline."""
        return [
            self.b.bind(e, self.unit, self.combine, self.negate, _is_number) for e in tree.children
        ]

    def _pipeline(self, pieces: list[Piece]) -> ast.Pipeline:
        for i, piece in enumerate(pieces):
            allowed = {"spanset", "filter", "by", "select"} | ({"coalesce"} if i else set())
            if piece.kind not in allowed:
                raise self.b.fail(_misplaced(piece, i), piece.pos)
        return ast.Pipeline(tuple(p.node for p in pieces), pos=pieces[0].pos)

    def _metrics(self, pieces: list[Piece], hints: dict[str, Any]) -> ast.MetricsQuery:
        at = next(i for i, p in enumerate(pieces) if p.kind == "metrics")
        metrics = pieces[at]
        if at == 0:
            raise self.b.fail(
                "a metrics function needs spans before it, as in `{} | rate()`", metrics.pos
            )
        second = metrics.second + self._second(pieces[at + 1 :])
        return ast.MetricsQuery(
            self.b.text,
            self._pipeline(pieces[:at]),
            metrics.node,
            second,
            hints=hints,
            pos=metrics.pos,
        )

    def _second(self, pieces: list[Piece]) -> tuple[ast.SecondStage, ...]:
        for piece in pieces:
            if piece.kind != "top":
                raise self.b.fail(
                    "only topk() and bottomk() can follow a metrics function", piece.pos
                )
        return tuple(stage for p in pieces for stage in (p.node, *p.second))

    # -- operands

    def unit(self, atom: Any) -> Piece:
        """Return an operand."""
        if atom.data == "spanset":
            return self._spanset(atom)
        if atom.data == "group":
            return self._group(atom)
        if atom.data == "by":
            pos = place(atom.children[0])
            return Piece("by", ast.GroupBy(self._one(atom.children[1:], "by()", pos), pos=pos), pos)
        if atom.data == "call":
            return self._call(atom)
        token = atom.children[0]
        static = literal(token)
        if static is None:
            raise self.b.fail(f"unexpected {str(token)!r}", place(token))
        if not static.type.is_numeric:
            return Piece("static", static, place(token))
        value = static.value / 1e9 if static.type is ast.Type.DURATION else float(static.value)
        return Piece("number", static, place(token), value=value)

    def _spanset(self, tree: Tree) -> Piece:
        pos = place(tree.meta)
        condition = (
            self.b.field(tree.children[0])
            if tree.children
            else ast.Static(ast.Type.BOOLEAN, True, pos=pos)
        )
        return Piece("spanset", ast.Filter(condition, pos=pos), pos)

    def _group(self, tree: Tree) -> Piece:
        pieces = self.pieces(tree.children[0])
        pos = place(tree.meta)
        first = pieces[0]
        if any(p.kind == "metrics" for p in pieces):
            raise self.b.fail(
                "metrics in brackets, and arithmetic with them, came after Tempo 3.0", pos
            )
        if len(pieces) > 1:
            if pieces[-1].kind == "scalar" and isinstance(pieces[-1].node, ast.Aggregate):
                head = self._pipeline(pieces[:-1])
                return Piece(
                    "pipescalar", ast.Pipeline((*head.stages, pieces[-1].node), pos=pos), pos
                )
            return Piece("pipe", self._pipeline(pieces), pos, bracketed=True)
        if first.kind == "spanset":
            return replace(first, bracketed=True)
        if first.kind in ("filter", "by", "select"):
            return Piece("pipe", self._pipeline(pieces), pos, bracketed=True)
        if first.kind in ("pipe", "wrapped", "number", "scalar", "pipescalar"):
            return first
        raise self.b.fail(_misplaced(first, 0), first.pos)

    # -- operators

    def negate(self, op: Token, piece: Piece) -> Piece:
        """Return the negative of a number; nothing else has a prefix here."""
        if str(op) == "-" and piece.kind == "number" and isinstance(piece.node, ast.Static):
            return replace(
                piece,
                node=replace(piece.node, value=-piece.node.value),
                value=-piece.value,
                pos=place(op),
            )
        raise self.b.fail(f"unexpected {op}", place(op))

    def combine(self, op_token: Token, left: Piece, right: Piece) -> Piece:
        """Return what an operator makes of two operands."""
        op = str(op_token)
        pos = place(op_token)
        kinds = {left.kind, right.kind}
        made: Piece | None = None
        if kinds <= _SPANSETS and (op in STRUCTURAL or op in ("&&", "||")):
            made = self._spansets(op, pos, left, right, kinds)
        elif op in COMPARISONS:
            made = self._comparison(op, pos, left, right)
        elif op in _ARITHMETIC:
            made = self._arithmetic(op, pos, left, right, kinds)
        if made is None:
            raise self.b.fail(
                f"{op} cannot stand between {_NAMES[left.kind]} and {_NAMES[right.kind]}", pos
            )
        return made

    def _spansets(
        self, op: str, pos: int, left: Piece, right: Piece, kinds: set[str]
    ) -> Piece | None:
        bracketed = all(p.bracketed or p.kind == "wrapped" for p in (left, right))
        node = ast.SpansetOp(op, left.node, right.node, pos=pos)
        if kinds == {"spanset"}:
            return Piece("spanset", node, left.pos, bracketed=bracketed)
        return Piece("wrapped", node, left.pos) if bracketed else None

    def _comparison(self, op: str, pos: int, left: Piece, right: Piece) -> Piece | None:
        if left.kind in ("scalar", "number") and right.kind in ("scalar", "number"):
            return Piece("filter", ast.ScalarFilter(op, left.node, right.node, pos=pos), left.pos)
        if left.kind in ("metrics", "top") and right.kind == "number":
            return replace(left, second=(*left.second, ast.MetricsFilter(op, right.value, pos=pos)))
        literal_right = right.kind in ("number", "static") and isinstance(right.node, ast.Static)
        if left.kind == "pipescalar" and (right.kind == "pipescalar" or literal_right):
            return Piece(
                "pipefilter", ast.ScalarFilter(op, left.node, right.node, pos=pos), left.pos
            )
        return None

    def _arithmetic(
        self, op: str, pos: int, left: Piece, right: Piece, kinds: set[str]
    ) -> Piece | None:
        node = ast.ScalarOp(op, left.node, right.node, pos=pos)
        if kinds == {"number"}:
            return Piece("number", node, left.pos, value=_fold(op, left.value, right.value))
        if kinds <= {"number", "scalar"}:
            return Piece("scalar", node, left.pos)
        if kinds == {"pipescalar"}:
            return Piece("pipescalar", node, left.pos)
        return None

    # -- functions

    def _call(self, tree: Tree) -> Piece:
        token = tree.children[0]
        rest = tree.children[1:]
        name = str(token)
        pos = place(token)
        arguments = next((c for c in rest if c.data == "arguments"), None)
        grouping = next((c for c in rest if c.data == "grouping"), None)
        is_metrics = name in _OVER_TIME or name in ("rate", "count_over_time")
        if grouping is not None and not is_metrics:
            raise self.b.fail(f"{name}() takes no by()", place(grouping.children[0]))
        if name in _AGGREGATES:
            return self._aggregate(name, arguments, pos)
        if is_metrics:
            return self._metrics_call(name, arguments, grouping, pos)
        return self._stage_call(name, arguments, pos)

    def _stage_call(self, name: str, arguments: Tree | None, pos: int) -> Piece:
        if name in ("topk", "bottomk"):
            limit = self._integer(arguments, name, pos)
            return Piece("top", ast.TopBottom(name, limit, pos=pos), pos)
        if name == "coalesce" and arguments is None:
            return Piece("coalesce", ast.Coalesce(pos=pos), pos)
        if name == "select":
            attributes = self.b.attributes(arguments, "select()", pos)
            return Piece("select", ast.Select(attributes, pos=pos), pos)
        if name == "compare":
            return self._compare(arguments, pos)
        raise self.b.fail(f"unknown function {name}()", pos)

    def _aggregate(self, name: str, arguments: Tree | None, pos: int) -> Piece:
        if name == "count":
            if arguments is not None:
                raise self.b.fail("count() takes no argument", pos)
            return Piece("scalar", ast.Aggregate(name, None, pos=pos), pos)
        operand = self._one([arguments] if arguments else [], f"{name}()", pos)
        return Piece("scalar", ast.Aggregate(name, operand, pos=pos), pos)

    def _one(self, arguments: list[Tree], where: str, pos: int) -> ast.FieldExpression:
        if (
            not arguments
            or len(arguments[0].children) != 1
            or arguments[0].children[0].data != "field"
        ):
            raise self.b.fail(f"{where} takes exactly one expression", pos)
        return self.b.field(arguments[0].children[0])

    def _integer(self, arguments: Tree | None, name: str, pos: int) -> int:
        values = self.b.numbers(arguments.children, f"{name}()", pos) if arguments else ()
        if len(values) != 1 or not values[0].is_integer():
            raise self.b.fail(f"{name}() takes one integer", pos)
        return int(values[0])

    def _metrics_call(
        self, name: str, arguments: Tree | None, grouping: Tree | None, pos: int
    ) -> Piece:
        by = self.b.attributes(grouping.children[1], "by()", pos) if grouping else ()
        given = arguments.children if arguments else []
        attribute = None
        quantiles: tuple[float, ...] = ()
        if name in _OVER_TIME:
            if not given:
                raise self.b.fail(f"{name}() needs an attribute", pos)
            (attribute,) = self.b.attributes(Tree("arguments", given[:1]), f"{name}()", pos)
            given = given[1:]
        if name == "quantile_over_time":
            quantiles = self.b.numbers(given, f"{name}()", pos)
            if not quantiles:
                raise self.b.fail("quantile_over_time() needs at least one quantile", pos)
        elif given:
            raise self.b.fail(f"{name}() has too many arguments", pos)
        return Piece("metrics", ast.MetricsAggregate(name, attribute, quantiles, by, pos=pos), pos)

    def _compare(self, arguments: Tree | None, pos: int) -> Piece:
        given = arguments.children if arguments else []
        if not given or given[0].data != "spanset" or len(given) not in (1, 2, 4):
            raise self.b.fail(
                "compare() takes a span filter, then optionally how many values, start and end", pos
            )
        numbers = self.b.numbers(given[1:], "compare()", pos)
        if not all(n.is_integer() for n in numbers):
            raise self.b.fail("compare() takes whole numbers after the span filter", pos)

        selection = self._spanset(given[0]).node
        return Piece("metrics", ast.Compare(selection, *(int(n) for n in numbers), pos=pos), pos)


def _is_number(piece: Piece) -> bool:
    return piece.kind == "number"


def _fold(op: str, left: float, right: float) -> float:
    if op not in _FOLD or (op == "/" and right == 0):
        return float("nan")
    return _FOLD[op](left, right)


def _misplaced(piece: Piece, index: int) -> str:
    if piece.kind in ("scalar", "pipescalar"):
        return "an aggregate must be compared with a value, as in `count() > 2`"
    if piece.kind in ("pipe", "wrapped") and index:
        return "a pipeline in brackets cannot be a stage of another"
    return f"{_NAMES[piece.kind]} cannot stand here"


_NAMES = {
    "spanset": "a spanset",
    "pipe": "a pipeline",
    "wrapped": "a pipeline expression",
    "number": "a number",
    "static": "a literal",
    "scalar": "an aggregate",
    "pipescalar": "an aggregate of a pipeline",
    "filter": "a comparison",
    "pipefilter": "a comparison of pipelines",
    "by": "by()",
    "coalesce": "coalesce()",
    "select": "select()",
    "metrics": "a metrics function",
    "top": "topk() or bottomk()",
}
