"""The attribute keys in the store, with their types and times.

The catalogue answers `tags` at once and keeps compiled queries short: a query for `span.foo = "x"`
need not look where `foo` never was a string. Keys are never forgotten; after retention a query may
look once too often.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import duckdb

from lab.tracestore.columns import MAP_TYPES

SCOPES = ("span", "resource", "event", "link", "instrumentation")
MAX_ENTRIES = 20_000
_STALE_NS = 60 * 10**9

DDL = (
    "CREATE TABLE IF NOT EXISTS keys "
    "(scope VARCHAR, key VARCHAR, type VARCHAR, first_ns BIGINT, last_ns BIGINT)"
)


@dataclass
class Seen:
    """First and last span start (unix ns) with this key, and what of it is on disk."""

    first_ns: int
    last_ns: int
    saved: tuple[int, int] | None = None


class Catalogue:
    """Keys by scope, key and type. Safe to read from any thread.

    It holds `MAX_ENTRIES` at most, because a sender may put an id into its keys. Once it is full, a
    key that it does not know may be of any type, and is looked for in all places.
    """

    def __init__(self) -> None:
        """Begin without keys; `load` reads those of a database."""
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, str], Seen] = {}

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        """Read the keys that an earlier run saved."""
        with self._lock:
            for scope, key, kind, first, last in con.execute(
                "SELECT scope, key, type, min(first_ns), max(last_ns) FROM keys GROUP BY ALL"
            ).fetchall():
                self._seen[scope, key, kind] = Seen(first, last, (first, last))

    def types(self, scope: str, key: str) -> set[str]:
        """Return the types of `key` in `scope`: a subset of str, int, dbl, bool, json."""
        with self._lock:
            known = {t for t in MAP_TYPES if (scope, key, t) in self._seen}
            return set(MAP_TYPES) if len(self._seen) >= MAX_ENTRIES else known

    def keys(self, scope: str, start_ns: int = 0, end_ns: int = 2**63 - 1) -> list[str]:
        """Return the sorted keys of a scope in the window, to the minute."""
        with self._lock:
            return sorted(
                {
                    k
                    for (s, k, _), seen in self._seen.items()
                    if s == scope
                    and seen.first_ns - _STALE_NS <= end_ns
                    and seen.last_ns + _STALE_NS >= start_ns
                }
            )

    def learn(self, found: set[tuple[str, str, str]], first_ns: int, last_ns: int) -> None:
        """Note the keys of a batch whose spans start in [first_ns, last_ns]."""
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
        """Return rows for the keys table: new keys, and those whose times moved by a minute."""
        slack = 0 if everything else _STALE_NS
        with self._lock:
            rows = []
            for (scope, key, kind), seen in self._seen.items():
                now = (seen.first_ns, seen.last_ns)
                if (
                    seen.saved is None
                    or seen.saved[0] - now[0] > slack
                    or now[1] - seen.saved[1] > slack
                ):
                    rows.append((scope, key, kind, *now))
            return rows

    def mark_saved(self, rows: list[tuple[str, str, str, int, int]]) -> None:
        """Note that these rows are on disk."""
        with self._lock:
            for scope, key, kind, first, last in rows:
                self._seen[scope, key, kind].saved = (first, last)
