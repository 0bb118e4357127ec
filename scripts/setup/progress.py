"""Run a command quietly: one line when it starts, a sign of life while it lasts, its output only where it failed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from lab.errors import SetupError

HEARTBEAT_S = 15.0
_started = time.monotonic()
_children: set[subprocess.Popen] = set()
_lock = threading.Lock()


def say(part: str, text: str) -> None:
    """One progress line, with the seconds since the start."""
    with _lock:
        print(
            f"setup {time.monotonic() - _started:6.1f} s  {part:<11} {text}",
            flush=True,
            file=sys.stderr,
        )


def run(
    part: str,
    command: list[str],
    *,
    log: Path,
    env: dict[str, str],
    cwd: Path | None = None,
    timeout_s: float | None = None,
    fix: str = "",
) -> None:
    """Run `command` with its output in `log` (appended). Raises SetupError with the output's end where it fails.

    `do` is the advice for the error; `timeout_s` bounds the whole command.
    """
    code, output = attempt(part, command, log=log, env=env, cwd=cwd, timeout_s=timeout_s)
    if code != 0:
        what = "took too long" if code is None else f"ended with status {code}"
        raise SetupError(
            f"{part}: {Path(command[0]).name} {command[1] if len(command) > 1 else ''} {what}",
            got=f"{' '.join(command)}\n{_tail(output)}",
            fix=fix
            or f"read {log}; when the cause is gone (often the network or the disk), run it again",
        )


def attempt(
    part: str,
    command: list[str],
    *,
    log: Path,
    env: dict[str, str],
    cwd: Path | None = None,
    timeout_s: float | None = None,
) -> tuple[int | None, str]:
    """Like `run`, but returns (exit status or None for a time-out, output) instead of raising."""
    started = time.monotonic()
    with open(log, "ab+") as out:
        out.write(f"\n$ {' '.join(command)}\n".encode())
        out.flush()
        begin = out.tell()
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd
            )
        except OSError as e:
            return 127, str(e)
        with _lock:
            _children.add(child)
        try:
            code = _wait(child, part, started, timeout_s)
        finally:
            _end(child)
        out.seek(begin)
        return code, out.read().decode(errors="replace")


def _wait(
    child: subprocess.Popen, part: str, started: float, timeout_s: float | None
) -> int | None:
    while True:
        left_s = (
            HEARTBEAT_S
            if timeout_s is None
            else min(HEARTBEAT_S, started + timeout_s - time.monotonic())
        )
        try:
            return child.wait(max(left_s, 0.01))
        except subprocess.TimeoutExpired:
            lasted_s = time.monotonic() - started
            if timeout_s is not None and lasted_s >= timeout_s:
                return None
            say(part, f"... still at it ({lasted_s:.0f} s)")


def _end(child: subprocess.Popen) -> None:
    with _lock:
        _children.discard(child)
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def end_children() -> None:
    """End what is still running: set-up was interrupted, or another part of it failed."""
    with _lock:
        running = list(_children)
    for child in running:
        _end(child)


def _tail(output: str, lines: int = 15) -> str:
    return "\n".join("    " + line for line in output.strip().splitlines()[-lines:])


def base_environment() -> dict[str, str]:
    """The environment for every command: the caller's, less what would point Python at another environment."""
    return {
        k: v
        for k, v in os.environ.items()
        if k not in ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "CONDA_PREFIX")
    }
