"""Seconds that `lab attach` takes on a Prometheus of 100,000 series, and what it requests.

Compared with prometheus-api-client, which lists the metrics and then asks for the series of now:
the usual way to find out what a store has of model servers. Both are whole processes. Requests and
bytes are those that Prometheus itself counts.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks._process import child_environment, prometheus_over, prometheus_programs
from lab.settings import REPO

PAGE = REPO / "tests" / "data" / "doctor" / "good" / "vllm.prom"
ENGINES = 40
NAMES = 2_500  # as many as the exporters of a whole cluster have
FULL = 100_000  # series
SMALL = 10_000
LIMIT_S = 2.0
ALL_SERIES = "/api/v1/series"
API_CLIENT = """
import sys
from datetime import datetime, timedelta
from prometheus_api_client import PrometheusConnect
client = PrometheusConnect(url=sys.argv[1])
metrics = [name for name in client.all_metrics() if "vllm" in name]
now = datetime.now()
series = client.get_series(now - timedelta(minutes=5), now, {"match[]": '{__name__=~".+"}'})
print(len(metrics), sum("vllm" in each["__name__"] for each in series))
"""


def main(argv: list[str]) -> list[dict]:
    """Return the rows for `lab bench`."""
    programs = prometheus_programs()
    if not programs:
        print("attach is left out: prometheus or promtool is not installed")
        return []

    count = SMALL if "--small" in argv else FULL
    attach = [sys.executable, "-m", "lab.cli", "attach", "--prometheus"]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "series.om"
        text.write_text("".join(_openmetrics(count)))
        with prometheus_over(text, programs) as url:
            seconds = median(_seconds([*attach, url]) for _ in range(5))
            before = _served(url)
            _seconds([*attach, url])
            after = _served(url)
            other_s = median(_seconds([sys.executable, "-c", API_CLIENT, url]) for _ in range(3))

    requests = {path: number - before.get(path, (0, 0))[0] for path, (number, _) in after.items()}
    received = sum(size - before.get(path, (0, 0))[1] for path, (_, size) in after.items())
    paths = ", ".join(f"{number:g} of {path}" for path, number in requests.items() if number)
    other = f"prometheus-api-client {version('prometheus-api-client')}"
    scale = f"{count:,} series of {NAMES:,} names, {ENGINES} engines"
    return [
        _row("lab", "attach_s", seconds, note=scale, bound=LIMIT_S),
        _row(other, "attach_s", other_s, note="names, then the series of now"),
        _row("lab", "attach_speedup_ratio", other_s / seconds, better="higher"),
        _row("lab", "attach_requests", sum(requests.values()), note=paths, bound=10),
        _row("lab", "attach_requests_for_all_series", requests.get(ALL_SERIES, 0), bound=0),
        _row("lab", "attach_received_kib", received / 1024),
    ]


def _row(subject: str, metric: str, value: float, *, better: str = "lower", **more: object) -> dict:
    return {"subject": subject, "metric": metric, "value": value, "better": better, **more}


def _openmetrics(count: int) -> Iterator[str]:
    """Yield pages of vLLM engines, and series of other exporters of a cluster, of this minute."""
    now = time.time()
    lines = [line for line in PAGE.read_text().splitlines() if not line.startswith("#")]
    engines = [
        re.sub(r"\{", f'{{job="vllm",instance="10.0.0.{number}:8000",', line, count=1)
        for number in range(ENGINES)
        for line in lines
    ]
    others = [
        f'container_metric_{number % NAMES}{{job="kubelet",pod="pod-{number // NAMES}",'
        f'node="node-{number % 7}",namespace="team-{number % 11}"}} {number}'
        for number in range(count - len(engines))
    ]
    for line in sorted([*engines, *others]):
        yield f"{line} {now - 60:.3f}\n{line} {now + 240:.3f}\n"
    yield "# EOF\n"


def _seconds(command: list[str]) -> float:
    begun = time.monotonic()
    subprocess.run(
        command, env=child_environment(), cwd=REPO, check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - begun


def _served(url: str) -> dict[str, tuple[float, float]]:
    """Return the requests to each path of the API so far, and their bytes, by Prometheus itself."""
    page = urllib.request.urlopen(f"{url}/metrics", timeout=30).read().decode()
    names = ("prometheus_http_requests_total", "prometheus_http_response_size_bytes_sum")
    counts: list[dict[str, float]] = []
    for name in names:
        matches = re.findall(rf'(?m)^{name}{{.*?handler="(/api/[^"]*)".*?}} (\S+)$', page)
        counts.append({})
        for path, value in matches:
            counts[-1][path] = counts[-1].get(path, 0.0) + float(value)
    return {path: (number, counts[1].get(path, 0.0)) for path, number in counts[0].items()}
