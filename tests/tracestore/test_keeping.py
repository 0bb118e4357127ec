"""Export, import, retention by age and size, and the catalogue work across restarts."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import duckdb
import pyarrow as pa
import pytest

from lab.tracestore import bulk, windows
from lab.tracestore import store as store_module
from lab.tracestore.archive import export_window, import_folder
from lab.tracestore.decode import SpanBatch
from lab.tracestore.errors import BadRequest
from lab.tracestore.rebuild import traces
from lab.tracestore.retention import Retention, apply
from lab.tracestore.search import SearchRequest, read_query
from lab.tracestore.search import search as run_search
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.spansets import Window
from tests.tracestore.corpus import T0, load, random_spans, request_of, store_of
from tests.tracestore.slow_traceql import Span
from tests.tracestore.test_otlp import spans_as_text


def everything(store: SpanStore, spans: list[Span]) -> list[str]:
    with store.reader() as con:
        return spans_as_text(traces(con, list({UUID(int=s.trace) for s in spans})))


def stream(
    store: SpanStore, con: duckdb.DuckDBPyConnection, traceql: str, columns: list[str]
) -> pa.Table:
    window = Window(0, 2**63 - 1)
    query = read_query(traceql)
    return bulk.spans(
        store, con, query, window, whole_traces=False, columns=columns, limit=10_000
    ).read_all()


def test_an_export_is_imported_completely(tmp_path: Path) -> None:
    """An import gives the same spans with all fields, and a second import adds nothing."""
    spans = random_spans(21)
    store = store_of(tmp_path / "a", spans)
    with store.reader() as con:
        assert export_window(con, tmp_path / "out") == len(spans)
    other = SpanStore(tmp_path / "b")
    assert import_folder(other, tmp_path / "out") == len(spans)
    assert import_folder(other, tmp_path / "out") == 0
    assert everything(other, spans) == everything(store, spans) == spans_as_text(request_of(spans))
    assert other.catalogue.keys("span") == store.catalogue.keys("span")
    assert not list((tmp_path / "out").glob("*.unfinished"))
    store.close()
    other.close()


def test_a_window_is_exported_with_complete_traces(tmp_path: Path) -> None:
    """A trace that overlaps the window is exported with all its spans."""
    spans = random_spans(22)
    store = store_of(tmp_path / "a", spans)
    end = T0 + 5 * 10**9
    with store.reader() as con:
        count = export_window(con, tmp_path / "out", T0, end)
    reached = {s.trace for s in spans if s.start <= end and s.end >= T0}
    assert count == sum(1 for s in spans if s.trace in reached)
    assert 0 < count < len(spans)
    store.close()


def test_an_invalid_export_is_refused(tmp_path: Path) -> None:
    """A wrong folder and a folder that is in use have an error with the reason."""
    store = store_of(tmp_path / "a", random_spans(23))
    with pytest.raises(BadRequest, match="is not an export"):
        import_folder(store, tmp_path)
    with store.reader() as con:
        export_window(con, tmp_path / "out")
        with pytest.raises(BadRequest, match="holds an export already"):
            export_window(con, tmp_path / "out")
    store.close()


def test_old_spans_are_deleted(tmp_path: Path) -> None:
    """Exactly the spans that ended before the limit are deleted, with unused resources."""
    spans = random_spans(24)
    store = store_of(tmp_path, spans)
    now_ns = T0 + 10 * 10**9
    deleted = apply(store, Retention(max_age_s=2.0), now_ns=now_ns)
    assert deleted == sum(1 for s in spans if s.end < now_ns - 2 * 10**9) > 0
    assert store.span_count() == len(spans) - deleted
    with store.reader() as con:
        unused = con.execute(
            "SELECT count(*) FROM resources WHERE id NOT IN (SELECT res_id FROM spans)"
        ).fetchone()
    assert unused == (0,)
    store.close()


def test_the_oldest_spans_are_deleted_when_the_size_is_too_large(tmp_path: Path) -> None:
    """The oldest spans are deleted first, until nothing is left."""
    spans = random_spans(25)
    store = store_of(tmp_path, spans)
    assert apply(store, Retention(max_bytes=10**12)) == 0
    assert apply(store, Retention(max_bytes=1)) == len(spans)
    store.close()


def test_the_catalogue_exists_after_a_restart(tmp_path: Path) -> None:
    """Keys and their types are known as soon as the store is opened again."""
    store = store_of(tmp_path, random_spans(26))
    before = {k: store.catalogue.types("span", k) for k in store.catalogue.keys("span")}
    store.close()
    again = SpanStore(tmp_path)
    assert {k: again.catalogue.types("span", k) for k in again.catalogue.keys("span")} == before
    again.close()


def test_a_flood_of_keys_is_bounded_and_still_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue stops growing, and keys outside it can still be queried."""
    monkeypatch.setattr("lab.tracestore.catalogue.MAX_ENTRIES", 50)
    spans = random_spans(27, traces=1)[:1]
    spans[0].attributes = {f"key-{i}": ("int", i) for i in range(300)}
    store = store_of(tmp_path, spans)
    assert len(store.catalogue.keys("span")) <= 50
    for i in (0, 299):
        traces = search(store, read_query(f"{{ span.key-{i} = {i} }}"))
        assert len(traces) == 1
    assert search(store, read_query("{ span.key-5 = 6 }")) == []
    store.close()


def search(store: SpanStore, query: ast.Query) -> list[dict]:
    with store.reader() as con:
        return run_search(store, con, SearchRequest(query))["traces"]


def batch_of(spans: list[Span]) -> SpanBatch:
    batch = SpanBatch()
    batch.add(request_of(spans).SerializeToString())
    return batch


def test_late_spans_join_their_trace_and_repeated_spans_do_not(tmp_path: Path) -> None:
    """Three batches of one trace, one of them hours older, are found by its id.

    Batches that are sent again add nothing, however they are mixed with new spans.
    """
    store = SpanStore(tmp_path)
    first, second, late, other = (random_spans(seed, traces=1) for seed in (71, 72, 73, 74))
    for s in (*second, *late):
        s.trace = first[0].trace
    for s in late:
        s.start, s.end = s.start - 7200 * 10**9, s.end - 7200 * 10**9
        s.events = []
    all_spans = [*first, *second, *late]
    for spans in (first, second, late):
        assert store.insert(*batch_of(spans).tables()) == len(spans)
    assert everything(store, first) == spans_as_text(request_of(all_spans))
    assert store.insert(*batch_of([*late, *other, *first]).tables()) == len(other)
    assert everything(store, first) == spans_as_text(request_of(all_spans))
    store.close()


def test_the_newest_traces_are_the_same_however_many_extents_they_have(tmp_path: Path) -> None:
    """Traces that came in many batches, and with equal times, are neither repeated nor left out."""
    store = SpanStore(tmp_path)
    with store.reader() as con:
        con.execute(
            "INSERT INTO extents SELECT md5((i % 40)::VARCHAR)::UUID, t, t, t + 1 "
            "FROM (SELECT i, hash(i) % 90 + 5 AS t FROM range(2000) r(i))"
        )
        con.execute(
            "INSERT INTO extents SELECT md5(i::VARCHAR)::UUID, 3, 3, 4 FROM range(40, 60) r(i)"
        )
    wide = Window(start_ns=1, end_ns=10**6)  # holds everything, and is answered by grouping
    with store.reader() as con:
        every = windows.newest_traces(con, wide, 100, 0)
        assert len(every) == 60
        for limit in (1, 7, 40, 41, 60, 100):
            assert windows.newest_traces(con, Window(), limit, 0) == every[:limit]
            assert windows.newest_traces(con, Window(), limit, 35) == every[35 : 35 + limit]
    store.close()


def test_the_number_of_spans_is_kept(tmp_path: Path) -> None:
    """It follows inserts, repeated spans and deletions, and is read at a start."""
    spans = random_spans(3, traces=20)
    store = SpanStore(tmp_path)
    store.insert(*batch_of(spans).tables())
    store.insert(*batch_of(spans).tables())
    assert store.estimated_spans == store.span_count() == len(spans)

    store.delete_before(sorted(s.end for s in spans)[len(spans) // 2])
    assert 0 < store.estimated_spans == store.span_count() < len(spans)
    store.close()
    store = SpanStore(tmp_path)
    assert store.estimated_spans == store.span_count()
    store.close()


def test_a_database_without_extents_is_read(tmp_path: Path) -> None:
    """The table of traces' beginnings is created at the start, and retention empties it."""
    spans = random_spans(75)
    store = store_of(tmp_path, spans)
    with store.reader() as con:
        con.execute("DROP TABLE extents")
    store.close()
    store = SpanStore(tmp_path)
    assert everything(store, spans) == spans_as_text(request_of(spans))
    store.delete_before(2**62)
    with store.reader() as con:
        assert con.execute("SELECT count(*) FROM extents").fetchone() == (0,)
    store.close()


def test_a_database_without_the_columns_of_later_versions_is_read(tmp_path: Path) -> None:
    """Values that it has in the maps are found as those of new spans are; so are an export's."""
    key = "gen_ai.response.id"
    spans = random_spans(77)
    for number, span in enumerate(spans[::3]):
        span.attributes |= {key: ("str", f"r{number}"), "ai.response.id": ("int", number)}
    store = store_of(tmp_path, spans[:-20])
    with store._transaction() as con:
        con.execute(
            f"UPDATE spans SET a_str = map_concat(a_str, MAP {{'{key}': \"{key}\"}}) "
            f'WHERE "{key}" IS NOT NULL'
        )
        con.execute(f'ALTER TABLE spans DROP COLUMN "{key}"')
        con.execute('ALTER TABLE spans DROP COLUMN "ai.response.id"')
        export_window(con, tmp_path / "out")
    store.close()

    expected = sorted(span.attributes[key][1] for span in spans[::3])
    for folder in (tmp_path, tmp_path / "imported"):
        store = SpanStore(folder)
        if folder != tmp_path:
            import_folder(store, tmp_path / "out")
        load(store, request_of(spans))
        assert everything(store, spans) == spans_as_text(request_of(spans))
        with store.reader() as con:
            streamed = stream(store, con, f'{{ span.{key} =~ "r[0-9]+" }}', [key])
        assert sorted(streamed.column(key).to_pylist()) == expected
        store.close()


def test_the_databases_own_log_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB checkpoints while spans arrive, also during a query that is not read to the end."""
    monkeypatch.setattr(store_module, "CHECKPOINT_BYTES", 2**20)
    store = SpanStore(tmp_path)
    log = tmp_path / "spans.duckdb.wal"
    largest = 0
    with store.reader() as con:
        for seq in range(1, 13):
            if seq == 3:
                con.execute("SELECT * FROM spans").fetchone()
            store.insert(*batch_of(random_spans(100 + seq, traces=300)).tables(), seq)
            largest = max(largest, log.stat().st_size if log.exists() else 0)
    written = store.path.stat().st_size
    store.close()
    assert largest < 2 * 2**20
    assert written > largest
    again = SpanStore(tmp_path)
    assert again.flushed_seq == 12
    again.close()


def test_enums_of_an_older_database_are_read(tmp_path: Path) -> None:
    """A kind and a status of 255, as earlier versions stored them, do not overflow."""
    store = store_of(tmp_path, random_spans(76))
    with store._transaction() as con:
        con.execute("UPDATE spans SET kind = 255, status = 255")
    with store.reader() as con:
        rows = stream(store, con, "", ["kind", "status"])
    assert rows.num_rows > 10
    assert set(rows.column("kind").to_pylist()) == {"unspecified"}
    store.close()
