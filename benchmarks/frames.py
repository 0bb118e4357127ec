"""Answers to tidy frames: Prometheus' ranges against prometheus-api-client, Tempo's traces
against a loop over dicts, the lab's own bulk endpoint, and the request frame. Ratios are of one
run, since this machine is not yours."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks._frames_data import documents, protobufs, write_openmetrics, write_protobufs
from lab.settings import REPO
from lab.stores.otlp import trace_of_protobuf

FULL = {"series": 200, "points": 11_000, "traces": 10_000, "requests": 100_000, "repeat": 3}
SMALL = {"series": 20, "points": 1_000, "traces": 500, "requests": 2_000, "repeat": 1}


def main(argv: list[str]) -> list[dict]:
    size = SMALL if "--small" in argv else FULL
    # The promises are about the full size: at a small one the fixed costs decide.
    rows = [*_prometheus(size), *_spans(size), *_requests(size)]
    if size is SMALL:
        rows = [{k: v for k, v in row.items() if k != "bound"} for row in rows]
    return rows


def _prometheus(size: dict) -> list[dict]:
    programs = [shutil.which(name) or _from_setup(name) for name in ("prometheus", "promtool")]
    if not all(programs):
        print("left out: Prometheus' range (no prometheus or no promtool here)")
        return []
    from importlib.metadata import version

    import prometheus_api_client  # noqa: F401  what it is compared with must be there

    other = f"prometheus-api-client {version('prometheus-api-client')}"
    with (
        tempfile.TemporaryDirectory() as folder,
        _a_prometheus(Path(folder), *programs, size) as url,
    ):
        argument = f"{url},{size['points']}"
        tasks = ("server_range", "lab_range", "api_client_range")
        took: dict[str, list[dict]] = {task: [] for task in tasks}
        for turn in range(size["repeat"] + 1):
            for task in tasks:
                if turn and (
                    task != "api_client_range" or turn == 1
                ):  # the first turn warms the server's caches
                    took[task].append(_measure(task, argument))
                elif not turn and task == "server_range":
                    _measure(task, argument)
    server, lab, theirs = (median(t["seconds"] for t in took[task]) for task in tasks)
    lab_mib, their_mib = (median(t["peak_mib"] for t in took[task]) for task in tasks[1:])
    note = (
        f"{size['series']} series x {size['points']:,} points over HTTP, whole processes for memory"
    )
    return [
        _row("lab", "range_to_frame_s", lab, note=note),
        _row(other, "range_to_frame_s", theirs, note=note),
        _row(
            "Prometheus alone", "range_to_frame_s", server, note="the answer read and thrown away"
        ),
        _row(
            "lab",
            "range_to_frame_speedup_ratio",
            theirs / lab,
            better="higher",
            bound=15,
            note=f"against {other}",
        ),
        _row("lab", "range_to_frame_over_server_ratio", lab / server, bound=1.3),
        _row("lab", "range_to_frame_peak_mib", lab_mib),
        _row(other, "range_to_frame_peak_mib", their_mib),
        _row(
            "lab",
            "range_to_frame_peak_ratio",
            lab_mib / their_mib,
            bound=1 / 6,
            note=f"against {other}",
        ),
    ]


def _spans(size: dict) -> list[dict]:
    count = size["traces"] * 10
    with tempfile.TemporaryDirectory() as folder:
        with Path(folder, "traces.jsonl").open("wb") as out:
            for document in documents(size["traces"]):
                out.write(document + b"\n")
        write_protobufs(Path(folder))
        tasks = ("lab_spans_json", "lab_spans_protobuf", "dict_loop_spans_json")
        turns = [{t: _measure(t, folder)["seconds"] for t in tasks} for _ in range(size["repeat"])]
        took = {t: median(turn[t] for turn in turns) for t in tasks}
        bulk = _bulk(Path(folder), size["repeat"])
    by_json, by_protobuf, loop = (took[task] for task in tasks)
    note, against = (
        f"{count:,} spans, Tempo's JSON",
        "against the loop over dicts, which reads JSON",
    )
    rows = [
        _row("lab", "spans_json_to_frame_s", by_json, note=note),
        _row(
            "lab",
            "spans_protobuf_to_frame_s",
            by_protobuf,
            note="the same in protobuf, which lab.stores requests",
        ),
        _row("loop over dicts", "spans_json_to_frame_s", loop, note=note),
        _row(
            "lab",
            "spans_json_to_frame_speedup_ratio",
            loop / by_json,
            better="higher",
            note=against,
        ),
        _row(
            "lab",
            "spans_protobuf_to_frame_speedup_ratio",
            loop / by_protobuf,
            better="higher",
            bound=5.5,
            note=against,
        ),
    ]
    return [
        *rows,
        _row(
            "lab",
            "spans_bulk_to_frame_s",
            bulk,
            bound=0.5,
            note=f"{count:,} spans, the lab's own store",
        ),
    ]


def _requests(size: dict) -> list[dict]:
    count = str(size["requests"])
    took = [_measure("lab_request_frame", count) for _ in range(size["repeat"])]
    note = f"{size['requests']:,} requests with ten spans each"
    return [
        _row("lab", "request_frame_s", median(t["seconds"] for t in took), bound=5, note=note),
        _row(
            "lab",
            "request_frame_peak_mib",
            max(t["peak_mib"] for t in took),
            bound=2048,
            note="whole process",
        ),
        _row(
            "lab", "slowest_measure_s", _measure("lab_measures", count)["size"], bound=1, note=note
        ),
    ]


def _row(subject: str, metric: str, value: float, *, better: str = "lower", **more: object) -> dict:
    return {"subject": subject, "metric": metric, "value": value, "better": better, **more}


def _measure(task: str, argument: str) -> dict:
    """Run one task in a process of its own. Raises CalledProcessError."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "benchmarks._frames_tasks", task, argument]
    done = subprocess.run(command, env=env, cwd=REPO, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    print(f"{task}: {found['seconds']:.2f} s, peak {found['peak_mib']:.0f} MiB", flush=True)
    return found


@contextmanager
def _a_prometheus(folder: Path, prometheus: str, promtool: str, size: dict) -> Iterator[str]:
    """A real Prometheus over blocks that hold the series."""
    text, data = folder / "series.om", folder / "data"
    write_openmetrics(text, size["series"], size["points"])
    blocks = [
        promtool,
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        "--max-block-duration=720h",
        str(text),
        str(data),
    ]
    subprocess.run(blocks, check=True, stdout=subprocess.DEVNULL)
    text.unlink()
    config = folder / "prometheus.yml"
    config.write_text("global: {}\n")
    port = _free_port()
    command = [
        prometheus,
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with _process(command):
        yield _until_ready(f"http://127.0.0.1:{port}", "/-/ready")


def _bulk(folder: Path, repeat: int) -> float:
    """Median seconds through the lab's own store, which is filled with the same traces first."""
    port, otlp = _free_port(), _free_port()
    command = [
        sys.executable,
        "-m",
        "lab.tracestore",
        "--data",
        str(folder / "store"),
        "--port",
        str(port),
    ]
    with _process([*command, "--otlp-port", str(otlp), "--log-level", "WARNING"]):
        url = _until_ready(f"http://127.0.0.1:{port}", "/ready")
        _fill(f"http://127.0.0.1:{otlp}", folder)
        return median(_measure("lab_spans_bulk", url)["seconds"] for _ in range(repeat))


def _fill(otlp_url: str, folder: Path) -> None:
    headers = {"Content-Type": "application/x-protobuf"}
    traces = [trace_of_protobuf(body)[0] for body in protobufs(folder)]
    for at in range(0, len(traces), 200):
        body = b"".join(
            traces[at : at + 200]
        )  # messages one after another are one with the spans of all
        urllib.request.urlopen(
            urllib.request.Request(f"{otlp_url}/v1/traces", body, headers), timeout=120
        ).read()


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen]:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
    }
    running = subprocess.Popen(command, env=env, cwd=REPO)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(timeout=30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _until_ready(url: str, path: str, timeout_s: float = 180.0) -> str:
    begun = time.monotonic()
    while True:
        try:
            urllib.request.urlopen(url + path, timeout=5).read()
            return url
        except OSError as e:
            if time.monotonic() - begun > timeout_s:
                raise TimeoutError(f"{url} is not ready after {timeout_s:g} s") from e
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _from_setup(name: str) -> str | None:
    """A program that `make setup` unpacked for want of an installed one."""
    tools = REPO / ".venvs" / "tools.json"
    return json.loads(tools.read_text()).get(name) if tools.exists() else None
