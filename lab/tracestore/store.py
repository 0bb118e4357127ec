"""The span store: one DuckDB file.

One writer (the flusher), any number of readers, each with its own snapshot.

Beside the spans the database keeps the sequence number of the last log record that it holds, in the
same transaction, so that after a crash exactly the missing records are replayed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from lab.tracestore import catalogue as cat
from lab.tracestore import extents
from lab.tracestore.columns import (
    OWNER_COLUMNS,
    SPAN_COLUMNS,
    add_promoted,
    ddl,
    single_value,
)
from lab.tracestore.disk import free_bytes, make_folder, set_aside, size_of
from lab.tracestore.errors import StoreBroken

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("lab.tracestore.store")

_MEMORY_LIMIT = "400MB"
CHECKPOINT_BYTES = 128 * 2**20  # of the database's own log
_CHECKPOINT_ROOM = 16 * 2**20


# Parts of DuckDB's messages about a damaged file (not one that is held, or of another version).
_CORRUPT = (
    "corrupt",
    "not a valid DuckDB database file",
    "Could not read enough bytes",
    "Failure while replaying WAL",
)


class SpanStore:
    """Opens or creates `folder/spans.duckdb`.

    A damaged file is set aside, and `flushed_seq` is then lower or 0. `estimated_spans` is the
    number of spans, apart from what other threads are changing.

    Raises StoreBroken where the file cannot be opened (held by another process, no rights).
    """

    def __init__(
        self, folder: Path, *, threads: int = 2, memory_limit: str = _MEMORY_LIMIT
    ) -> None:
        """Open or create the database in `folder`, with DuckDB's threads and memory limit."""
        self.path = folder / "spans.duckdb"
        self._log_path = folder / "spans.duckdb.wal"
        self._config: dict[str, str | bool | int | float | list[str]] = {
            "threads": threads,
            "memory_limit": memory_limit,
            "preserve_insertion_order": False,
        }
        self._write_lock = threading.Lock()
        self._gate = threading.Condition()
        self._readers = 0
        self._reopening = False

        make_folder(folder)
        self._con = self._open(repair=True)
        self._inode = self.path.stat().st_ino
        self.catalogue = cat.Catalogue()
        self.catalogue.load(self._con)
        self.flushed_seq: int = single_value(self._con, "SELECT max(seq) FROM log_position")
        self.estimated_spans: int = single_value(self._con, "SELECT count(*) FROM spans")

    def _open(self, *, repair: bool) -> duckdb.DuckDBPyConnection:
        """Open the database.

        With `repair`, a damaged file of it is set aside, and what is left is opened. Raises
        StoreBroken.
        """
        while True:
            try:
                con = duckdb.connect(str(self.path), config=self._config)
                # Only `checkpoint` does it, which looks for room first: after a checkpoint that
                # fails on a full disk, DuckDB refuses everything until the file is opened again.
                con.execute("SET checkpoint_threshold = '1TB'")
                self._create(con)
                return con
            except duckdb.Error as e:
                fault = str(e).splitlines()[0]
                if not (repair and any(sign.lower() in fault.lower() for sign in _CORRUPT)):
                    raise StoreBroken(
                        f"the span database {self.path} cannot be opened",
                        got=fault,
                        fix="stop the other process that holds it, "
                        "or move the file away to start empty",
                    ) from e
                self._set_aside("replaying WAL" in fault, fault)

    def _set_aside(self, only_log: bool, fault: str) -> None:
        """Set aside the database's own log, and unless `only_log` the database as well."""
        for path in (self._log_path,) if only_log else (self._log_path, self.path):
            if path.exists():
                kept = set_aside(path)
                log.error("the database was damaged", extra={"kept": str(kept), "error": fault})

    def _create(self, con: duckdb.DuckDBPyConnection) -> None:
        for statement in (
            ddl("spans", SPAN_COLUMNS),
            ddl("resources", OWNER_COLUMNS),
            ddl("scopes", OWNER_COLUMNS),
            cat.DDL,
            extents.DDL,
            "CREATE TABLE IF NOT EXISTS log_position (seq BIGINT)",
            "INSERT INTO log_position SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM log_position)",
        ):
            con.execute(statement)
        add_promoted(con)
        extents.fill_if_new(con)
        with contextlib.suppress(duckdb.Error):  # there may be no room
            con.execute("DELETE FROM log_position WHERE seq < (SELECT max(seq) FROM log_position)")

    @contextlib.contextmanager
    def reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a connection with a snapshot of its own, and close it at the end."""
        with self._gate:
            self._gate.wait_for(lambda: not self._reopening)
            cursor = self._con.cursor()
            self._readers += 1
        try:
            yield cursor
        finally:
            cursor.close()
            with self._gate:
                self._readers -= 1
                self._gate.notify_all()

    def reopen_if_given_up(self) -> bool:
        """Open the database again where DuckDB has given it up (a failed checkpoint).

        Return whether it had. Must not be called while the caller itself holds a reader.
        """
        with self._write_lock:
            try:
                self._con.execute("SELECT 1 FROM log_position").fetchall()
                return False
            except duckdb.Error:
                log.error("the database was given up; opening it anew")
            with self._gate:
                self._reopening = True
                try:
                    self._gate.wait_for(lambda: self._readers == 0, timeout=30)
                    self._con.close()
                    self._con = self._open(repair=False)
                finally:
                    self._reopening = False
                    self._gate.notify_all()
            return True

    @property
    def is_gone(self) -> bool:
        """Whether the database file was deleted or replaced under the running store."""
        try:
            return self.path.stat().st_ino != self._inode
        except OSError:
            return True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._write_lock, self.reader() as con:
            con.execute("BEGIN")
            try:
                yield con
            except BaseException:
                with contextlib.suppress(duckdb.Error):  # a database that was given up has none
                    con.execute("ROLLBACK")
                raise
            con.execute("COMMIT")

    def checkpoint(self, at_bytes: int | None = None) -> None:
        """Move the database's own log into the database where it is larger than `at_bytes`.

        Does nothing where the disk has no room for it.
        """
        size = size_of(self._log_path)
        if size <= (CHECKPOINT_BYTES if at_bytes is None else at_bytes):
            return
        if free_bytes(self.path.parent) < size + _CHECKPOINT_ROOM:
            log.warning("the disk has no room for a checkpoint", extra={"log_bytes": size})
            return
        with self._write_lock, contextlib.suppress(duckdb.TransactionException):
            self._con.execute("CHECKPOINT")

    def insert(
        self, spans: pa.Table, resources: pa.Table, scopes: pa.Table, seq: int | None = None
    ) -> int:
        """Add spans in one transaction, except those already stored; return how many are new.

        `seq` is the log's sequence number up to which the database is complete with this. Raises
        StoreBroken.
        """
        from lab.tracestore import batch  # with pyarrow, for which the start does not wait

        try:
            with self._transaction() as con:
                batch.insert_owners(con, "resources", resources)
                batch.insert_owners(con, "scopes", scopes)
                added = batch.insert_spans(con, spans)
                if spans.num_rows:
                    self.catalogue.learn(
                        batch.keys_of(spans, resources, scopes), *batch.window_of(spans)
                    )
                rows = self._save_keys(con)
                if seq is not None:
                    # Not UPDATE: after it DuckDB does not checkpoint beside running queries.
                    con.execute("INSERT INTO log_position VALUES ($seq)", {"seq": seq})
            self.catalogue.mark_saved(rows)
            self.estimated_spans += added
            if seq is not None:
                self.flushed_seq = seq
            self.checkpoint()
        except duckdb.Error as e:
            self.reopen_if_given_up()
            raise _not_written(e) from e
        return added

    def set_position(self, seq: int) -> None:
        """Note that the database is complete up to this sequence number of the log.

        Raises StoreBroken.
        """
        if seq == self.flushed_seq:
            return
        try:
            with self._transaction() as con:
                con.execute("INSERT INTO log_position VALUES ($seq)", {"seq": seq})
        except duckdb.Error as e:
            self.reopen_if_given_up()
            raise _not_written(e) from e
        self.flushed_seq = seq

    def _save_keys(
        self, con: duckdb.DuckDBPyConnection, everything: bool = False
    ) -> list[tuple[str, str, str, int, int]]:
        rows = self.catalogue.unsaved(everything)
        if rows:
            names = ("scope", "key", "type", "first_ns", "last_ns")
            new = {
                name: list(column)
                for name, column in zip(names, zip(*rows, strict=True), strict=True)
            }
            con.execute(
                "DELETE FROM keys k USING (SELECT unnest($scope) AS scope, "
                "unnest($key) AS key, unnest($type) AS type) n "
                "WHERE k.scope = n.scope AND k.key = n.key AND k.type = n.type",
                {name: new[name] for name in names[:3]},
            )
            con.execute(
                "INSERT INTO keys SELECT unnest($scope), unnest($key), unnest($type), "
                "unnest($first_ns::BIGINT[]), unnest($last_ns::BIGINT[])",
                new,
            )
        return rows

    def delete_before(self, cutoff_ns: int) -> int:
        """Delete spans that ended before `cutoff_ns` (unix ns); return how many."""
        with self._transaction() as con:
            delete = "DELETE FROM spans WHERE end_ns < $cutoff"
            gone = single_value(con, delete, {"cutoff": cutoff_ns})
            extents.delete_before(con, cutoff_ns)
            for table, column in (("resources", "res_id"), ("scopes", "scope_id")) if gone else ():
                con.execute(f"DELETE FROM {table} WHERE id NOT IN (SELECT {column} FROM spans)")
        if gone:
            self.estimated_spans -= gone
            self.checkpoint(0)
        return gone

    def quantile_end_ns(self, share: float) -> int | None:
        """Return the `share` quantile of end times (unix ns); None without spans."""
        quantile = "SELECT quantile_disc(end_ns, $share) FROM spans"
        with self.reader() as con:
            return single_value(con, quantile, {"share": share})

    def used_bytes(self) -> int:
        """Return the bytes of the blocks in use.

        Deleting lowers this, while the file itself only stops growing.
        """
        with self.reader() as con:
            used = single_value(
                con,
                "SELECT used_blocks * block_size FROM pragma_database_size() "
                "WHERE database_name = current_database()",
            )
        return used + size_of(self._log_path)

    def span_count(self) -> int:
        """Return the number of spans."""
        with self.reader() as con:
            return single_value(con, "SELECT count(*) FROM spans")

    def size_bytes(self) -> int:
        """Bytes on disk, the database's own log included."""
        return sum(map(size_of, self.path.parent.glob(self.path.name + "*")))

    def close(self) -> None:
        """Checkpoint and close. After this only a new SpanStore opens the file."""
        with contextlib.suppress(duckdb.Error):
            with self._transaction() as con:
                rows = self._save_keys(con, everything=True)
            self.catalogue.mark_saved(rows)
            self.checkpoint(0)
        with self._write_lock:
            self._con.close()


def _not_written(error: duckdb.Error) -> StoreBroken:
    return StoreBroken(
        "spans cannot be written to the database",
        got=str(error).splitlines()[0],
        fix="they stay in the log; check the disk",
    )
