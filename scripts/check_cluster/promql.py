"""Read the metrics of a PromQL expression, the labels matched on them, and the labels it groups by.

promtool checks the syntax; this module only reads names, for which a small scanner is enough.
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
class Names:
    """The names in an expression.

    - `metrics`: (name, {label: (operator, value)}) of each selector.
    - `groups`: the labels in by, on and the other grouping clauses.
    """

    metrics: list[tuple[str, dict[str, tuple[str, str]]]] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)


def read(expr: str) -> Names:
    """Return the names in an expression whose Grafana variables have been replaced."""
    tokens = [(m.lastgroup, m[0]) for m in _TOKEN.finditer(expr)]
    names = Names()
    i = 0
    while i < len(tokens):
        kind, text = tokens[i]
        following = tokens[i + 1][1] if i + 1 < len(tokens) else ""
        role = _role(kind, text, following)
        if role == "grouping":
            end = _close(tokens, i + 1, "(", ")")
            names.groups |= {t for k, t in tokens[i + 2 : end] if k == "name"}
            i = end
        elif role == "metric":
            matchers = {}
            if following == "{":
                end = _close(tokens, i + 1, "{", "}")
                matchers = _matchers(tokens[i + 2 : end])
                i = end
            names.metrics.append((text, matchers))
        elif role == "selector":
            end = _close(tokens, i, "{", "}")
            matchers = _matchers(tokens[i + 1 : end])
            operator, pattern = matchers.pop("__name__", ("", ""))
            names.metrics += [(metric, matchers) for metric in _spelled_out(operator, pattern)]
            i = end
        i += 1
    return names


def _role(kind: str | None, text: str, following: str) -> str:
    """Return what begins with a token: 'grouping', 'metric', 'selector' or nothing ('')."""
    if text == "{":  # without a name before it: {__name__=~"..."}
        return "selector"
    if kind != "name":
        return ""
    if text in _GROUPING and following == "(":
        return "grouping"
    return "" if text in _WORDS or following in _AFTER_FUNCTION else "metric"


def _spelled_out(operator: str, pattern: str) -> list[str]:
    """Return the names that `__name__=~"a_(b|c)"` spells out; none for patterns that are looser."""
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
    matchers = {}
    label = ""
    operator = ""
    for kind, text in tokens:
        if kind == "name":
            label = text
            operator = ""
        elif kind == "string":
            matchers[label] = (operator, text[1:-1])
        elif text != ",":
            operator += text
    return matchers
