"""The tasks that benchmarks/frames.py measures, each in a separate process.

`python -m benchmarks._frames_tasks TASK ARGUMENT` prints one JSON object: the seconds that the task
took (without imports and the generation of data) and the process's peak resident memory in MiB.
"""

from __future__ import annotations

import base64
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks._frames_data import START_S, STEP_S, protobufs, run_frames

QUERY = "lab_bench"


def range_end(points: int) -> int:
    """Return the time of the last sample, in epoch seconds."""
    return START_S + (points - 1) * STEP_S


def lab_range(argument: str) -> Callable[[], Any]:
    """Return a task: a range query to a tidy frame, with the lab."""
    from lab.frames import series_frame
    from lab.stores import Prometheus

    url, points = argument.rsplit(",", 1)
    prometheus = Prometheus(url, timeout_s=600)
    return lambda: series_frame(prometheus.stream(QUERY, START_S, range_end(int(points)), STEP_S))


def api_client_range(argument: str) -> Callable[[], Any]:
    """Return a task: the same with prometheus-api-client, as in its README."""
    from datetime import UTC, datetime

    from prometheus_api_client import MetricRangeDataFrame, PrometheusConnect

    url, points = argument.rsplit(",", 1)
    client = PrometheusConnect(url=url)
    start, end = (datetime.fromtimestamp(t, UTC) for t in (START_S, range_end(int(points))))
    return lambda: MetricRangeDataFrame(client.custom_query_range(QUERY, start, end, str(STEP_S)))


def server_range(argument: str) -> Callable[[], Any]:
    """Return a task: the same response, read and discarded, for the cost of the server alone."""
    import http.client
    from urllib.parse import urlsplit

    url, points = argument.rsplit(",", 1)
    window = f"start={START_S}&end={range_end(int(points))}&step={STEP_S}"
    path = f"/api/v1/query_range?query={QUERY}&{window}"

    def read() -> int:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
        connection.request("GET", path, headers={"Accept-Encoding": "identity"})
        response = connection.getresponse()
        size = 0
        while part := response.read(1 << 20):
            size += len(part)
        return size

    return read


def lab_spans_json(folder: str) -> Callable[[], Any]:
    """Return a task: Tempo's JSON documents to a frame, with the lab."""
    from lab.frames import spans_frame
    from lab.stores import read_otlp_json

    bodies = _bodies(folder)
    return lambda: spans_frame(read_otlp_json(*bodies))


def lab_spans_protobuf(folder: str) -> Callable[[], Any]:
    """Return a task: the same traces from protobuf, which `Tempo.spans` requests."""
    from lab.frames import spans_frame
    from lab.stores.otlp import trace_of_protobuf

    bodies = protobufs(Path(folder))

    def read() -> Any:
        traces = [trace_of_protobuf(body)[0] for body in bodies]
        return spans_frame(SimpleNamespace(protobufs=traces, arrow=None))

    return read


def dict_loop_spans_json(folder: str) -> Callable[[], Any]:
    """Return a task: the usual method (json.loads, one dict per span, a DataFrame of the dicts)."""
    import pandas as pd

    bodies = _bodies(folder)

    def loop() -> pd.DataFrame:
        rows = []
        for body in bodies:
            for group in json.loads(body)["trace"]["resourceSpans"]:
                attributes = _plain(group["resource"]["attributes"])
                for scope in group["scopeSpans"]:
                    for span in scope["spans"]:
                        rows.append(_row(span, attributes))
        frame = pd.DataFrame(rows)
        frame["start_at"] = pd.to_datetime(frame["start_ns"], utc=True)
        frame["duration_s"] = (frame["end_ns"] - frame["start_ns"]) / 1e9
        return frame

    return loop


def _row(span: dict, resource_attributes: dict) -> dict:
    row = {
        "trace_id": base64.b64decode(span["traceId"]).hex(),
        "span_id": base64.b64decode(span["spanId"]).hex(),
        "parent_id": base64.b64decode(span.get("parentSpanId", "")).hex(),
        "service": resource_attributes.get("service.name"),
        "name": span["name"],
        "kind": span["kind"],
        "start_ns": int(span["startTimeUnixNano"]),
        "end_ns": int(span["endTimeUnixNano"]),
        "status": span.get("status", {}).get("code", ""),
    }
    return row | _plain(span["attributes"])


def _plain(attributes: list[dict]) -> dict[str, Any]:
    """Return OTLP attributes as a dict."""
    return {attribute["key"]: _value(attribute["value"]) for attribute in attributes}


def _value(value: dict) -> Any:
    (kind, plain), *_ = value.items()
    return int(plain) if kind == "intValue" else plain


def lab_spans_bulk(url: str) -> Callable[[], Any]:
    """Return a task: a query of the lab's own trace store to a frame."""
    from lab.frames import spans_frame
    from lab.stores import Tempo

    tempo = Tempo(url, timeout_s=600)
    if not tempo.streams:
        raise SystemExit("the store does not stream")
    return lambda: spans_frame(tempo.spans("{}", START_S - 10, START_S + 10_000_000))


def lab_request_frame(requests: str) -> Callable[[], Any]:
    """Return a task: the request frame of `requests` requests with ten spans each."""
    from lab.frames import request_frame

    records, spans = run_frames(int(requests))
    return lambda: request_frame(records, spans)


def lab_measures(requests: str) -> Callable[[], Any]:
    """Return a task: the seconds of the slowest measure on that frame; all are on stderr."""
    from lab import measures
    from lab.frames import request_frame

    frame = request_frame(*run_frames(int(requests)))
    price = SimpleNamespace(
        cost_usd=lambda prompt, completion, cached=0: prompt * 1e-6 + completion * 1e-5
    )
    calls = {
        "quantiles": lambda: measures.quantiles_by_source(
            [0.5, 0.95, 0.99], samples=dict(iter(frame.groupby("kind")["e2e_s"])), histograms={}
        ),
        "token_totals": lambda: measures.token_totals(frame),
        "cost_by": lambda: measures.cost_by(frame, price),
        "goodput": lambda: measures.goodput(frame, measures.Slo(1, 5), 1000.0),
        "share_table": lambda: measures.share_table(frame, ["trace_complete"], by=["kind"]),
    }

    def slowest() -> float:
        took_s = {}
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            took_s[name] = time.perf_counter() - begun
        print(took_s, file=sys.stderr)
        return max(took_s.values())

    return slowest


def _bodies(folder: str) -> list[bytes]:
    return Path(folder, "traces.jsonl").read_bytes().splitlines()


TASKS = {
    f.__name__: f
    for f in (
        lab_range,
        api_client_range,
        server_range,
        lab_spans_json,
        lab_spans_protobuf,
        dict_loop_spans_json,
        lab_spans_bulk,
        lab_request_frame,
        lab_measures,
    )
}


def main(task: str, argument: str) -> None:
    """Run one task and print its measurements."""
    run = TASKS[task](argument)
    before_mib = _peak_mib()
    begun = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - begun
    size = result if isinstance(result, (int, float)) else len(result)
    memory = {"peak_mib": _peak_mib(), "before_mib": before_mib}
    print(json.dumps({"seconds": seconds, **memory, "size": size}))


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    main(*sys.argv[1:])
