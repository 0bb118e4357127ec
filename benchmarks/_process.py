"""Child processes of the benchmarks: their environment, free ports, and their end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator

from lab.settings import REPO


def child_environment() -> dict[str, str]:
    """Return the environment for a child process that imports `benchmarks` and `lab`."""
    paths = [str(REPO), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def free_port() -> int:
    """Return a TCP port that is free now on the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen]:
    """Run a command until the block ends; kill it if it does not end within 30 s of SIGTERM."""
    process = subprocess.Popen(command, env=child_environment(), cwd=REPO)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
