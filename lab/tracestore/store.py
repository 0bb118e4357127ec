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

import duckdb
import numpy as np
import pyarrow as pa

from lab.tracestore import catalogue as cat
from lab.tracestore import extents
from lab.tracestore.columns import OWNER_COLUMNS, SPAN_COLUMNS, ddl
from lab.tracestore.errors import StoreBroken

_MEMORY_LIMIT = "400MB"
_CHECKPOINT_AT = "256MB"


class SpanStore:
    """Opens or creates `folder/spans.duckdb`.

    Raises StoreBroken where the file cannot be opened (held by another process, damaged, no rights).
    """

    def __init__(self, folder: Path, *, threads: int = 2, memory_limit: str = _MEMORY_LIMIT) -> None:
        self.path = folder / "spans.duckdb"
        folder.mkdir(parents=True, exist_ok=True)
        config = {"threads": threads, "memory_limit": memory_limit, "preserve_insertion_order": False}
        try:
            self._con = duckdb.connect(str(self.path), config=config)
        except duckdb.Error as e:
            raise StoreBroken(
                f"the span database {self.path} cannot be opened", had=str(e).splitlines()[0],
                do="stop the other process that holds it, or move the file away to start empty",
            ) from e  # fmt: skip
        self._con.execute(f"SET checkpoint_threshold = '{_CHECKPOINT_AT}'")
        self._write_lock = threading.Lock()
        self._create()
        self.catalogue = cat.Catalogue()
        self.catalogue.load(self._con)
        self.flushed_seq: int = self._con.execute("SELECT seq FROM log_position").fetchone()[0]

    def _create(self) -> None:
        for statement in (
            ddl("spans", SPAN_COLUMNS),
            ddl("resources", OWNER_COLUMNS),
            ddl("scopes", OWNER_COLUMNS),
            cat.DDL,
            extents.DDL,
            "CREATE TABLE IF NOT EXISTS log_position (seq BIGINT)",
            "INSERT INTO log_position SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM log_position)",
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

    def insert(self, spans: pa.Table, resources: pa.Table, scopes: pa.Table, seq: int | None = None) -> int:
        """Add these spans in one transaction, but for those that are there already; returns how many are new.

        `seq` is the log's sequence number up to which the database is complete with this. Raises StoreBroken.
        """
        try:
            with self._transaction() as con:
                _insert_owners(con, "resources", resources)
                _insert_owners(con, "scopes", scopes)
                added = _insert_spans(con, spans)
                if spans.num_rows:
                    self._learn(spans, resources, scopes)
                rows = self._save_keys(con)
                if seq is not None:
                    con.execute("UPDATE log_position SET seq = $seq", {"seq": seq})
        except duckdb.Error as e:
            raise StoreBroken(
                "spans cannot be written to the database",
                had=str(e).splitlines()[0],
                do="they stay in the log; check the disk",
            ) from e
        self.catalogue.mark_saved(rows)
        if seq is not None:
            self.flushed_seq = seq
        return added

    def _learn(self, spans: pa.Table, resources: pa.Table, scopes: pa.Table) -> None:
        found = cat.keys_of_spans(spans)
        found |= cat.keys_of_owners(resources, "resource") | cat.keys_of_owners(scopes, "instrumentation")
        self.catalogue.learn(found, *cat.window_of(spans))

    def _save_keys(
        self, con: duckdb.DuckDBPyConnection, everything: bool = False
    ) -> list[tuple[str, str, str, int, int]]:
        rows = self.catalogue.unsaved(everything)
        if rows:
            columns = list(zip(*rows, strict=True))
            con.register(
                "new_keys", pa.table(dict(zip(("scope", "key", "type", "first_ns", "last_ns"), columns, strict=True)))
            )
            con.execute(
                "DELETE FROM keys k USING new_keys n WHERE k.scope = n.scope AND k.key = n.key AND k.type = n.type"
            )
            con.execute("INSERT INTO keys SELECT * FROM new_keys")
            con.unregister("new_keys")
        return rows

    def delete_before(self, cutoff_ns: int) -> int:
        """Delete the spans that ended before `cutoff_ns` (unix ns) and give their space back; returns how many."""
        with self._transaction() as con:
            gone = con.execute("DELETE FROM spans WHERE end_ns < $cutoff", {"cutoff": cutoff_ns}).fetchone()[0]
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
            return con.execute("SELECT quantile_disc(end_ns, $share) FROM spans", {"share": share}).fetchone()[0]

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


def _insert_owners(con: duckdb.DuckDBPyConnection, table: str, owners: pa.Table) -> None:
    if owners.num_rows == 0:
        return
    con.register("new_owners", owners)
    con.execute(
        f"INSERT INTO {table} SELECT DISTINCT ON (id) * FROM new_owners WHERE id NOT IN (SELECT id FROM {table})"
    )
    con.unregister("new_owners")


def _insert_spans(con: duckdb.DuckDBPyConnection, spans: pa.Table) -> int:
    if spans.num_rows == 0:
        return 0
    con.register("new_spans", spans)
    source = "new_spans" if _all_distinct(spans) else "(SELECT DISTINCT ON (trace_id, span_id) * FROM new_spans)"
    sql, known = f"INSERT INTO spans SELECT * FROM {source} n", extents.of_table(con, "new_spans")
    if known is not None:  # only then, and only there, may one of them be in the database already
        sql += (
            " WHERE NOT EXISTS (SELECT 1 FROM spans s WHERE s.span_id = n.span_id AND s.trace_id = n.trace_id "
            f"AND s.start_ns BETWEEN {known[0]:d} AND {known[1]:d})"
        )
    added = con.execute(sql).fetchone()[0]
    extents.add(con, "new_spans")
    con.unregister("new_spans")
    return added


def _all_distinct(spans: pa.Table) -> bool:
    """Whether no (trace, span) id comes twice, by a 64-bit mix; a false alarm only costs the slower path."""
    trace = spans.column("trace_id").combine_chunks()
    halves = np.frombuffer(b"".join(_storage_bytes(trace)), dtype=np.uint64).reshape(-1, 2)
    with np.errstate(over="ignore"):
        mix = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F)
        mix = mix ^ spans.column("span_id").to_numpy() * np.uint64(0x165667B19E3779F9)
    return len(np.unique(mix)) == spans.num_rows


def _storage_bytes(array: pa.Array | pa.ChunkedArray) -> Iterator[bytes]:
    for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
        storage = chunk.storage
        yield storage.buffers()[1].to_pybytes()[storage.offset * 16 : (storage.offset + len(storage)) * 16]
