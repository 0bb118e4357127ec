"""TraceQL text -> syntax tree.

lark reads the tokens and the brackets (grammar.lark); operators are bound here by Tempo's
precedence table, and then every construct is checked to stand where Tempo's grammar lets it stand.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import lark
from lark import Token, Tree

from lab.tracestore.errors import TraceQLSyntax, TraceQLUnsupported
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.literals import literal, number_or_none, unquote_attribute
from lab.tracestore.traceql.pipeline import PipelineReader

MAX_QUERY_CHARS = 128 * 1024
MAX_OPERATORS = 400
MAX_NESTING = 60

# Operators by how tightly they bind (Tempo's table). All bind to the left but ^.
_PRECEDENCE = {
    **dict.fromkeys(("&&", "||"), 1),
    **dict.fromkeys(("=", "!=", "<", "<=", ">", ">=", "=~", "!~", ">>", "<<", "~"), 2),
    **dict.fromkeys(("!>", "!<", "!>>", "!<<", "&>", "&<", "&>>", "&<<", "&~"), 2),
    **dict.fromkeys(("+", "-"), 3),
    **dict.fromkeys(("*", "/", "%"), 5),
    "^": 6,
}
_PREFIX = {"-": 3, "!": 4}
_FIELD_OPERATORS = {
    "&&",
    "||",
    "=",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "=~",
    "!~",
    "+",
    "-",
    "*",
    "/",
    "%",
    "^",
}

# Every spelling of an intrinsic -> its scoped name
INTRINSICS = {
    "duration": "span:duration",
    "name": "span:name",
    "status": "span:status",
    "statusMessage": "span:statusMessage",
    "kind": "span:kind",
    "parent": "parent",
    "rootName": "trace:rootName",
    "rootServiceName": "trace:rootService",
    "traceDuration": "trace:duration",
    "nestedSetLeft": "nestedSetLeft",
    "nestedSetRight": "nestedSetRight",
    "nestedSetParent": "nestedSetParent",
}
SCOPED_INTRINSICS = {
    "trace:duration", "trace:rootName", "trace:rootService", "trace:id",
    "span:duration", "span:name", "span:kind", "span:status", "span:statusMessage", "span:id",
    "span:parentID", "span:childCount", "event:name", "event:timeSinceStart", "link:traceID", "link:spanID",
    "instrumentation:name", "instrumentation:version",
}  # fmt: skip


@functools.cache
def _parser() -> lark.Lark:
    grammar = Path(__file__).with_name("grammar.lark").read_text()
    return lark.Lark(
        grammar,
        parser="lalr",
        lexer="contextual",
        propagate_positions=True,
        maybe_placeholders=False,
    )


def parse(text: str) -> ast.Query:
    """Return the syntax tree of a query.

    Raises TraceQLSyntax with the position (types are checked by `validate`).
    """
    if len(text) > MAX_QUERY_CHARS:
        raise TraceQLSyntax(
            f"the query is longer than {MAX_QUERY_CHARS} characters", query=text[:100]
        )
    try:
        tree = _parser().parse(text)
        _check_size(tree, text)
        return _Builder(text).query(tree)
    except lark.UnexpectedInput as e:
        raise _syntax_error(text, e) from None


def parse_attribute(text: str) -> ast.Attribute:
    """Return one attribute as it is written in a query (`span.foo`).

    Without a scope or a leading dot it is unscoped (`foo`).
    """
    parts = re.fullmatch(r"(?:(span|resource|event|link|instrumentation)?\.)?(.+)", text, re.S)
    if not parts:
        raise TraceQLSyntax("an attribute is expected", query=text)
    scope, name = parts.group(1) or "", parts.group(2)
    return ast.Attribute(scope, unquote_attribute(name))


def _syntax_error(text: str, error: lark.UnexpectedInput) -> TraceQLSyntax:
    position = error.pos_in_stream if error.pos_in_stream is not None else len(text)
    if isinstance(error, lark.UnexpectedToken) and error.token.type == "$END":
        return TraceQLSyntax("unexpected end of the query", query=text, position=len(text))
    found = (
        str(error.token)
        if isinstance(error, lark.UnexpectedToken)
        else text[position : position + 1]
    )
    return TraceQLSyntax(f"unexpected {found[:40]!r}", query=text, position=max(position, 0))


def _check_size(tree: Tree, text: str) -> None:
    """Refuse what would only exhaust the stack: deep brackets, endless chains."""
    operators, deepest, stack = 0, 0, [(tree, 0)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        for child in node.children:
            if isinstance(child, Tree):
                stack.append((child, depth + (child.data in ("group", "field_group"))))
            elif child.type in ("OPERATOR", "MINUS", "NOT"):
                operators += 1
    if deepest > MAX_NESTING:
        raise TraceQLUnsupported(
            f"more than {MAX_NESTING} nested brackets", query=text, construct="nesting"
        )
    if operators > MAX_OPERATORS:
        raise TraceQLUnsupported(
            f"more than {MAX_OPERATORS} operators", query=text, construct="operator chain"
        )


class _Builder:
    def __init__(self, text: str) -> None:
        self.text = text

    def fail(self, message: str, pos: int) -> TraceQLSyntax:
        return TraceQLSyntax(message, query=self.text, position=pos)

    def query(self, tree: Tree) -> ast.Query:
        hints: dict[str, Any] = {}
        for hint in (
            h for block in tree.children[1:] for h in block.children if isinstance(h, Tree)
        ):
            name, operator, *_, value = hint.children
            if operator != "=":
                raise self.fail(f"unexpected {operator} in a hint", operator.start_pos)
            static = self.static(value)
            sign = -1 if len(hint.children) == 4 else 1
            hints[str(name)] = sign * static.value if sign < 0 else static.value
        reader = PipelineReader(self)
        return reader.query(tree.children[0], hints)

    # -- binding of operators

    def bind(
        self, tree: Tree, unit: Any, binary: Any, unary: Any, is_number: Any = lambda node: False
    ) -> Any:
        """Bind a flat list of operands and operators.

        `unit` builds an operand, `binary` and `unary` the nodes.

        A minus before what `is_number` says to be a number belongs to the number.
        """
        items = list(tree.children)
        position = 0

        def expression(lowest: int) -> Any:
            nonlocal position
            operand = items[position]
            position += 1
            left = prefixed(list(operand.children[:-1]), operand.children[-1])
            while position < len(items):
                operator = items[position]
                precedence = _PRECEDENCE[str(operator)]
                if precedence < lowest:
                    break
                position += 1
                right = expression(precedence if operator == "^" else precedence + 1)
                left = binary(operator, left, right)
            return left

        def prefixed(prefixes: list[Token], atom: Any) -> Any:
            """Give a prefix what binds tighter: -a * b is -(a * b), !a = b is (!a) = b."""
            if not prefixes:
                return unit(atom)
            operator = prefixes[0]
            inner = prefixed(prefixes[1:], atom)
            if is_number(inner):
                return unary(operator, inner)
            return unary(operator, absorb(inner, _PREFIX[str(operator)] + 1))

        def absorb(left: Any, lowest: int) -> Any:
            nonlocal position
            while position < len(items) and _PRECEDENCE[str(items[position])] >= lowest:
                operator = items[position]
                precedence = _PRECEDENCE[str(operator)]
                position += 1
                right = expression(precedence if operator == "^" else precedence + 1)
                left = binary(operator, left, right)
            return left

        return expression(0)

    # -- field expressions

    def field(self, tree: Tree) -> ast.FieldExpression:
        found = self._field(tree)
        if isinstance(found, _Nil):
            raise self.fail("nil can only be compared with = or !=", found.pos)
        return found

    def _field(self, tree: Tree) -> Any:
        return self.bind(tree, self._field_atom, self._field_binary, self._field_unary)

    def _field_unary(self, operator: Token, operand: Any) -> ast.FieldExpression:
        self._refuse_nil(operand)
        return ast.Unary(str(operator), operand, pos=operator.start_pos)

    def _field_binary(self, operator: Token, left: Any, right: Any) -> ast.FieldExpression:
        op, pos = str(operator), operator.start_pos
        if op not in _FIELD_OPERATORS:
            raise self.fail(f"unexpected {op} inside a span filter", pos)
        if isinstance(left, _Nil) or isinstance(right, _Nil):
            if op not in ("=", "!="):
                raise self.fail("nil can only be compared with = or !=", pos)
            if isinstance(left, _Nil) and isinstance(right, _Nil):
                return ast.Static(ast.Type.BOOLEAN, False, pos=pos)
            return ast.Exists(right if isinstance(left, _Nil) else left, negated=op == "=", pos=pos)
        return ast.Binary(op, left, right, pos=pos)

    def _refuse_nil(self, node: Any) -> None:
        if isinstance(node, _Nil):
            raise self.fail("nil can only be compared with = or !=", node.pos)

    def _field_atom(self, atom: Any) -> Any:
        if atom.data == "field_group":
            return self.field(atom.children[0])
        if atom.data == "attribute":
            return self.attribute(atom.children[0])
        if atom.data == "scoped":
            return self.scoped(atom.children[0])
        token = atom.children[0]
        if token.type == "NAME":
            if token == "nil":
                return _Nil(token.start_pos)
            if str(token) in INTRINSICS:
                return ast.Intrinsic(INTRINSICS[str(token)], pos=token.start_pos)
        return self.static(atom)

    def attribute(self, token: Token) -> ast.Attribute:
        scope, parent, rest = "", False, str(token)
        if rest.startswith("parent."):
            parent, rest = True, rest[len("parent") :]
            rest = re.sub(r"^\.(span|resource)\.", r"\1.", rest)
        scope, _, name = rest.partition(".")
        return ast.Attribute(scope, unquote_attribute(name), parent, pos=token.start_pos)

    def scoped(self, token: Token) -> ast.Intrinsic:
        scope, name = re.split(r":\s*", str(token), maxsplit=1)
        if f"{scope}:{name}" not in SCOPED_INTRINSICS:
            raise self.fail(f"unknown intrinsic {scope}:{name}", token.start_pos)
        return ast.Intrinsic(f"{scope}:{name}", pos=token.start_pos)

    def static(self, tree: Tree) -> ast.Static:
        token = tree.children[0]
        found = literal(token)
        if found is None:
            raise self.fail(f"unknown identifier: {token}", token.start_pos)
        return found

    def attributes(
        self, tree: Tree | None, where: str, pos: int
    ) -> tuple[ast.Attribute | ast.Intrinsic, ...]:
        """Return a list of attributes and intrinsics, as select() and by () of metrics take."""
        if tree is None:
            raise self.fail(f"{where} needs at least one attribute", pos)
        found = []
        for argument in tree.children:
            node = self.field(argument) if argument.data == "field" else None
            if not isinstance(node, ast.Attribute | ast.Intrinsic):
                raise self.fail(f"{where} takes attributes only", _start(argument, pos))
            found.append(node)
        return tuple(found)

    def numbers(self, arguments: list[Tree], where: str, pos: int) -> tuple[float, ...]:
        """Plain numbers, as quantile_over_time takes."""
        found = []
        for argument in arguments:
            value = number_or_none(argument)
            if value is None:
                raise self.fail(f"{where} takes plain numbers here", _start(argument, pos))
            found.append(value)
        return tuple(found)


class _Nil:
    """The literal nil, until it is seen what it is compared with."""

    def __init__(self, pos: int) -> None:
        self.pos = pos


def _start(tree: Tree, default: int) -> int:
    return getattr(tree.meta, "start_pos", default)
