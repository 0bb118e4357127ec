"""What a shell or a notebook does with a lab; the supervisor does the work."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil

from lab.errors import NotUp, PartFailed, StackError
from lab.settings import CREDENTIALS, ENDPOINTS, REPO, Settings
from lab.stack import logbook, processes, replay, state, supervisor
from lab.stack.parts import AGENT_PATH
from lab.stack.state import PartStatus, StackState

SUPERVISOR = ("-m", "lab.stack.supervisor")
POLL_S = 0.2
REPAIRS = 2  # how often one `lab up` requests repairs for a part that dies again
REPAIR_BEGINS_S = 300.0  # the supervisor may still be busy with the first start
STALE_S = 7.0  # a supervisor that has not written for so long hangs
HEARTBEAT_WAIT_S = 3.0  # after a suspended machine wakes up, the next heartbeat takes a second
STOP_S = 30.0
START_S = 180.0  # for a supervisor to write its state; an overloaded machine needs a minute
ENDPOINT_PARTS = {
    "tempo": "tracestore",
    "otlp": "tracestore",
    "mcp": "tools",
    "vllm": "vllm",
    "vllm_embed": "vllm-embed",
    "llama_stack": "llama-stack",
    "prometheus": "prometheus",
    "view": "live-view",
}

LINE_EVERY_S = 10.0

# Receives the parts and the seconds waited, a few times per second.
Progress = Callable[[list[PartStatus], float], None]


class LineProgress:
    """Prints a line per change of a part, and one every 10 s for what is waited for.

    Also for the workloads of a cluster (`lab.stack.cluster.rollout.WorkloadStatus`).
    """

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._next_s = LINE_EVERY_S

    def __call__(self, parts: Sequence[Any], elapsed_s: float) -> None:
        """Print what changed."""
        for p in parts:
            if self._seen.get(p.name) != p.state:
                self._seen[p.name] = p.state
                took = f" after {p.ready_after_s:.1f} s" if p.ready and p.ready_after_s else ""
                print(f"{elapsed_s:6.1f} s  {p.name:<12} {p.state}{took} {p.error}".rstrip())

        waits = _waiting_for(parts)
        if waits and elapsed_s >= self._next_s:
            self._next_s = elapsed_s + LINE_EVERY_S
            print(f"{elapsed_s:6.1f} s  waiting for {waits}")
        sys.stdout.flush()


def _waiting_for(parts: Sequence[Any]) -> str:
    """Return which parts are not ready and what each waits for; empty if none."""
    pending = [p for p in parts if not p.ready and p.state != state.OFF and not p.error]
    return "; ".join(f"{p.name}: {p.waits_for or p.state}" for p in pending)


def up(
    settings: Settings,
    progress: Progress | None = None,
    wait_for: Literal["agent", "all"] = "agent",
) -> dict[str, str]:
    """Start what is not running, wait until it answers, and return {endpoint name: base URL}.

    "agent" waits for all that an agent request needs, while embeddings and documents come up
    behind it; "all" waits for those too. What is dead or hangs is started again.
    Raises SettingsError, SetupError or ModelError before anything is started, PartFailed when a
    part does not come up.
    """
    state_dir = settings.state_dir.resolve()
    if settings.place != "recorded":
        replay.refuse_recorded_state(state_dir)
    state.prepare(state_dir)
    began = time.monotonic()

    lock = _take_lock(state_dir)
    if lock is None:
        _request_repair(state_dir)
        current = _running_state(state_dir)
    else:
        try:
            process = _start_supervisor(settings, lock)
        finally:
            os.close(lock)  # the supervisor holds it now, without a gap for a second `lab up`
        current = _running_state(state_dir, process, START_S)
    return _wait_until_up(state_dir, current, began, progress, wait_for, fresh=lock is not None)


def down(settings: Settings, progress: Progress | None = None) -> list[str]:
    """Stop every part, also those that outlived their supervisor.

    Returns a line per process that had to be killed, normally none.
    """
    state_dir = settings.state_dir.resolve()
    if not state_dir.is_dir():
        return []

    recorded: list[tuple[int, float]] = []  # where unreadable, the marks still identify them
    if current := _readable_state(state_dir):
        supervisor_process = (current.supervisor_pid, current.supervisor_create_time)
        recorded = [*current.processes, supervisor_process]
        _stop_supervisor(state_dir, current, progress)

    left = processes.leftovers(state_dir, recorded)
    names = [f"{_name(p)} (pid {p.pid})" for p in left]
    processes.end(left, grace_s=3.0)
    state.remove_endpoints(state_dir)
    (state_dir / state.STACK_FILE).unlink(missing_ok=True)
    return names


def status(settings: Settings) -> list[PartStatus]:
    """Return how each part is now, checked against the processes; empty if nothing was started.

    Raises StackError if the state file cannot be read.
    """
    current = state.read(settings.state_dir.resolve())
    if current is None:
        return []
    parts = [_measured(_as_it_is(p, current), current) for p in current.parts]
    return [_supervisor_status(settings, current), *parts]


def require(settings: Settings, *parts: str, wait_s: float = 120.0) -> None:
    """Return when the parts (default: all that an agent request needs) are ready.

    Waits for those that are still coming up. Does nothing where the lab is not local, or where a
    part's address was set to another server.
    Raises PartFailed for a part that is dead, hangs or is not ready within `wait_s`, NotUp if no
    lab is running, StackError for a part on demand that is off.
    """
    if settings.place != "local":
        return
    external = {ENDPOINT_PARTS.get(name, "") for name in external_endpoints(settings)}
    limit = time.monotonic() + wait_s
    for name in parts or AGENT_PATH:
        if name not in external:
            _wait_for_part(settings.state_dir.resolve(), name, limit, wait_s)


def start(settings: Settings, *parts: str, wait_s: float = 300.0) -> None:
    """Start parts on demand of a running lab, such as `vllm-canary`, and wait until they answer.

    Does nothing where the lab is not local: the deployment there is not ours to start.
    Raises NotUp if no lab is running, StackError for a part that is not on demand, PartFailed if
    it does not come up.
    """
    if parts:
        _switch(settings, parts, on=True)
        require(settings, *parts, wait_s=wait_s)


def stop(settings: Settings, *parts: str, wait_s: float = 30.0) -> None:
    """End parts on demand. Raises as `start` does; does nothing where the lab is not local."""
    if settings.place != "local":
        return
    _switch(settings, parts, on=False)
    limit = time.monotonic() + wait_s
    for name in parts:
        while (part := _part_now(settings.state_dir.resolve(), name)).state != state.OFF:
            if time.monotonic() > limit:
                raise _part_failed(
                    part, f"{name} has not ended after {wait_s:.0f} s", "look at `lab status`"
                )
            time.sleep(POLL_S)


def logs(
    settings: Settings,
    part: str | None = None,
    trace_id: str | None = None,
    follow: bool = False,
    last: int = 0,
) -> Iterator[dict[str, Any]]:
    """Return log entries in time order, only the newest `last` of those that exist if it is not 0.

    Each has `part`, `ts` (ISO 8601), `level`, `message` and the part's own fields. With `follow`
    the iterator goes on as lines are written. Raises NotUp if there are no logs, StackError for
    an unknown part or a malformed trace id.
    """
    return logbook.read(settings.state_dir, part, trace_id, follow, last)


def external_endpoints(settings: Settings) -> dict[str, str]:
    """Return the endpoints that the user set, {name: URL}, without those of the running lab."""
    written = state.written_endpoints(settings.state_dir.resolve())
    urls = {name: getattr(settings, f"{name}_url") for name in ENDPOINTS}
    return {n: url.rstrip("/") for n, url in urls.items() if url and url != written.get(n)}


# -- the supervisor ----------------------------------------------------------------------------


def _take_lock(state_dir: Path) -> int | None:
    """Return the lock for a new supervisor; None if one runs already.

    One that is ending is waited for, one that hangs is killed.
    """
    lock = supervisor.take_lock(state_dir)
    if lock is None and _supervisor_hangs(state_dir):
        _kill_supervisor(state_dir)
        lock = supervisor.take_lock(state_dir)

    limit = time.monotonic() + STOP_S
    while lock is None and time.monotonic() < limit and _is_ending(state_dir):
        time.sleep(POLL_S)
        lock = supervisor.take_lock(state_dir)
    return lock


def _is_ending(state_dir: Path) -> bool:
    current = _readable_state(state_dir)
    return current is not None and current.phase in ("failed", "stopping", "down")


def _readable_state(state_dir: Path) -> StackState | None:
    """Return what the supervisor wrote last; None also where the file cannot be read."""
    with contextlib.suppress(StackError):
        return state.read(state_dir)
    return None


def _start_supervisor(settings: Settings, lock: int) -> subprocess.Popen[bytes]:
    """End what an earlier supervisor left, and start a new one in a session of its own."""
    state_dir = settings.state_dir.resolve()
    external = external_endpoints(settings)
    before = _readable_state(state_dir)  # an unreadable one is written anew
    processes.end(processes.leftovers(state_dir, before.processes if before else ()))

    supervisor.build(settings, external)  # raises before anything is started
    (state_dir / state.STACK_FILE).unlink(missing_ok=True)
    state.remove_endpoints(state_dir)

    # The parts query no store of the user's, so the credentials stay here.
    left_out = {f"{name}_url" for name in ENDPOINTS} | set(CREDENTIALS)
    given = settings.model_dump(mode="json", exclude=left_out)
    given |= {f"{name}_url": url for name, url in external.items()}
    log = _log_of_supervisor(state_dir)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, state.PRIVATE), "ab") as out:
        process = subprocess.Popen(
            [sys.executable, *SUPERVISOR, str(lock)],
            pass_fds=(lock,),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=REPO,
            env=processes.part_env(state_dir, "supervisor", {"PYTHONPATH": str(REPO)}),
            start_new_session=True,  # Ctrl-C in the terminal does not reach the parts
        )
    with contextlib.suppress(BrokenPipeError):  # it has died; its log says why
        assert process.stdin
        process.stdin.write(json.dumps({"settings": given, "external": external}).encode())
        process.stdin.close()
    return process


def _supervisor_hangs(state_dir: Path) -> bool:
    """Return whether a supervisor runs, but has not written for long and does not write now."""
    limit = time.monotonic() + HEARTBEAT_WAIT_S
    while (current := _readable_state(state_dir)) and _is_stale(current):
        if time.monotonic() > limit:
            return _lives(current)
        time.sleep(POLL_S)
    return False


def _is_stale(current: StackState) -> bool:
    return time.time() - current.heartbeat_at > STALE_S


def _kill_supervisor(state_dir: Path) -> None:
    """Kill a supervisor that hangs. Its parts die with it, or are found by their marks."""
    if current := _readable_state(state_dir):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(current.supervisor_pid)
            process.kill()
            process.wait(timeout=5)


def _stop_supervisor(state_dir: Path, current: StackState, progress: Progress | None) -> None:
    """Request the end of the lab and wait for it. One that hangs is killed."""
    if not _lives(current):
        return
    if _supervisor_hangs(state_dir):
        return _kill_supervisor(state_dir)

    with contextlib.suppress(ProcessLookupError):
        os.kill(current.supervisor_pid, signal.SIGTERM)
    began = time.monotonic()
    while time.monotonic() < began + STOP_S:
        with contextlib.suppress(psutil.Error, ChildProcessError):
            psutil.Process(current.supervisor_pid).wait(timeout=POLL_S)
        if not _lives(current):
            return
        if progress and (now := _readable_state(state_dir)):
            progress(now.parts, time.monotonic() - began)


def _request_repair(state_dir: Path) -> None:
    """Have the supervisor start again what is broken, if anything is."""
    current = _running_state(state_dir)
    if any(p.state in state.BROKEN or (p.ready and not _runs(p)) for p in current.parts):
        _signal_and_wait(state_dir, current)


def _switch(settings: Settings, parts: Sequence[str], *, on: bool) -> None:
    """Write which parts on demand should run, and wait until the supervisor acts on it."""
    if settings.place != "local":
        return
    state_dir = settings.state_dir.resolve()
    for name in parts:
        if not _part_now(state_dir, name).on_demand:
            raise StackError(
                f"{name} cannot be started or stopped alone",
                fix="only parts on demand can be; `lab up` starts all others again",
            )

    requested = state.requested(state_dir)
    state.write_requested(state_dir, requested | set(parts) if on else requested - set(parts))
    _signal_and_wait(state_dir, _running_state(state_dir))


def _signal_and_wait(state_dir: Path, current: StackState) -> None:
    """Send SIGHUP and wait until the repair has begun."""
    os.kill(current.supervisor_pid, signal.SIGHUP)
    limit = time.monotonic() + REPAIR_BEGINS_S
    while _running_state(state_dir).repairs == current.repairs and time.monotonic() < limit:
        time.sleep(POLL_S)


def _running_state(
    state_dir: Path, process: subprocess.Popen[bytes] | None = None, limit_s: float = 60.0
) -> StackState:
    """Wait for the state of a living supervisor, or of one whose start has failed already.

    Raises PartFailed if `process`, a supervisor just started, ends without a state.
    """
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        ended = process is not None and process.poll() is not None
        current = state.read(state_dir)
        if current and (_lives(current) or current.phase == "failed"):
            return current
        if ended:
            break
        time.sleep(POLL_S)
    raise _supervisor_failed(state_dir, "the supervisor did not start")


def _lives(current: StackState) -> bool:
    return processes.is_same(current.supervisor_pid, current.supervisor_create_time)


def _supervisor_failed(state_dir: Path, happened: str) -> PartFailed:
    log = _log_of_supervisor(state_dir)
    return PartFailed(
        happened,
        part="supervisor",
        log=str(log),
        got="\n".join(logbook.last_lines(log)),
        fix=f"read {log}, then run `lab up`",
    )


def _log_of_supervisor(state_dir: Path) -> Path:
    return state_dir / "logs" / "supervisor.log"


# -- waiting -----------------------------------------------------------------------------------


def _wait_until_up(
    state_dir: Path,
    current: StackState,
    began: float,
    progress: Progress | None,
    wait_for: str,
    fresh: bool,
) -> dict[str, str]:
    repairs = 0 if fresh else REPAIRS
    while True:
        if progress:
            progress(current.parts, time.monotonic() - began)
        needed = [p for p in current.parts if _is_waited_for(p, wait_for)]
        if current.phase == "up" and _are_ready(needed):
            return current.endpoints

        if broken := _first_broken(needed):
            if broken.state == state.FAILED or not repairs:
                _raise_failure(state_dir, _cause(current, broken), fresh and broken.essential)
            repairs -= 1  # it was noticed only after the first request
            _request_repair(state_dir)
        time.sleep(POLL_S)
        current = _next_state(state_dir)


def _are_ready(parts: list[PartStatus]) -> bool:
    return all(part.ready and _runs(part) for part in parts)


def _first_broken(parts: list[PartStatus]) -> PartStatus | None:
    return next((part for part in parts if part.state in _FAILURES), None)


_FAILURES = (state.FAILED, state.DEAD, state.HANGS)  # what stopped because of them is not one


def _is_waited_for(part: PartStatus, wait_for: str) -> bool:
    return part.essential or (wait_for == "all" and part.state != state.OFF)


def _next_state(state_dir: Path) -> StackState:
    """Return the state now. Raises if the lab was taken down, or if its supervisor died."""
    alive = state.read(state_dir)
    # Read again once the supervisor has ended: it may have written why in the meantime.
    current = alive if alive and _lives(alive) else state.read(state_dir)
    if current is None or current.phase in ("down", "stopping"):
        raise StackError("the lab was taken down while it was coming up", fix="run `lab up` again")
    if not _lives(current) and current.phase != "failed":
        raise _supervisor_failed(state_dir, "the supervisor died")
    return current


def _wait_for_part(state_dir: Path, name: str, limit: float, wait_s: float) -> None:
    while not (part := _part_now(state_dir, name)).ready:
        if part.state == state.OFF:
            raise StackError(
                f"{name} is off", got=part.what, fix=f"start it with `lab up --with {name}`"
            )
        if part.state in state.BROKEN:
            raise _part_failed(
                part,
                f"{name} hangs" if part.state == state.HANGS else f"{name} is {part.state}",
                "run `lab up` to start it again",
            )
        if time.monotonic() > limit:
            raise _part_failed(
                part, f"{name} was not ready after {wait_s:.0f} s", "wait, or read its log"
            )
        time.sleep(POLL_S)


def _runs(part: PartStatus) -> bool:
    """Return whether its process is there, if it should have one: the file may be a second old."""
    if part.state == state.DONE:
        return True
    return part.pid is not None and processes.is_same(part.pid, part.create_time or 0)


def _cause(current: StackState, failed: PartStatus) -> PartStatus:
    """Return the part whose failure made this one fail, if it only waited for another."""
    for p in current.parts:
        broken = p.state in (state.FAILED, state.DEAD)
        if broken and failed.error.startswith(f"{p.name}, which it needs"):
            return _cause(current, p)
    return failed


def _raise_failure(state_dir: Path, failed: PartStatus, everything_stops: bool) -> None:
    if everything_stops:
        if current := state.read(state_dir):
            with contextlib.suppress(psutil.Error):
                psutil.Process(current.supervisor_pid).wait(timeout=STOP_S)
        (state_dir / state.STACK_FILE).unlink(missing_ok=True)

    after = "; what was started is stopped again" if everything_stops else ""
    raise _part_failed(failed, f"{failed.name} did not come up{after}", "")


def _part_failed(part: PartStatus, happened: str, fix: str) -> PartFailed:
    lines: list[str] = []
    if part.log:
        lines = logbook.causes(Path(part.log)) or logbook.last_lines(Path(part.log))
    tail = "\n    ".join(["its log says", *lines]) if lines else ""
    got = "\n  ".join(text for text in (part.error or part.waits_for, tail) if text)
    read_log = f"its whole log is {part.log}" if part.log else ""
    advice = "; ".join(text for text in (fix, read_log) if text)
    return PartFailed(happened, part=part.name, log=part.log, got=got, fix=advice)


# -- status ------------------------------------------------------------------------------------


def _supervisor_status(settings: Settings, current: StackState) -> PartStatus:
    row = PartStatus(
        "supervisor",
        state.READY,
        "starts and watches the parts",
        log=str(_log_of_supervisor(settings.state_dir.resolve())),
        essential=False,
    )
    again = "run `lab up` to start the lab again"
    if not _lives(current):
        return replace(row, state=state.DEAD, error=f"the supervisor died; {again}")

    row = replace(
        row,
        pid=current.supervisor_pid,
        create_time=current.supervisor_create_time,
        uptime_s=time.time() - current.started_at,
        ready=not _is_stale(current),
    )
    if not row.ready:
        why = f"it has not written for {time.time() - current.heartbeat_at:.0f} s; {again}"
        row = replace(row, state=state.HANGS, error=why)
    with contextlib.suppress(psutil.Error):
        row.rss_bytes, row.pss_bytes = _memory([psutil.Process(current.supervisor_pid)])
    return row


def _as_it_is(part: PartStatus, current: StackState) -> PartStatus:
    """Return the part as its processes show it, which may be newer than the file."""
    supervised = _lives(current)
    should_run = part.state in (state.READY, state.STARTING, state.HANGS)
    if should_run and not _runs(part) and not (supervised and part.pid is None):
        why = part.error or ("it died" if supervised else "it died with its supervisor")
        part = replace(part, state=state.DEAD, error=why)
    elif not supervised and part.state == state.WAITING:
        why = "the supervisor died before it was started"
        part = replace(part, state=state.STOPPED, error=why)
    if part.state in (state.DEAD, state.STOPPED):
        part = replace(part, pid=None, uptime_s=None)
    return replace(part, ready=part.ready and part.state not in state.BROKEN)


def _measured(part: PartStatus, current: StackState) -> PartStatus:
    """Add the memory of its processes."""
    if part.pid:
        others = {p.pid for p in current.parts if p.name != part.name and p.pid}
        part.rss_bytes, part.pss_bytes = _memory(processes.tree(part.pid, without=others))
    return part


def _memory(tree: list[psutil.Process]) -> tuple[int, int]:
    """Return (RSS, PSS) of these processes in bytes."""
    rss = 0
    pss = 0
    for p in tree:
        with contextlib.suppress(psutil.Error):
            full = p.memory_full_info()
            rss += full.rss
            pss += getattr(full, "pss", 0)
    return rss, pss


def _part_now(state_dir: Path, name: str) -> PartStatus:
    """Return the state of a part. Raises NotUp without a lab, StackError for an unknown part."""
    current = state.read(state_dir)
    if current is None:
        raise NotUp("no lab is running", got=f"nothing in {state_dir}", fix="run `lab up`")
    part = current.part(name)
    if part is None:
        names = ", ".join(p.name for p in current.parts)
        raise StackError(f"the lab has no part {name!r}", fix=f"use one of {names}")

    part = _as_it_is(part, current)
    if not _lives(current) and part.state != state.OFF:
        why = "the supervisor died, and its parts with it"
        return replace(part, state=state.DEAD, ready=False, error=why)
    if _is_stale(current) and _supervisor_hangs(state_dir):
        return replace(part, state=state.HANGS, ready=False, error="its supervisor hangs")
    return part


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return "a process"
