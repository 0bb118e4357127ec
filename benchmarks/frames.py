"""From responses of the stores to tidy frames, compared with the usual methods.

Measured are Prometheus' ranges against prometheus-api-client, Tempo's traces against a loop over
dicts, the bulk endpoint of the lab's trace store, and the request frame. Compare the ratios, which
are of one run; the times depend on the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from statistics import median

from benchmarks._frames_data import documents, protobufs, write_openmetrics, write_protobufs
from benchmarks._process import (
    child_environment,
    free_port,
    prometheus_over,
    prometheus_programs,
    running,
    wait_until_ready,
)
from lab.settings import REPO
from lab.stores.otlp import trace_of_protobuf

FULL = {"series": 200, "points": 11_000, "traces": 10_000, "requests": 100_000, "repeat": 3}
SMALL = {"series": 20, "points": 1_000, "traces": 500, "requests": 2_000, "repeat": 1}


def main(argv: list[str]) -> list[dict]:
    """Return the rows for `lab bench`."""
    size = SMALL if "--small" in argv else FULL
    rows = [*_prometheus(size), *_spans(size), *_requests(size)]
    if size is SMALL:  # the bounds are for the full size; at a small one, fixed costs dominate
        rows = [{key: value for key, value in row.items() if key != "bound"} for row in rows]
    return rows


def _row(subject: str, metric: str, value: float, *, better: str = "lower", **more: object) -> dict:
    return {"subject": subject, "metric": metric, "value": value, "better": better, **more}


# -- ranges of Prometheus ----------------------------------------------------------------------


def _prometheus(size: dict) -> list[dict]:
    programs = prometheus_programs()
    if not programs:
        print("Prometheus' ranges are left out: prometheus or promtool is not installed")
        return []
    from importlib.metadata import version

    import prometheus_api_client  # noqa: F401  fail early if the alternative is missing

    other = f"prometheus-api-client {version('prometheus-api-client')}"
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "series.om"
        write_openmetrics(text, size["series"], size["points"])
        with prometheus_over(text, programs) as url:
            argument = f"{url},{size['points']}"
            seconds, peak_mib = _measure_ranges(argument, size["repeat"])

    server_s = seconds["server_range"]
    lab_s = seconds["lab_range"]
    other_s = seconds["api_client_range"]
    lab_mib = peak_mib["lab_range"]
    other_mib = peak_mib["api_client_range"]
    scale = f"{size['series']} series x {size['points']:,} points"
    note = f"{scale} over HTTP, whole processes for memory"
    against = f"against {other}"
    speedup = _row("lab", "range_to_frame_speedup_ratio", other_s / lab_s, better="higher")
    return [
        _row("lab", "range_to_frame_s", lab_s, note=note),
        _row(other, "range_to_frame_s", other_s, note=note),
        _row("Prometheus alone", "range_to_frame_s", server_s, note="response read and discarded"),
        speedup | {"bound": 15, "note": against},
        _row("lab", "range_to_frame_over_server_ratio", lab_s / server_s, bound=1.3),
        _row("lab", "range_to_frame_peak_mib", lab_mib),
        _row(other, "range_to_frame_peak_mib", other_mib),
        _row("lab", "range_to_frame_peak_ratio", lab_mib / other_mib, bound=1 / 6, note=against),
    ]


def _measure_ranges(argument: str, repeat: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median seconds and peak MiB per task; prometheus-api-client runs only once."""
    tasks = ("server_range", "lab_range", "api_client_range")
    results: dict[str, list[dict]] = {task: [] for task in tasks}
    _measure("server_range", argument)  # warms the server's caches
    for turn in range(repeat):
        for task in tasks:
            if task != "api_client_range" or turn == 0:
                results[task].append(_measure(task, argument))

    seconds = {task: median(r["seconds"] for r in results[task]) for task in tasks}
    peak_mib = {task: median(r["peak_mib"] for r in results[task]) for task in tasks}
    return seconds, peak_mib


# -- spans -------------------------------------------------------------------------------------


def _spans(size: dict) -> list[dict]:
    count = size["traces"] * 10
    tasks = ("lab_spans_json", "lab_spans_protobuf", "dict_loop_spans_json")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "traces.jsonl").open("wb") as lines:
            for document in documents(size["traces"]):
                lines.write(document + b"\n")
        write_protobufs(folder)

        results: dict[str, list[float]] = {task: [] for task in tasks}
        for _ in range(size["repeat"]):
            for task in tasks:
                results[task].append(_measure(task, name)["seconds"])
        bulk_s = _bulk_s(folder, size["repeat"])

    json_s, protobuf_s, loop_s = (median(results[task]) for task in tasks)
    note = f"{count:,} spans, Tempo's JSON"
    faster = {"better": "higher", "note": "against the loop over dicts, which reads JSON"}
    protobuf_note = "the same in protobuf, which lab.stores requests"
    bulk_note = f"{count:,} spans, the lab's own store"
    return [
        _row("lab", "spans_json_to_frame_s", json_s, note=note),
        _row("lab", "spans_protobuf_to_frame_s", protobuf_s, note=protobuf_note),
        _row("loop over dicts", "spans_json_to_frame_s", loop_s, note=note),
        _row("lab", "spans_json_to_frame_speedup_ratio", loop_s / json_s, **faster),
        _row(
            "lab",
            "spans_protobuf_to_frame_speedup_ratio",
            loop_s / protobuf_s,
            bound=5.5,
            **faster,
        ),
        _row("lab", "spans_bulk_to_frame_s", bulk_s, bound=0.5, note=bulk_note),
    ]


def _bulk_s(folder: Path, repeat: int) -> float:
    """Return the median seconds from the lab's own store, filled with the same traces."""
    port = free_port()
    otlp_port = free_port()
    command = [
        *(sys.executable, "-m", "lab.tracestore", "--data", str(folder / "store")),
        *("--port", str(port), "--otlp-port", str(otlp_port), "--log-level", "WARNING"),
    ]
    with running(command):
        url = wait_until_ready(f"http://127.0.0.1:{port}", "/ready")
        _fill(f"http://127.0.0.1:{otlp_port}", folder)
        return median(_measure("lab_spans_bulk", url)["seconds"] for _ in range(repeat))


def _fill(otlp_url: str, folder: Path) -> None:
    headers = {"Content-Type": "application/x-protobuf"}
    traces = [trace_of_protobuf(body)[0] for body in protobufs(folder)]
    for start in range(0, len(traces), 200):
        # Concatenated protobuf messages are one message with the spans of all.
        body = b"".join(traces[start : start + 200])
        request = urllib.request.Request(f"{otlp_url}/v1/traces", body, headers)
        urllib.request.urlopen(request, timeout=120).read()


# -- the request frame -------------------------------------------------------------------------


def _requests(size: dict) -> list[dict]:
    count = str(size["requests"])
    results = [_measure("lab_request_frame", count) for _ in range(size["repeat"])]
    seconds = median(result["seconds"] for result in results)
    peak_mib = max(result["peak_mib"] for result in results)
    slowest_s = _measure("lab_measures", count)["size"]
    note = f"{size['requests']:,} requests with ten spans each"
    return [
        _row("lab", "request_frame_s", seconds, bound=5, note=note),
        _row("lab", "request_frame_peak_mib", peak_mib, bound=2048, note="whole process"),
        _row("lab", "slowest_measure_s", slowest_s, bound=1, note=note),
    ]


# -- processes ---------------------------------------------------------------------------------


def _measure(task: str, argument: str) -> dict:
    """Run one task of _frames_tasks.py in a separate process. Raises CalledProcessError."""
    command = [sys.executable, "-m", "benchmarks._frames_tasks", task, argument]
    done = subprocess.run(
        command, env=child_environment(), cwd=REPO, check=True, stdout=subprocess.PIPE, text=True
    )
    result = json.loads(done.stdout)
    print(f"{task}: {result['seconds']:.2f} s, peak {result['peak_mib']:.0f} MiB", flush=True)
    return result
