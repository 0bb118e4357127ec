"""A real Prometheus with native histograms, which a test writes by remote write."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from lab.errors import SetupError
from lab.stack.toolbox import find_tools

READY_S = 120.0
FEATURES = ("--enable-feature=native-histograms", "--web.enable-remote-write-receiver")


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _zigzag(value: int) -> bytes:
    return _varint(value * 2 if value >= 0 else -value * 2 - 1)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def histogram(at: float, counts: Sequence[int], first: int, schema: int, total: float) -> bytes:
    """Return prompb.Histogram: counts of neighbouring buckets, of which the first has an index.

    Bucket i of schema s holds values in (2**((i-1)/2**s), 2**(i/2**s)].
    """
    deltas = b"".join(
        _zigzag(count - before) for before, count in zip([0, *counts], counts, strict=False)
    )
    span = _varint(1 << 3) + _zigzag(first) + _varint(2 << 3) + _varint(len(counts))
    return (
        _varint(1 << 3) + _varint(sum(counts))
        + _double(3, total)
        + _varint(4 << 3) + _zigzag(schema)
        + _double(5, 1e-9)
        + _varint(6 << 3) + _varint(0)
        + _field(11, span)
        + _field(12, deltas)
        + _varint(15 << 3) + _varint(round(at * 1000))
    )  # fmt: skip


def sample(at: float, value: float) -> bytes:
    """Return prompb.Sample."""
    return _double(1, value) + _varint(2 << 3) + _varint(round(at * 1000))


def series(
    labels: Mapping[str, str], *, samples: Sequence[bytes] = (), histograms: Sequence[bytes] = ()
) -> bytes:
    """Return prompb.TimeSeries as a field of a WriteRequest."""
    content = b""
    for name, value in sorted(labels.items()):
        content += _field(1, _field(1, name.encode()) + _field(2, value.encode()))
    content += b"".join(_field(2, each) for each in samples)
    content += b"".join(_field(4, each) for each in histograms)
    return _field(1, content)


@contextmanager
def native_prometheus(folder: Path) -> Iterator[str]:
    """Yield the URL of an empty Prometheus that takes native histograms by remote write.

    Skips the test where Prometheus is not installed.
    """
    try:
        tools = find_tools()
    except SetupError as e:
        pytest.skip(f"needs Prometheus: {e}")
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        tools.prometheus,
        *FEATURES,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, **quiet)
    try:
        limit = time.monotonic() + READY_S
        while time.monotonic() < limit:
            try:
                if httpx.get(f"http://{address}/-/ready", timeout=30).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(60)


def write(url: str, *timeseries: bytes) -> None:
    """Send series to a Prometheus."""
    body = pa.compress(b"".join(timeseries), codec="snappy", asbytes=True)
    headers = {
        "Content-Encoding": "snappy",
        "Content-Type": "application/x-protobuf",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    }
    reply = httpx.post(f"{url}/api/v1/write", content=body, headers=headers, timeout=30)
    assert reply.status_code in (200, 204), reply.text
