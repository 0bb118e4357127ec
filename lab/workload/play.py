"""Drive a plan from ordinary code: a script, or a notebook whose own event loop is already running."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time

from tqdm import tqdm

from lab.errors import WorkloadError
from lab.settings import Settings
from lab.workload import record, servers
from lab.workload.driver import Driver, undisturbed
from lab.workload.journal import LAGS, Journal
from lab.workload.plan import Plan
from lab.workload.run import LAG_BOUND_S, Lag, Run
from lab.workload.tracing import RootSpans, SpanCount

LOOK_EVERY_S = 0.1
JOURNAL_EVERY_S = 0.5


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

    A request that fails is a row with its status and error, not an exception. `timeout_s` is for each request, from
    when it is sent. Ctrl-C (in a notebook: interrupt the kernel) stops the run; what was recorded is kept, saved and
    marked. Several drivers that share a plan (`Plan.shard`) take the same `run_id` and the same `start_at`, seconds
    since the epoch. With `out_dir`, rows also reach the disk as they happen: if this process is killed, `Run.load` reads
    what was measured. `headers` go with every request, such as an Authorization.

    Raises WorkloadError for an empty plan, a start that has passed or a folder that cannot be written, NotUp where a
    server is not known. If the driver itself fails, the rows that it has are saved and marked as interrupted, and
    a WorkloadError with the reason is raised.
    """
    if not plan.requests:
        raise WorkloadError("the plan is empty", got=repr(plan), fix="plan at least one request")
    if start_at is not None and start_at < time():
        got = f"start_at is {time() - start_at:.1f} s ago"
        raise WorkloadError(
            "the run's start has passed", got=got, fix="give a start_at that lies ahead"
        )
    run_id = run_id or new_run_id()
    shard = f"-shard{plan.shard_of.replace('/', 'of')}" if plan.shard_of else ""
    paths = servers.paths_for(plan, settings, vector_store_id)
    spans = RootSpans(settings.otlp_url.rstrip("/")) if settings.otlp_url else None
    driver = Driver(
        plan,
        paths,
        run_id=run_id + shard,
        timeout_s=timeout_s,
        spans=spans,
        headers=headers,
        start_at=start_at,
    )
    journal = None
    if out_dir is not None:
        journal = Journal(Path(out_dir) / driver.run_id, driver.run_id, plan, lag_bound_s)
    try:
        interrupted, failure = _in_thread(driver, progress, journal)
    finally:
        if journal is not None:
            journal.close()
        count = spans.close() if spans else SpanCount()
    run = Run(
        run_id=driver.run_id,
        window=driver.window,
        records=record.frame(driver.rows),
        plan=plan,
        lag=Lag.of(driver.dispatch_lags_s, driver.loop_lags_s, driver.connect_s, lag_bound_s),
        interrupted=interrupted or failure is not None,
        spans_made=count.made,
        spans_lost=count.lost,
    )
    if out_dir is not None and journal is not None:
        run.save(out_dir)
        journal.delete()
    if failure is not None:
        raise _driver_failed(run, failure) from failure
    return run


def _driver_failed(run: Run, failure: BaseException) -> WorkloadError:
    got = f"{type(failure).__name__}: {failure}; {len(run.records)} of {len(run.plan)} requests have a row"
    if run.folder is None:
        fix = "give an out_dir, so that the rows are kept; report this with the traceback above"
    else:
        fix = f"read the rows with Run.load({str(run.folder)!r}); report this with the traceback above"
    return WorkloadError(f"the driver of {run.run_id} failed", got=got, fix=fix)


def new_run_id() -> str:
    """Unique, and sorts by time."""
    return f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def _in_thread(
    driver: Driver, progress: bool, journal: Journal | None
) -> tuple[bool, BaseException | None]:
    """Drive in a thread with an event loop of its own.

    Return whether the user stopped the run, and what the driver raised.
    """
    loop = _new_loop()
    failed: list[BaseException] = []
    ended = (
        threading.Event()
    )  # not join(): an interrupt inside it can make a running thread look ended (Python 3.12)

    def work() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(driver.drive())
        except BaseException as e:  # noqa: BLE001 - handed to the caller's thread
            failed.append(e)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            ended.set()

    thread = threading.Thread(target=work, name="lab-driver", daemon=True)
    with (
        undisturbed(),
        tqdm(total=len(driver.plan), unit="request", disable=not progress, mininterval=2.0) as bar,
    ):
        thread.start()
        interrupted = False
        journal_at = monotonic()
        while not ended.is_set():
            try:
                ended.wait(LOOK_EVERY_S)
                _show(bar, driver)
                if monotonic() >= journal_at:
                    _write(journal, driver)
                    journal_at = monotonic() + JOURNAL_EVERY_S
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                loop.call_soon_threadsafe(driver.stop)
        _show(bar, driver)
        _write(journal, driver)
    return interrupted, failed[0] if failed else None


def _show(bar: tqdm, driver: Driver) -> None:
    if (more := len(driver.rows) - bar.n) > 0:
        bar.update(more)


def _write(journal: Journal | None, driver: Driver) -> None:
    if journal is not None:
        lags = {name: getattr(driver, name) for name in LAGS}
        journal.write(driver.rows, lags, (driver.window[0], time()))


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it is installed: its transports cost a third of asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
