"""Processes of this machine: start one that dies with its parent, end a tree, find what outlived its supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from lab.environment import bypass_proxies_on_loopback

MARK = "LAB_STACK_OF"  # in the environment of every part: the state folder that it belongs to
PART_MARK = "LAB_STACK_PART"  # and the part itself
PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies, however that happens (Linux; elsewhere it is swept)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died between the fork and this line
        os._exit(1)


def identity(pid: int) -> tuple[int, float] | None:
    """(pid, start time): a pid alone may be somebody else's by the time that one looks again. None if it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else (pid, process.create_time())
    except psutil.Error:
        return None


def is_same(pid: int, create_time: float) -> bool:
    """Whether the process that had this pid at that time is still running."""
    now = identity(pid)
    return now is not None and abs(now[1] - create_time) < 1.0


def tree(pid: int) -> list:
    """psutil.Process objects of `pid` and all below it; empty if it is gone."""
    import psutil

    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def end(processes: Iterable, grace_s: float = 5.0) -> list[str]:
    """Ask to end, then kill. Returns a line for each that had to be killed."""
    import psutil

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


def leftovers(state_dir: Path, recorded: Iterable[tuple[int, float]] = (), part: str = "") -> list:
    """Processes of this lab (or of one part) that still run: those recorded, and those whose environment says so.

    Both, because a process may hide its environment (vLLM rewrites its title over it) or be too young to be recorded.
    Never found by name: another lab runs the same programs.
    """
    import psutil

    found = {}
    for pid, create_time in recorded:
        if is_same(pid, create_time):
            with contextlib.suppress(psutil.Error):
                found[pid] = psutil.Process(pid)
    wanted = {MARK: str(state_dir.resolve())} | ({PART_MARK: part} if part else {})
    for p in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                p.pid != os.getpid()
                and p.pid not in found
                and wanted.items() <= p.environ().items()
            ):
                found[p.pid] = p
    return list(found.values())


def part_env(state_dir: Path, part: str, extra: dict[str, str]) -> dict[str, str]:
    """Environment of a part: this process's, the marks, and `extra`; bytecode is written so that imports are fast."""
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "VIRTUAL_ENV")
    }
    bypass_proxies_on_loopback(env)
    return env | {"PYTHONUNBUFFERED": "1", MARK: str(state_dir.resolve()), PART_MARK: part} | extra
