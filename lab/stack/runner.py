"""Runs one part: waits for what it needs, starts it, feeds its log, asks until it answers, notices its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import psutil

from lab.settings import REPO
from lab.stack import processes, ready, state
from lab.stack.logsink import LogSink
from lab.stack.parts import Part
from lab.stack.state import PartStatus

log = logging.getLogger(__name__)
PROBE_PAUSE_S = 0.25


class Zygote:
    """Our end of the socket to vllm_base, which forks the vLLM servers."""

    def __init__(self) -> None:
        self.imported = asyncio.Event()
        self._control: socket.socket | None = None
        self._pids: dict[str, asyncio.Future[int]] = {}
        self._codes: dict[int, asyncio.Future[int]] = {}

    def open(self) -> socket.socket:
        """A fresh socket pair; returns the end that vllm_base is to have."""
        self.close()
        self.imported.clear()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._hear)
        return theirs

    def close(self) -> None:
        """Hang up; what was asked of it is lost."""
        if self._control:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        for waiting in (*self._pids.values(), *self._codes.values()):
            if not waiting.done():
                waiting.set_exception(ConnectionError("vllm-base has ended"))
        self._pids.clear()

    async def fork(self, name: str, argv: tuple[str, ...], env: dict[str, str], log_fd: int) -> int:
        """Have a server forked, its output going to `log_fd`; returns its pid."""
        if not self._control:
            raise ConnectionError("vllm-base is not there")
        waiting = self._pids[name] = asyncio.get_running_loop().create_future()
        socket.send_fds(
            self._control,
            [json.dumps({"start": name, "argv": argv, "env": env}).encode()],
            [log_fd],
        )
        return await waiting

    async def exit_code(self, pid: int) -> int:
        """Wait for the end of a forked server."""
        return await self._codes[pid]

    def _hear(self) -> None:
        try:
            data = self._control.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        message = json.loads(data)
        if "imported" in message:
            self.imported.set()
        elif "started" in message:
            self._codes[message["pid"]] = asyncio.get_running_loop().create_future()
            self._pids.pop(message["started"]).set_result(message["pid"])
        else:
            self._codes[message["pid"]].set_result(message["code"])


class Runner:
    """One part and its state. `begin` starts a task that returns True when the part is ready, False when it failed."""

    def __init__(
        self,
        part: Part,
        state_dir: Path,
        runners: dict[str, Runner],
        changed: Callable[[], None],
        zygote: Zygote,
    ) -> None:
        self.part, self.state_dir = part, state_dir
        self._runners, self._changed, self._zygote = runners, changed, zygote
        self.log_path = state_dir / "logs" / f"{part.name}.log"
        self.state, self.error, self.waits_for = (
            state.OFF if part.on_demand else state.WAITING,
            "",
            "",
        )
        self.pid: int | None = None
        self.create_time: float | None = None
        self.started_at: float | None = None
        self.ready_after_s: float | None = None
        self.settled = asyncio.Event()  # ready, done or failed
        self.task: asyncio.Task[bool] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._exit: asyncio.Task[int] | None = None
        self._sink: LogSink | None = None

    # -- what the supervisor asks ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start coming up."""
        self.settled.clear()
        self.ready_after_s = None
        self._set(state.WAITING)
        self.task = asyncio.create_task(self._come_up())

    def is_broken(self) -> bool:
        """Whether `lab up` should start it again."""
        return self.state in (state.FAILED, state.DEAD, state.STOPPED)

    async def stop(self) -> None:
        """End it and all below it."""
        for task in (self.task, self._watch):
            if task and task is not asyncio.current_task():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._end_processes()
        if self.state not in (state.FAILED, state.DEAD, state.DONE):
            self._set(state.STOPPED)
        if self._sink:
            await asyncio.sleep(0.05)  # its last lines are in the pipe
            self._sink.close()
            self._sink = None

    async def switch_off(self) -> None:
        """End a part on demand that is no longer asked for."""
        await self.stop()
        self._set(state.OFF)

    def processes(self) -> list[psutil.Process]:
        """The part's processes. Servers forked from vllm-base are parts of their own, not below it."""
        if self.pid is None:
            return []
        below = {
            p.pid for forked in self._forked() if forked.pid for p in processes.tree(forked.pid)
        }
        return [p for p in processes.tree(self.pid) if p.pid not in below]

    def _forked(self) -> list[Runner]:
        return [r for r in self._runners.values() if r.part.base == self.part.name]

    def status(self) -> PartStatus:
        """A value for stack.json. Memory is measured by who asks, not every second."""
        return PartStatus(
            name=self.part.name,
            state=self.state,
            what=self.part.what,
            pid=self.pid,
            create_time=self.create_time,
            port=self.part.port,
            uptime_s=time.time() - self.started_at if self.started_at and self.pid else None,
            ready_after_s=self.ready_after_s,
            ready=self.state in (state.READY, state.DONE),
            essential=self.part.essential,
            on_demand=self.part.on_demand,
            waits_for=self.waits_for,
            log=str(self.log_path),
            error=self.error,
        )

    # -- coming up ---------------------------------------------------------------------------------------------------

    async def _come_up(self) -> bool:
        for name in self.part.needs:
            needed = self._runners[name]
            self._set(state.WAITING, waits_for=name)
            await needed.settled.wait()
            if needed.state not in (state.READY, state.DONE):
                return self._fail(f"{name}, which it needs, is {needed.state}")
        self._set(state.STARTING)
        self.started_at = time.time()
        try:
            self._exit = await self._start_process()
            await self._wait_until_ready()
        except (OSError, TimeoutError, ready.NotReady, asyncio.InvalidStateError) as e:
            await self._end_processes()
            return self._fail(str(e) or type(e).__name__)
        self.ready_after_s = round(time.time() - self.started_at, 2)
        self._set(state.DONE if self.part.task else state.READY)
        self.settled.set()
        if self.part.task:
            self.pid = None
        else:
            self._watch = asyncio.create_task(self._watch_end())
        return True

    async def _start_process(self) -> asyncio.Task[int]:
        """Start the process or have it forked; returns a task that ends with its exit code."""
        self._sink = self._sink or LogSink(self.log_path)
        read_fd, write_fd = os.pipe()
        await self._connect_log(read_fd)
        try:
            if self.part.base:
                self.pid = await self._zygote.fork(
                    self.part.name, self.part.argv, self.part.env, write_fd
                )
                code = asyncio.create_task(self._zygote.exit_code(self.pid))
            else:
                process = await self._spawn(write_fd)
                self.pid = process.pid
                code = asyncio.create_task(process.wait())
        finally:
            os.close(write_fd)
        found = processes.identity(self.pid)
        self.create_time = found[1] if found else time.time()
        self._sink.note(f"started as pid {self.pid}")
        self._changed()
        return code

    async def _spawn(self, log_fd: int) -> asyncio.subprocess.Process:
        argv, fds, theirs = self.part.argv, (), None
        if self.part.ready.kind == "imported":
            theirs = self._zygote.open()
            fds = (theirs.fileno(),)
            argv = (*argv, str(theirs.fileno()))
        try:
            return await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                cwd=REPO,
                env=processes.part_env(self.state_dir, self.part.name, self.part.env),
                pass_fds=fds,
                # Sound here: this process has one thread.
                preexec_fn=partial(processes.die_with_parent, os.getpid())
                if sys.platform == "linux"
                else None,
            )
        finally:
            if theirs:
                theirs.close()

    async def _connect_log(self, read_fd: int) -> None:
        sink = self._sink

        class Protocol(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                if not sink.closed:
                    sink.feed(data)

        await asyncio.get_running_loop().connect_read_pipe(
            Protocol, os.fdopen(read_fd, "rb", buffering=0)
        )

    async def _wait_until_ready(self) -> None:
        """Until it answers. Raises NotReady if it ends first, TimeoutError with the last reason if it is late."""
        kind, reason = self.part.ready.kind, "it has not answered"
        limit = time.monotonic() + self.part.startup_s
        async with httpx.AsyncClient(timeout=ready.PROBE_TIMEOUT_S, trust_env=False) as client:
            while time.monotonic() < limit:
                if self._exit.done():
                    if kind == "exit" and self._exit.result() == 0:
                        return
                    raise ready.NotReady(f"it ended while starting: {describe_exit(self._exit)}")
                if kind == "imported":
                    if self._zygote.imported.is_set():
                        return
                elif kind != "exit":
                    reason = await self._ask(client, kind)
                    if not reason:
                        return
                await asyncio.wait({self._exit}, timeout=PROBE_PAUSE_S)
        raise TimeoutError(f"it was not ready after {self.part.startup_s:.0f} s: {reason}")

    async def _ask(self, client: httpx.AsyncClient, kind: str) -> str:
        """Why it is not ready; empty if it is."""
        asked = asyncio.create_task(ready.PROBES[kind](client, **self.part.ready.target))
        asked.add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )  # what is not looked at below
        try:
            await asyncio.wait({asked, self._exit}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                return "it ended while it was asked"
        finally:
            asked.cancel()
        error = asked.exception()
        if error is None:
            return ""
        reason = str(error) or type(error).__name__
        self.waits_for = f"{self.part.ready.kind}: {reason}"[:200]
        return reason

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _watch_end(self) -> None:
        await asyncio.wait({self._exit})
        self.error = f"it ended on its own: {describe_exit(self._exit)}"
        self._sink.note(self.error, "error")
        if self.part.ready.kind == "imported":
            self._zygote.close()
        await self._end_processes()
        await self._end_strays()
        self._set(state.DEAD, error=self.error)

    async def _end_strays(self) -> None:
        """What it had started and left behind: no longer below it, but its mark is in their environment."""
        if not self.part.base:  # the kernel ends what is forked from vllm-base with its parent
            strays = processes.leftovers(self.state_dir, part=self.part.name)
            if strays:
                self._sink.note(f"ending {len(strays)} processes that it left behind", "warning")
                await end(strays, self.part.grace_s)

    async def _end_processes(self) -> None:
        if alive := self.processes():
            for line in await end(alive, self.part.grace_s):
                self._sink.note(f"had to kill {line}", "warning")
        self.pid = None
        if self._exit and not self._exit.done():
            await asyncio.wait({self._exit}, timeout=2.0)

    def _fail(self, error: str) -> bool:
        self._set(state.FAILED, error=error)
        if self._sink:
            self._sink.note(error, "error")
        self.settled.set()
        return False

    def _set(self, new: str, *, error: str = "", waits_for: str = "") -> None:
        if new != self.state:
            log.log(
                logging.ERROR if error else logging.INFO,
                "%s is %s",
                self.part.name,
                new,
                extra={"error": error},
            )
        self.state, self.error, self.waits_for = new, error, waits_for
        self._changed()


async def end(alive: list[psutil.Process], grace_s: float) -> list[str]:
    """Ask to end, then kill; as processes.end, without blocking the loop. Returns those that had to be killed."""
    for p in alive:
        with contextlib.suppress(psutil.Error):
            p.terminate()
    limit = time.monotonic() + grace_s
    while (alive := [p for p in alive if processes.identity(p.pid)]) and time.monotonic() < limit:
        await asyncio.sleep(0.05)
    for p in alive:
        with contextlib.suppress(psutil.Error):
            p.kill()
    return [f"pid {p.pid}" for p in alive]


def describe_exit(exit_task: asyncio.Task[int]) -> str:
    """'exit code 1' or 'killed by SIGKILL'."""
    if exit_task.cancelled() or exit_task.exception():
        return "with the process that it was forked from"
    code = exit_task.result()
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
