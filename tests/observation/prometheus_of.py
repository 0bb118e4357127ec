"""A real Prometheus over samples that a test wrote down, in OpenMetrics text."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from lab.errors import SetupError
from lab.stack.toolbox import find_tools

READY_S = 120.0


@contextmanager
def prometheus_of(openmetrics: str, folder: Path) -> Iterator[str]:
    """Its URL while the block runs.

    `openmetrics` is OpenMetrics text with a timestamp at every sample.

    Skips the test where Prometheus or promtool is not installed.
    """
    try:
        tools = find_tools()
    except SetupError as e:
        pytest.skip(f"needs Prometheus: {e}")
    if not tools.promtool:
        pytest.skip("needs promtool")
    text, data = folder / "samples.txt", folder / "tsdb"
    text.write_text(openmetrics)
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    command = [tools.promtool, "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)]
    subprocess.run(command, check=True, capture_output=True)
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            tools.prometheus,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--storage.tsdb.retention.time=100y",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(url)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def _wait(url: str) -> None:
    limit = time.monotonic() + READY_S
    while time.monotonic() < limit:
        try:
            if httpx.get(f"{url}/-/ready", timeout=30).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"Prometheus was not ready after {READY_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
