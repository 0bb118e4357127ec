"""A trace that a search found: its spans' rows gathered into what Tempo's SearchResponse tells of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from lab.tracestore.catalogue import SCOPES, Catalogue
from lab.tracestore.columns import MAP_TYPES, PROMOTED, quote
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fields import Needs, Parameters
from lab.tracestore.traceql.validate import walk
from lab.tracestore.values import trace_hex

NO_ROOT = "<root span not yet received>"
CORE = (
    "s.trace_id, s.span_id, s.parent_id, s.start_ns, s.end_ns, s.dur_ns, s.name, s.kind, s.status, s.status_message, "
    "s.service"
)

Row = dict[str, Any]
Nodes = list[ast.Attribute | ast.Intrinsic]


def shown_nodes(query: ast.Query) -> Nodes:
    """The attributes and intrinsics that a query names: Tempo shows them with each span."""
    return list(
        dict.fromkeys(n for n in walk(query) if isinstance(n, ast.Attribute | ast.Intrinsic))
    )


def scopes_of(node: ast.Attribute | ast.Intrinsic, catalogue: Catalogue) -> list[str]:
    """Where a node may have a value: its own scope, or for an unscoped attribute each that has ever had it."""
    if isinstance(node, ast.Intrinsic):
        return [node.name.split(":")[0]]
    return [s for s in ([node.scope] if node.scope else SCOPES) if catalogue.types(s, node.name)]


class AttributeColumns:
    """The columns that the wanted attributes need beside CORE: `sql` for a SELECT, and `row` to read them back.

    Of a map only the wanted keys are read: the whole would cost more than all the rest.
    """

    def __init__(
        self, catalogue: Catalogue, wanted: Nodes, needs: Needs, parameters: Parameters
    ) -> None:
        self._keys: dict[str, tuple[str, str]] = {}  # column -> (map, key)
        self._columns: dict[str, str] = {}
        for node in wanted:
            for scope in scopes_of(node, catalogue):
                self._add(scope, node, needs)
                if scope == "span" and isinstance(node, ast.Attribute):
                    self._add_of_span(node.name, catalogue.types("span", node.name), parameters)
        self.sql = "".join(f", {sql} AS {quote(name)}" for name, sql in self._columns.items())

    def _add(self, scope: str, node: ast.Attribute | ast.Intrinsic, needs: Needs) -> None:
        if scope in ("event", "link"):
            self._columns[f"{scope}s"] = f"s.{scope}s"
        elif scope == "resource":
            needs.resources = True
            self._columns |= {f"r_{t}": f"r.a_{t}" for t in MAP_TYPES}
        elif scope == "instrumentation":
            needs.scopes = True
            self._columns |= {"c_name": "c.name", "c_version": "c.version"} | {
                f"c_{t}": f"c.a_{t}" for t in MAP_TYPES
            }

    def _add_of_span(self, key: str, types: set[str], parameters: Parameters) -> None:
        for kind in types:
            if PROMOTED.get(key) == kind:
                self._columns[key] = f"s.{quote(key)}"
            else:
                name = f"key{len(self._keys)}"
                self._keys[name] = (f"a_{kind}", key)
                self._columns[name] = f"s.a_{kind}[{parameters.add(key)}]"

    def row(self, row: Row) -> Row:
        """The row with its maps, as far as they were read."""
        maps: dict[str, dict[str, Any]] = {}
        for column, (map_name, key) in self._keys.items():
            if row[column] is not None:
                maps.setdefault(map_name, {})[key] = row[column]
        return row | maps


@dataclass
class Spanset:
    """Rows that matched together, and what by() and the aggregates say of them."""

    rows: list[Row] = field(default_factory=list)
    attributes: list[dict[str, Any]] = field(default_factory=list)

    def as_tempo(
        self, shown: int, attributes: Callable[[Row], list[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Tempo's SpanSet with the `shown` first spans."""
        rows = sorted(self.rows, key=lambda r: (r["start_ns"], r["rid"]))
        told: dict[str, Any] = {
            "spans": [_span(r, attributes(r)) for r in rows[:shown]],
            "matched": len(rows),
        }
        return told | ({"attributes": self.attributes} if self.attributes else {})


class Trace:
    """Takes every span of one trace; `sets` are the spansets of those that matched."""

    def __init__(self, trace_id: UUID) -> None:
        self.trace_id = trace_id
        self.start_ns, self.end_ns = 2**63 - 1, 0
        self.root: Row | None = None
        self.stats: dict[str, dict[str, int]] = {}
        self.sets: list[Spanset] = []

    def add(self, row: Row) -> None:
        """Take a span."""
        self.start_ns, self.end_ns = (
            min(self.start_ns, row["start_ns"]),
            max(self.end_ns, row["end_ns"]),
        )
        if row["parent_id"] == 0 and (self.root is None or row["start_ns"] < self.root["start_ns"]):
            self.root = row
        stats = self.stats.setdefault(row["service"] or "", {"spanCount": 0})
        stats["spanCount"] += 1
        if row["status"] == 2:
            stats["errorCount"] = stats.get("errorCount", 0) + 1

    def as_tempo(
        self, shown: int, attributes: Callable[[Row], list[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Tempo's TraceSearchMetadata, with `shown` spans of each set, each with its `attributes`."""
        sets = [s.as_tempo(shown, attributes) for s in self.sets]
        return {
            "traceID": trace_hex(self.trace_id),
            "rootServiceName": (self.root and self.root["service"]) or NO_ROOT,
            "rootTraceName": (self.root and self.root["name"]) or NO_ROOT,
            "startTimeUnixNano": str(self.start_ns),
            "durationMs": max(self.end_ns - self.start_ns, 0) // 10**6,
            "spanSet": sets[0],
            "spanSets": sets,
            "serviceStats": self.stats,
        }


def _span(row: Row, attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """A span as Tempo shows it in a search: its name, times, and the attributes that the query names."""
    span = {
        "spanID": f"{row['span_id']:016x}",
        "name": row["name"],
        "startTimeUnixNano": str(row["start_ns"]),
        "durationNanos": str(row["dur_ns"]),
    }
    return span | ({"attributes": attributes} if attributes else {})
