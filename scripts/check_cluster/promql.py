"""What a PromQL expression asks for: metrics, with the labels matched on them, and the labels that it groups by.

promtool judges the syntax; this only reads names, so a small scanner is enough.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      |(?P<duration>\[[^\]]*\])
      |(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
      |(?P<number>[0-9][0-9.eE]*[a-z]*)
      |(?P<sign>[^\s])""",
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_AFTER_FUNCTION = {"(", "by", "without"}  # sum(...), sum by (...) (...)
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "Inf", "NaN", "atan2"} | _GROUPING


@dataclass
class Asked:
    """`metrics`: (name, {label: (operator, value)}) of each selector; `groups`: labels in by, on and their kin."""

    metrics: list[tuple[str, dict[str, tuple[str, str]]]] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)


def read(expr: str) -> Asked:
    """What the expression asks for; Grafana's variables must have been filled in."""
    tokens = [(m.lastgroup, m[0]) for m in _TOKEN.finditer(expr)]
    asked, i = Asked(), 0
    while i < len(tokens):
        kind, text = tokens[i]
        following = tokens[i + 1][1] if i + 1 < len(tokens) else ""
        if kind == "name" and text in _GROUPING and following == "(":
            end = _close(tokens, i + 1, "(", ")")
            asked.groups |= {t for k, t in tokens[i + 2 : end] if k == "name"}
            i = end
        elif kind == "name" and text not in _WORDS and following not in _AFTER_FUNCTION:
            matchers = {}
            if following == "{":
                end = _close(tokens, i + 1, "{", "}")
                matchers = _matchers(tokens[i + 2 : end])
                i = end
            asked.metrics.append((text, matchers))
        elif text == "{":  # a selector without a name before it: {__name__=~"..."}
            end = _close(tokens, i, "{", "}")
            matchers = _matchers(tokens[i + 1 : end])
            operator, pattern = matchers.pop("__name__", ("", ""))
            asked.metrics += [(name, matchers) for name in _names(operator, pattern)]
            i = end
        i += 1
    return asked


def _names(operator: str, pattern: str) -> list[str]:
    """The names that `__name__=~"a_(b|c)"` spells out; of a looser pattern none, since it may match anything."""
    if operator == "=":
        return [pattern]
    parts = [part.split("|") for part in re.split(r"[()]", pattern)]
    names = ["".join(chosen) for chosen in itertools.product(*parts)]
    return [n for n in names if re.fullmatch(r"[a-zA-Z_:][\w:]*", n)] if operator == "=~" else []


def _close(tokens: list[tuple[str | None, str]], start: int, opens: str, closes: str) -> int:
    depth = 0
    for i in range(start, len(tokens)):
        depth += (tokens[i][1] == opens) - (tokens[i][1] == closes)
        if depth == 0:
            return i
    raise ValueError(f"{opens} is never closed")


def _matchers(tokens: list[tuple[str | None, str]]) -> dict[str, tuple[str, str]]:
    found, label, operator = {}, "", ""
    for kind, text in tokens:
        if kind == "name":
            label, operator = text, ""
        elif kind == "string":
            found[label] = (operator, text[1:-1])
        elif text != ",":
            operator += text
    return found
