"""compare(): how the attributes of selected spans differ from those of all others.

For each attribute and value the spans are counted per interval, apart for the selection and the rest (the baseline). Each
attribute keeps its most frequent values on either side; `..._total` counts the spans that have the attribute at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from lab.tracestore.columns import MAP_TYPES, PROMOTED, quote
from lab.tracestore.seriesops import Label, Series
from lab.tracestore.traceql.fetch import DEDICATED
from lab.tracestore.traceql.text import KIND_NAMES, STATUS_NAMES
from lab.tracestore.values import any_value

if TYPE_CHECKING:
    from lab.tracestore.series import Spans

_NIL = {"stringValue": "nil"}
_SIDES = {False: "baseline", True: "selection"}
_SPAN_COLUMNS = ("name", "kind", "status", "status_message", "service", "res_id", "scope_id")

# Attribute in the answer -> column, of what every span has; durations and ids are not compared.
_INTRINSICS = {
    "name": ("str", "name"),
    "kind": ("kind", "kind"),
    "status": ("status", "status"),
    "statusMessage": ("str", "coalesce(status_message, '')"),
    "rootName": ("str", "coalesce(root_name, '')"),
    "rootServiceName": ("str", "coalesce(root_service, '')"),
    "resource.service.name": ("str", "service"),
}


def compare(spans: Spans) -> list[Series]:
    """Return Tempo's series of compare()."""
    arguments = spans.query.aggregate.compare
    name = spans.compiler.name
    counted = name(" UNION ALL ".join(_parts(_picked(spans))))
    in_total = (
        f"SELECT attribute, selected, type, value, sum(n) AS total FROM {counted} GROUP BY ALL"
    )
    ranked = (
        "SELECT *, row_number() OVER (PARTITION BY attribute, selected "
        f"ORDER BY total DESC, value) AS place FROM ({in_total})"
    )
    kept = name(f"SELECT * FROM ({ranked}) WHERE place <= {arguments.limit:d}")
    values = (
        f"SELECT c.attribute, c.selected, c.type, c.value, c.i, sum(c.n) FROM {counted} c "
        f"JOIN {kept} k USING (attribute, selected, type, value) GROUP BY ALL"
    )
    totals = f"SELECT attribute, selected, NULL, NULL, i, sum(n) FROM {counted} GROUP BY ALL"
    rows = spans.execute(f"{values} UNION ALL {totals}")
    return _Answer(spans.request.intervals).series(rows)


def _picked(spans: Spans) -> str:
    """Name the spans with their interval, side and attributes; returns the name."""
    arguments = spans.query.aggregate.compare
    selected = spans.fields.strict(arguments.selection.condition)
    if arguments.start_ns and arguments.end_ns:
        selected += (
            f" AND s.start_ns > {arguments.start_ns:d} AND s.start_ns <= {arguments.end_ns:d}"
        )
    promoted = [quote(key) for key in PROMOTED]
    columns = [f"s.{c}" for c in (*_SPAN_COLUMNS, *promoted, *(f"a_{t}" for t in MAP_TYPES))]
    picked = spans.compiler.name(
        f"SELECT s.trace_id, {spans.interval} AS i, ({selected}) AS selected, "
        f"{', '.join(columns)} {spans.source()}"
    )
    roots = (
        "SELECT trace_id, arg_min(name, start_ns) AS root_name, "
        "arg_min(service, start_ns) AS root_service FROM spans WHERE parent_id = 0 GROUP BY trace_id"
    )
    joined = f"SELECT p.*, t.root_name, t.root_service FROM {picked} p"
    return spans.compiler.name(f"{joined} LEFT JOIN ({roots}) t ON t.trace_id = p.trace_id")


def _parts(picked: str) -> list[str]:
    """Return SELECTs of (attribute, selected, type, value, i, n)."""
    parts = [
        _of_column(picked, attribute, slot, column)
        for attribute, (slot, column) in _INTRINSICS.items()
    ]
    for key, kind in PROMOTED.items():
        parts.append(_of_column(picked, f"span.{key}", kind, quote(key)))
    for kind in MAP_TYPES:
        parts.append(_of_map(picked, kind))
    parts += _of_owner(picked, "resources", "res_id", "resource")
    parts += _of_owner(picked, "scopes", "scope_id", "instrumentation")
    parts += [_of_missing(picked, scope, key) for scope, key in DEDICATED]
    return parts


def _of_column(picked: str, attribute: str, slot: str, column: str) -> str:
    return (
        f"SELECT '{attribute}' AS attribute, selected, '{slot}' AS type, "
        f"({column})::VARCHAR AS value, i, count(*) AS n "
        f"FROM {picked} WHERE ({column}) IS NOT NULL GROUP BY ALL"
    )


def _of_map(picked: str, kind: str) -> str:
    entries = f"SELECT selected, i, unnest(map_entries(a_{kind})) AS e FROM {picked}"
    return (
        f"SELECT 'span.' || e.key AS attribute, selected, '{kind}' AS type, "
        f"e.value::VARCHAR AS value, i, count(*) AS n FROM ({entries}) GROUP BY ALL"
    )


def _of_owner(picked: str, table: str, column: str, scope: str) -> list[str]:
    """Return the SELECTs of resources or scopes, counted before their attributes are looked up."""
    counted = f"SELECT {column} AS id, selected, i, count(*) AS spans FROM {picked} GROUP BY ALL"
    parts = []
    for kind in MAP_TYPES:
        entries = (
            f"SELECT selected, i, spans, unnest(map_entries(o.a_{kind})) AS e "
            f"FROM ({counted}) c JOIN {table} o USING (id)"
        )
        parts.append(
            f"SELECT '{scope}.' || e.key AS attribute, selected, '{kind}' AS type, "
            f"e.value::VARCHAR AS value, i, sum(spans) AS n FROM ({entries}) "
            f"WHERE '{scope}.' || e.key <> 'resource.service.name' GROUP BY ALL"
        )
    if scope == "instrumentation":
        parts += [
            f"SELECT 'instrumentation:{field}' AS attribute, selected, 'str' AS type, "
            f"coalesce(o.{field}, '') AS value, i, sum(spans) AS n "
            f"FROM ({counted}) c JOIN {table} o USING (id) GROUP BY ALL"
            for field in ("name", "version")
        ]
    return parts


def _of_missing(picked: str, scope: str, key: str) -> str:
    """Count the spans without an attribute that Tempo keeps in a column of its own: they have the text nil."""
    kind = "int" if key == "http.status_code" else "str"
    if scope == "span":
        column = quote(key) if PROMOTED.get(key) == kind else f"a_{kind}['{key}']"
        source = f"{picked} WHERE ({column}) IS NULL"
    else:
        column = f"o.a_{kind}['{key}']"
        source = f"{picked} p LEFT JOIN resources o ON o.id = p.res_id WHERE ({column}) IS NULL"
    return (
        f"SELECT '{scope}.{key}' AS attribute, selected, 'nil' AS type, 'nil' AS value, i, "
        f"count(*) AS n FROM {source} GROUP BY ALL"
    )


class _Answer:
    """Rows of (attribute, selected, type, value, interval, n) -> series; a total has no type."""

    def __init__(self, intervals: int) -> None:
        self.intervals = intervals
        self.values: dict[tuple[Label, ...], np.ndarray] = {}

    def series(self, rows: list[tuple]) -> list[Series]:
        for attribute, selected, kind, value, interval, n in rows:
            side = _SIDES[selected] + ("" if kind else "_total")
            labels = (
                Label.of("__meta_type", {"stringValue": side}),
                Label.of(attribute, _as_any_value(kind, value) if kind else _NIL),
            )
            counts = self.values.setdefault(labels, np.zeros(self.intervals))
            counts[interval] += float(n)
        return [Series(labels, counts) for labels, counts in self.values.items()]


def _as_any_value(kind: str, text: str) -> dict[str, Any]:
    """Return the AnyValue of a value that was made text; arrays have become the text nil on Tempo's way, but for one."""
    match kind:
        case "int":
            return any_value("int", int(text))
        case "dbl":
            return any_value("dbl", float(text))
        case "bool":
            return any_value("bool", text == "true")
        case "kind":
            return any_value("str", KIND_NAMES.get(int(text), f"kind({text})"))
        case "status":
            return any_value("str", STATUS_NAMES.get(int(text), f"status({text})"))
        case "json":
            return _array(text)
    return any_value("str", text)


def _array(text: str) -> dict[str, Any]:
    values = msgspec.json.decode(text).get("arrayValue", {}).get("values", [])
    return values[0] if len(values) == 1 and values[0] else _NIL
