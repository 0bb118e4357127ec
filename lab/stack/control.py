"""What a shell or a notebook asks of a lab: up, down, status, require. The supervisor does the work."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import psutil

from lab.errors import NotUp, PartFailed, StackError
from lab.settings import ENDPOINTS, REPO, Settings
from lab.stack import processes, state, supervisor
from lab.stack.logbook import causes, last_lines
from lab.stack.parts import AGENT_PATH
from lab.stack.state import PartStatus, StackState

SUPERVISOR = ("-m", "lab.stack.supervisor")
POLL_S = 0.2
REPAIRS = 2  # how often one `lab up` asks for a part that dies again
REPAIR_BEGINS_S = 300.0  # it may still be busy with the first start
STALE_S = 10.0  # a supervisor that has not written for so long hangs
ENDPOINT_PARTS = {
    "tempo": "tracestore",
    "otlp": "tracestore",
    "mcp": "tools",
    "vllm": "vllm",
    "vllm_embed": "vllm-embed",
    "llama_stack": "llama-stack",
    "prometheus": "prometheus",
}


def up(
    settings: Settings,
    progress: Callable[[list[PartStatus], float], None] | None = None,
    wait_for: Literal["agent", "all"] = "agent",
) -> dict[str, str]:
    """See lab.stack.up."""
    state_dir = settings.state_dir.resolve()
    state.prepare(state_dir)
    began = time.monotonic()
    lock = supervisor.take_lock(state_dir)
    if lock is None:
        _ask_to_repair(state_dir)
    else:
        try:
            process = _start_supervisor(settings, lock)
        finally:
            os.close(
                lock
            )  # the supervisor has it now, so that a second `lab up` never comes between
        _wait_for_state(state_dir, process)
    return _wait_until_up(state_dir, began, progress, wait_for, fresh=lock is not None)


def down(settings: Settings) -> list[str]:
    """See lab.stack.down."""
    state_dir = settings.state_dir.resolve()
    if not state_dir.is_dir():
        return []
    found = None
    with contextlib.suppress(
        StackError
    ):  # unreadable: the mark in their environment still finds the processes
        found = state.read(state_dir)
    if found and processes.is_same(found.supervisor_pid, found.supervisor_create_time):
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.supervisor_pid, signal.SIGTERM)
        with contextlib.suppress(psutil.Error):
            psutil.Process(found.supervisor_pid).wait(timeout=30)
    recorded = found.processes if found else []
    if found:
        recorded = [*recorded, (found.supervisor_pid, found.supervisor_create_time)]
    left = processes.leftovers(state_dir, recorded)
    names = [f"{_name(p)} (pid {p.pid})" for p in left]
    processes.end(left, grace_s=3.0)
    state.remove_endpoints(state_dir)
    (state_dir / state.STACK_FILE).unlink(missing_ok=True)
    return names


def status(settings: Settings) -> list[PartStatus]:
    """See lab.stack.status."""
    found = state.read(settings.state_dir.resolve())
    if found is None:
        return []
    alive = processes.is_same(found.supervisor_pid, found.supervisor_create_time)
    return [
        _supervisor_status(settings, found, alive),
        *(_as_it_is(p, found, alive) for p in found.parts),
    ]


def require(settings: Settings, *parts: str, wait_s: float = 120.0) -> None:
    """See lab.stack.require."""
    if settings.place != "local":
        return
    state_dir = settings.state_dir.resolve()
    wanted = parts or AGENT_PATH
    elsewhere = {
        ENDPOINT_PARTS[name] for name in external_endpoints(settings) if name in ENDPOINT_PARTS
    }
    wanted = [p for p in wanted if p not in elsewhere]
    limit = time.monotonic() + wait_s
    for name in wanted:
        while not (part := _part_now(state_dir, name)).ready:
            if part.state == state.OFF:
                raise StackError(
                    f"{name} is off", got=part.what, fix=f"start it with `lab up --with {name}`"
                )
            if part.state in (state.FAILED, state.DEAD, state.STOPPED):
                raise _part_failed(
                    part, f"{name} is {part.state}", "run `lab up` to start it again"
                )
            if time.monotonic() > limit:
                raise _part_failed(
                    part, f"{name} was not ready after {wait_s:.0f} s", "wait, or read its log"
                )
            time.sleep(POLL_S)


def start(settings: Settings, *parts: str, wait_s: float = 300.0) -> None:
    """See lab.stack.start."""
    _switch(settings, parts, on=True)
    require(settings, *parts, wait_s=wait_s)


def stop(settings: Settings, *parts: str, wait_s: float = 30.0) -> None:
    """See lab.stack.stop."""
    _switch(settings, parts, on=False)
    limit = time.monotonic() + wait_s
    for name in parts:
        while (
            settings.place == "local"
            and (part := _part_now(settings.state_dir.resolve(), name)).state != state.OFF
        ):
            if time.monotonic() > limit:
                raise _part_failed(
                    part, f"{name} has not ended after {wait_s:.0f} s", "look at `lab status`"
                )
            time.sleep(POLL_S)


def _switch(settings: Settings, parts: Sequence[str], *, on: bool) -> None:
    """Tell the supervisor which parts on demand should run, and wait until it has turned to that."""
    if settings.place != "local":
        return
    state_dir = settings.state_dir.resolve()
    for name in parts:
        if not _part_now(state_dir, name).on_demand:
            fix = "only parts on demand can be; `lab up` starts all others again"
            raise StackError(f"{name} cannot be started or stopped alone", fix=fix)
    found = _wait_for_state(state_dir)
    now = state.wanted(state_dir)
    state.write_wanted(state_dir, now | set(parts) if on else now - set(parts))
    os.kill(found.supervisor_pid, signal.SIGHUP)
    limit = time.monotonic() + REPAIR_BEGINS_S
    while _wait_for_state(state_dir).repairs == found.repairs and time.monotonic() < limit:
        time.sleep(POLL_S)


def vector_store_id(settings: Settings, wait_s: float) -> str:
    """See lab.stack.vector_store_id."""
    require(settings, "documents", wait_s=wait_s)
    found = state.read(settings.state_dir.resolve())
    if not found or not found.vector_store_id:
        raise StackError(
            "the vector store's id is not known",
            fix="read the log of `documents`, then run `lab up`",
        )
    return found.vector_store_id


def external_endpoints(settings: Settings) -> dict[str, str]:
    """Endpoints that the user set: {name: URL}. Those that a running lab wrote into its state folder are not."""
    written = state.written_endpoints(settings.state_dir.resolve())
    given = {name: getattr(settings, f"{name}_url") for name in ENDPOINTS}
    return {n: url.rstrip("/") for n, url in given.items() if url and url != written.get(n)}


# -- up ----------------------------------------------------------------------------------------------------------------


def _start_supervisor(settings: Settings, lock: int) -> subprocess.Popen[bytes]:
    """Check what can be checked, sweep what an earlier supervisor left, start a new one in a session of its own."""
    state_dir = settings.state_dir.resolve()
    external = external_endpoints(settings)
    before = None
    with contextlib.suppress(StackError):  # unreadable: it is written anew
        before = state.read(state_dir)
    left = processes.leftovers(state_dir, before.processes if before else [])
    if left:
        processes.end(left)
    supervisor.build(settings, external)  # raises before anything is started
    (state_dir / state.STACK_FILE).unlink(missing_ok=True)
    state.remove_endpoints(state_dir)
    own = {f"{name}_url" for name in ENDPOINTS}
    given = settings.model_dump(mode="json", exclude=own) | {
        f"{n}_url": url for n, url in external.items()
    }
    log = state_dir / "logs" / "supervisor.log"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, *SUPERVISOR, str(lock)],
            pass_fds=(lock,),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=REPO,
            env=processes.part_env(state_dir, "supervisor", {"PYTHONPATH": str(REPO)}),
            start_new_session=True,  # Ctrl-C in the terminal is not for the parts
        )
    process.stdin.write(json.dumps({"settings": given, "external": external}).encode())
    process.stdin.close()
    return process


def _ask_to_repair(state_dir: Path) -> None:
    found = _wait_for_state(state_dir)
    if any(
        p.state in (state.FAILED, state.DEAD, state.STOPPED) or (p.ready and not _runs(p))
        for p in found.parts
    ):
        os.kill(found.supervisor_pid, signal.SIGHUP)
        before, limit = found.repairs, time.monotonic() + REPAIR_BEGINS_S
        while _wait_for_state(state_dir).repairs == before and time.monotonic() < limit:
            time.sleep(POLL_S)


def _wait_for_state(
    state_dir: Path, process: subprocess.Popen[bytes] | None = None, limit_s: float = 60.0
) -> StackState:
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        found = state.read(state_dir)
        if found and processes.is_same(found.supervisor_pid, found.supervisor_create_time):
            return found
        if process and process.poll() is not None:
            break
        time.sleep(POLL_S)
    log = state_dir / "logs" / "supervisor.log"
    raise PartFailed(
        "the supervisor did not start",
        part="supervisor",
        log=str(log),
        got="\n".join(last_lines(log)),
    )


def _wait_until_up(
    state_dir: Path,
    began: float,
    progress: Callable[[list[PartStatus], float], None] | None,
    wait_for: str,
    fresh: bool,
) -> dict[str, str]:
    found = _wait_for_state(state_dir)
    repairs = REPAIRS
    while True:
        if progress:
            progress(found.parts, time.monotonic() - began)
        wanted = [
            p for p in found.parts if p.essential or (wait_for == "all" and p.state != state.OFF)
        ]
        if not fresh and repairs and any(p.state == state.DEAD for p in wanted):
            repairs -= 1  # its death was noticed only after we had asked
            _ask_to_repair(state_dir)
            found = _wait_for_state(state_dir)
            continue
        if failed := next((p for p in wanted if p.state in (state.FAILED, state.DEAD)), None):
            _report_failure(state_dir, _cause(found, failed), fresh and failed.essential)
        if found.phase == "up" and all(p.ready and _runs(p) for p in wanted):
            return found.endpoints
        time.sleep(POLL_S)
        now = state.read(state_dir)
        if now is None or now.phase in ("down", "stopping"):
            raise StackError(
                "the lab was taken down while it was coming up", fix="run `lab up` again"
            )
        found = now
        if (
            not processes.is_same(found.supervisor_pid, found.supervisor_create_time)
            and found.phase != "failed"
        ):
            log = state_dir / "logs" / "supervisor.log"
            got = "\n".join(last_lines(log))
            raise PartFailed(
                "the supervisor died",
                part="supervisor",
                log=str(log),
                got=got,
                fix="run `lab up` again",
            )


def _runs(part: PartStatus) -> bool:
    """Whether its process is there, if it should have one: the file may be a second old."""
    return part.state == state.DONE or (
        part.pid is not None and processes.is_same(part.pid, part.create_time or 0)
    )


def _cause(found: StackState, failed: PartStatus) -> PartStatus:
    """The part whose failure made this one fail, if it only waited for another."""
    for name in (p.name for p in found.parts if p.state in (state.FAILED, state.DEAD)):
        if failed.error.startswith(f"{name}, which it needs"):
            return _cause(found, found.part(name))
    return failed


def _report_failure(state_dir: Path, failed: PartStatus, everything_stops: bool) -> None:
    if everything_stops:
        with contextlib.suppress(psutil.Error):
            psutil.Process(state.read(state_dir).supervisor_pid).wait(timeout=30)
        (state_dir / state.STACK_FILE).unlink(missing_ok=True)
    after = "; what was started is stopped again" if everything_stops else ""
    raise _part_failed(failed, f"{failed.name} did not come up{after}", "")


def _part_failed(part: PartStatus, happened: str, fix: str) -> PartFailed:
    lines = (causes(Path(part.log)) or last_lines(Path(part.log))) if part.log else []
    tail = "\n    ".join(["its log says", *lines]) if lines else ""
    got = "\n  ".join(t for t in (part.error or part.waits_for, tail) if t)
    advice = "; ".join(t for t in (fix, f"its whole log is {part.log}" if part.log else "") if t)
    return PartFailed(happened, part=part.name, log=part.log, got=got, fix=advice)


# -- status ------------------------------------------------------------------------------------------------------------


def _supervisor_status(settings: Settings, found: StackState, alive: bool) -> PartStatus:
    log = settings.state_dir.resolve() / "logs" / "supervisor.log"
    row = PartStatus(
        "supervisor", state.READY, "starts and watches the parts", log=str(log), essential=False
    )
    row.pid, row.create_time, row.ready = found.supervisor_pid, found.supervisor_create_time, alive
    row.uptime_s = time.time() - found.started_at
    if not alive:
        row.state, row.pid, row.uptime_s = state.DEAD, None, None
        row.error = "the supervisor died; run `lab up` to start the lab again"
    elif time.time() - found.heartbeat_at > STALE_S:
        row.state, row.error = (
            "hangs",
            f"it has not written for {time.time() - found.heartbeat_at:.0f} s",
        )
    if row.pid:
        row.rss_bytes, row.pss_bytes = _memory([psutil.Process(row.pid)])
    return row


def _as_it_is(part: PartStatus, found: StackState, supervised: bool) -> PartStatus:
    """The part as its processes show it, which may be newer than the file."""
    runs = part.state != state.DONE and _runs(part)
    if (
        part.state in (state.READY, state.STARTING)
        and not runs
        and not (supervised and part.pid is None)
    ):
        part.state, part.ready, part.pid, part.uptime_s = state.DEAD, False, None, None
        part.error = part.error or ("it died" if supervised else "it died with its supervisor")
    elif not supervised and part.state == state.WAITING:
        part.state, part.error = state.STOPPED, "the supervisor died before it was started"
    if runs:
        others = {p.pid for p in found.parts if p.name != part.name}
        part.rss_bytes, part.pss_bytes = _memory(_own_tree(part.pid, others))
    return part


def _own_tree(pid: int, others: set[int | None]) -> list[psutil.Process]:
    """The process and what is below it, but for other parts and what is below those."""
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        below = [c for c in root.children() if c.pid not in others]
        return [root, *(p for child in below for p in _own_tree(child.pid, others))]
    return []


def _memory(tree: list[psutil.Process]) -> tuple[int, int]:
    rss = pss = 0
    for p in tree:
        with contextlib.suppress(psutil.Error):
            full = p.memory_full_info()
            rss, pss = rss + full.rss, pss + getattr(full, "pss", 0)
    return rss, pss


def _part_now(state_dir: Path, name: str) -> PartStatus:
    found = state.read(state_dir)
    if found is None:
        raise NotUp("no lab is running", got=f"nothing in {state_dir}", fix="run `lab up`")
    part = found.part(name)
    if part is None:
        raise StackError(
            f"the lab has no part {name!r}",
            fix=f"choose of {', '.join(p.name for p in found.parts)}",
        )
    alive = processes.is_same(found.supervisor_pid, found.supervisor_create_time)
    if not alive or (part.state == state.READY and not _runs(part)):
        part.state, part.ready = (
            (part.state, part.ready) if part.state == state.DONE and alive else (state.DEAD, False)
        )
        part.error = part.error or (
            "it died" if alive else "the supervisor died, and its parts with it"
        )
    return part


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return "a process"
