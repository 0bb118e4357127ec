"""Child processes of the benchmarks: their environment, free ports, and their end.

Also a Prometheus over series that a benchmark wrote.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

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


def wait_until_ready(url: str, path: str, timeout_s: float = 180.0) -> str:
    """Wait until a GET of `path` succeeds and return `url`. Raises TimeoutError."""
    begun = time.monotonic()
    while True:
        try:
            urllib.request.urlopen(url + path, timeout=5).read()
            return url
        except OSError as e:
            if time.monotonic() - begun > timeout_s:
                raise TimeoutError(f"{url} is not ready after {timeout_s:g} s") from e
            time.sleep(0.1)


def prometheus_programs() -> tuple[str, str] | None:
    """Return the paths of prometheus and promtool, installed or unpacked by `make setup`."""
    tools = REPO / ".venvs" / "tools.json"
    unpacked = json.loads(tools.read_text()) if tools.exists() else {}
    prometheus = shutil.which("prometheus") or unpacked.get("prometheus")
    promtool = shutil.which("promtool") or unpacked.get("promtool")
    return (prometheus, promtool) if prometheus and promtool else None


@contextlib.contextmanager
def prometheus_over(text: Path, programs: Sequence[str]) -> Iterator[str]:
    """Run a Prometheus on the samples of an OpenMetrics file, and yield its URL.

    Its data is beside the file, which is deleted.
    """
    prometheus, promtool = programs
    data = text.parent / "data"
    create_blocks = [
        *(promtool, "tsdb", "create-blocks-from", "openmetrics"),
        *("--max-block-duration=720h", str(text), str(data)),
    ]
    subprocess.run(create_blocks, check=True, stdout=subprocess.DEVNULL)
    text.unlink()

    config = text.parent / "prometheus.yml"
    config.write_text("global: {}\n")
    port = free_port()
    command = [
        prometheus,
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with running(command):
        yield wait_until_ready(f"http://127.0.0.1:{port}", "/-/ready")
