"""The process of an incident: `python -m lab.incidents.worker STATE_DIR`, a part of the stack.

It waits for the onset, makes the changes of the record, and undoes them when it ends. What it
cannot undo after a SIGKILL goes away by itself: faults of the tool server are leased, the processes
that it forks die with it, and the supervisor undoes changes of the plan and stopped processes.
Nothing that it logs or has on its command line names the incident.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from pathlib import Path
from threading import Thread

from lab.errors import StackError, StoreUnreachable
from lab.incidents import record
from lab.incidents.catalogue import INCIDENTS
from lab.settings import Settings, load_settings
from lab.stack import changes, processes, state
from lab.stack.changes import Changes
from lab.stores.http import HttpClient

FAULTS = "/admin/faults"
LEASE_S = 6.0
RENEW_EVERY_S = 2.0
RESTART_S = 80.0
POLL_S = 0.2

# Is called every RENEW_EVERY_S while the incident is in effect.
Renew = Callable[[], None]


def main(argv: list[str]) -> int:
    """Run the incident of the record until SIGTERM. Returns 1 if it cannot be brought about."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    state_dir = Path(argv[0])
    incident = record.update(state_dir, ended_at=None)
    status = 0
    try:
        time.sleep(incident.onset_after_s)
        record.update(state_dir, onset_at=time.time())
        bring_about = BRING_ABOUT[INCIDENTS[incident.name].kind]
        with bring_about(incident, settings_of(state_dir)) as renew:
            record.update(state_dir, in_effect_at=time.time())
            while True:
                time.sleep(RENEW_EVERY_S)
                renew()
    except SystemExit:
        pass
    except Exception as e:  # into the record, because a log would name the incident
        record.update(state_dir, error=str(e) or type(e).__name__)
        status = 1
    finally:
        record.update(state_dir, ended_at=time.time())
    return status


def settings_of(state_dir: Path) -> Settings:
    """Return settings with all addresses of the lab that runs from this folder."""
    settings = load_settings(state_dir=state_dir)
    urls = {f"{name}_url": url for name, url in _running(state_dir).endpoints.items()}
    return settings.model_copy(update=urls)


def _running(state_dir: Path) -> state.StackState:
    running = state.read(state_dir)
    if running is None:
        raise StackError("the lab was taken down")
    return running


# -- the kinds of incidents: context managers that yield what renews the change --------------------


@contextmanager
def _faulty_tool(incident: record.Record, settings: Settings) -> Iterator[Renew]:
    """Lease a fault of the tool server; it survives a restart of that server."""
    client = HttpClient("the tool server", settings.endpoint("mcp"), settings.timeout_s)

    def lease(for_s: float) -> None:
        reply = client.request(FAULTS, json={"for_s": for_s, **incident.parameters})
        if reply.status != HTTPStatus.OK:
            raise client.refusal(reply, FAULTS)
        if b'"error_ratio"' not in reply.content:
            raise client.not_its_api(reply, FAULTS, "no fault")

    def renew() -> None:
        try:
            lease(LEASE_S)
        except StoreUnreachable:
            return  # it is being started again

    lease(LEASE_S)
    try:
        yield renew
    finally:
        lease(0.0)


@contextmanager
def _changed_plan(incident: record.Record, settings: Settings) -> Iterator[Renew]:
    """Have the supervisor restart what reads the changed arguments or files."""
    _apply(settings.state_dir, Changes(**incident.parameters))
    yield _nothing


@contextmanager
def _bad_rollout(incident: record.Record, settings: Settings) -> Iterator[Renew]:
    """Put a router in front of vLLM and the canary, and let Llama Stack use it."""
    from lab.incidents import rollout  # here, as all but few incidents need no web server

    canary = _running(settings.state_dir).part("vllm-canary")
    assert canary  # control.start has checked it
    stable_url = settings.endpoint("vllm")
    canary_url = f"http://127.0.0.1:{canary.port}"
    url = rollout.serve(stable_url, canary_url, incident.parameters["share"], incident.seed)
    _apply(settings.state_dir, Changes(chat_url=url, parts=("vllm-canary",)))
    yield _nothing


@contextmanager
def _more_traffic(incident: record.Record, settings: Settings) -> Iterator[Renew]:
    """Send requests of one more tenant."""
    from lab.incidents import traffic  # here, as it imports pandas

    plan = traffic.plan(incident.name, incident.parameters, incident.seed, settings)
    yield _alive(lambda: traffic.drive(plan, incident.name, incident.parameters, settings))


@contextmanager
def _busy_embeddings(incident: record.Record, settings: Settings) -> Iterator[Renew]:
    """Send batches of texts to the embedding server."""
    from lab.incidents import traffic

    yield _alive(lambda: traffic.embed(settings, **incident.parameters))


@contextmanager
def _busy_cpu(incident: record.Record, settings: Settings) -> Iterator[Renew]:
    """Compute in several processes."""
    fork = multiprocessing.get_context("fork")
    for _ in range(incident.parameters["processes"]):
        fork.Process(target=_compute, args=(os.getpid(),), daemon=True).start()
    yield _nothing


@contextmanager
def _hang(incident: record.Record, settings: Settings) -> Iterator[Renew]:
    """Stop a part's processes; the supervisor lets them go on when this process has ended."""
    part = _running(settings.state_dir).part(incident.parameters["part"])
    assert part and part.pid  # control.start has checked it
    for process in processes.tree(part.pid):
        process.suspend()
    yield _nothing


BRING_ABOUT: dict[str, Callable[[record.Record, Settings], AbstractContextManager[Renew]]] = {
    "tool": _faulty_tool,
    "plan": _changed_plan,
    "rollout": _bad_rollout,
    "traffic": _more_traffic,
    "embeddings": _busy_embeddings,
    "cpu": _busy_cpu,
    "hang": _hang,
}


def _nothing() -> None:
    """Renew nothing."""


def _alive(work: Callable[[], None]) -> Renew:
    """Do the work in a thread; returns a function that raises what ended it."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as e:  # noqa: BLE001 - raised in the main thread
            errors.append(e)

    def check() -> None:
        if errors:
            raise errors[0]

    Thread(target=run, daemon=True).start()
    time.sleep(POLL_S)
    check()
    return check


def _compute(parent_pid: int) -> None:
    """Use one core until the parent ends."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    processes.die_with_parent(parent_pid)
    while os.getppid() == parent_pid:
        sum(range(200_000))


def _apply(state_dir: Path, applied: Changes) -> None:
    """Have the supervisor apply changes, and wait until all that it restarts is ready.

    Raises StackError if a part does not become ready.
    """
    before = _running(state_dir)
    changes.write(state_dir, applied)
    os.kill(before.supervisor_pid, signal.SIGHUP)
    limit = time.monotonic() + RESTART_S
    while time.monotonic() < limit:
        time.sleep(POLL_S)
        running = _running(state_dir)
        needed = [p for p in running.parts if p.essential or p.name in applied.parts]
        if failed := [p.name for p in needed if p.state == state.FAILED]:
            raise StackError(f"{failed[0]} does not start with the change")
        ready = all(p.ready for p in needed) and running.phase == "up"
        if running.repairs > before.repairs and ready:
            return
    raise StackError(f"the lab is not ready {RESTART_S:.0f} s after the change")


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # without waiting for the threads of the traffic
