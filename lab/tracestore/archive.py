"""A window of the store as Parquet files, and back: how a recorded run carries its traces.

A folder with `spans.parquet`, `resources.parquet`, `scopes.parquet`: the tables as they are, whole
traces only.
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lab.tracestore.arrow import OWNER_SCHEMA, SPAN_SCHEMA
from lab.tracestore.columns import (
    OWNER_COLUMNS,
    PROMOTED,
    SPAN_COLUMNS,
    add_promoted,
    quote,
    single_value,
)
from lab.tracestore.errors import BadRequest, StoreBroken
from lab.tracestore.store import SpanStore

_BATCH_ROWS = 25_000


def export_window(
    con: duckdb.DuckDBPyConnection, folder: Path, start_ns: int = 0, end_ns: int = 2**63 - 1
) -> int:
    """Write the traces with a span in [start, end] (unix ns) to `folder`; return the span count.

    Raises BadRequest where the folder holds an export already, StoreBroken where it cannot be
    written.
    """
    if (folder / "spans.parquet").exists():
        raise BadRequest(f"{folder} holds an export already", fix="give an empty folder")
    window = {"start": start_ns, "end": end_ns}
    con.execute(
        "CREATE OR REPLACE TEMP TABLE exported AS SELECT DISTINCT trace_id FROM spans "
        "WHERE start_ns <= $end::BIGINT AND end_ns >= $start::BIGINT",
        window,
    )
    spans = "FROM spans s SEMI JOIN exported e ON e.trace_id = s.trace_id"
    questions = {
        "spans": f"SELECT s.* {spans} ORDER BY s.start_ns, s.span_id",
        "resources": f"SELECT * FROM resources WHERE id IN (SELECT s.res_id {spans}) ORDER BY id",
        "scopes": f"SELECT * FROM scopes WHERE id IN (SELECT s.scope_id {spans}) ORDER BY id",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (
            "resources",
            "scopes",
            "spans",
        ):  # spans last: their file says that the export is whole
            _copy(con, questions[name], folder / f"{name}.parquet")
        return single_value(con, f"SELECT count(*) {spans}")
    except (OSError, duckdb.IOException) as e:
        raise StoreBroken(
            f"the export to {folder} failed", got=str(e).splitlines()[0], fix="check the disk"
        ) from e
    finally:
        con.execute("DROP TABLE exported")


def _copy(con: duckdb.DuckDBPyConnection, question: str, path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    target = str(unfinished).replace("'", "''")
    con.execute(f"COPY ({question}) TO '{target}' (FORMAT PARQUET, COMPRESSION ZSTD)")
    os.replace(unfinished, path)


def import_folder(store: SpanStore, folder: Path) -> int:
    """Add the spans of an export to the store; returns how many were new.

    Raises BadRequest for a folder that is not an export.
    """
    try:
        resources, scopes = (
            _owners(folder / f"{name}.parquet") for name in ("resources", "scopes")
        )
        spans = pq.ParquetFile(folder / "spans.parquet")
        missing = [c.name for c in SPAN_COLUMNS if c.name not in spans.schema_arrow.names]
        for name in missing:
            if name not in PROMOTED:
                raise BadRequest(f"{folder} was written by another version: no column {name!r}")
    except (OSError, pa.ArrowException) as e:
        raise BadRequest(f"{folder} is not an export of the trace store", got=str(e)[:200]) from e
    added = 0
    for batch in spans.iter_batches(_BATCH_ROWS):
        part = pa.Table.from_batches([batch])
        if missing:
            with duckdb.connect() as con:
                con.execute("CREATE TABLE spans AS FROM part")
                add_promoted(con)
                part = con.execute("FROM spans").to_arrow_table()
        added += store.insert(_conform(part, SPAN_SCHEMA), resources, scopes)
    return added


def _owners(path: Path) -> pa.Table:
    table = pq.read_table(path)
    missing = [c.name for c in OWNER_COLUMNS if c.name not in table.column_names]
    if missing:
        raise BadRequest(f"{path} was written by another version: no column {quote(missing[0])}")
    return _conform(table, OWNER_SCHEMA)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Columns in our order and types; a UUID may come back as plain 16 bytes."""
    columns = []
    for field in schema:
        column = table.column(field.name)
        if field.type == pa.uuid() and column.type != field.type:
            storage = column.cast(pa.binary(16)).combine_chunks()
            column = pa.ExtensionArray.from_storage(pa.uuid(), storage)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)
