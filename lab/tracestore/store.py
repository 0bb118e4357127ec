"""The span store: one DuckDB file. One writer (the flusher), any number of readers, each with its own snapshot.

Beside the spans the database keeps the sequence number of the last log record that it holds, in the same transaction,
so that
after a crash exactly the missing records are replayed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from lab.tracestore import catalogue as cat
from lab.tracestore import extents
from lab.tracestore.columns import OWNER_COLUMNS, SPAN_COLUMNS, ddl
from lab.tracestore.errors import StoreBroken

if TYPE_CHECKING:
    import pyarrow as pa

_MEMORY_LIMIT = "400MB"
_CHECKPOINT_AT = "128MB"


class SpanStore:
    """Opens or creates `folder/spans.duckdb`.

    Raises StoreBroken where the file cannot be opened (held by another process, damaged, no rights).
    """

    def __init__(
        self, folder: Path, *, threads: int = 2, memory_limit: str = _MEMORY_LIMIT
    ) -> None:
        self.path = folder / "spans.duckdb"
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "threads": threads,
            "memory_limit": memory_limit,
            "preserve_insertion_order": False,
        }
        try:
            self._con = duckdb.connect(str(self.path), config=config)
        except duckdb.Error as e:
            raise StoreBroken(
                f"the span database {self.path} cannot be opened", got=str(e).splitlines()[0],
                fix="stop the other process that holds it, or move the file away to start empty",
            ) from e  # fmt: skip
        self._con.execute(f"SET checkpoint_threshold = '{_CHECKPOINT_AT}'")
        self._write_lock = threading.Lock()
        self._create()
        self.catalogue = cat.Catalogue()
        self.catalogue.load(self._con)
        self.flushed_seq: int = _value(self._con, "SELECT max(seq) FROM log_position")

    def _create(self) -> None:
        for statement in (
            ddl("spans", SPAN_COLUMNS),
            ddl("resources", OWNER_COLUMNS),
            ddl("scopes", OWNER_COLUMNS),
            cat.DDL,
            extents.DDL,
            "CREATE TABLE IF NOT EXISTS log_position (seq BIGINT)",
            "INSERT INTO log_position SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM log_position)",
            "DELETE FROM log_position WHERE seq < (SELECT max(seq) FROM log_position)",
        ):
            self._con.execute(statement)
        extents.fill_if_new(self._con)

    @contextlib.contextmanager
    def reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of one's own, closed at the end."""
        cursor = self._con.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._write_lock, self.reader() as con:
            con.execute("BEGIN")
            try:
                yield con
            except BaseException:
                con.execute("ROLLBACK")
                raise
            con.execute("COMMIT")

    def insert(
        self, spans: pa.Table, resources: pa.Table, scopes: pa.Table, seq: int | None = None
    ) -> int:
        """Add these spans in one transaction, but for those that are there already; returns how many are new.

        `seq` is the log's sequence number up to which the database is complete with this. Raises StoreBroken.
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
                if (
                    seq is not None
                ):  # not UPDATE: DuckDB checkpoints beside running queries only after plain inserts
                    con.execute("INSERT INTO log_position VALUES ($seq)", {"seq": seq})
        except duckdb.Error as e:
            raise StoreBroken(
                "spans cannot be written to the database",
                got=str(e).splitlines()[0],
                fix="they stay in the log; check the disk",
            ) from e
        self.catalogue.mark_saved(rows)
        if seq is not None:
            self.flushed_seq = seq
        return added

    def set_position(self, seq: int) -> None:
        """Note that the database is complete up to this sequence number of the log."""
        if seq != self.flushed_seq:
            with self._transaction() as con:
                con.execute("INSERT INTO log_position VALUES ($seq)", {"seq": seq})
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
                "DELETE FROM keys k USING (SELECT unnest($scope) AS scope, unnest($key) AS key, unnest($type) AS type) "
                "n WHERE k.scope = n.scope AND k.key = n.key AND k.type = n.type",
                {name: new[name] for name in names[:3]},
            )
            con.execute(
                "INSERT INTO keys SELECT unnest($scope), unnest($key), unnest($type), "
                "unnest($first_ns::BIGINT[]), unnest($last_ns::BIGINT[])",
                new,
            )
        return rows

    def delete_before(self, cutoff_ns: int) -> int:
        """Delete the spans that ended before `cutoff_ns` (unix ns) and give their space back; returns how many."""
        with self._transaction() as con:
            gone = con.execute(
                "DELETE FROM spans WHERE end_ns < $cutoff", {"cutoff": cutoff_ns}
            ).fetchone()[0]
            extents.delete_before(con, cutoff_ns)
            for table, column in (("resources", "res_id"), ("scopes", "scope_id")) if gone else ():
                con.execute(f"DELETE FROM {table} WHERE id NOT IN (SELECT {column} FROM spans)")
        if gone:
            with self._write_lock, contextlib.suppress(duckdb.TransactionException):
                self._con.execute("CHECKPOINT")
        return gone

    def quantile_end_ns(self, share: float) -> int | None:
        """The end time (unix ns) that `share` of the spans lie before; None where there is no span."""
        with self.reader() as con:
            return con.execute(
                "SELECT quantile_disc(end_ns, $share) FROM spans", {"share": share}
            ).fetchone()[0]

    def used_bytes(self) -> int:
        """Bytes of the blocks in use: deleting lowers this, while the file itself only stops growing."""
        with self.reader() as con:
            blocks, size = con.execute(
                "SELECT used_blocks, block_size FROM pragma_database_size() WHERE database_name = current_database()"
            ).fetchone()
        log = self.path.with_name(self.path.name + ".wal")
        return blocks * size + (log.stat().st_size if log.exists() else 0)

    def span_count(self) -> int:
        with self.reader() as con:
            return con.execute("SELECT count(*) FROM spans").fetchone()[0]

    def size_bytes(self) -> int:
        """Bytes on disk, the database's own log included."""
        return sum(p.stat().st_size for p in self.path.parent.glob(self.path.name + "*"))

    def close(self) -> None:
        """Checkpoint and close. After this only a new SpanStore opens the file."""
        with self._write_lock:
            with contextlib.suppress(duckdb.Error):
                rows = self._save_keys(self._con, everything=True)
                self.catalogue.mark_saved(rows)
                self._con.execute("CHECKPOINT")
            self._con.close()


def _value(
    con: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any] | None = None
) -> Any:
    """Return the only value that a query returns.

    It reads the result to its end: an open result keeps its transaction open, and then DuckDB never checkpoints.
    """
    ((value,),) = con.execute(sql, parameters or {}).fetchall()
    return value
