"""Read the metrics of a PromQL expression, the labels matched on them, and the labels it groups by.

promtool checks the expressions of rules and panels; here promql-parser, whose tree names the parts.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any

import promql_parser

# By the text of promql-parser's MatchOp, which cannot be hashed.
OPERATORS = {
    "MatchOp.Equal": "=",
    "MatchOp.NotEqual": "!=",
    "MatchOp.Re": "=~",
    "MatchOp.NotRe": "!~",
}


@dataclass
class Names:
    """The names in an expression.

    - `metrics`: (name, {label: (operator, value)}) of each selector.
    - `groups`: the labels in by, on and the other grouping clauses.
    """

    metrics: list[tuple[str, dict[str, tuple[str, str]]]] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)


def read(expr: str) -> Names:
    """Return the names in an expression whose Grafana variables have been replaced.

    Raises ValueError for text that is not PromQL.
    """
    names = Names()

    def visit(node: Any) -> None:
        modifier = getattr(node, "modifier", None)
        names.groups.update(getattr(modifier, "group_labels", None) or ())
        for labels in (modifier, getattr(modifier, "matching", None)):
            names.groups.update(getattr(labels, "labels", None) or ())
        if isinstance(node, promql_parser.VectorSelector):
            matchers = {m.name: (OPERATORS[str(m.op)], m.value) for m in node.matchers.matchers}
            spelled_out = _spelled_out(*matchers.pop("__name__", ("", "")))
            selected = [node.name] if node.name else spelled_out
            names.metrics += [(name, matchers) for name in selected]

    promql_parser.walk(promql_parser.parse(expr), visit)
    return names


def _spelled_out(operator: str, pattern: str) -> list[str]:
    """Return the names that `__name__=~"a_(b|c)"` spells out; none for patterns that are looser."""
    if operator == "=":
        return [pattern]
    parts = [part.split("|") for part in re.split(r"[()]", pattern)]
    names = ["".join(chosen) for chosen in itertools.product(*parts)]
    return [n for n in names if re.fullmatch(r"[a-zA-Z_:][\w:]*", n)] if operator == "=~" else []
