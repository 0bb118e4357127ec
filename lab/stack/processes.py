"""Processes of this machine: tie one to its parent, end a tree, find what was left behind."""

import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path

import psutil

from lab.environment import bypass_proxies_on_loopback

# Environment variables of every part: the state folder of its lab, and its own name.
MARK = "LAB_STACK_OF"
PART_MARK = "LAB_STACK_PART"
PR_SET_PDEATHSIG = 1
# Variables of the caller that would point a part's Python elsewhere, or hand it credentials: an
# address may have a login in it (https://user:password@host).
_NOT_FOR_PARTS = re.compile(
    "PYTHONDONTWRITEBYTECODE|PYTHONHOME|VIRTUAL_ENV|LAB_STORE_HEADERS|LAB_.*_URL"
)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere `lab down` does)."""
    if sys.platform != "linux":
        return

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died between the fork and the call above
        os._exit(1)


def identity(pid: int) -> tuple[int, float] | None:
    """Return (pid, start time), which names a process even after its pid is used again.

    Returns None if there is no such process, or only a zombie.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return pid, process.create_time()
    except psutil.Error:
        return None


def is_same(pid: int, create_time: float) -> bool:
    """Return whether the process that had this pid at that time is still running."""
    now = identity(pid)
    return now is not None and abs(now[1] - create_time) < 1.0


def tree(pid: int, without: AbstractSet[int] = frozenset()) -> list[psutil.Process]:
    """Return the process and all its descendants; empty if it is gone.

    Processes in `without` and their own descendants are left out.
    """
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        if not without:
            return [root, *root.children(recursive=True)]
        below = [child.pid for child in root.children() if child.pid not in without]
        return [root, *(p for child in below for p in tree(child, without))]
    return []


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds that these processes have used; 0 of one that is gone."""
    total = 0.0
    for p in processes:
        with contextlib.suppress(psutil.Error):
            times = p.cpu_times()
            total += times.user + times.system
    return total


def end(processes: Iterable[psutil.Process], grace_s: float = 5.0) -> list[str]:
    """Send SIGTERM, then SIGKILL after `grace_s`. Returns a line per killed process."""
    processes = [p for p in processes if p.pid != os.getpid()]
    for p in processes:
        with contextlib.suppress(psutil.Error):
            p.terminate()

    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    killed = []
    for p in alive:
        with contextlib.suppress(psutil.Error):
            killed.append(f"{p.name()} (pid {p.pid})")
            p.kill()
    psutil.wait_procs(alive, timeout=5)
    return killed


def leftovers(
    state_dir: Path, recorded: Iterable[tuple[int, float]] = (), part: str = ""
) -> list[psutil.Process]:
    """Return the processes of this lab (or of one part) that are still running.

    These are the recorded ones and those with our marks in their environment. Both are needed: a
    process can hide its environment (vLLM writes its title over it), or be too young to be
    recorded. Names are never compared, because another lab runs the same programs.
    """
    processes = {}
    for pid, create_time in recorded:
        if is_same(pid, create_time):
            with contextlib.suppress(psutil.Error):
                processes[pid] = psutil.Process(pid)

    marks = {MARK: str(state_dir.resolve())}
    if part:
        marks[PART_MARK] = part
    for p in psutil.process_iter():
        if p.pid == os.getpid() or p.pid in processes:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if marks.items() <= p.environ().items():
                processes[p.pid] = p
    return list(processes.values())


def part_env(state_dir: Path, part: str, extra: dict[str, str]) -> dict[str, str]:
    """Return the environment of a part: this process's without credentials, the marks, and `extra`.

    Bytecode is written, so that later imports are fast.
    """
    env = {k: v for k, v in os.environ.items() if not _NOT_FOR_PARTS.fullmatch(k)}
    bypass_proxies_on_loopback(env)
    marks = {"PYTHONUNBUFFERED": "1", MARK: str(state_dir.resolve()), PART_MARK: part}
    return env | marks | extra
