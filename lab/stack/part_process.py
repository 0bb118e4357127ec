"""Run one part: wait for its needs, start it, feed its log, probe it, notice its end or hang."""

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
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import httpx
import psutil

from lab.settings import REPO
from lab.stack import processes, ready, state
from lab.stack.logbook import LogSink
from lab.stack.parts import Part
from lab.stack.ports import is_free
from lab.stack.state import PartStatus

log = logging.getLogger(__name__)
PROBE_PAUSE_S = 0.25

# Liveness of a ready part. Two requests without an answer make 9 s at most; a part that works
# (a long prompt, a busy machine) may take longer to answer than one that does nothing at all.
ALIVE_EVERY_S = 2.0
ALIVE_TIMEOUT_S = 3.0
ALIVE_RETRY_S = 0.5
HANGS_BUSY_S = 20.0
IDLE_CPU_SHARE = 0.1
HANG_GRACE_S = 1.0


class Zygote:
    """The supervisor's end of the socket to vllm_zygote, which forks the vLLM servers."""

    def __init__(self) -> None:
        self.imported = asyncio.Event()
        self._control: socket.socket | None = None
        self._pids: dict[str, asyncio.Future[int]] = {}
        self._codes: dict[int, asyncio.Future[int]] = {}

    def open(self) -> socket.socket:
        """Make a new socket pair and return the end for vllm_zygote."""
        self.close()
        self.imported.clear()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._receive)
        return theirs

    def close(self) -> None:
        """Close the connection; pending requests fail with ConnectionError."""
        if self._control:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None

        for pending in (*self._pids.values(), *self._codes.values()):
            if not pending.done():
                pending.set_exception(ConnectionError("vllm-base has ended"))
        self._pids.clear()

    async def fork(self, part: Part, log_fd: int) -> int:
        """Have a server forked whose output goes to `log_fd`; returns its pid."""
        if not self._control:
            raise ConnectionError("vllm-base is not there")

        pid = asyncio.get_running_loop().create_future()
        self._pids[part.name] = pid
        request = {"start": part.name, "argv": part.argv, "env": part.env}
        socket.send_fds(self._control, [json.dumps(request).encode()], [log_fd])
        return await pid

    async def exit_code(self, pid: int) -> int:
        """Wait for the end of a forked server."""
        return await self._codes[pid]

    def _receive(self) -> None:
        try:
            data = self._control.recv(1 << 16) if self._control else b""
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


class PartProcess:
    """One part and its state. `begin` starts a task that returns whether the part became ready."""

    def __init__(
        self,
        part: Part,
        state_dir: Path,
        others: dict[str, PartProcess],
        changed: Callable[[], None],
        zygote: Zygote,
    ) -> None:
        self.part = part
        self.state_dir = state_dir
        self.log_path = state_dir / "logs" / f"{part.name}.log"
        self.state = state.OFF if part.on_demand else state.WAITING
        self.error = ""
        self.waits_for = ""
        self.port_taken = False
        self.pid: int | None = None
        self.create_time: float | None = None
        self.started_at: float | None = None
        self.ready_after_s: float | None = None
        self.settled = asyncio.Event()  # ready, done or failed
        self.task: asyncio.Task[bool] | None = None

        self._others = others
        self._changed = changed
        self._zygote = zygote
        self._watch: asyncio.Task[None] | None = None
        self._exit: asyncio.Task[int] | None = None
        self._log: LogSink | None = None
        self._members: list[psutil.Process] = []

    # -- what the supervisor calls -------------------------------------------------------------

    def begin(self) -> None:
        """Start coming up."""
        self.settled.clear()
        self.ready_after_s = None
        self.port_taken = False
        self._set(state.WAITING)
        self.task = asyncio.create_task(self._come_up())

    async def stop(self) -> None:
        """End it and all its descendants."""
        for task in (self.task, self._watch):
            if task and task is not asyncio.current_task():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

        await self._end_processes()
        if self.state not in (state.FAILED, state.DEAD, state.DONE):
            self._set(state.STOPPED)
        if self._log:
            await asyncio.sleep(0.05)  # its last lines are in the pipe
            self._log.close()
            self._log = None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        for member in self.processes():
            with contextlib.suppress(psutil.Error):
                member.send_signal(number)

    def resume(self) -> None:
        """Let it go on where an incident has stopped its processes."""
        self.send(signal.SIGCONT)
        if self.state == state.HANGS:
            self._set(state.READY)

    async def switch_off(self) -> None:
        """End a part on demand that is no longer requested."""
        await self.stop()
        self._set(state.OFF)

    def processes(self) -> list[psutil.Process]:
        """Return the part's processes, without those that vllm-base forked: they are parts."""
        if self.pid is None:
            return []

        forked = {
            p.pid
            for other in self._others.values()
            if other.part.base == self.part.name and other.pid
            for p in processes.tree(other.pid)
        }
        self._members = [p for p in processes.tree(self.pid) if p.pid not in forked]
        return self._members

    def status(self) -> PartStatus:
        """Return the values for stack.json. Memory is measured by `lab status` only."""
        return PartStatus(
            name=self.part.name,
            state=self.state,
            what=self.part.what,
            pid=self.pid,
            create_time=self.create_time,
            port=self.part.port,
            uptime_s=time.time() - self.started_at if self.started_at and self.pid else None,
            ready_after_s=self.ready_after_s,
            # It has an error from its end on; its state follows once its processes are gone.
            ready=self.state in (state.READY, state.DONE) and not self.error,
            essential=self.part.essential,
            on_demand=self.part.on_demand,
            waits_for=self.waits_for,
            log=str(self.log_path),
            error=self.error,
        )

    def fail(self, error: str) -> bool:
        """Record that it did not become ready; returns False."""
        self._set(state.FAILED, error=error)
        self._note(error, "error")
        self.settled.set()
        return False

    # -- coming up -----------------------------------------------------------------------------

    async def _come_up(self) -> bool:
        for name in self.part.needs:
            needed = self._others[name]
            self._set(state.WAITING, waits_for=name)
            await needed.settled.wait()
            if needed.state not in (state.READY, state.DONE):
                return self.fail(f"{name}, which it needs, is {needed.state}")

        self._set(state.STARTING)
        self.started_at = time.time()
        try:
            if names := self.taken_ports():
                raise OSError(", ".join(str(self.part.ports[name]) for name in names))
            self._exit = await self._start_process()
            await self._wait_until_ready()
        except (OSError, TimeoutError, ready.NotReady, asyncio.InvalidStateError) as e:
            await self._end_processes()
            return self._fail_or_move(e)

        self.ready_after_s = round(time.time() - self.started_at, 2)
        self._set(state.DONE if self.part.task else state.READY)
        self.settled.set()
        if self.part.task:
            self.pid = None
        else:
            self._watch = asyncio.create_task(self._watch_process())
        return True

    def taken_ports(self) -> list[str]:
        """Return its ports on which another program listens. It must not run itself."""
        return [name for name, port in self.part.ports.items() if not is_free(port)]

    def _fail_or_move(self, error: Exception) -> bool:
        """Fail, unless a port was taken: then the supervisor starts it again on another one."""
        self.port_taken = bool(self.taken_ports())
        if not self.port_taken:
            return self.fail(str(error) or type(error).__name__)

        self._note(f"another program took its port: {error}", "warning")
        self._set(state.WAITING, waits_for="another port: its own was taken by another program")
        return False

    async def _start_process(self) -> asyncio.Task[int]:
        """Start the process or have it forked; returns a task that ends with its exit code."""
        self._log = self._log or LogSink(self.log_path)
        read_fd, write_fd = os.pipe()
        await _connect(self._log, read_fd)
        try:
            if self.part.base:
                self.pid = await self._zygote.fork(self.part, write_fd)
                code = asyncio.create_task(self._zygote.exit_code(self.pid))
            else:
                process = await self._spawn(write_fd)
                self.pid = process.pid
                code = asyncio.create_task(process.wait())
        finally:
            os.close(write_fd)

        started = processes.identity(self.pid)
        self.create_time = started[1] if started else time.time()
        self._note(f"started as pid {self.pid}")
        self._changed()
        return code

    async def _spawn(self, log_fd: int) -> asyncio.subprocess.Process:
        argv = self.part.argv
        control = self._zygote.open() if self.part.ready.kind == "imported" else None
        if control:
            argv = (*argv, str(control.fileno()))

        try:
            return await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                cwd=REPO,
                env=processes.part_env(self.state_dir, self.part.name, self.part.env),
                pass_fds=(control.fileno(),) if control else (),
                # Sound in the supervisor, which has one thread only.
                preexec_fn=partial(processes.die_with_parent, os.getpid())
                if sys.platform == "linux"
                else None,
            )
        finally:
            if control:
                control.close()

    async def _wait_until_ready(self) -> None:
        """Wait until it answers.

        Raises NotReady if it ends first, TimeoutError with the last reason if it is late.
        """
        kind = self.part.ready.kind
        reason = "it has not answered"
        limit = time.monotonic() + self.part.startup_s
        assert self._exit

        async with _client(ready.PROBE_TIMEOUT_S) as client:
            while time.monotonic() < limit:
                if self._exit.done():
                    if kind == "exit" and self._exit.result() == 0:
                        return
                    raise ready.NotReady(f"it ended while starting: {describe_exit(self._exit)}")
                if kind == "running" or (kind == "imported" and self._zygote.imported.is_set()):
                    return
                if kind in ready.PROBES:
                    reason = await self._probe(client)
                    if not reason:
                        return
                await asyncio.wait({self._exit}, timeout=PROBE_PAUSE_S)
        raise TimeoutError(f"it was not ready after {self.part.startup_s:.0f} s: {reason}")

    async def _probe(self, client: httpx.AsyncClient) -> str:
        """Return why it is not ready; empty if it is."""
        kind = self.part.ready.kind
        probe = asyncio.ensure_future(ready.PROBES[kind](client, **self.part.ready.target))
        # Mark the exception as retrieved in case the process ends before the answer comes.
        probe.add_done_callback(lambda task: task.cancelled() or task.exception())
        assert self._exit
        try:
            await asyncio.wait({probe, self._exit}, return_when=asyncio.FIRST_COMPLETED)
            if not probe.done():
                return "it ended during the probe"
        finally:
            probe.cancel()

        error = probe.exception()
        if error is None:
            return ""
        reason = str(error) or type(error).__name__
        self.waits_for = f"{kind}: {reason}"[:200]
        return reason

    # -- ready, hanging, ended -----------------------------------------------------------------

    async def _watch_process(self) -> None:
        """Request a sign of life every few seconds until the process ends."""
        assert self._exit
        pause = ALIVE_EVERY_S
        silence = _Silence(processes.cpu_s(self._members))
        probe = self.part.ready
        engine = ready.EngineWatch(**probe.target) if probe.kind == "chat" else None
        async with _client(ALIVE_TIMEOUT_S) as client:
            while not (await asyncio.wait({self._exit}, timeout=pause))[0]:
                if await self._answers(client, engine):
                    silence = _Silence(processes.cpu_s(self._members))
                    pause = ALIVE_EVERY_S
                    if self.state == state.HANGS:
                        self._note("it answers again")
                        self._set(state.READY)
                    continue
                pause = ALIVE_RETRY_S
                if silence.means_hanging(processes.cpu_s(self._members)):
                    self._set(state.HANGS, error=silence.describe())
        await self._ended(f"it ended on its own: {describe_exit(self._exit)}")

    async def _answers(self, client: httpx.AsyncClient, engine: ready.EngineWatch | None) -> bool:
        """Return whether none of its processes is stopped, it answers, and its engine works."""
        for member in self._members or self.processes():
            with contextlib.suppress(psutil.Error):
                if member.status() == psutil.STATUS_STOPPED:
                    return False
        if not self.part.alive:
            return True

        try:
            await client.get(self.part.alive)
            return engine is None or await engine.works(client, processes.cpu_s(self._members))
        except (httpx.HTTPError, ready.NotReady):
            return False

    async def _ended(self, error: str) -> None:
        self.error = error
        self._note(error, "error")
        if self.part.ready.kind == "imported":
            self._zygote.close()

        await self._end_processes()
        if not self.part.base:  # the kernel ends what vllm-base forked together with its parent
            # No longer its descendants, but marked as its own.
            strays = processes.leftovers(self.state_dir, part=self.part.name)
            if strays:
                self._note(f"ending {len(strays)} processes that it left behind", "warning")
                await _end(strays, self.part.grace_s)
        self._set(state.DEAD, error=error)

    async def _end_processes(self) -> None:
        grace_s = HANG_GRACE_S if self.state == state.HANGS else self.part.grace_s
        for line in await _end(self.processes(), grace_s):
            self._note(f"had to kill {line}", "warning")

        self.pid = None
        self._members = []
        if self._exit and not self._exit.done():
            await asyncio.wait({self._exit}, timeout=2.0)

    def _note(self, message: str, level: str = "info") -> None:
        if self._log:
            self._log.note(message, level)

    def _set(self, new: str, *, error: str = "", waits_for: str = "") -> None:
        if new != self.state:
            level = logging.ERROR if error else logging.INFO
            log.log(level, "%s is %s", self.part.name, new, extra={"error": error})
        self.state = new
        self.error = error
        self.waits_for = waits_for
        self._changed()


class _Silence:
    """The time since a part's last answer, and the CPU time it has used since."""

    def __init__(self, cpu_s: float) -> None:
        self._since = time.monotonic()
        self._cpu_s = cpu_s
        self._unanswered = 0

    def means_hanging(self, cpu_s: float) -> bool:
        """Count one more unanswered request; return whether the part must be hanging."""
        self._unanswered += 1
        silent_s = time.monotonic() - self._since
        idle = cpu_s - self._cpu_s < IDLE_CPU_SHARE * silent_s
        return silent_s >= HANGS_BUSY_S or (idle and self._unanswered >= 2)

    def describe(self) -> str:
        """Return how long it has lasted."""
        return f"it has not answered for {time.monotonic() - self._since:.0f} s"


def _client(timeout_s: float) -> httpx.AsyncClient:
    """Return a client for servers of this machine: no proxy, and no certificates to read."""
    return httpx.AsyncClient(timeout=timeout_s, trust_env=False, verify=False)


async def _connect(sink: LogSink, read_fd: int) -> None:
    """Feed what arrives on `read_fd` to the log."""

    class Protocol(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            sink.feed(data)

    pipe = os.fdopen(read_fd, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(Protocol, pipe)


async def _end(alive: Iterable[psutil.Process], grace_s: float) -> list[str]:
    """Do as processes.end without blocking the loop. Returns the processes that were killed."""
    alive = list(alive)
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
    """Return 'exit code 1' or 'killed by SIGKILL'."""
    if exit_task.cancelled() or exit_task.exception():
        return "with the process that it was forked from"

    code = exit_task.result()
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
