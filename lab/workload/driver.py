"""The driver: sends a plan's requests on time, whatever the server does, and writes down what happened to each."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter, time
from typing import Any

from lab.schema import Attr
from lab.workload import sse
from lab.workload.http1 import Answer
from lab.workload.outcome import Outcome
from lab.workload.paths import Conversation, Path
from lab.workload.plan import Plan, PlannedRequest
from lab.workload.record import Clock, row, settle
from lab.workload.tracing import RootSpans, TraceIds, context_headers
from lab.workload.wire import Exchange

LEAD_IN_S = 0.05  # between the start of the loop and the plan's offset 0
PROBE_EVERY_S = 0.01
YOUNG_COLLECT_EVERY = 100  # probes


class Driver:
    """Drives one plan once. `rows` grows as requests end; `stop()` ends what is under way and sends nothing more."""

    def __init__(
        self,
        plan: Plan,
        paths: Mapping[str, Path],
        *,
        run_id: str,
        timeout_s: float,
        spans: RootSpans | None = None,
        headers: Mapping[str, str] | None = None,
        start_at: float | None = None,
        on_end: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.plan, self.paths, self.run_id, self.timeout_s, self.spans = (
            plan,
            paths,
            run_id,
            timeout_s,
            spans,
        )
        self.start_at, self.on_end = start_at, on_end
        self.rows: list[dict[str, Any]] = []
        self.dispatch_lags_s: list[
            float
        ] = []  # from the moment a request was due until the driver turned to it
        self.connect_s: list[float] = []
        self.loop_lags_s: list[float] = []  # how late a timer of PROBE_EVERY_S was
        self.window = (0.0, 0.0)
        self.stopped = False
        self.clock = Clock(time() - perf_counter())
        self._tasks: set[asyncio.Task[None]] = set()
        self._heads = {api: _head(path, headers or {}) for api, path in paths.items()}

    async def drive(self) -> None:
        """Send everything, wait for every answer, and close the connections."""
        probe = asyncio.create_task(self._probe())
        start = self._start()
        self.window = (self.clock.at(start), self.clock.at(start))
        try:
            if self.plan.arrivals.closed:
                await self._closed_loop(start)
            else:
                await self._open_loop(start)
            await self._all_sessions_ended()
        finally:
            probe.cancel()
            for path in self.paths.values():
                path.pool.close()
            self.window = (self.window[0], self.clock.at(perf_counter()))

    async def _all_sessions_ended(self) -> None:
        """Wait for every session. Raises the first exception of one, but only when all the others have ended."""
        if not self._tasks:
            return
        done, _ = await asyncio.wait(self._tasks)
        for task in done:
            if not task.cancelled():
                task.result()

    def stop(self) -> None:
        """To be called in the driver's loop: requests under way end as 'cancelled', nothing new is sent."""
        self.stopped = True
        for task in self._tasks:
            task.cancel()

    def _start(self) -> float:
        if self.start_at is not None:
            return self.start_at - self.clock.offset_s
        return perf_counter() + LEAD_IN_S

    async def _open_loop(self, start: float) -> None:
        for session in sorted(self.plan.sessions(), key=lambda s: s[0].offset_s or 0.0):
            due = start + (session[0].offset_s or 0.0)
            await self._until(due)
            if self.stopped:
                return
            self._spawn([session], due)

    async def _closed_loop(self, start: float) -> None:
        by_user: dict[int, list[list[PlannedRequest]]] = {}
        for session in self.plan.sessions():
            by_user.setdefault(session[0].user, []).append(session)
        for sessions in sorted(by_user.values(), key=lambda s: s[0][0].offset_s or 0.0):
            due = start + (sessions[0][0].offset_s or 0.0)
            await self._until(due)
            if self.stopped:
                return
            self._spawn(sessions, due)

    def _spawn(self, sessions: list[list[PlannedRequest]], due: float) -> None:
        task = asyncio.create_task(self._sessions(sessions, due))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._tasks.discard(task)

    async def _until(self, due: float) -> None:
        while not self.stopped and (wait := due - perf_counter()) > 0:
            await asyncio.sleep(min(wait, 0.25))  # in short sleeps, so that stop() is heard

    async def _sessions(self, sessions: list[list[PlannedRequest]], due: float) -> None:
        """Sessions one after another: one in open loop, all those of a user in closed loop."""
        done = due
        for session in sessions:
            conversation = self.paths[session[0].api].begin()
            failed = False
            for request in session:
                if request.offset_s is None:
                    due = done + request.think_s
                    await self._sleep_until(due)
                if self.stopped:
                    return
                exchange, failed = await self._one(conversation, request, due, failed)
                done = exchange.done

    async def _sleep_until(self, due: float) -> None:
        try:
            await self._until(due)
        except asyncio.CancelledError:
            if not self.stopped:
                raise

    async def _one(
        self,
        conversation: Conversation,
        request: PlannedRequest,
        due: float,
        predecessor_failed: bool,
    ) -> tuple[Exchange, bool]:
        """One request, whatever happens to it, and its row; True if it failed."""
        ids = TraceIds.new()
        if predecessor_failed:
            exchange = Exchange(Answer(), done=perf_counter())
            outcome = Outcome(
                error_type="predecessor_failed",
                error_message="what it follows up on was not answered",
            )
            self._note(request, ids, due, exchange, outcome)
            return exchange, True
        baggage = self._baggage(request)
        message = self._message(
            conversation.body(request), request.api, context_headers(ids, baggage)
        )
        self.dispatch_lags_s.append(perf_counter() - due)
        exchange = await self.paths[request.api].pool.send(message, timeout_s=self.timeout_s)
        self.connect_s.append(exchange.connect_s)
        outcome = settle(exchange, _read(conversation, request, exchange))
        self._note(request, ids, due, exchange, outcome)
        return exchange, bool(outcome.error_type)

    def _baggage(self, request: PlannedRequest) -> dict[str, str]:
        return {
            Attr.TENANT: request.tenant,
            Attr.USER: request.user_id,
            Attr.SESSION: request.session_id,
            Attr.SCENARIO: request.scenario_id,
            Attr.RUN: self.run_id,
            Attr.REQUEST: request.request_id,
        }

    def _message(self, body: bytes, api: str, context: bytes) -> bytes:
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._heads[api], context, len(body), body)

    def _note(
        self,
        request: PlannedRequest,
        ids: TraceIds,
        due: float,
        exchange: Exchange,
        outcome: Outcome,
    ) -> None:
        record = row(self.run_id, request, ids, self.clock, due, exchange, outcome)
        self.rows.append(record)
        if (
            self.spans is not None and exchange.sent == exchange.sent
        ):  # nan: never sent, so there is no trace
            self.spans.add(
                ids,
                record["scheduled_at"],
                record["done_at"],
                self._attributes(record),
                outcome.error_type,
            )
        if self.on_end is not None:
            self.on_end(record)

    def _attributes(self, record: dict[str, Any]) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            Attr.TENANT: record["tenant"],
            Attr.USER: record["user_id"],
            Attr.SESSION: record["session_id"],
            Attr.SCENARIO: record["scenario_id"],
            Attr.RUN: self.run_id,
            Attr.REQUEST: record["request_id"],
            Attr.REQUEST_MODEL: record["model"],
            "lab.lag_s": record["lag_s"],
            "http.response.status_code": record["http_status"],
        }
        if record["ttft_s"] == record["ttft_s"]:
            attributes["lab.ttft_s"] = record["ttft_s"]
        if record["error_type"]:
            attributes[Attr.ERROR_TYPE] = record["error_type"]
        return attributes

    async def _probe(self) -> None:
        """Measure how late the loop is; and collect the young garbage that the switched-off collector leaves."""
        count = 0
        while True:
            due = perf_counter() + PROBE_EVERY_S
            await asyncio.sleep(PROBE_EVERY_S)
            self.loop_lags_s.append(perf_counter() - due)
            count += 1
            if count % YOUNG_COLLECT_EVERY == 0:
                gc.collect(0)


def _head(path: Path, headers: Mapping[str, str]) -> bytes:
    target = path.pool.target
    lines = [
        f"POST {target.path}{path.path} HTTP/1.1",
        f"Host: {target.host_header}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        "User-Agent: lab-workload",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n"


def _read(conversation: Conversation, request: PlannedRequest, exchange: Exchange) -> Outcome:
    """What the stream said; of a stream that was cut, what had come."""
    answer = exchange.answer
    if answer.status != 200:
        return Outcome()
    try:
        return conversation.read(request, sse.events(answer.body, answer.marks))
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as e:  # JSON, but not of the API's shape
        return Outcome(error_type="malformed_event", error_message=f"{type(e).__name__}: {e}")


@contextmanager
def undisturbed() -> Iterator[None]:
    """No full garbage collections, and quick hand-overs between threads: both are pauses that would look like the
    server's."""
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
        if collecting:
            gc.enable()
