"""Traces that a search matched, in the form of Tempo's SearchResponse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from lab.tracestore.catalogue import SCOPES, Catalogue
from lab.tracestore.columns import MAP_TYPES, PROMOTED, quote
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fetch import Reference
from lab.tracestore.traceql.fields import Needs, Parameters
from lab.tracestore.values import trace_hex

NO_ROOT = "<root span not yet received>"
CORE = (
    "s.span_id, s.parent_id, s.start_ns, s.end_ns, s.dur_ns, s.name, s.kind, "
    "s.status, s.status_message, s.service, s.res_id, s.scope_id"
)
_UINT32 = 2**32

Row = dict[str, Any]
Show = Callable[[Row], dict[str, Any]]


def scopes_of(reference: Reference, catalogue: Catalogue) -> list[str]:
    """Return the scopes where a reference may have a value.

    An attribute without a scope may be in each that has had it.
    """
    if isinstance(reference, ast.Intrinsic):
        return [reference.name.split(":")[0]]

    scopes = [reference.scope] if reference.scope else SCOPES
    return [s for s in scopes if catalogue.types(s, reference.name)]


class AttributeColumns:
    """The columns, beside CORE, that the shown attributes need.

    `sql` is for a SELECT, `row` reads them back.

    Of a map only the named keys are read: the whole would cost more than all the rest.
    """

    def __init__(
        self, catalogue: Catalogue, shown: list[Reference], needs: Needs, parameters: Parameters
    ) -> None:
        """Find the columns of the shown references; joins that they need go to `needs`."""
        self._keys: dict[str, tuple[str, str]] = {}  # column -> (map, key)
        self._columns: dict[str, str] = {}
        for reference in shown:
            for scope in scopes_of(reference, catalogue):
                self._add(scope, needs)
                if scope == "span" and isinstance(reference, ast.Attribute):
                    types = catalogue.types("span", reference.name)
                    self._add_of_span(reference.name, types, parameters)
        self.sql = "".join(f", {sql} AS {quote(name)}" for name, sql in self._columns.items())

    def _add(self, scope: str, needs: Needs) -> None:
        if scope in ("event", "link"):
            self._columns[f"{scope}s"] = f"s.{scope}s"
        elif scope == "resource":
            needs.resources = True
            self._columns |= {f"r_{t}": f"r.a_{t}" for t in MAP_TYPES}
        elif scope == "instrumentation":
            needs.scopes = True
            self._columns |= {"c_name": "c.name", "c_version": "c.version"}
            self._columns |= {f"c_{t}": f"c.a_{t}" for t in MAP_TYPES}

    def _add_of_span(self, key: str, types: set[str], parameters: Parameters) -> None:
        for kind in types:
            if PROMOTED.get(key) == kind:
                self._columns[key] = f"s.{quote(key)}"
                continue

            name = f"key{len(self._keys)}"
            self._keys[name] = (f"a_{kind}", key)
            self._columns[name] = f"s.a_{kind}[{parameters.add(key)}]"

    def row(self, row: Row) -> Row:
        """Return the row with its maps, as far as they were read."""
        maps: dict[str, dict[str, Any]] = {}
        for column, (map_name, key) in self._keys.items():
            if row[column] is not None:
                maps.setdefault(map_name, {})[key] = row[column]
        return row | maps


@dataclass
class Spanset:
    """Rows that matched together, and the values of by() and of aggregates."""

    rows: list[Row] = field(default_factory=list)
    attributes: list[dict[str, Any]] = field(default_factory=list)

    def as_tempo(self, shown: int, show: Show) -> dict[str, Any]:
        """Return Tempo's SpanSet with the first `shown` spans."""
        rows = sorted(self.rows, key=lambda r: (r["start_ns"], r["rid"]))
        spans = [_span(row, show(row)) for row in rows[:shown]]
        spanset: dict[str, Any] = {"spans": spans, "matched": len(rows)}
        if self.attributes:
            spanset["attributes"] = self.attributes
        return spanset


class Trace:
    """Takes every span of one trace; `sets` are the spansets of those that matched."""

    def __init__(self, trace_id: UUID) -> None:
        """Begin without spans."""
        self.trace_id = trace_id
        self.rows: list[Row] = []
        self.sets: list[Spanset] = []

    def add(self, row: Row) -> None:
        """Take a span."""
        self.rows.append(row)

    def number(self) -> None:
        """Add nested sets and the number of children to the rows."""
        import numpy as np  # for which the start does not wait

        from lab.tracestore import nested_sets

        rows = sorted(self.rows, key=self._walk_order())
        ids = [np.array([r[c] for r in rows], dtype=np.uint64) for c in ("span_id", "parent_id")]
        numbers = nested_sets.number(np.zeros(len(rows), dtype=np.int64), *ids)
        children: dict[int, int] = {}
        for row in rows:
            children[row["parent_id"]] = children.get(row["parent_id"], 0) + 1

        for row, left, right, parent in zip(rows, *(n.tolist() for n in numbers), strict=True):
            row["n_left"] = left
            row["n_right"] = right
            row["n_parent"] = parent
            row["children"] = children.get(row["span_id"], 0)

    def _walk_order(self) -> Callable[[Row], tuple]:
        """Return the sort key by which siblings are numbered (see `nested_sets`)."""
        resources: dict[Any, int] = {}
        scopes: dict[Any, int] = {}
        for row in self.rows:
            resource = row["res_id"]
            scope = (resource, row["scope_id"])
            resources[resource] = min(resources.get(resource, row["start_ns"]), row["start_ns"])
            scopes[scope] = min(scopes.get(scope, row["start_ns"]), row["start_ns"])

        def key(row: Row) -> tuple:
            resource = row["res_id"]
            scope = row["scope_id"]
            owners = (resources[resource], resource, scopes[resource, scope], scope)
            return (*owners, row["start_ns"], row["span_id"])

        return key

    def as_tempo(self, shown: int, show: Show) -> dict[str, Any]:
        """Return Tempo's TraceSearchMetadata, with the first `shown` spans of each set."""
        start_ns = min(row["start_ns"] for row in self.rows)
        end_ns = max(row["end_ns"] for row in self.rows)
        roots = [row for row in self.rows if row["parent_id"] == 0]
        root = min(roots, key=lambda row: row["start_ns"], default={})
        sets = [s.as_tempo(shown, show) for s in self.sets]
        return {
            "traceID": trace_hex(self.trace_id),
            "rootServiceName": root.get("service") or NO_ROOT,
            "rootTraceName": root.get("name") or NO_ROOT,
            "startTimeUnixNano": str(start_ns),
            "durationMs": max(end_ns - start_ns, 0) // 10**6 % _UINT32,
            "spanSet": sets[0],
            "spanSets": sets,
            "serviceStats": self._service_stats(),
        }

    def _service_stats(self) -> dict[str, dict[str, int]]:
        stats: dict[str, dict[str, int]] = {}
        for row in self.rows:
            service = stats.setdefault(row["service"] or "", {"spanCount": 0})
            service["spanCount"] += 1
            if row["status"] == 2:
                service["errorCount"] = service.get("errorCount", 0) + 1
        return stats


def _span(row: Row, shown: dict[str, Any]) -> dict[str, Any]:
    """Return a span as a search shows it: its times, and what the query reads of it."""
    times = {
        "spanID": f"{row['span_id']:016x}",
        "startTimeUnixNano": str(row["start_ns"]),
        "durationNanos": str(row["dur_ns"]),
    }
    return times | shown
