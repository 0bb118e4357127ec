"""compare(): how the attributes of selected spans differ from those of all others.

For each attribute and value the spans are counted per interval, apart for the selection and the
rest (the baseline). Each attribute keeps its most frequent values on either side; `..._total`
counts the spans that have the attribute at all.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from lab.tracestore.columns import MAP_TYPES, PROMOTED, quote
from lab.tracestore.metrics_source import Spans
from lab.tracestore.seriesops import Label, Series
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fetch import DEDICATED
from lab.tracestore.traceql.text import KIND_NAMES, STATUS_NAMES
from lab.tracestore.values import any_value

_NIL = {"stringValue": "nil"}
_SIDES = {False: "baseline", True: "selection"}

# Attribute -> type and SQL, of what every span has; durations and ids are not compared.
_INTRINSICS = {
    "name": ("str", "s.name"),
    "kind": ("kind", "s.kind"),
    "status": ("status", "s.status"),
    "statusMessage": ("str", "coalesce(s.status_message, '')"),
    "resource.service.name": ("str", "s.service"),
}


def compare(spans: Spans, arguments: ast.Compare) -> list[Series]:
    """Return Tempo's series of compare()."""
    con = spans.con
    con.execute(
        "CREATE OR REPLACE TEMP TABLE compared (attribute VARCHAR, selected BOOLEAN, "
        "type VARCHAR, value VARCHAR, i BIGINT, n BIGINT)"
    )
    try:
        picked = _Picked(spans, arguments)
        for statement in (picked.columns(), picked.roots(), *picked.maps()):
            spans.insert("compared", statement)
        for table, scope in (("resources", "resource"), ("scopes", "instrumentation")):
            con.execute(f"INSERT INTO compared {_of_owners(table, scope)}")
        con.execute(f"INSERT INTO compared {_missing()}")
        rows = con.execute(_most_frequent(arguments.limit)).fetchall()
    finally:
        con.execute("DROP TABLE compared")
    return _Answer(spans.request.intervals).series(rows)


class _Picked:
    """Statements over the spans of the query: rows of (attribute, selected, type, value, i, n).

    The attributes `#res_id`, `#scope_id` and `#all` count resources, scopes and all spans; they are
    no attributes of spans.
    """

    def __init__(self, spans: Spans, arguments: ast.Compare) -> None:
        selected = spans.fields.strict(arguments.selection.condition)
        if arguments.start_ns and arguments.end_ns:
            selected += (
                f" AND s.start_ns > {arguments.start_ns:d} AND s.start_ns <= {arguments.end_ns:d}"
            )
        self._head = f"SELECT {spans.interval} AS i, ({selected}) AS selected"
        self._source = spans.source()

    def columns(self) -> str:
        """Count the values of all columns in one pass."""
        columns = {attribute: (slot, sql) for attribute, (slot, sql) in _INTRINSICS.items()}
        columns |= {f"span.{key}": (kind, f"s.{quote(key)}") for key, kind in PROMOTED.items()}
        columns |= {"#res_id": ("int", "s.res_id"), "#scope_id": ("int", "s.scope_id")}
        names = [f"c{n}" for n in range(len(columns))]

        inner = ", ".join(
            f"{sql} AS {n}" for n, (_, sql) in zip(names, columns.values(), strict=True)
        )
        sets = ", ".join(f"(i, selected, {n})" for n in names)
        which = " ".join(f"WHEN GROUPING({n}) = 0 THEN {{{n}}}" for n in names)
        attribute = f"CASE {which} ELSE '#all' END".format(
            **{n: f"'{a}'" for n, a in zip(names, columns, strict=True)}
        )
        kind = f"CASE {which} ELSE '' END".format(
            **{n: f"'{k}'" for n, (k, _) in zip(names, columns.values(), strict=True)}
        )
        value = f"coalesce({', '.join(f'{n}::VARCHAR' for n in names)})"
        grouped = (
            f"SELECT {attribute} AS attribute, selected, {kind} AS type, {value} AS value, i, "
            f"count(*) AS n FROM ({self._head}, {inner} {self._source}) "
            f"GROUP BY GROUPING SETS ({sets}, (i, selected))"
        )
        return f"SELECT * FROM ({grouped}) WHERE value IS NOT NULL OR attribute = '#all'"

    def roots(self) -> str:
        """Count the names and services of the traces' roots."""
        roots = (
            "SELECT trace_id, arg_min(name, start_ns) AS name, "
            "arg_min(service, start_ns) AS service "
            "FROM spans WHERE parent_id = 0 GROUP BY trace_id"
        )
        joined = (
            "SELECT p.i, p.selected, coalesce(t.name, '') AS name, "
            "coalesce(t.service, '') AS service "
            f"FROM ({self._head}, s.trace_id {self._source}) p "
            f"LEFT JOIN ({roots}) t USING (trace_id)"
        )
        return (
            "SELECT CASE WHEN GROUPING(name) = 0 THEN 'rootName' ELSE 'rootServiceName' END, "
            f"selected, 'str', coalesce(name, service), i, count(*) FROM ({joined}) "
            "GROUP BY GROUPING SETS ((i, selected, name), (i, selected, service))"
        )

    def maps(self) -> list[str]:
        """Count the attributes that have no column of their own, by type."""
        return [
            f"SELECT 'span.' || e.key, selected, '{kind}', e.value::VARCHAR, i, count(*) "
            f"FROM ({self._head}, unnest(map_entries(s.a_{kind})) AS e {self._source}) GROUP BY ALL"
            for kind in MAP_TYPES
        ]


def _of_owners(table: str, scope: str) -> str:
    """Count the attributes of resources or scopes, of which the spans are counted already."""
    column = "#res_id" if table == "resources" else "#scope_id"
    counted = (
        f"SELECT value::BIGINT AS id, selected, i, n FROM compared WHERE attribute = '{column}'"
    )
    parts = []
    for kind in MAP_TYPES:
        entries = (
            f"SELECT selected, i, n, unnest(map_entries(o.a_{kind})) AS e "
            f"FROM ({counted}) c JOIN {table} o USING (id)"
        )
        parts.append(
            f"SELECT '{scope}.' || e.key AS attribute, selected, '{kind}' AS type, "
            f"e.value::VARCHAR AS value, i, sum(n) AS n FROM ({entries}) "
            f"WHERE '{scope}.' || e.key <> 'resource.service.name' GROUP BY ALL"
        )
    if scope == "instrumentation":
        parts += [
            f"SELECT 'instrumentation:{field}', selected, 'str', "
            f"coalesce(o.{field}, ''), i, sum(n) "
            f"FROM ({counted}) c JOIN {table} o USING (id) GROUP BY ALL"
            for field in ("name", "version")
        ]
    return " UNION ALL ".join(parts)


def _missing() -> str:
    """Count the spans without the attributes of `DEDICATED`: they have the text nil."""
    words = {ast.Type.STRING: "str", ast.Type.INT: "int"}
    listed = ", ".join(f"('{s}.{key}', '{words[t]}')" for (s, key), t in DEDICATED.items())
    return (
        "SELECT d.attribute, a.selected, 'nil', 'nil', a.i, "
        "a.n - coalesce(sum(c.n), 0) AS missing "
        f"FROM (VALUES {listed}) d(attribute, type) "
        "CROSS JOIN (SELECT * FROM compared WHERE attribute = '#all') a "
        "LEFT JOIN compared c ON c.attribute = d.attribute AND c.type = d.type "
        "AND c.selected = a.selected AND c.i = a.i "
        "GROUP BY d.attribute, a.selected, a.i, a.n HAVING a.n > coalesce(sum(c.n), 0)"
    )


def _most_frequent(limit: int) -> str:
    """Return SQL of each attribute's most frequent values and of its totals.

    The rows of totals have neither type nor value.
    """
    counted = "(SELECT * FROM compared WHERE attribute NOT LIKE '#%')"
    total = f"SELECT attribute, selected, type, value, sum(n) AS total FROM {counted} GROUP BY ALL"
    ranked = (
        "SELECT *, row_number() OVER (PARTITION BY attribute, selected "
        f"ORDER BY total DESC, value) AS place FROM ({total})"
    )
    return (
        "SELECT c.attribute, c.selected, c.type, c.value, c.i, c.n FROM compared c "
        f"JOIN (SELECT * FROM ({ranked}) WHERE place <= {limit:d}) k "
        "USING (attribute, selected, type, value) UNION ALL "
        f"SELECT attribute, selected, NULL, NULL, i, sum(n) FROM {counted} GROUP BY ALL"
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
    """Return the AnyValue of a value that was made text.

    Arrays have become the text nil on Tempo's way, but for one.
    """
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
