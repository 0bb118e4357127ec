"""Drive a plan from ordinary code: a script, or a notebook whose own event loop is running."""

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
from lab.notebook import progress_file
from lab.settings import Settings
from lab.workload.apis import apis_for
from lab.workload.driver import Driver, undisturbed
from lab.workload.outcome import records_frame
from lab.workload.plan import Plan
from lab.workload.run import LAG_BOUND_S, LAGS, Journal, Lag, Run
from lab.workload.tracing import RootSpans

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
    loop = _new_loop()
    failures: list[BaseException] = []
    # Not join(): an interrupt inside it can make a running thread look ended (Python 3.12).
    ended = threading.Event()

    def work() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(driver.drive())
        except BaseException as e:  # noqa: BLE001 - returned to the caller's thread
            failures.append(e)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
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


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop where it is installed: its transports cost a third of asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
