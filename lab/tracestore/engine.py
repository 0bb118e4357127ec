"""The trace store without its HTTP clothes: store, log, queue and queries under one roof."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import duckdb

from lab.tracestore.errors import QueryTooSlow, StoreBroken
from lab.tracestore.ingest import Ingest, Limits
from lab.tracestore.retention import Retention, apply
from lab.tracestore.store import SpanStore
from lab.tracestore.telemetry import Telemetry

log = logging.getLogger("lab.tracestore")

RETENTION_EVERY_S = 60.0

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
        self.folder = folder
        self.telemetry = Telemetry()
        self.query_timeout_s = query_timeout_s
        self.store = SpanStore(folder, threads=min(4, os.cpu_count() or 2))
        self.ingest = Ingest(self.store, folder / "wal", self.telemetry, limits)
        self.ready = False
        self.retention = retention or Retention()
        self._stopped = threading.Event()
        self.pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="query")

    def start(self) -> None:
        """Replay what the last run had acknowledged, then accept and answer."""
        started = time.monotonic()
        replayed = self.ingest.start()
        with self.store.reader() as con:
            con.execute("SELECT count(*) FROM spans").fetchone()
        self.ready = True
        if self.retention != Retention():
            threading.Thread(target=self._forget_forever, name="retention", daemon=True).start()
        log.info("ready", extra={"replayed_spans": replayed, "seconds": round(time.monotonic() - started, 3)})

    def _forget_forever(self) -> None:
        while not self._stopped.wait(RETENTION_EVERY_S):
            try:
                apply(self.store, self.retention)
            except duckdb.Error:
                log.exception("old spans could not be deleted; trying again later")

    def stop(self) -> None:
        """Take nothing more, flush, checkpoint, close."""
        self.ready = False
        self._stopped.set()
        self.ingest.stop()
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.store.close()

    def query(self, ask: Callable[[duckdb.DuckDBPyConnection], T], *, wait_s: float = 5.0) -> T:
        """Run `ask` on a connection of its own that sees every span acknowledged before this call.

        (Under a storm of spans it waits `wait_s` for them and then answers with what is there.)
        Raises QueryTooSlow after `query_timeout_s`, StoreBroken where the database fails.
        """
        self.ingest.wait_visible(self.ingest.acked_seq, wait_s)
        with self.store.reader() as con:
            stopwatch = threading.Timer(self.query_timeout_s, con.interrupt)
            stopwatch.daemon = True
            stopwatch.start()
            try:
                return ask(con)
            except duckdb.InterruptException as e:
                raise QueryTooSlow(
                    f"the query was stopped after {self.query_timeout_s:g} s", do="narrow the time window or the filter"
                ) from e
            except (
                duckdb.IOException,
                duckdb.InternalException,
                duckdb.FatalException,
                duckdb.OutOfMemoryException,
            ) as e:
                raise StoreBroken("the database failed on a query", had=str(e).splitlines()[0]) from e
            finally:
                stopwatch.cancel()

    def refresh_gauges(self) -> None:
        """Set the gauges that are read, not counted."""
        t = self.telemetry
        t.queue_bytes.set(self.ingest.queued_bytes)
        t.pending_spans.set(self.ingest.pending_spans)
        t.wal_bytes.set(self.ingest.wal.bytes if self.ready else 0)
        t.database_bytes.set(self.store.size_bytes())
