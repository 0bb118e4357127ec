"""The process that starts the parts, watches them and takes them down. `python -m lab.stack.supervisor`.

`lab up` starts it and reads the rest from stack.json, which this process writes on every change and every second.
Signals: TERM ends everything, HUP starts again what is dead, starts the parts on demand that are asked for in
`run/wanted.json` and ends the others of them. It holds a lock on `run/supervisor.lock` while it lives,
so that nobody takes a dead supervisor's word for a living one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging.config
import os
import signal
import sys
import time
from pathlib import Path

from lab.settings import Settings, load_settings
from lab.stack import processes, replay_plan, state
from lab.stack.jsonlog import config as json_logging
from lab.stack.plan import Plan, make_plan
from lab.stack.ports import HOST, choose
from lab.stack.runner import Runner, Zygote
from lab.stack.state import StackState
from lab.stack.toolbox import find_tools

log = logging.getLogger("lab.stack.supervisor")
HEARTBEAT_S = 1.0
COUNT_S = 10.0
LOCK_FILE = Path("run") / "supervisor.lock"
TARGETS_FILE = (
    Path("run") / "on-demand-targets.json"
)  # Prometheus watches it: what is off is not down
LAST_TO_END = ("prometheus", "tracestore")  # they take the last words of the others


class Supervisor:
    """One lab. All in one thread and one event loop: PR_SET_PDEATHSIG means the death of the thread that forked."""

    def __init__(self, state_dir: Path, plan: Plan, ports: dict[str, int]) -> None:
        self.state_dir, self.plan, self.ports = state_dir, plan, ports
        self.zygote = Zygote()
        self.runners: dict[str, Runner] = {}
        for part in plan.parts:
            self.runners[part.name] = Runner(
                part, state_dir, self.runners, self.publish, self.zygote
            )
        self.started_at = time.time()
        self.phase = "starting"
        self.repairs = 0
        self.me = processes.identity(os.getpid())
        self.stop_asked = asyncio.Event()
        self.repair_asked = asyncio.Event()
        self._dirty = asyncio.Event()
        self._alive: list[tuple[int, float]] = []
        self._counted_at = 0.0
        self._scraped: list[dict] | None = None  # what Prometheus was told last

    def publish(self) -> None:
        """Something changed: have stack.json written soon."""
        self._dirty.set()

    async def run(self) -> int:
        """Until told to stop, or until the first start has failed. Returns the exit status."""
        heart = asyncio.create_task(self._beat())
        state.write_endpoints(self.state_dir, self.plan.own_endpoints)
        state.write_wanted(self.state_dir, set())
        first = [r for r in self.runners.values() if not r.part.on_demand]
        failed = not await self._start(first) and not self.stop_asked.is_set()
        self.phase = "failed" if failed else "up"
        while not failed and not self.stop_asked.is_set():
            self.publish()
            waits = [asyncio.create_task(e.wait()) for e in (self.stop_asked, self.repair_asked)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for w in waits:
                w.cancel()
            if self.repair_asked.is_set():
                self.repair_asked.clear()
                await self._repair()
        await self._end_all("failed" if failed else "down")
        heart.cancel()
        self._write()
        return 1 if failed else 0

    async def _start(self, runners: list[Runner]) -> bool:
        """Start these at once, each waiting for what it needs; False if an essential one fails, or a stop is asked."""
        for r in runners:
            r.begin()
        stop = asyncio.create_task(self.stop_asked.wait())
        pending = {r.task for r in runners if r.part.essential}
        ok = True
        while pending and ok:
            finished, _ = await asyncio.wait({*pending, stop}, return_when=asyncio.FIRST_COMPLETED)
            pending -= finished
            ok = stop not in finished and all(t.result() for t in finished)
        stop.cancel()
        return ok

    async def _repair(self) -> None:
        """Start what should run and does not, and what is forked from it. If that fails, only these are stopped again.

        What runs on demand and is no longer asked for is ended.
        """
        wanted = state.wanted(self.state_dir)
        on_demand = [r for r in self.runners.values() if r.part.on_demand]
        off = [r for r in on_demand if r.part.name not in wanted]
        for r in off:
            if r.state != state.OFF:
                await r.switch_off()
        due = [r for r in self.runners.values() if r not in off]
        broken = [r for r in due if r.is_broken() or r.state == state.OFF]
        broken += [
            r for r in due if r.part.base in {b.part.name for b in broken} and r not in broken
        ]
        self.phase = "starting"
        for r in broken:
            await r.stop()
            r.state = state.WAITING
        self.repairs += 1
        self.publish()
        await self._start(broken)
        self.phase = "up"

    async def _end_all(self, phase: str) -> None:
        self.phase = "stopping" if phase == "down" else phase
        self.publish()
        first = [r for r in self.runners.values() if r.part.name not in LAST_TO_END]
        await asyncio.gather(*(r.stop() for r in first))
        await asyncio.gather(*(r.stop() for r in self.runners.values() if r not in first))
        state.remove_endpoints(self.state_dir)
        self.phase = phase

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dirty.wait(), HEARTBEAT_S)
            if self._dirty.is_set() or time.monotonic() > self._counted_at + COUNT_S:
                self._count_processes()
            self._dirty.clear()
            self._write()
            self._show_prometheus()
            await asyncio.sleep(0.1)

    def _count_processes(self) -> None:
        """Note what runs; not on every beat, since it reads all of /proc."""
        found = (processes.identity(p.pid) for r in self.runners.values() for p in r.processes())
        self._alive = [i for i in found if i]
        self._counted_at = time.monotonic()

    def _write(self) -> None:
        pid, create_time = self.me
        state.write(
            self.state_dir,
            StackState(
                supervisor_pid=pid,
                supervisor_create_time=create_time,
                started_at=self.started_at,
                heartbeat_at=time.time(),
                phase=self.phase,
                parts=[r.status() for r in self.runners.values()],
                ports=self.ports,
                endpoints=self.plan.endpoints,
                processes=self._alive,
                repairs=self.repairs,
                vector_store_id=self._vector_store_id(),
            ),
        )

    def _show_prometheus(self) -> None:
        """Have the parts on demand scraped while they run, each as a job of its own name."""
        ready = [
            r.part for r in self.runners.values() if r.part.on_demand and r.state == state.READY
        ]
        targets = [{"targets": [f"{HOST}:{p.port}"], "labels": {"job": p.name}} for p in ready]
        if targets != self._scraped:
            state.write_json(self.state_dir / TARGETS_FILE, targets)
            self._scraped = targets

    def _vector_store_id(self) -> str:
        runner = self.runners.get("documents")
        if not runner or runner.state != state.DONE:
            return ""
        return json.loads((self.state_dir / "run" / "documents.json").read_text())[
            "vector_store_id"
        ]


def take_lock(state_dir: Path) -> int | None:
    """The lock's file descriptor, None if a supervisor holds it. The kernel frees it however its holder ends."""
    fd = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def build(settings: Settings, external: dict[str, str]) -> tuple[Plan, dict[str, int]]:
    """The plan for these settings, on ports that are free now. Raises LabError before anything is started."""
    ports = choose({k: v for k, v in settings.ports.items() if k not in external})
    tools = find_tools(needs=replay_plan.NEEDS if settings.place == "recorded" else None)
    return make_plan(settings, tools, ports, external), ports


async def serve(state_dir: Path, plan: Plan, ports: dict[str, int]) -> int:
    """Run the plan until told to stop. Returns the exit status."""
    for path, text in plan.files.items():
        path.write_text(text)
    supervisor = Supervisor(state_dir, plan, ports)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop_asked.set)
    loop.add_signal_handler(signal.SIGHUP, supervisor.repair_asked.set)
    return await supervisor.run()


def main() -> int:
    """Settings and external endpoints come as JSON on stdin, so that what the caller passed in Python is kept.

    The one argument is the file descriptor of the lock, which the caller has taken.
    """
    logging.config.dictConfig(json_logging())
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a probe otherwise
    sys.excepthook = lambda *info: log.critical("the supervisor failed", exc_info=info)
    given = json.load(sys.stdin)
    settings = load_settings(**given["settings"])
    os.set_inheritable(int(sys.argv[1]), False)  # the lock: ours while we live, and no part's
    return asyncio.run(serve(settings.state_dir.resolve(), *build(settings, given["external"])))


if __name__ == "__main__":
    sys.exit(main())
