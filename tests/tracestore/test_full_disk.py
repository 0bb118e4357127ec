"""Spans are refused on a full disk, and accepted again once there is space."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.tracestore.corpus import random_spans, request_of
from tests.tracestore.test_durability import Child
from tests.tracestore.test_faults import PROTOBUF, span_ids

pytestmark = pytest.mark.slow  # starts processes
DISK_MIB = 110


@dataclass
class SmallDisk:
    """A tmpfs in its own mount namespace: `prefix` starts a command there, `inside` is its path."""

    prefix: tuple[str, ...]
    inside: Path
    outside: Path

    def fill(self, keep_bytes: int = 0) -> None:
        """Fill the disk except for `keep_bytes`."""
        script = (
            f"head -c $(( $(stat -f -c '%a * %S' {self.inside}) - {keep_bytes} )) /dev/zero "
            f"> {self.inside}/fill$RANDOM || true"
        )
        subprocess.run([*self.prefix, "bash", "-c", script], check=True, stderr=subprocess.DEVNULL)

    def empty(self) -> None:
        """Delete what fills the disk."""
        script = f"rm -f {self.inside}/fill*"
        subprocess.run([*self.prefix, "bash", "-c", script], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    mount = f"mount -t tmpfs -o size={DISK_MIB}m none {tmp_path} && echo mounted && exec sleep 600"
    try:
        holder = subprocess.Popen(
            ["unshare", "-rm", "bash", "-c", mount],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        pytest.skip("needs unshare")
    if holder.stdout.readline() != b"mounted\n":
        holder.wait()
        pytest.skip("needs mount namespaces")
    prefix = ("nsenter", "-t", str(holder.pid), "-U", "-m", "--preserve-credentials")
    yield SmallDisk(prefix, tmp_path, Path(f"/proc/{holder.pid}/root{tmp_path}"))
    holder.kill()
    holder.wait()


def send(child: Child, seed: int) -> tuple[int, list[str]]:
    """Send about 90 kB of spans and return the status and their ids."""
    request = request_of(random_spans(seed, traces=60))
    answer = httpx.post(
        f"{child.otlp}/v1/traces", content=request.SerializeToString(), headers=PROTOBUF, timeout=60
    )
    if answer.status_code != 200:
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
    return answer.status_code, [
        s.span_id.hex() for rs in request.resource_spans for s in rs.scope_spans[0].spans
    ]


def wait_until(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ready(child: Child) -> httpx.Response:
    return httpx.get(f"{child.tempo}/ready", timeout=60)


def test_a_full_disk_is_refused_reported_and_recovers(disk: SmallDisk) -> None:
    """Spans get 503 with Retry-After, /ready has the reason, acknowledged spans stay visible.

    The store continues once there is space.
    """
    child = Child(disk.inside / "data", prefix=disk.prefix)
    acknowledged: list[str] = []
    assert ready(child).status_code == 200
    for seed in range(3):
        status, ids = send(child, seed)
        assert status == 200
        acknowledged += ids

    disk.fill(300_000)
    refused = 0
    for seed in range(10, 40):
        status, ids = send(child, seed)
        refused += status == 503
        acknowledged += ids if status == 200 else []
        if seed % 10 == 0:
            httpx.get(f"{child.tempo}/api/search", timeout=60).raise_for_status()
    assert refused
    assert sorted(span_ids(child.tempo)) == sorted(acknowledged)

    disk.fill()  # including the space that the reserve freed
    wait_until(lambda: ready(child).status_code == 503)
    assert "full" in ready(child).text
    assert send(child, 50)[0] == 503
    status = httpx.get(f"{child.tempo}/api/lab/status", timeout=60).json()
    assert (status["ready"], "full" in status["fault"]) == (False, True)

    child.kill()
    child = Child(disk.inside / "data", prefix=disk.prefix)
    assert sorted(span_ids(child.tempo)) == sorted(acknowledged)
    assert ready(child).status_code == 503

    disk.empty()
    wait_until(lambda: ready(child).status_code == 200)
    status, ids = send(child, 60)
    assert status == 200
    assert sorted(span_ids(child.tempo)) == sorted([*acknowledged, *ids])
    child.kill()


def test_a_log_that_waits_for_space_is_replayed_later(disk: SmallDisk) -> None:
    """Spans that are only in the log are visible once there is space, even after a kill."""
    child = Child(disk.inside / "data", prefix=disk.prefix)
    acknowledged: list[str] = []
    for seed in range(100, 110):
        status, ids = send(child, seed)
        assert status == 200
        acknowledged += ids
    child.kill()
    subprocess.run([*disk.prefix, "rm", disk.inside / "data" / "reserve"], check=True)
    disk.fill()

    child = Child(disk.inside / "data", prefix=disk.prefix)
    assert ready(child).status_code == 503
    assert send(child, 120)[0] == 503
    for path in ("search", "lab/spans"):
        shown = httpx.get(f"{child.tempo}/api/{path}", timeout=60)
        assert (shown.status_code, "X-Lab-Incomplete" in shown.headers) == (200, True)
    disk.empty()
    wait_until(lambda: ready(child).status_code == 200)
    assert sorted(span_ids(child.tempo)) == sorted(acknowledged)
    child.kill()
