"""Start the parts, watch them, take them down: `python -m lab.stack.supervisor`.

`lab up` starts it and learns the rest from stack.json, which it writes on every change and every
second. Signals: TERM ends everything; HUP starts again what is dead or hangs, starts the parts on
demand that `run/requested.json` names and ends the others. It holds a lock on `run/supervisor.lock`
while it lives, so that the state file of a dead supervisor is never taken for that of a living one.
"""

import asyncio
import contextlib
import fcntl
import json
import logging.config
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.files import write_atomically
from lab.json_logging import config as json_logging
from lab.settings import Settings, load_settings
from lab.stack import changes, processes, replay, state
from lab.stack.part_process import PartProcess, Zygote
from lab.stack.plan import StackPlan, make_plan
from lab.stack.ports import HOST, PortLocks, choose
from lab.stack.state import StackState
from lab.stack.toolbox import find_tools

log = logging.getLogger("lab.stack.supervisor")
HEARTBEAT_S = 1.0
COUNT_S = 10.0
PORT_MOVES = 3  # how often one start chooses other ports
LOCK_FILE = Path("run") / "supervisor.lock"
# Prometheus watches this file for targets: a part that is off must not look like one that is down.
TARGETS_FILE = Path("run") / "on-demand-targets.json"
LAST_TO_END = ("prometheus", "tracestore")  # they receive the last data of the others

# Makes the plan on the ports to keep, {name: port}, and on other ones that are free.
MakePlan = Callable[[Mapping[str, int]], tuple[StackPlan, dict[str, int]]]


class Supervisor:
    """One lab, in one thread: PR_SET_PDEATHSIG is about the thread that forked."""

    def __init__(self, state_dir: Path, make: MakePlan) -> None:
        self.state_dir = state_dir
        self.stop_requested = asyncio.Event()
        self.repair_requested = asyncio.Event()

        self._make = make
        changes.remove(state_dir)  # of an incident of an earlier lab
        self._changes = changes.NO_CHANGES
        self._plan, self._ports = make({})
        self._parts: dict[str, PartProcess] = {}
        self._changed = asyncio.Event()  # set: stack.json is to be written
        zygote = Zygote()
        for part in self._plan.parts:
            self._parts[part.name] = PartProcess(
                part, state_dir, self._parts, self._changed.set, zygote
            )

        self._started_at = time.time()
        self._phase = "starting"
        self._repairs = 0
        self._identity = processes.identity(os.getpid()) or (os.getpid(), time.time())
        self._running: list[tuple[int, float]] = []
        self._counted_at = 0.0
        self._targets: list[dict[str, Any]] | None = None
        self._cannot_write = False

    async def run(self) -> int:
        """Run until a stop is requested or the first start has failed. Returns the exit status."""
        for path, text in self._plan.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text, state.PRIVATE)
        state.write_endpoints(self.state_dir, self._plan.own_endpoints)
        state.write_requested(self.state_dir, set())
        heartbeat = asyncio.create_task(self._beat())

        first = [p for p in self._parts.values() if not p.part.on_demand]
        failed = not await self._start(first) and not self.stop_requested.is_set()
        self._phase = "failed" if failed else "up"
        while not failed and not self.stop_requested.is_set():
            self._changed.set()
            await self._next_request()
            if self.repair_requested.is_set():
                self.repair_requested.clear()
                await self._repair()

        await self._end_all("failed" if failed else "down")
        heartbeat.cancel()
        self._write()
        return 1 if failed else 0

    async def _next_request(self) -> None:
        events = (self.stop_requested, self.repair_requested)
        waits = [asyncio.create_task(event.wait()) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    # -- start and repair ----------------------------------------------------------------------

    async def _start(self, parts: list[PartProcess]) -> bool:
        """Start these parts; where another program took a port, move to another one.

        Returns False if an essential one fails, or if a stop is requested.
        """
        for attempt in range(PORT_MOVES + 1):
            ok = await self._bring_up(parts)
            taken = [p for p in self._parts.values() if p.port_taken]
            if not taken or self.stop_requested.is_set():
                break
            if attempt == PORT_MOVES:
                self._fail_all(taken, "its ports were taken by other programs, again and again")
            else:
                parts = await self._move(taken)
        return ok and not any(
            p.part.essential and p.state in state.BROKEN for p in self._parts.values()
        )

    async def _bring_up(self, parts: list[PartProcess]) -> bool:
        """Start these at once, each waiting for what it needs, and wait for the essential ones."""
        for p in parts:
            p.begin()

        stop = asyncio.create_task(self.stop_requested.wait())
        tasks = [p.task for p in self._parts.values() if p.part.essential and p.task]
        pending = {task for task in tasks if not task.done()}
        ok = True
        while pending and ok:
            finished, _ = await asyncio.wait({*pending, stop}, return_when=asyncio.FIRST_COMPLETED)
            pending -= finished
            ok = stop not in finished and all(task.result() for task in finished)
        stop.cancel()
        return ok

    async def _move(self, taken: list[PartProcess]) -> list[PartProcess]:
        """Plan anew with other ports for these parts; returns the parts that have to start again.

        Besides the parts themselves these are all that use their addresses, on the command line,
        in the environment or in a configuration file.
        """
        moving = {name for p in taken for name in p.part.ports}
        try:
            affected = self._plan_anew({n: p for n, p in self._ports.items() if n not in moving})
        except LabError as e:
            self._fail_all(taken, f"{e.happened}; {e.fix}")
            return []
        off = self._switched_off()
        for p in affected:
            log.warning("%s moves to other ports", p.part.name)
            await p.stop()
            p.state = state.OFF if p in off else state.WAITING
        return [p for p in affected if p not in off]

    def _plan_anew(self, keep: Mapping[str, int]) -> list[PartProcess]:
        """Plan on the ports to keep and write the files; returns the parts that have to restart.

        Raises LabError for a plan that cannot be made; the one before is then kept.
        """
        before = self._plan
        self._plan, self._ports = self._make(keep)
        files = self._plan.files
        changed = [path for path, text in files.items() if before.files.get(path) != text]
        for path in changed:
            write_atomically(path, files[path], state.PRIVATE)
        state.write_endpoints(self.state_dir, self._plan.own_endpoints)

        affected = []
        for part in self._plan.parts:
            p = self._parts[part.name]
            reads = any(part.uses(str(path)) for path in changed)
            if part != p.part or p.state in state.BROKEN or (reads and not part.reloads):
                affected.append(p)
            elif reads:
                p.send(signal.SIGHUP)
            p.part = part
        return affected

    def _fail_all(self, parts: list[PartProcess], error: str) -> None:
        for p in parts:
            p.port_taken = p.fail(error)

    def _switched_off(self) -> list[PartProcess]:
        """Return the parts on demand that are not requested."""
        requested = state.requested(self.state_dir) | set(self._changes.parts)
        return [p for n, p in self._parts.items() if p.part.on_demand and n not in requested]

    async def _repair(self) -> None:
        """Start what should run and does not, and what is forked from it; end what is switched off.

        If that fails, only these parts are stopped again.
        """
        await self._end_temporary()
        affected = self._apply_changes()
        off = self._switched_off()
        for p in off:
            if p.state != state.OFF:
                await p.switch_off()

        broken = self._to_start(off)
        broken += [p for p in affected if p not in (*broken, *off)]
        self._phase = "starting"
        for p in broken:
            await p.stop()
            p.state = state.WAITING
        self._repairs += 1
        self._changed.set()

        await self._start(broken)
        self._phase = "up"

    async def _end_temporary(self) -> None:
        """End temporary parts that are no longer requested, or have died, and undo their changes.

        What they stopped with a signal goes on, and the plan is again that of the settings.
        """
        temporary = {n: p for n, p in self._parts.items() if p.part.temporary}
        died = {name for name, p in temporary.items() if p.state in state.BROKEN}
        requested = state.requested(self.state_dir) - died
        if died:
            state.write_requested(self.state_dir, requested)
        if requested & temporary.keys():
            return

        changes.remove(self.state_dir)
        for ending in [p for p in temporary.values() if p.state != state.OFF]:
            await ending.switch_off()
            for p in self._parts.values():
                p.resume()

    def _apply_changes(self) -> list[PartProcess]:
        """Plan anew where the changes to the plan are others now; return what has to restart."""
        now = changes.read(self.state_dir)
        if now == self._changes:
            return []

        try:
            affected = self._plan_anew(self._ports)
        except LabError as e:
            log.error("the changed plan is not usable: %s", e.happened)
            return []
        self._changes = now
        return affected

    def _to_start(self, off: list[PartProcess]) -> list[PartProcess]:
        """Return what should run and does not, and what is forked from it."""
        due = [p for p in self._parts.values() if p not in off]
        broken = [p for p in due if p.state in state.BROKEN or p.state == state.OFF or p.port_taken]
        bases = {p.part.name for p in broken}
        return broken + [p for p in due if p.part.base in bases and p not in broken]

    async def _end_all(self, phase: str) -> None:
        self._phase = "stopping" if phase == "down" else phase
        self._changed.set()
        first = [p for p in self._parts.values() if p.part.name not in LAST_TO_END]
        await asyncio.gather(*(p.stop() for p in first))
        await asyncio.gather(*(p.stop() for p in self._parts.values() if p not in first))
        state.remove_endpoints(self.state_dir)
        self._phase = phase

    # -- the heartbeat -------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), HEARTBEAT_S)
            if self._changed.is_set() or time.monotonic() > self._counted_at + COUNT_S:
                self._count_processes()
            self._changed.clear()
            # Without a request: a port was taken, or a temporary part has died.
            due = any(
                p.port_taken or (p.part.temporary and p.state in state.BROKEN)
                for p in self._parts.values()
            )
            if self._phase == "up" and due:
                self.repair_requested.set()
            self._write()
            await asyncio.sleep(0.1)

    def _count_processes(self) -> None:
        """Record what runs. Not at every heartbeat, since it reads all of /proc."""
        members = [m for p in self._parts.values() for m in p.processes()]
        identities = [processes.identity(m.pid) for m in members]
        self._running = [i for i in identities if i]
        self._counted_at = time.monotonic()

    def _write(self) -> None:
        """Write what changed. A full or read-only disk does not end the heartbeat."""
        try:
            state.write_json(self.state_dir / state.STACK_FILE, asdict(self._state()))
            self._write_targets()
        except (OSError, ValueError) as e:
            if not self._cannot_write:
                with contextlib.suppress(OSError):
                    log.error("the state folder cannot be written: %s", e)
            self._cannot_write = True
        else:
            self._cannot_write = False

    def _state(self) -> StackState:
        pid, create_time = self._identity
        return StackState(
            supervisor_pid=pid,
            supervisor_create_time=create_time,
            started_at=self._started_at,
            heartbeat_at=time.time(),
            phase=self._phase,
            parts=[p.status() for p in self._parts.values()],
            ports=self._ports,
            endpoints=self._plan.endpoints,
            processes=self._running,
            repairs=self._repairs,
        )

    def _write_targets(self) -> None:
        """Have Prometheus scrape the parts on demand that run, each as a job of its own name."""
        parts = [p for p in self._parts.values() if p.part.on_demand and p.part.port]
        ready = [p.part for p in parts if p.state == state.READY]
        targets = [{"targets": [f"{HOST}:{p.port}"], "labels": {"job": p.name}} for p in ready]
        if targets != self._targets:
            state.write_json(self.state_dir / TARGETS_FILE, targets)
            self._targets = targets


def take_lock(state_dir: Path) -> int | None:
    """Return the lock's file descriptor, None if a supervisor holds it.

    The kernel frees the lock however its holder ends.
    """
    fd = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, state.PRIVATE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def build(
    settings: Settings,
    external: dict[str, str],
    locks: PortLocks | None = None,
    keep: Mapping[str, int] | None = None,
) -> tuple[StackPlan, dict[str, int]]:
    """Return the plan for these settings, and its ports. Raises LabError; nothing is started."""
    fixed = {name: port for name, port in settings.ports.items() if name not in external}
    ports = choose(fixed, locks, keep)
    tools = find_tools(needs=replay.NEEDS if settings.place == "recorded" else None)
    applied = changes.read(settings.state_dir.resolve())
    return make_plan(settings, tools, ports, external, applied), ports


def planner(settings: Settings, external: dict[str, str]) -> MakePlan:
    """Return the function that plans these settings' lab, on ports reserved for this process."""
    return partial(build, settings, external, PortLocks())


async def _serve(state_dir: Path, make: MakePlan) -> int:
    """Run the plan until the process receives SIGTERM. Returns the exit status."""
    supervisor = Supervisor(state_dir, make)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop_requested.set)
    loop.add_signal_handler(signal.SIGHUP, supervisor.repair_requested.set)
    return await supervisor.run()


def main(planner: Callable[[Settings, dict[str, str]], MakePlan] = planner) -> int:
    """Run the lab of the settings and external endpoints that come as JSON on stdin.

    So what the caller passed in Python is kept. The argument is the file descriptor of the lock,
    which the caller has taken.
    """
    os.umask(0o077)  # prompts, answers and logs are for their owner only
    logging.config.dictConfig(json_logging())
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs a line per request
    sys.excepthook = lambda *info: log.critical("the supervisor failed", exc_info=info)
    os.set_inheritable(int(sys.argv[1]), False)  # the lock is the supervisor's, not the parts'

    given = json.load(sys.stdin)
    settings = load_settings(**given["settings"])
    make = planner(settings, given["external"])
    return asyncio.run(_serve(settings.state_dir.resolve(), make))


if __name__ == "__main__":
    sys.exit(main())
