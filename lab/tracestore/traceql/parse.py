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
from lark import Tree

from lab.tracestore.errors import TraceQLSyntax, TraceQLUnsupported
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.expressions import Builder
from lab.tracestore.traceql.literals import place, unquote_attribute
from lab.tracestore.traceql.pipeline import PipelineReader

MAX_QUERY_CHARS = 128 * 1024
MAX_OPERATORS = 400
MAX_NESTING = 60


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
        return _query(tree, text)
    except lark.UnexpectedInput as e:
        raise _syntax_error(text, e) from None


def parse_attribute(text: str) -> ast.Attribute:
    """Return one attribute as it is written in a query (`span.foo`).

    Without a scope or a leading dot it is unscoped (`foo`).
    """
    parts = re.fullmatch(r"(?:(span|resource|event|link|instrumentation)?\.)?(.+)", text, re.S)
    if not parts:
        raise TraceQLSyntax("an attribute is expected", query=text)
    scope = parts.group(1) or ""
    name = parts.group(2)
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
    operators = 0
    deepest = 0
    stack = [(tree, 0)]
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


def _query(tree: Tree, text: str) -> ast.Query:
    builder = Builder(text)
    hints: dict[str, Any] = {}
    for block in tree.children[1:]:
        for hint in block.children:
            if isinstance(hint, Tree):
                name, value = _hint(builder, hint)
                hints[name] = value
    return PipelineReader(builder).query(tree.children[0], hints)


def _hint(builder: Builder, hint: Tree) -> tuple[str, Any]:
    name, operator, *_, value = hint.children
    if operator != "=":
        raise builder.fail(f"unexpected {operator} in a hint", place(operator))

    static = builder.static(value)
    is_negative = len(hint.children) == 4
    return str(name), -static.value if is_negative else static.value
