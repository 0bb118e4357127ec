"""Send a plan's requests on time, however slow the server is, and record what happened to each."""

from __future__ import annotations

import asyncio
import gc
import math
import secrets
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, perf_counter, time
from typing import Any

import uvloop
from tqdm import tqdm

from lab.errors import WorkloadError
from lab.notebook import progress_file
from lab.schema import Attr
from lab.settings import Settings
from lab.workload.apis import Api, Conversation, apis_for
from lab.workload.connection import Exchange
from lab.workload.http1 import Answer
from lab.workload.outcome import Clock, Outcome, events, merge_errors, records_frame, row
from lab.workload.plan import Plan, PlannedRequest
from lab.workload.run import LAG_BOUND_S, LAGS, Journal, Lag, Run
from lab.workload.tracing import RootSpans, TraceIds, context_headers

LEAD_IN_S = 0.05  # between the start of the loop and the plan's offset 0
PROBE_EVERY_S = 0.01
YOUNG_COLLECT_EVERY = 100  # probes
LOOK_EVERY_S = 0.1
JOURNAL_EVERY_S = 0.5


class Driver:
    """Drives one plan once.

    - `rows` grows as requests end.
    - `dispatch_lags_s`: from the moment a request was due until the driver turned to it.
    - `loop_lags_s`: how late a timer of PROBE_EVERY_S was.
    - `connect_s`: how long connections took to open.
    - `window` is (start, end) in seconds since the epoch.
    """

    def __init__(
        self,
        plan: Plan,
        apis: Mapping[str, Api],
        *,
        run_id: str,
        timeout_s: float,
        spans: RootSpans | None = None,
        headers: Mapping[str, str] | None = None,
        start_at: float | None = None,
    ) -> None:
        self.plan = plan
        self.apis = apis
        self.run_id = run_id
        self.timeout_s = timeout_s
        self.spans = spans
        self.start_at = start_at
        self.rows: list[dict[str, Any]] = []
        self.dispatch_lags_s: list[float] = []
        self.connect_s: list[float] = []
        self.loop_lags_s: list[float] = []
        self.window = (0.0, 0.0)
        self.stopped = False
        self.clock = Clock(time() - perf_counter())
        self._tasks: set[asyncio.Task[None]] = set()
        self._heads = {name: _request_head(api, headers or {}) for name, api in apis.items()}

    async def drive(self) -> None:
        """Send everything, wait for every answer, and close the connections.

        An exception of one session is raised when all the others have ended.
        """
        probe = asyncio.create_task(self._probe())
        start = perf_counter() + LEAD_IN_S
        if self.start_at is not None:
            start = self.start_at - self.clock.offset_s
        self.window = (self.clock.at(start), self.clock.at(start))
        try:
            await self._dispatch(start)
            for result in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result
        finally:
            probe.cancel()
            for api in self.apis.values():
                api.pool.close()
            self.window = (self.window[0], self.clock.at(perf_counter()))

    def stop(self) -> None:
        """End requests under way as 'cancelled' and send nothing more.

        To be called in the driver's loop.
        """
        self.stopped = True
        for task in self._tasks:
            task.cancel()

    async def _dispatch(self, start: float) -> None:
        """Start sessions when they are due: one by one in open loop, a user's in closed loop."""
        groups: dict[Any, list[list[PlannedRequest]]] = {}
        for session in self.plan.sessions():
            first = session[0]
            key = first.user if self.plan.arrivals.closed else first.session_id
            groups.setdefault(key, []).append(session)

        for sessions in sorted(groups.values(), key=lambda s: s[0][0].offset_s or 0.0):
            due = start + (sessions[0][0].offset_s or 0.0)
            await self._until(due)
            if self.stopped:
                return
            task = asyncio.create_task(self._sessions(sessions, due))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._tasks.discard(task)

    async def _until(self, due: float) -> None:
        try:
            while not self.stopped and (wait := due - perf_counter()) > 0:
                await asyncio.sleep(min(wait, 0.25))  # in short sleeps, so that stop() takes effect
        except asyncio.CancelledError:
            if not self.stopped:
                raise

    async def _sessions(self, sessions: list[list[PlannedRequest]], due: float) -> None:
        """Drive sessions one after another."""
        done = due
        for session in sessions:
            conversation = self.apis[session[0].api].begin()
            failed = False
            for request in session:
                if request.offset_s is None:
                    due = done + request.think_s
                    await self._until(due)
                if self.stopped:
                    return
                if failed:
                    done = self._skip(request, due)
                else:
                    done, failed = await self._send(conversation, request, due)

    def _skip(self, request: PlannedRequest, due: float) -> float:
        """Record a follow-up whose predecessor failed; return the time."""
        exchange = Exchange(Answer(), done=perf_counter())
        outcome = Outcome()
        outcome.fail("predecessor_failed", "the request that it follows up was not answered")
        self._record(request, TraceIds.new(), due, exchange, outcome)
        return exchange.done

    async def _send(
        self, conversation: Conversation, request: PlannedRequest, due: float
    ) -> tuple[float, bool]:
        """Send one request and record it; return when it ended, and whether it failed."""
        ids = TraceIds.new()
        body = conversation.body(request)
        head = self._heads[request.api]
        context = context_headers(ids, _identity(request, self.run_id))
        message = b"%b%bContent-Length: %d\r\n\r\n%b" % (head, context, len(body), body)

        self.dispatch_lags_s.append(perf_counter() - due)
        exchange = await self.apis[request.api].pool.send(message, timeout_s=self.timeout_s)
        self.connect_s.append(exchange.connect_s)

        outcome = merge_errors(exchange, _read(conversation, exchange.answer))
        self._record(request, ids, due, exchange, outcome)
        return exchange.done, bool(outcome.error_type)

    def _record(
        self,
        request: PlannedRequest,
        ids: TraceIds,
        due: float,
        exchange: Exchange,
        outcome: Outcome,
    ) -> None:
        record = row(self.run_id, request, ids, self.clock, due, exchange, outcome)
        self.rows.append(record)
        if self.spans is not None and not math.isnan(exchange.sent):
            self.spans.add(
                ids,
                record["scheduled_at"],
                record["done_at"],
                _identity(request, self.run_id) | _span_attributes(record),
                outcome.error_type,
            )

    async def _probe(self) -> None:
        """Measure how late the loop is.

        Collect the young garbage that the disabled collector leaves.
        """
        count = 0
        while True:
            due = perf_counter() + PROBE_EVERY_S
            await asyncio.sleep(PROBE_EVERY_S)
            self.loop_lags_s.append(perf_counter() - due)
            count += 1
            if count % YOUNG_COLLECT_EVERY == 0:
                gc.collect(0)


def _request_head(api: Api, headers: Mapping[str, str]) -> bytes:
    server = api.pool.server
    lines = [
        f"POST {server.path}{api.path} HTTP/1.1",
        f"Host: {server.host_header}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        "User-Agent: lab-workload",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n"


def _identity(request: PlannedRequest, run_id: str) -> dict[str, Any]:
    """Return who sends a request, for baggage and span."""
    return {
        Attr.TENANT: request.tenant,
        Attr.USER: request.user_id,
        Attr.SESSION: request.session_id,
        Attr.SCENARIO: request.scenario_id,
        Attr.RUN: run_id,
        Attr.REQUEST: request.request_id,
    }


def _span_attributes(record: dict[str, Any]) -> dict[str, Any]:
    attributes = {
        Attr.REQUEST_MODEL: record["model"],
        "lab.lag_s": record["lag_s"],
        "http.response.status_code": record["http_status"],
    }
    if not math.isnan(record["ttft_s"]):
        attributes["lab.ttft_s"] = record["ttft_s"]
    if record["error_type"]:
        attributes[Attr.ERROR_TYPE] = record["error_type"]
    return attributes


def _read(conversation: Conversation, answer: Answer) -> Outcome:
    """Read the stream; of a stream that was cut, what had come."""
    if answer.status != 200:
        return Outcome()
    try:
        return conversation.read(events(answer.body, answer.marks))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as e:
        # JSON, but not in the API's shape.
        return Outcome(error_type="malformed_event", error_message=f"{type(e).__name__}: {e}")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Disable full garbage collections and hand over quickly between threads.

    Both are pauses of the driver that would look like the server's.
    """
    collecting = gc.isenabled()
    interval = sys.getswitchinterval()
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


# -- from ordinary code: a script, or a notebook whose own event loop is running -------------------


def run_plan(
    plan: Plan,
    settings: Settings,
    *,
    out_dir: str | Path | None = None,
    progress: bool = True,
    vector_store_id: str = "",
    timeout_s: float = 60.0,
    lag_bound_s: float = LAG_BOUND_S,
    run_id: str = "",
    start_at: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Run:
    """Drive the plan and return what happened; with `out_dir`, save it in a folder there too.

    A request that fails is a row with its status and error, not an exception. `timeout_s` is for
    each request, from when it is sent. Ctrl-C (in a notebook: interrupt the kernel) stops the run;
    what was recorded is kept, saved and marked. With `out_dir`, rows also reach the disk as they
    happen: if this process is killed, `Run.load` reads what was measured. Several drivers that
    share a plan (`Plan.shard`) take the same `run_id` and the same `start_at`, in seconds since the
    epoch. `headers` go with every request, such as an Authorization.

    Raises WorkloadError for an empty plan, a start that has passed or a folder that cannot be
    written, NotUp where a server is not known. If the driver itself fails, the rows that it has are
    saved and marked as interrupted, and a WorkloadError with the reason is raised.
    """
    _check(plan, start_at)
    shard = f"-shard{plan.shard_of.replace('/', 'of')}" if plan.shard_of else ""
    driver = Driver(
        plan,
        apis_for(plan, settings, vector_store_id),
        run_id=(run_id or new_run_id()) + shard,
        timeout_s=timeout_s,
        spans=RootSpans(settings.otlp_url.rstrip("/")) if settings.otlp_url else None,
        headers=headers,
        start_at=start_at,
    )
    journal = None
    if out_dir is not None:
        folder = Path(out_dir) / driver.run_id
        journal = Journal(folder, driver.run_id, plan, lag_bound_s)

    run, failure = _drive(driver, progress, journal, lag_bound_s)
    if journal is not None:
        run.save(journal.path.parent)
        journal.delete()
    if failure is not None:
        raise _driver_failed(run, failure) from failure
    return run


def _drive(
    driver: Driver, progress: bool, journal: Journal | None, lag_bound_s: float
) -> tuple[Run, BaseException | None]:
    """Return what happened, and what the driver raised."""
    try:
        interrupted, failure = _in_thread(driver, progress, journal)
    finally:
        if journal is not None:
            journal.close()
        made, lost = driver.spans.close() if driver.spans else (0, 0)
    run = Run(
        run_id=driver.run_id,
        window=driver.window,
        records=records_frame(driver.rows),
        plan=driver.plan,
        lag=Lag.of(driver.dispatch_lags_s, driver.loop_lags_s, driver.connect_s, lag_bound_s),
        interrupted=interrupted or failure is not None,
        spans_made=made,
        spans_lost=lost,
    )
    return run, failure


def _check(plan: Plan, start_at: float | None) -> None:
    if not plan.requests:
        raise WorkloadError("the plan is empty", got=repr(plan), fix="plan at least one request")
    if start_at is not None and start_at < time():
        raise WorkloadError(
            "the run's start has passed",
            got=f"start_at is {time() - start_at:.1f} s ago",
            fix="use a start_at in the future",
        )


def _driver_failed(run: Run, failure: BaseException) -> WorkloadError:
    rows = f"{len(run.records)} of {len(run.plan)} requests have a row"
    if run.folder is None:
        keep = "set out_dir, so that the rows are kept"
    else:
        keep = f"read the rows with Run.load({str(run.folder)!r})"
    return WorkloadError(
        f"the driver of {run.run_id} failed",
        got=f"{type(failure).__name__}: {failure}; {rows}",
        fix=f"{keep}; report this with the traceback above",
    )


def new_run_id() -> str:
    """Return an id that is unique and sorts by time."""
    return f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def _in_thread(
    driver: Driver, progress: bool, journal: Journal | None
) -> tuple[bool, BaseException | None]:
    """Drive in a thread with an event loop of its own.

    Return whether the user stopped the run, and what the driver raised.
    """
    # uvloop's transports cost a third of asyncio's.
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    loop = runner.get_loop()
    failures: list[BaseException] = []
    # Not join(): an interrupt inside it can make a running thread look ended (Python 3.12).
    ended = threading.Event()

    def work() -> None:
        try:
            with runner:
                runner.run(driver.drive())
        except BaseException as e:  # noqa: BLE001 - returned to the caller's thread
            failures.append(e)
        finally:
            ended.set()

    interrupted = False
    with undisturbed(), _Watch(driver, progress, journal) as watch:
        threading.Thread(target=work, name="lab-driver", daemon=True).start()
        while not ended.is_set():
            try:
                ended.wait(LOOK_EVERY_S)
                watch.look()
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                loop.call_soon_threadsafe(driver.stop)
    return interrupted, failures[0] if failures else None


class _Watch:
    """Shows the driver's progress and writes its journal."""

    def __init__(self, driver: Driver, progress: bool, journal: Journal | None) -> None:
        self._driver = driver
        self._journal = journal
        self._journal_at = monotonic()
        self._bar = tqdm(
            total=len(driver.plan),
            unit="request",
            disable=not progress,
            mininterval=2.0,
            file=progress_file(),
        )

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal_at = 0.0
        self.look()
        self._bar.close()

    def look(self) -> None:
        """Show and write what has been added."""
        driver = self._driver
        self._bar.update(max(0, len(driver.rows) - self._bar.n))
        if self._journal is not None and monotonic() >= self._journal_at:
            lags = {name: getattr(driver, name) for name in LAGS}
            self._journal.write(driver.rows, lags, (driver.window[0], time()))
            self._journal_at = monotonic() + JOURNAL_EVERY_S
