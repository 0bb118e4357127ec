"""Run a command quietly: a sign of life while it lasts, its output if it fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from lab.errors import SetupError

HEARTBEAT_S = 15.0
# Variables that would point Python at another environment.
_NOT_PASSED_ON = ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "CONDA_PREFIX")
_started = time.monotonic()
_children: set[subprocess.Popen] = set()
_lock = threading.Lock()
_ending = threading.Event()


def say(part: str, text: str) -> None:
    """Print one progress line, with the seconds since the start."""
    line = f"setup {time.monotonic() - _started:6.1f} s  {part:<11} {text}"
    with _lock:
        print(line, flush=True, file=sys.stderr)


def run(
    part: str,
    command: list[str],
    *,
    log: Path,
    env: dict[str, str],
    cwd: Path | None = None,
    fix: str = "",
) -> None:
    """Run `command` with its output appended to `log`.

    Raises SetupError with the end of the output, and with `fix`, where it fails.
    """
    code, output = attempt(part, command, log=log, env=env, cwd=cwd)
    if code != 0:
        tail = "\n".join("    " + line for line in output.strip().splitlines()[-15:])
        name = " ".join([Path(command[0]).name, *command[1:2]])
        retry = f"read {log}; when the cause is gone (often the network or the disk), run it again"
        raise SetupError(
            f"{part}: {name} ended with status {code}",
            got=f"{' '.join(command)}\n{tail}",
            fix=fix or retry,
        )


def attempt(
    part: str,
    command: list[str],
    *,
    log: Path,
    env: dict[str, str],
    cwd: Path | None = None,
    timeout_s: float = float("inf"),
) -> tuple[int | None, str]:
    """Run `command` as `run` does; returns (exit status or None after `timeout_s`, output).

    Raises SetupError after `end_children`: another way to the same end would only take longer.
    """
    if _ending.is_set():
        raise SetupError(f"{part}: not begun, because set-up is ending")
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

        _children.add(child)
        try:
            code = _wait(child, part, timeout_s)
        finally:
            _end(child)
        out.seek(begin)
        return code, out.read().decode(errors="replace")


def _wait(child: subprocess.Popen, part: str, timeout_s: float) -> int | None:
    """Wait with a line from time to time; returns None after `timeout_s`."""
    started = time.monotonic()
    while True:
        lasted_s = time.monotonic() - started
        if lasted_s >= timeout_s:
            return None
        try:
            return child.wait(min(HEARTBEAT_S, timeout_s - lasted_s))
        except subprocess.TimeoutExpired:
            say(part, f"... still running ({time.monotonic() - started:.0f} s)")


def _end(child: subprocess.Popen) -> None:
    _children.discard(child)
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def end_children() -> None:
    """End what is still running, after an interruption or the failure of another part."""
    _ending.set()
    for child in list(_children):
        _end(child)


def base_environment() -> dict[str, str]:
    """Return the caller's environment without what would point Python at another one."""
    return {k: v for k, v in os.environ.items() if k not in _NOT_PASSED_ON}
