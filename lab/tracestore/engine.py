"""The trace store without HTTP: store, log, queue and queries."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from lab.tracestore.disk import damaged_files
from lab.tracestore.errors import QueryTooSlow, StoreBroken
from lab.tracestore.ingest import Ingest, Limits
from lab.tracestore.retention import Retention, apply
from lab.tracestore.store import SpanStore
from lab.tracestore.telemetry import Telemetry

log = logging.getLogger("lab.tracestore")

RETENTION_EVERY_S = 60.0
STOPWATCH_EVERY_S = 0.25

T = TypeVar("T")


class Engine:
    """One running trace store on one folder. `ready` is true when it can ingest and query."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits | None = None,
        retention: Retention | None = None,
        query_timeout_s: float = 30.0,
    ) -> None:
        """Open the store below `folder`; nothing is accepted before `start`."""
        self.folder = folder
        self.telemetry = Telemetry()
        self.query_timeout_s = query_timeout_s
        self.store = SpanStore(folder, threads=min(4, os.cpu_count() or 2))
        self.ingest = Ingest(self.store, folder / "wal", self.telemetry, limits)
        self.ready = False
        self.retention = retention or Retention()
        self._stopped = threading.Event()
        self._deadlines: dict[
            duckdb.DuckDBPyConnection, float
        ] = {}  # monotonic s, of each query that runs
        self.pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="query")
        self.json_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="json")

    def start(self) -> None:
        """Replay what the last run had acknowledged, then accept and answer."""
        started = time.monotonic()
        threading.Thread(target=self._stop_slow_queries, name="stopwatch", daemon=True).start()
        replayed = self.ingest.start()
        self.ready = True
        if self.retention != Retention():
            threading.Thread(target=self._forget_forever, name="retention", daemon=True).start()
        log.info(
            "ready",
            extra={"replayed_spans": replayed, "seconds": round(time.monotonic() - started, 3)},
        )

    def _forget_forever(self) -> None:
        while not self._stopped.wait(RETENTION_EVERY_S):
            try:
                apply(self.store, self.retention)
            except duckdb.Error:
                log.exception("old spans could not be deleted; trying again later")

    def _stop_slow_queries(self) -> None:
        """Interrupt queries at their deadline.

        One thread serves all queries: on a busy machine, starting a thread per query would take as
        long as a short query.
        """
        while not self._stopped.wait(STOPWATCH_EVERY_S):
            for con, deadline in list(self._deadlines.items()):
                if time.monotonic() > deadline:
                    with contextlib.suppress(
                        duckdb.ConnectionException
                    ):  # it has just ended by itself
                        con.interrupt()

    def stop(self) -> bool:
        """Stop accepting, end running queries, flush, checkpoint and close.

        Return whether all of it was done in time. Where it was not, the database is left open: what
        is missing there is in the log.
        """
        self.ready = False
        for con in list(self._deadlines):
            self._deadlines[con] = 0.0
        is_flushed = self.ingest.stop()
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.json_pool.shutdown(wait=True, cancel_futures=True)
        self._stopped.set()
        if is_flushed:
            self.store.close()
        else:
            log.warning("stopped before everything was flushed; the next start replays it")
        return is_flushed

    def query(
        self,
        ask: Callable[[duckdb.DuckDBPyConnection], T],
        *,
        wait_s: float = 5.0,
        on_incomplete: Callable[[], None] = lambda: None,
    ) -> T:
        """Run `ask` on a connection of its own that sees every span acknowledged before this call.

        Under a storm of spans, or on a full disk, wait `wait_s` for them at most; then call
        `on_incomplete` and answer with what is there. Raises QueryTooSlow after `query_timeout_s`,
        StoreBroken where the database fails.
        """
        if not self.ingest.wait_visible(self.ingest.acked_seq, wait_s):
            on_incomplete()
        try:
            return self._query(ask)
        except StoreBroken:
            self.store.reopen_if_given_up()
            raise

    def _query(self, ask: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        with self.store.reader() as con:
            self._deadlines[con] = time.monotonic() + self.query_timeout_s
            try:
                return ask(con)
            except duckdb.InterruptException as e:
                raise QueryTooSlow(
                    f"the query was stopped after {self.query_timeout_s:g} s",
                    fix="narrow the time window or the filter",
                ) from e
            except (
                duckdb.IOException,
                duckdb.InternalException,
                duckdb.FatalException,
                duckdb.OutOfMemoryException,
            ) as e:
                raise _failed(e) from e
            except duckdb.Error as e:
                if type(e) is duckdb.Error:  # a damaged block has no class of its own
                    raise _failed(e) from e
                raise
            finally:
                del self._deadlines[con]

    def status(self) -> dict[str, Any]:
        """Return what an operator wants to know, as JSON values.

        `damage` counts what this start could not read.
        """
        damage = self.ingest.damage
        kept = damaged_files(self.folder)
        fault = self.fault
        return {
            "ready": self.ready and fault is None,
            "fault": str(fault) if fault else "",
            "incomplete": self.ingest.is_incomplete,
            "pending_spans": self.ingest.pending_spans,
            "log_bytes": self.ingest.wal.bytes,
            "database_bytes": self.store.size_bytes(),
            "damage": {
                "missing_records": damage.records,
                "bytes": damage.bytes,
                "kept_files": sorted(str(path.relative_to(self.folder)) for path in kept),
            },
        }

    @property
    def fault(self) -> StoreBroken | None:
        """Why no spans are accepted at present; None where they are."""
        if self.store.is_gone:
            return StoreBroken(
                "the data folder was deleted under the running store",
                got=str(self.folder),
                fix="start the store again; what it held is lost",
            )
        return self.ingest.fault

    def refresh_gauges(self) -> None:
        """Set the gauges that are read, not counted."""
        t = self.telemetry
        t.queue_bytes.set(self.ingest.queued_bytes)
        t.pending_spans.set(self.ingest.pending_spans)
        t.wal_bytes.set(self.ingest.wal.bytes)
        t.database_bytes.set(self.store.size_bytes())
        t.damaged_files.set(len(damaged_files(self.folder)))
        t.faulty.set(self.fault is not None)


def _failed(error: duckdb.Error) -> StoreBroken:
    return StoreBroken("the database failed on a query", got=str(error).splitlines()[0])
