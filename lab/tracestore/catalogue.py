"""Which attribute keys exist, with which types, and when: answers `tags` at once and keeps compiled queries short.

A query for `span.foo = "x"` need not look where `foo` never was a string. Keys are never forgotten
(retention may leave some behind; then a query only looks once too often).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lab.tracestore.columns import MAP_TYPES, PROMOTED

SCOPES = ("span", "resource", "event", "link", "instrumentation")
MAX_ENTRIES = 20_000
_STALE_NS = 60 * 10**9

DDL = "CREATE TABLE IF NOT EXISTS keys (scope VARCHAR, key VARCHAR, type VARCHAR, first_ns BIGINT, last_ns BIGINT)"


@dataclass
class Seen:
    """First and last span start (unix ns) with this key, and what of it is on disk."""

    first_ns: int
    last_ns: int
    saved: tuple[int, int] | None = None


class Catalogue:
    """Keys by scope, key and type. Safe to read from any thread.

    It holds `MAX_ENTRIES` at most, because a sender may put an id into its keys. Once it is full, a key that it does
    not know may be of any type, and is looked for in all places.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, str], Seen] = {}

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        with self._lock:
            for scope, key, kind, first, last in con.execute(
                "SELECT scope, key, type, min(first_ns), max(last_ns) FROM keys GROUP BY ALL"
            ).fetchall():
                self._seen[scope, key, kind] = Seen(first, last, (first, last))

    def types(self, scope: str, key: str) -> set[str]:
        """Types with which `key` has been seen in `scope`: subset of str, int, dbl, bool, json."""
        with self._lock:
            known = {t for t in MAP_TYPES if (scope, key, t) in self._seen}
            return set(MAP_TYPES) if len(self._seen) >= MAX_ENTRIES else known

    def keys(self, scope: str, start_ns: int = 0, end_ns: int = 2**63 - 1) -> list[str]:
        """Sorted keys of a scope that were seen in the window (up to a minute coarse)."""
        with self._lock:
            return sorted(
                {
                    k
                    for (s, k, _), seen in self._seen.items()
                    if s == scope and seen.first_ns - _STALE_NS <= end_ns and seen.last_ns + _STALE_NS >= start_ns
                }
            )

    def learn(self, found: set[tuple[str, str, str]], first_ns: int, last_ns: int) -> None:
        with self._lock:
            for entry in found:
                seen = self._seen.get(entry)
                if seen is None:
                    if len(self._seen) < MAX_ENTRIES:
                        self._seen[entry] = Seen(first_ns, last_ns)
                else:
                    seen.first_ns = min(seen.first_ns, first_ns)
                    seen.last_ns = max(seen.last_ns, last_ns)

    def unsaved(self, everything: bool = False) -> list[tuple[str, str, str, int, int]]:
        """Rows for the keys table: new keys, and known ones whose times have moved by a minute."""
        slack = 0 if everything else _STALE_NS
        with self._lock:
            rows = []
            for (scope, key, kind), seen in self._seen.items():
                now = (seen.first_ns, seen.last_ns)
                if seen.saved is None or seen.saved[0] - now[0] > slack or now[1] - seen.saved[1] > slack:
                    rows.append((scope, key, kind, *now))
            return rows

    def mark_saved(self, rows: list[tuple[str, str, str, int, int]]) -> None:
        with self._lock:
            for scope, key, kind, first, last in rows:
                self._seen[scope, key, kind].saved = (first, last)


def keys_of_spans(spans: pa.Table) -> set[tuple[str, str, str]]:
    """(scope, key, type) of a table of SPAN_SCHEMA."""
    found = {("span", k, t) for k, t in PROMOTED.items() if spans.column(k).null_count < spans.num_rows}
    found |= _map_keys(spans, "span")
    for column, scope in (("events", "event"), ("links", "link")):
        if spans.column(column).null_count < spans.num_rows:
            found |= _json_keys(spans.column(column), scope)
    return found


def keys_of_owners(owners: pa.Table, scope: str) -> set[tuple[str, str, str]]:
    """(scope, key, type) of a table of OWNER_SCHEMA; scope is `resource` or `instrumentation`."""
    return _map_keys(owners, scope)


def _map_keys(table: pa.Table, scope: str) -> set[tuple[str, str, str]]:
    found: set[tuple[str, str, str]] = set()
    for t in MAP_TYPES:
        for chunk in table.column(f"a_{t}").chunks:
            found |= {(scope, k, t) for k in pc.unique(chunk.keys).to_pylist()}
    return found


_TYPE_OF_JSON = {"stringValue": "str", "intValue": "int", "doubleValue": "dbl", "boolValue": "bool"}


def _json_keys(column: pa.ChunkedArray, scope: str) -> set[tuple[str, str, str]]:
    found = set()
    for text in column.drop_null().to_pylist():
        for row in msgspec.json.decode(text):
            for key, value in row.get("a", {}).items():
                found.add((scope, key, _TYPE_OF_JSON.get(next(iter(value), ""), "json")))
    return found


def window_of(spans: pa.Table) -> tuple[int, int]:
    """First and last start (unix ns) of a table of spans."""
    starts = spans.column("start_ns").to_numpy()
    return int(np.min(starts)), int(np.max(starts))
