"""Field expressions: lark's trees -> syntax trees, operators bound by Tempo's precedence table."""

from __future__ import annotations

import re
from typing import Any

from lark import Token, Tree

from lab.tracestore.errors import TraceQLSyntax
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.literals import (
    literal,
    number_or_none,
    place,
    unquote_attribute,
)

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
    "span:parentID", "span:childCount", "event:name", "event:timeSinceStart", "link:traceID",
    "link:spanID",
    "instrumentation:name", "instrumentation:version",
}  # fmt: skip


class Builder:
    """Builds field expressions from lark's trees, and binds operators for all."""

    def __init__(self, text: str) -> None:
        """Keep the query's text, for errors."""
        self.text = text

    def fail(self, message: str, pos: int) -> TraceQLSyntax:
        """Return the error for a place in the text."""
        return TraceQLSyntax(message, query=self.text, position=pos)

    # -- binding of operators

    def bind(
        self, tree: Tree, unit: Any, binary: Any, unary: Any, is_number: Any = lambda node: False
    ) -> Any:
        """Bind a flat list of operands and operators.

        `unit` builds an operand, `binary` and `unary` the nodes.

        A minus before what `is_number` says to be a number belongs to the number.
        """
        items: list[Any] = list(tree.children)
        position = 0

        def expression(lowest: int) -> Any:
            nonlocal position
            operand = items[position]
            position += 1
            left = prefixed(list(operand.children[:-1]), operand.children[-1])
            return absorb(left, lowest)

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
            """Bind the operators that follow to `left`, as far as they bind at least so tightly."""
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
        """Return a field expression; nil alone is none."""
        found = self._field(tree)
        if isinstance(found, _Nil):
            raise self.fail("nil can only be compared with = or !=", found.pos)
        return found

    def _field(self, tree: Tree) -> Any:
        return self.bind(tree, self._field_atom, self._field_binary, self._field_unary)

    def _field_unary(self, operator: Token, operand: Any) -> ast.FieldExpression:
        self._refuse_nil(operand)
        return ast.Unary(str(operator), operand, pos=place(operator))

    def _field_binary(self, operator: Token, left: Any, right: Any) -> ast.FieldExpression:
        op = str(operator)
        pos = place(operator)
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
                return _Nil(place(token))
            if str(token) in INTRINSICS:
                return ast.Intrinsic(INTRINSICS[str(token)], pos=place(token))
        return self.static(atom)

    def attribute(self, token: Token) -> ast.Attribute:
        """Return an attribute such as `span.foo`."""
        parent = False
        rest = str(token)
        if rest.startswith("parent."):
            parent = True
            rest = rest[len("parent") :]
            rest = re.sub(r"^\.(span|resource)\.", r"\1.", rest)
        scope, _, name = rest.partition(".")
        return ast.Attribute(scope, unquote_attribute(name), parent, pos=place(token))

    def scoped(self, token: Token) -> ast.Intrinsic:
        """Return an intrinsic such as `span:name`."""
        scope, name = re.split(r":\s*", str(token), maxsplit=1)
        if f"{scope}:{name}" not in SCOPED_INTRINSICS:
            raise self.fail(f"unknown intrinsic {scope}:{name}", place(token))
        return ast.Intrinsic(f"{scope}:{name}", pos=place(token))

    def static(self, tree: Any) -> ast.Static:
        """Return a literal."""
        token: Token = tree.children[0]
        found = literal(token)
        if found is None:
            raise self.fail(f"unknown identifier: {token}", place(token))
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
    return place(tree.meta) or default
