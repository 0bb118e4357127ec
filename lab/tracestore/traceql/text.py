"""Syntax tree -> text, as Tempo writes it in labels and spanset attributes."""

from __future__ import annotations

import re

from lab.tracestore.traceql import ast
from lab.tracestore.traceql.literals import KIND, STATUS

# Tempo prints the older, unscoped spelling of an intrinsic where there is one.
_PRINTED = {
    "span:duration": "duration",
    "span:name": "name",
    "span:status": "status",
    "span:statusMessage": "statusMessage",
    "span:kind": "kind",
    "trace:rootName": "rootName",
    "trace:rootService": "rootServiceName",
    "trace:duration": "traceDuration",
}
_ENDS_ATTRIBUTE = re.compile(r'[\s{}()=~!<>&|^,"]')
STATUS_NAMES = {v: k for k, v in STATUS.items()}
KIND_NAMES = {v: k for k, v in KIND.items()}


def attribute_text(node: ast.Attribute | ast.Intrinsic) -> str:
    """`span.foo`, `.foo`, `duration`, ...; a name with odd characters is quoted."""
    if isinstance(node, ast.Intrinsic):
        return _PRINTED.get(node.name, node.name)
    name = node.name
    if _ENDS_ATTRIBUTE.search(name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{node.scope}.{name}"


def field_text(node: ast.FieldExpression) -> str:
    """Return a field expression."""
    match node:
        case ast.Static():
            return static_text(node)
        case ast.Attribute() | ast.Intrinsic():
            return attribute_text(node)
        case ast.Unary():
            return f"{node.op}{_wrapped(node.operand)}"
        case ast.Exists():
            return f"{_wrapped(node.operand)} {'=' if node.negated else '!='} nil"
        case ast.Binary():
            return f"{_wrapped(node.left)} {node.op} {_wrapped(node.right)}"
    raise TypeError(node)


def _wrapped(node: ast.FieldExpression) -> str:
    text = field_text(node)
    return f"({text})" if isinstance(node, ast.Binary | ast.Unary | ast.Exists) else text


def aggregate_text(node: ast.Aggregate) -> str:
    """`count()`, `avg(duration)`, ..."""
    return f"{node.op}({'' if node.operand is None else field_text(node.operand)})"


def static_text(node: ast.Static) -> str:
    """Return a literal."""
    match node.type:
        case ast.Type.STRING:
            return "`" + str(node.value) + "`"
        case ast.Type.DURATION:
            return go_duration(int(node.value))
        case ast.Type.STATUS:
            return STATUS_NAMES[node.value]
        case ast.Type.KIND:
            return KIND_NAMES[node.value]
        case ast.Type.BOOLEAN:
            return "true" if node.value else "false"
    return f"{node.value}"


def go_duration(ns: int) -> str:
    """Return a duration as Go prints it: 1h0m0s, 1.5s, 250ms, 12µs."""
    if ns == 0:
        return "0s"
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    if ns < 10**9:
        unit, scale = ("ns", 1) if ns < 10**3 else ("µs", 10**3) if ns < 10**6 else ("ms", 10**6)
        return f"{sign}{_decimal(ns, scale)}{unit}"
    hours, rest = divmod(ns, 3600 * 10**9)
    minutes, rest = divmod(rest, 60 * 10**9)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{_decimal(rest, 10**9)}s"


def _decimal(ns: int, scale: int) -> str:
    whole, part = divmod(ns, scale)
    digits = len(str(scale)) - 1
    return str(whole) if part == 0 else f"{whole}.{str(part).rjust(digits, '0').rstrip('0')}"
