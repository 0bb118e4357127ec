"""Why is an answer empty? The server is asked; the first reason that holds is given."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lab.errors import StoreError
from lab.stores.answers import Provenance
from lab.stores.timestamps import utc

if TYPE_CHECKING:
    from lab.stores.prometheus import Prometheus

_NOT_METRICS = {
    "and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset", "inf",
    "nan", "start", "end",
}  # fmt: skip
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`')
_LABEL_LISTS = re.compile(
    r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\{[^}]*\}|\[[^\]]*\]"
)
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])")


def metric_names_in(promql: str) -> list[str]:
    """The metric names that an expression names, in order, each once."""
    text = _LABEL_LISTS.sub(" ", _QUOTED.sub('""', promql))
    return [n for n in dict.fromkeys(_NAME.findall(text)) if n.lower() not in _NOT_METRICS]


def similar(name: str, known: Iterable[str]) -> str:
    """A hint at names like this one, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"similar names: {', '.join(close)}" if close else ""


def why_empty(prometheus: Prometheus, asked: Provenance) -> str:
    """One sentence. It never raises: a server that does not answer now is a reason as well."""
    try:
        return _absent(prometheus, asked) or _down(prometheus, asked) or _outside(asked)
    except StoreError as e:
        return f"and it does not say why ({e.happened})"


def _absent(prometheus: Prometheus, asked: Provenance) -> str:
    known = set(prometheus.metric_names())
    for name in metric_names_in(asked.query):
        if name not in known:
            hint = similar(name, known)
            return f"the metric {name} is absent, no target exports it" + (
                f"; {hint}" if hint else ""
            )
    return ""


def _down(prometheus: Prometheus, asked: Provenance) -> str:
    down = [
        f"{s.labels.get('job', '?')} ({s.labels.get('instance', '?')})"
        for s in prometheus.query("up == 0", at=asked.end)
    ]
    return (
        f"these targets were down (up == 0) at the end of the window: {', '.join(sorted(down))}"
        if down
        else ""
    )


def _outside(asked: Provenance) -> str:
    return (
        f"the metric is there, but no sample fits: the window from {utc(asked.start)} to {utc(asked.end)} is empty, "
        "or no series has these labels"
    )
