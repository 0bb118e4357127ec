"""Tokens -> values: strings with Go's escapes, durations, names of statuses and kinds."""

from __future__ import annotations

import re
from typing import Any

from lark import Token, Tree

from lab.tracestore.traceql.ast import Static, Type

STATUS = {"unset": 0, "ok": 1, "error": 2}
KIND = {"unspecified": 0, "internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}

_NAMED: dict[Type, dict[str, bool | int]] = {
    Type.BOOLEAN: {"true": True, "false": False},
    Type.STATUS: {**STATUS},
    Type.KIND: {**KIND},
    Type.INT: {"minInt": -(2**63), "maxInt": 2**63 - 1},
}

_UNIT_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
    "w": 7 * 86400 * 10**9,
    "y": 365 * 86400 * 10**9,
}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h|d|w|y)")
_ESCAPE = re.compile(
    r'\\(?:([abfnrtv\\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))',
    re.S,
)
_SIMPLE = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    '"': '"',
}


def literal(token: Token) -> Static | None:
    """Return the value of a literal token.

    None where a name stands for nothing, or a string has a wrong escape.
    """
    pos = place(token)
    text = str(token)
    if token.type == "INTEGER":
        digits = text.lstrip("0") or "0"  # Python refuses to read thousands of them
        value = int(digits[:20])
        return Static(Type.INT, value, pos=pos) if value < 2**63 else None
    if token.type == "FLOAT":
        return Static(Type.FLOAT, float(text), pos=pos)
    if token.type == "DURATION":
        ns = duration_ns(text)
        return Static(Type.DURATION, ns, pos=pos) if ns < 2**63 else None
    if token.type == "STRING":
        unquoted = unquote(text)
        return None if unquoted is None else Static(Type.STRING, unquoted, pos=pos)
    for type_, values in _NAMED.items():
        if text in values:
            return Static(type_, values[text], pos=pos)
    return None


def place(node: Any) -> int:
    """Return where a token or a tree begins in the text."""
    return getattr(node, "start_pos", None) or 0


def duration_ns(text: str) -> int:
    """Return the nanoseconds of a duration token, 2**63 where they are that many or more."""
    total = 0.0
    for number, unit in _DURATION_PART.findall(text):
        total += float(number) * _UNIT_NS[unit]
    return int(min(total, 2.0**63))


def unquote(text: str) -> str | None:
    """Return a quoted string's value, as Go reads it; None for an escape that Go does not know."""
    if text[0] == "`":
        return text[1:-1].replace("\r", "")
    try:
        return _ESCAPE.sub(_unescaped, text[1:-1])
    except ValueError:
        return None


def _unescaped(match: re.Match[str]) -> str:
    """Return the character of an escape. Raises ValueError for one that Go does not know."""
    simple, x, u4, u8, octal, other = match.groups()
    if simple:
        return _SIMPLE[simple]
    if other is not None:
        raise ValueError(f"unknown escape {match[0]!r}")
    code = int(octal, 8) if octal else int(x or u4 or u8, 16)
    if code > (0xFF if octal else 0x10FFFF) or 0xD800 <= code < 0xE000:
        raise ValueError(f"no character has the number {code:#x}")
    return chr(code)


def unquote_attribute(text: str) -> str:
    """Return an attribute's name with its quoted parts opened: `a."b c".d` is `a.b c.d`."""
    return re.sub(r'"((?:\\["\\]|[^"\\])*)"', lambda m: re.sub(r"\\(.)", r"\1", m.group(1)), text)


def number_or_none(tree: Tree) -> float | None:
    """Return the value of a field expression that is one bare number."""
    if tree.data != "field" or len(tree.children) != 1:
        return None
    operand: Any = tree.children[0]
    if len(operand.children) != 1 or operand.children[0].data != "literal":
        return None
    token = operand.children[0].children[0]
    return float(token) if token.type in ("INTEGER", "FLOAT") else None
