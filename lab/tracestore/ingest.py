"""The path of a payload: decode, write ahead, acknowledge, then append to the database.

A *logger* decodes queued payloads, writes them to the log and acknowledges them after the fsync;
payloads that arrive meanwhile form the next group. Large payloads have a logger of their own, so
that small ones do not wait until a large one is decoded. The *flusher* appends decoded batches to
the database, in the order of the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lab.tracestore.admission import MAX_MESSAGES
from lab.tracestore.disk import RESERVE_BYTES, Reserve, free_bytes
from lab.tracestore.errors import (
    BadRequest,
    Overloaded,
    StoreBroken,
    TooLarge,
    TraceStoreError,
)
from lab.tracestore.store import SpanStore
from lab.tracestore.telemetry import Telemetry
from lab.tracestore.wal import Damage, WriteAheadLog, read

if TYPE_CHECKING:
    import pyarrow as pa

    from lab.tracestore.decode import SpanBatch

log = logging.getLogger("lab.tracestore.ingest")

GROUP_BYTES = 4 * 2**20
_LARGE_BYTES = 2**18
_MANY_MESSAGES = 2**17  # they take about a tenth of a second to decode
_LOG_ROOM = (
    8 * 2**20
)  # free on the disk before a log that could not be written counts as well again
_REPLAY_BYTES = 16 * 2**20
RETRY_S = 1.0
STOP_S = 5.0  # to flush at the end; what is not flushed by then is replayed at the next start


@dataclass(frozen=True)
class Accepted:
    """The result of one payload."""

    spans: int
    rejected: int
    why: str


@dataclass(frozen=True)
class Limits:
    """Bounds of the queue. Beyond them a sender gets 429."""

    queue_bytes: int = 64 * 2**20
    pending_spans: int = 120_000
    pending_bytes: int = 256 * 2**20
    batch_spans: int = 50_000
    flush_every_s: float = 1.0  # a query requests a flush of its own
    reserve_bytes: int = RESERVE_BYTES


@dataclass
class _Decoded:
    spans: pa.Table
    resources: pa.Table
    scopes: pa.Table
    seq: int
    at: float = field(default_factory=time.monotonic)

    @property
    def bytes(self) -> int:
        """The size in memory."""
        return self.spans.nbytes + self.resources.nbytes + self.scopes.nbytes


_Item = tuple[bytes, Future]


def _new_batch() -> SpanBatch:
    from lab.tracestore.decode import (
        SpanBatch,
    )  # with pyarrow and numpy, for which the start does not wait

    return SpanBatch()


class Ingest:
    """Takes payloads from any thread.

    `start` replays the log first, so that nothing acknowledged is missing.

    While the disk is full or the database fails, payloads are refused with StoreBroken (`fault`
    says why), and the flusher tries again every second.
    """

    def __init__(
        self, store: SpanStore, wal_folder: Path, telemetry: Telemetry, limits: Limits | None = None
    ) -> None:
        """Prepare the queues; nothing is read or accepted before `start`."""
        self.store = store
        self.telemetry = telemetry
        self.limits = limits or Limits()
        self.wal = WriteAheadLog(wal_folder, next_seq=store.flushed_seq + 1)
        self.reserve = Reserve(wal_folder.parent, self.limits.reserve_bytes)
        self.damage = Damage()
        self.acked_seq = store.flushed_seq

        self._lock = threading.Condition()
        self._small: deque[_Item] = deque()
        self._large: deque[_Item] = deque()
        self._queued_bytes = 0
        self._pending: deque[_Decoded] = deque()
        self._pending_spans = 0
        self._pending_bytes = 0
        self._flush_now = False
        self._stopping = False
        self._fault: StoreBroken | None = None
        self._is_stuck = False
        self._log_fault: StoreBroken | None = None
        self._is_replayed = False
        self._log_order = threading.Lock()  # held from writing to the log until it is in _pending
        self._loggers: list[threading.Thread] = []
        self._threads: list[threading.Thread] = []
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wal")

    def start(self) -> int:
        """Replay the log into the database, then accept; return the number of spans replayed.

        Where the database cannot take the log (the disk is full), start without accepting and go on
        trying.
        """
        replayed = self._try_replay()
        if not self._is_replayed and not self._is_stuck:
            replayed = self._try_replay()
        self.reserve.hold()
        self._loggers = [
            threading.Thread(target=self._log_forever, args=(queue,), name="logger", daemon=True)
            for queue in (self._small, self._large)
        ]
        flusher = threading.Thread(target=self._flush_forever, name="flusher", daemon=True)
        self._threads = [*self._loggers, flusher]
        for thread in self._threads:
            thread.start()
        return replayed

    @property
    def fault(self) -> StoreBroken | None:
        """Why no spans are accepted at present; None where they are."""
        return self._refusal or self._log_fault

    @property
    def _refusal(self) -> StoreBroken | None:
        """Why payloads are refused without an attempt to log them."""
        if self._fault is None and self._is_replayed and not self.reserve.held:
            return self.reserve.refusal()
        return self._fault

    @property
    def is_incomplete(self) -> bool:
        """Whether acknowledged spans cannot be queried, because the database cannot take them."""
        return self._fault is not None

    def _try_replay(self) -> int:
        damage = Damage()
        try:
            replayed, last = self._replay(damage)
            next_seq = max(last, self.store.flushed_seq) + 1
            self.wal.begin(next_seq, damage)
            self.store.set_position(self.wal.next_seq - 1)
        except StoreBroken as e:
            self._fail(e)
            return 0
        self.damage = damage
        self._report_damage()
        with self._lock:
            self.acked_seq = self.store.flushed_seq
            self._is_replayed = True
            self._fault = None
            self._is_stuck = False
            self._lock.notify_all()
        return replayed

    def _fail(self, fault: StoreBroken) -> None:
        """Note that the database fails, and give it the room of the reserve.

        Where that frees nothing, the store is stuck until there is space.
        """
        if self._fault is None:
            log.error(fault.happened, extra={"error": fault.got})
        is_stuck = not self.reserve.release()
        with self._lock:
            self._fault = fault
            self._is_stuck = is_stuck
            self._lock.notify_all()

    def _report_damage(self) -> None:
        damage = self.damage
        self.telemetry.damaged_records.set(damage.records)
        self.telemetry.damaged_bytes.set(damage.bytes)
        if damage.records or damage.bytes:
            log.error(
                "the write-ahead log was damaged: acknowledged records are missing",
                extra={
                    "missing_records": damage.records,
                    "damaged_bytes": damage.bytes,
                    "segments": [path.name for path in damage.segments],
                },
            )

    def _replay(self, damage: Damage) -> tuple[int, int]:
        """Return the number of spans replayed, and the last sequence number read (or 0)."""
        waiting: list[bytes] = []
        size = 0
        spans = 0
        last = 0
        for seq, payload in read(self.wal.folder, self.store.flushed_seq, damage):
            waiting.append(payload)
            size += len(payload)
            last = seq
            if size >= _REPLAY_BYTES:
                spans += self._insert_replayed(waiting, last)
                waiting = []
                size = 0
        if waiting:
            spans += self._insert_replayed(waiting, last)
        return spans, last

    def _insert_replayed(self, payloads: list[bytes], seq: int) -> int:
        """Insert replayed payloads; return the number of new spans.

        A payload that cannot be decoded was never acknowledged, but may have reached the log: it is
        skipped.
        """
        batch = _new_batch()
        try:
            for i, payload in enumerate(payloads):
                if batch.messages > MAX_MESSAGES:
                    first = self.store.insert(*batch.tables())
                    return first + self._insert_replayed(payloads[i:], seq)
                batch.add(payload)
            tables = batch.tables()
        except (BadRequest, TooLarge) as e:
            if len(payloads) > 1:
                return sum(self._insert_replayed([payload], seq) for payload in payloads)
            log.warning("a record of the log is left out", extra={"error": str(e)})
            tables = _new_batch().tables()
        return self.store.insert(*tables, seq)

    def submit(self, payload: bytes) -> Future:
        """Queue one payload. The future gives Accepted once it is durable.

        Raises Overloaded where the queue is full, StoreBroken where the disk is. The future raises
        BadRequest, TooLarge or StoreBroken; then nothing was kept.
        """
        future: Future = Future()
        with self._lock:
            if self._stopping:
                raise Overloaded("the trace store is shutting down")
            if refusal := self._refusal:
                raise refusal
            is_full = self._queued_bytes + len(payload) > self.limits.queue_bytes
            if (
                (is_full and self._queued_bytes)
                or self._pending_spans > self.limits.pending_spans
                or self._pending_bytes > self.limits.pending_bytes
            ):
                raise Overloaded(
                    "the ingest queue is full",
                    got=f"{self._queued_bytes} bytes and {self._pending_spans} spans waiting",
                )
            queue = self._large if len(payload) > _LARGE_BYTES else self._small
            queue.append((payload, future))
            self._queued_bytes += len(payload)
            self._lock.notify_all()
        return future

    @property
    def queued_bytes(self) -> int:
        """Return the bytes received and not yet in the log."""
        return self._queued_bytes

    @property
    def pending_spans(self) -> int:
        """Return the spans in the log and not yet in the database."""
        return self._pending_spans

    def wait_visible(self, seq: int, timeout_s: float) -> bool:
        """Request a flush and wait until the database holds everything up to `seq`.

        Return False on timeout, and at once while the database waits for space.
        """
        if not self._is_replayed:
            return False
        if self.store.flushed_seq >= seq:
            return True
        with self._lock:
            self._flush_now = True
            self._lock.notify_all()
            self._lock.wait_for(lambda: self.store.flushed_seq >= seq or self._is_stuck, timeout_s)
            return self.store.flushed_seq >= seq

    def stop(self) -> bool:
        """Log and flush what is queued; return whether that took no longer than `STOP_S`."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()

        deadline = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return False

        self._disk.shutdown()
        if self._is_replayed and self.store.flushed_seq >= self.wal.next_seq - 1:
            self.wal.clear()
        self.wal.close()
        return True

    def _log_forever(self, queue: deque[_Item]) -> None:
        while (group := self._next_group(queue)) is not None:
            try:
                self._log_group(group)
            except Exception as e:  # an unknown fault must not leave senders waiting for ever
                log.exception("a group of payloads could not be logged")
                fault = StoreBroken("the payload could not be stored", got=repr(e)[:300])
                self._answer([(f, fault) for _, f in group if not f.done()])

    def _next_group(self, queue: deque[_Item]) -> list[_Item] | None:
        with self._lock:
            self._lock.wait_for(lambda: queue or self._stopping)
            if not queue:
                return None
            group = []
            size = 0
            while queue and size < GROUP_BYTES:
                group.append(queue.popleft())
                size += len(group[-1][0])
            self._queued_bytes -= size
            return group

    def _log_group(self, group: list[_Item]) -> None:
        while group:
            group = self._log_part(group)

    def _log_part(self, group: list[_Item]) -> list[_Item]:
        """Decode, write and acknowledge the first payloads of a group; return the rest.

        A batch takes payloads until it holds `MAX_MESSAGES`.
        """
        batch = _new_batch()
        results: list[tuple[Future, Accepted | TraceStoreError]] = []
        kept: list[bytes] = []
        try:
            for payload, future in group:
                if batch.messages > MAX_MESSAGES:
                    break
                spans, rejected, why = batch.add(payload)
                results.append((future, Accepted(spans, rejected, why)))
                if spans:
                    kept.append(payload)
            if kept:
                self._write(batch, kept)
        except (BadRequest, TooLarge) as e:
            if len(group) > 1:  # each alone, so that the bad one spoils no other
                for item in group:
                    self._log_part([item])
                return []
            results = [(group[0][1], e)]
        except StoreBroken as e:
            if self._log_fault is None:
                log.error(e.happened, extra={"error": e.got})
            with self._lock:
                self._log_fault = e
                self._lock.notify_all()
            results = [(future, e) for _, future in group]
        self._answer(results)
        return group[len(results) :]

    def _write(self, batch: SpanBatch, payloads: list[bytes]) -> None:
        """Make the payloads of a batch durable, and queue its tables for the database."""
        if refusal := self._refusal:
            raise refusal
        if batch.messages > _MANY_MESSAGES:
            tables = batch.tables()  # before the log is held, for which the other logger waits
            with self._log_order:
                self._enqueue(tables, self.wal.append(payloads))
            return

        with self._log_order:
            written = self._disk.submit(self.wal.append, payloads)
            try:
                tables = batch.tables()  # while the disk works
            finally:
                seq = written.result()
            self._enqueue(tables, seq)

    def _enqueue(self, tables: tuple[pa.Table, pa.Table, pa.Table], seq: int) -> None:
        """Hand what the log holds up to `seq` to the flusher."""
        self._log_fault = None
        decoded = _Decoded(*tables, seq)
        with self._lock:
            self.acked_seq = seq
            self._pending.append(decoded)
            self._pending_spans += decoded.spans.num_rows
            self._pending_bytes += decoded.bytes
            self._lock.notify_all()

    def _answer(self, results: list[tuple[Future, Accepted | TraceStoreError]]) -> None:
        for future, result in results:
            if isinstance(result, Accepted):
                self.telemetry.spans_accepted.inc(result.spans)
                self.telemetry.spans_rejected.inc(result.rejected)
                future.set_result(result)
            else:
                future.set_exception(result)

    def _flush_forever(self) -> None:
        while not self._is_replayed and not self._stopping:
            self._pause()
            self._try_replay()
        while (items := self._next_flush()) is not None:
            if items:
                self._flush(items)
            else:
                self._recover()

    def _recover(self) -> None:
        """Accept again where the disk has room for it."""
        if self.reserve.hold() and free_bytes(self.wal.folder) >= _LOG_ROOM:
            self._log_fault = None
            log.info("the disk has room again: spans are accepted")

    def _pause(self) -> None:
        with self._lock:
            self._lock.wait_for(lambda: self._stopping, timeout=RETRY_S)

    def _due(self) -> bool:
        if not self._pending:
            return self._stopping and not any(logger.is_alive() for logger in self._loggers)
        return (
            self._flush_now
            or self._stopping
            or self._pending_spans >= self.limits.batch_spans
            or time.monotonic() - self._pending[0].at >= self.limits.flush_every_s
        )

    def _next_flush(self) -> list[_Decoded] | None:
        """Wait for a batch that is due; return None at the end.

        Return an empty list while a fault is to be checked again.
        """
        with self._lock:
            while not self._due():
                idle = not self._pending and not self._stopping
                is_accepting = self.reserve.held and self._log_fault is None
                self._lock.wait(None if idle and is_accepting else self.limits.flush_every_s / 2)
                if idle and not is_accepting and not self._pending and not self._stopping:
                    return []
            return self._take_batch() if self._pending else None

    def _take_batch(self) -> list[_Decoded]:
        """Take what is pending, at most `batch_spans` spans; called with the lock held."""
        items = [self._pending.popleft()]
        spans = items[0].spans.num_rows
        while self._pending and spans + self._pending[0].spans.num_rows <= self.limits.batch_spans:
            items.append(self._pending.popleft())
            spans += items[-1].spans.num_rows
        self._flush_now = self._flush_now and bool(self._pending)
        return items

    def _flush(self, items: list[_Decoded]) -> None:
        import pyarrow as pa

        spans = pa.concat_tables([i.spans for i in items])
        resources = pa.concat_tables([i.resources for i in items])
        scopes = pa.concat_tables([i.scopes for i in items])
        started = time.monotonic()
        while True:
            try:
                added = self.store.insert(spans, resources, scopes, items[-1].seq)
                break
            except StoreBroken as e:
                self._fail(e)
                if self._is_stuck:
                    self._pause()
                if self._stopping:
                    return  # it is in the log, and will be replayed
        self.telemetry.spans_duplicate.inc(spans.num_rows - added)
        self.telemetry.flush_s.observe(time.monotonic() - started)
        with self._lock:
            self._pending_spans -= spans.num_rows
            self._pending_bytes -= sum(i.bytes for i in items)
            self._fault = None
            self._is_stuck = False
            self._lock.notify_all()
        self.wal.forget(items[-1].seq)
        self.reserve.hold()
