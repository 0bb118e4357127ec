"""Acknowledged spans are never lost by torn logs, kill -9 or full disks."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

from lab.tracestore import wal
from lab.tracestore.engine import Engine
from lab.tracestore.errors import QueryTooSlow, StoreBroken
from lab.tracestore.store import SpanStore
from tests.tracestore.corpus import random_spans, request_of

pytestmark = pytest.mark.slow  # starts processes
REPO = Path(__file__).resolve().parents[2]


def test_records_come_back_in_order(tmp_path: Path) -> None:
    """Records are read from a sequence number on, across segments."""
    log = wal.WriteAheadLog(tmp_path, next_seq=1)
    assert log.append([b"a", b"b"]) == 2
    assert log.append([b"c"]) == 3
    log.close()
    again = wal.WriteAheadLog(tmp_path, next_seq=4)
    again.append([b"d"])
    again.close()
    assert list(wal.read(tmp_path, after=1)) == [(2, b"b"), (3, b"c"), (4, b"d")]


@pytest.mark.parametrize("cut", [1, 10, 20, 25])
def test_a_torn_last_record_is_ignored(tmp_path: Path, cut: int) -> None:
    """Wherever the last write ended, the records before it are complete."""
    log = wal.WriteAheadLog(tmp_path, next_seq=1)
    log.append([b"first", b"second"])
    log.close()
    (segment,) = tmp_path.glob("*.wal")
    os.truncate(segment, segment.stat().st_size - cut)
    assert list(wal.read(tmp_path, after=0)) == [(1, b"first")]


def test_a_flipped_bit_is_detected(tmp_path: Path) -> None:
    """A record that does not match its checksum is ignored."""
    log = wal.WriteAheadLog(tmp_path, next_seq=1)
    log.append([b"first", b"second"])
    log.close()
    (segment,) = tmp_path.glob("*.wal")
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)
    assert [p for _, p in wal.read(tmp_path, after=0)] == [b"first"]


def log_of(folder: Path, records: int, *, per_segment: int = 1000) -> list[bytes]:
    """Write a log of numbered OTLP payloads, with a new segment every `per_segment` records."""
    payloads = [
        request_of(random_spans(200 + i, traces=1)).SerializeToString() for i in range(records)
    ]
    for first in range(0, records, per_segment):
        log = wal.WriteAheadLog(folder, next_seq=first + 1)
        log.append(payloads[first : first + per_segment])
        log.close()
    return payloads


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("record", [0, 3, 8])
@pytest.mark.parametrize("place", [0, 5, 9, 13, 40])
def test_damage_in_the_middle_costs_one_record(tmp_path: Path, record: int, place: int) -> None:
    """A flipped bit in any field loses and counts only that record."""
    payloads = log_of(tmp_path, 10)
    starts = [0]
    for payload in payloads:
        starts.append(starts[-1] + 20 + len(payload))
    (segment,) = tmp_path.glob("*.wal")
    flip(segment, starts[record] + place)

    damage = wal.Damage()
    assert [p for _, p in wal.read(tmp_path, 0, damage)] == [
        p for i, p in enumerate(payloads) if i != record
    ]
    assert (damage.records, damage.bytes) == (1, 20 + len(payloads[record]))
    assert damage.segments == [segment]


def test_a_record_inside_a_damaged_payload_is_ignored(tmp_path: Path) -> None:
    """Bytes of a record inside a payload, such as a log in an attribute, are not read as one."""
    inner = wal.WriteAheadLog(tmp_path / "inner", next_seq=2)
    inner.append([b"forged"])
    inner.close()
    (forged,) = (tmp_path / "inner").glob("*.wal")
    log = wal.WriteAheadLog(tmp_path / "log", next_seq=1)
    log.append([b"x" * 50 + forged.read_bytes(), b"second"])
    log.close()
    (segment,) = (tmp_path / "log").glob("*.wal")
    flip(segment, 30)
    assert list(wal.read(tmp_path / "log", after=0)) == [(2, b"second")]


def test_a_missing_segment_is_counted(tmp_path: Path) -> None:
    """The records of a deleted segment are counted as missing, and the others are read."""
    payloads = log_of(tmp_path, 9, per_segment=3)
    sorted(tmp_path.glob("*.wal"))[1].unlink()
    damage = wal.Damage()
    assert [p for _, p in wal.read(tmp_path, 0, damage)] == [*payloads[:3], *payloads[6:]]
    assert (damage.records, damage.bytes, damage.segments) == (3, 0, [])


def test_an_existing_segment_is_never_truncated(tmp_path: Path) -> None:
    """A file with the name of the next segment is kept, whatever its content."""
    taken = tmp_path / f"{7:020d}.wal"
    taken.write_bytes(b"not a record")
    log = wal.WriteAheadLog(tmp_path, next_seq=7)
    assert log.append([b"a"]) == 8
    log.close()
    assert taken.read_bytes() == b"not a record"


@pytest.mark.parametrize("record", [0, 5])
def test_a_damaged_log_is_reported_and_set_aside(tmp_path: Path, record: int) -> None:
    """The start keeps every other record and the damaged file, and counts the damage."""
    payloads = log_of(tmp_path / "wal", 10)
    (segment,) = (tmp_path / "wal").glob("*.wal")
    flip(segment, 30 + sum(20 + len(p) for p in payloads[:record]))
    before = segment.read_bytes()
    (tmp_path / "wal" / "notes.wal").write_text("not ours")
    (tmp_path / "wal" / "98.wal").mkdir()

    engine = Engine(tmp_path)
    engine.start()
    expected_payloads = [p for i, p in enumerate(payloads) if i != record]
    expected = sum(len(ss.spans) for p in expected_payloads for ss in scopes_of(p))
    assert engine.store.span_count() == expected
    status = engine.status()["damage"]
    name = f"wal/{segment.name}.damaged"
    assert status == {
        "missing_records": 1,
        "bytes": 20 + len(payloads[record]),
        "kept_files": [name],
    }
    assert (tmp_path / name).read_bytes() == before
    assert b"tracestore_log_missing_records 1.0" in engine.telemetry.text()
    body = request_of(random_spans(5, traces=1)).SerializeToString()
    engine.ingest.submit(body).result(timeout=120)
    engine.stop()

    again = Engine(tmp_path)
    again.start()
    assert again.status()["damage"] == {"missing_records": 0, "bytes": 0, "kept_files": [name]}
    again.stop()


def scopes_of(payload: bytes) -> list[ScopeSpans]:
    request = ExportTraceServiceRequest.FromString(payload)
    return [ss for rs in request.resource_spans for ss in rs.scope_spans]


def test_a_failed_write_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a disk error nothing of the group is in the log, but the next append is."""
    log = wal.WriteAheadLog(tmp_path, next_seq=1)
    log.append([b"first"])
    real = wal._write_all

    def full(file: int, block: bytes) -> None:
        real(file, block[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wal, "_write_all", full)
    with pytest.raises(StoreBroken, match="cannot be written"):
        log.append([b"lost"])
    monkeypatch.setattr(wal, "_write_all", real)
    log.append([b"second"])
    log.close()
    assert list(wal.read(tmp_path, after=0)) == [(1, b"first"), (2, b"second")]


def test_segments_are_deleted_once_the_database_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full segment is deleted only when the database has all of it."""
    monkeypatch.setattr(wal, "SEGMENT_BYTES", 50)
    log = wal.WriteAheadLog(tmp_path, next_seq=1)
    for payload in (b"x" * 40, b"y" * 40, b"z"):
        log.append([payload])
    log.forget(1)
    assert [p for _, p in wal.read(tmp_path, after=0)] == [b"y" * 40, b"z"]
    assert log.bytes == sum(p.stat().st_size for p in tmp_path.glob("*.wal"))
    log.close()


def test_a_full_disk_is_reported_to_the_sender_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payload fails with StoreBroken and is invisible, and the store recovers with the disk."""
    engine = Engine(tmp_path)
    engine.start()
    body = request_of(random_spans(5, traces=1)).SerializeToString()
    real = wal._write_all

    def full(file: int, block: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wal, "_write_all", full)
    with pytest.raises(StoreBroken):
        engine.ingest.submit(body).result(timeout=120)
    monkeypatch.setattr(wal, "_write_all", real)
    assert engine.query(lambda con: con.execute("SELECT count(*) FROM spans").fetchone()) == (0,)
    accepted = engine.ingest.submit(body).result(timeout=120)
    assert engine.query(lambda con: con.execute("SELECT count(*) FROM spans").fetchone()) == (
        accepted.spans,
    )
    engine.stop()


def test_a_query_waits_for_the_room_of_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that comes while the database gets the reserve's room sees all that was accepted.

    Once that room is used up too, it answers at once, and reports that spans are missing.
    """
    engine = Engine(tmp_path)
    engine.start()
    real = engine.store.insert
    failures = 1

    def insert(*arguments: Any) -> int:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StoreBroken("the disk is full")
        return real(*arguments)

    monkeypatch.setattr(engine.store, "insert", insert)
    body = request_of(random_spans(5, traces=1)).SerializeToString()
    accepted = engine.ingest.submit(body).result(timeout=120).spans
    missing: list[bool] = []

    def count() -> int:
        return engine.query(
            lambda con: con.execute("SELECT count(*) FROM spans").fetchone()[0],
            wait_s=300,
            on_incomplete=lambda: missing.append(True),
        )

    assert (count(), missing) == (accepted, [])

    deadline = time.monotonic() + 60
    while engine.fault is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    failures = 10**6
    other = request_of(random_spans(6, traces=1)).SerializeToString()
    engine.ingest.submit(other).result(timeout=120)
    assert (count(), missing) == (accepted, [True])
    engine.stop()


def test_a_second_process_is_refused_with_the_reason(tmp_path: Path) -> None:
    """The folder of a running store cannot be opened."""
    store = SpanStore(tmp_path)
    code = (
        "from pathlib import Path; from lab.tracestore.store import SpanStore; "
        f"SpanStore(Path({str(tmp_path)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, timeout=120
    )
    store.close()
    assert "cannot be opened" in done.stderr
    assert "stop the other process" in done.stderr


class Child:
    """The store as a separate process."""

    def __init__(
        self,
        folder: Path,
        *,
        largest_file_bytes: int | None = None,
        prefix: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
    ) -> None:
        command = [
            *prefix,
            sys.executable,
            "-m",
            "lab.tracestore",
            "--port",
            "0",
            "--otlp-port",
            "0",
            "--data",
            str(folder),
            *options,
        ]
        if largest_file_bytes is not None:  # larger writes fail, as on a full disk
            command = [
                "bash",
                "-c",
                f'ulimit -f {largest_file_bytes // 1024}; exec "$@"',
                "bash",
                *command,
            ]
        self.process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)  # of a test that fails
        for line in self.process.stderr:
            if ports := re.search(r'"port":(\d+),"otlp_port":(\d+)', line):
                self.tempo, self.otlp = (f"http://127.0.0.1:{p}" for p in ports.groups())
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        raise AssertionError("the store did not start")

    def kill(self, sig: int = signal.SIGKILL) -> None:
        self.process.send_signal(sig)
        self.process.wait(timeout=120)


def test_kill_9_during_ingest_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """After several kills in the middle of the stream every acknowledged span exists once."""
    acknowledged: dict[bytes, int] = {}
    seed = 0
    for after_s in (0.1, 0.4, 0.9):
        child = Child(tmp_path)
        killer = threading.Timer(after_s, child.kill)
        try:
            with httpx.Client(timeout=120) as client:
                while True:
                    request = request_of(random_spans(seed, traces=4))
                    seed += 1
                    answer = client.post(
                        f"{child.otlp}/v1/traces",
                        content=request.SerializeToString(),
                        headers={"Content-Type": "application/x-protobuf"},
                    )
                    if answer.status_code == 200:
                        for rs in request.resource_spans:
                            acknowledged[rs.scope_spans[0].spans[0].span_id] = seed
                        if killer.ident is None:
                            killer.start()
        except httpx.TransportError:
            pass
        finally:
            killer.join()
    child = Child(tmp_path)
    frame = httpx.get(
        f"{child.tempo}/api/lab/spans", params={"columns": "span_id"}, timeout=60
    ).content
    child.kill(signal.SIGTERM)
    import pyarrow as pa

    stored = pa.ipc.open_stream(frame).read_all().column("span_id").to_pylist()
    assert acknowledged
    assert {i.hex() for i in acknowledged} <= set(stored)
    assert len(stored) == len(set(stored))


def test_a_clean_stop_is_complete(tmp_path: Path) -> None:
    """After SIGTERM all acknowledged spans are in the database, and nothing is replayed."""
    child = Child(tmp_path)
    spans = random_spans(9)
    body = request_of(spans).SerializeToString()
    httpx.post(
        f"{child.otlp}/v1/traces",
        content=body,
        headers={"Content-Type": "application/x-protobuf"},
        timeout=120,
    )
    child.kill(signal.SIGTERM)
    store = SpanStore(tmp_path)
    assert store.span_count() == len(spans)
    assert list(wal.read(tmp_path / "wal", after=store.flushed_seq)) == []
    store.close()


def test_a_bad_record_in_the_log_does_not_stop_the_start(tmp_path: Path) -> None:
    """A record that is not OTLP is skipped at the replay, and the records around it are read."""
    first, last = random_spans(10, traces=1), random_spans(12, traces=1)
    log = wal.WriteAheadLog(tmp_path / "wal", next_seq=1)
    log.append(
        [
            request_of(first).SerializeToString(),
            b"\xff\xff\xff",
            request_of(last).SerializeToString(),
        ]
    )
    log.close()
    engine = Engine(tmp_path)
    engine.start()
    assert engine.store.span_count() == len(first) + len(last)
    engine.stop()


def spoil_nothing(folder: Path) -> None:
    """Leave the files as they are."""


def garbage_database(folder: Path) -> None:
    (folder / "spans.duckdb").write_bytes(b"garbage" * 1000)


def emptied_database(folder: Path) -> None:
    (folder / "spans.duckdb").write_bytes(b"")


def missing_database(folder: Path) -> None:
    (folder / "spans.duckdb").unlink()
    (folder / "spans.duckdb.wal").unlink(missing_ok=True)


def halved_database(folder: Path) -> None:
    os.truncate(folder / "spans.duckdb", (folder / "spans.duckdb").stat().st_size // 2)


def damaged_database_log(folder: Path) -> None:
    flip(folder / "spans.duckdb.wal", (folder / "spans.duckdb.wal").stat().st_size // 2)


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_nothing,
        garbage_database,
        emptied_database,
        missing_database,
        halved_database,
        damaged_database_log,
    ],
)
def test_a_damaged_database_is_rebuilt_from_the_log(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """Whatever happened to the database, every span in the log exists once after the start."""
    child = Child(tmp_path)
    sent = 0
    for seed in range(5):
        spans = random_spans(300 + seed)
        sent += len(spans)
        httpx.post(
            f"{child.otlp}/v1/traces",
            content=request_of(spans).SerializeToString(),
            headers={"Content-Type": "application/x-protobuf"},
            timeout=120,
        ).raise_for_status()
        httpx.get(f"{child.tempo}/api/search", timeout=120).raise_for_status()
    child.kill()
    spoil(tmp_path)

    engine = Engine(tmp_path)
    engine.start()
    assert engine.query(lambda con: con.execute("SELECT count(*) FROM spans").fetchone()) == (sent,)
    kept_files = engine.status()["damage"]["kept_files"]
    assert bool(kept_files) == (spoil not in (spoil_nothing, missing_database))
    engine.stop()


def test_an_invalidated_database_is_reopened(tmp_path: Path) -> None:
    """When a failed checkpoint invalidates DuckDB, the store reopens the file and continues."""
    engine = Engine(tmp_path)
    engine.start()
    bodies = [request_of(random_spans(seed, traces=3)).SerializeToString() for seed in (401, 402)]
    count = "SELECT count(*) FROM spans"
    first = engine.ingest.submit(bodies[0]).result(timeout=120).spans
    assert engine.query(lambda con: con.execute(count).fetchone()) == (first,)
    with engine.store.reader() as con:
        con.execute("SET debug_checkpoint_abort = 'before_header'")
        with pytest.raises(duckdb.FatalException):
            con.execute("CHECKPOINT")
    with pytest.raises(StoreBroken):
        engine.query(lambda con: con.execute(count).fetchone())
    assert engine.query(lambda con: con.execute(count).fetchone()) == (first,)

    with engine.store.reader() as con:
        con.execute("SET debug_checkpoint_abort = 'before_header'")
        with pytest.raises(duckdb.FatalException):
            con.execute("CHECKPOINT")
    second = engine.ingest.submit(bodies[1]).result(timeout=120).spans
    deadline = time.monotonic() + 120
    while engine.store.flushed_seq < engine.ingest.acked_seq:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert engine.query(lambda con: con.execute(count).fetchone()) == (first + second,)
    assert engine.fault is None
    engine.stop()


def test_a_deleted_folder_is_reported(tmp_path: Path) -> None:
    """When the folder is deleted, no span is acknowledged, and /ready has the reason."""
    child = Child(tmp_path / "data")
    shutil.rmtree(tmp_path / "data")
    body = request_of(random_spans(1)).SerializeToString()
    answer = httpx.post(
        f"{child.otlp}/v1/traces",
        content=body,
        headers={"Content-Type": "application/x-protobuf"},
        timeout=120,
    )
    assert answer.status_code == 503
    ready = httpx.get(f"{child.tempo}/ready", timeout=120)
    assert ready.status_code == 503
    assert "was deleted" in ready.text
    child.kill()


def test_a_stop_does_not_wait_for_a_long_query(tmp_path: Path) -> None:
    """A running query, which would take hours, is aborted."""
    engine = Engine(tmp_path)
    engine.start()
    endless = "SELECT count(*) FROM range(1000000) a(x), range(1000000) b(y) WHERE x * y % 7 = 3"
    running = engine.pool.submit(engine.query, lambda con: con.execute(endless).fetchall())
    while not engine._deadlines:
        time.sleep(0.01)
    assert engine.stop()
    assert isinstance(running.exception(), QueryTooSlow)
