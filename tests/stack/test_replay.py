"""A recording that is loaded into real stores gives the recorded answers."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab import stack
from lab.errors import NotUp, SettingsError, StackError
from lab.settings import load_settings
from lab.stack import replay
from lab.stack.ports import PREFERRED
from lab.stack.toolbox import find_tools
from lab.stores import Prometheus, Tempo
from tests.frames.telemetry import agent_request, document

pytestmark = pytest.mark.slow  # starts processes
START_MS = 1_700_000_000_123
SERIES = (
    (
        {"__name__": "vllm:requests_total", "job": "vllm", "what": 'a "quoted" \\ name,\n nan inf'},
        [0.0, 1.5, 2e300],
    ),
    ({"__name__": "vllm:requests_total", "job": "node"}, [7.0]),
    ({"__name__": "p95", "quantile": "0.95"}, [math.nan, math.inf, -math.inf, 1e-9]),
)


def a_recording(folder: Path, **about: object) -> Path:
    """Write a recording of these series (one sample per 2 s) and of one agent request's trace."""
    rows = [
        (n, START_MS + 2000 * k, v)
        for n, (_, values) in enumerate(SERIES)
        for k, v in enumerate(values)
    ]
    number, time_ms, value = zip(*rows, strict=True)
    folder.mkdir(parents=True)
    pq.write_table(
        pa.table({"series": number, "time_ms": time_ms, "value": value}), folder / "samples.parquet"
    )
    labels = [json.dumps(label_set) for label_set, _ in SERIES]
    pq.write_table(
        pa.table({"series": list(range(len(SERIES))), "labels": labels}), folder / "series.parquet"
    )
    trace = document(*agent_request()).decode()
    pq.write_table(pa.table({"trace_id": ["1"], "document": [trace]}), folder / "traces.parquet")
    about = {"recorded_at": "2026-11-26T12:00:00Z"} | about
    (folder / "recording.json").write_text(json.dumps(about))
    return folder


@contextmanager
def running(argv: list[str], url: str) -> Iterator[None]:
    """Run a server from its first answer until the block ends."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(url, timeout=30).read()
                break
            except OSError:
                assert time.monotonic() < limit and process.poll() is None, (
                    f"{argv[0]} did not come up"
                )
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def free_ports(count: int) -> list[int]:
    """Return free ports."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def parts_of(tmp_path: Path, **about: object) -> dict[str, tuple[str, ...]]:
    folder = a_recording(tmp_path / "recorded" / "mine", **about)
    settings = load_settings(
        place="recorded", recording=folder.name, data_dir=tmp_path, state_dir=tmp_path / "state"
    )
    (tmp_path / "state").mkdir()
    config = tmp_path / "state" / "prometheus.yml"
    config.write_text("global: {}\n")
    ports = PREFERRED | dict(zip(("prometheus", "tempo", "otlp"), free_ports(3), strict=True))
    return {
        p.name: p
        for p in replay.recorded_parts(settings, find_tools(needs=replay.NEEDS), ports, config)
    }


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({}, "into the trace store"),
        ({"refused": {}}, "into the trace store"),
        ({"refused": {"2": "too large"}}, "trace store, without 1 that its store did not return"),
    ],
)
def test_traces_that_the_recording_lacks_are_mentioned(
    about: dict, words: str, tmp_path: Path
) -> None:
    """The part that fills the trace store says how many; older recordings do not know."""
    assert parts_of(tmp_path, **about)["recorded-traces"].what.endswith(words)


def test_prometheus_answers_every_sample_unchanged(tmp_path: Path) -> None:
    """Times to the millisecond, values to the last bit, NaN, infinities and labels are equal."""
    parts = parts_of(tmp_path)
    subprocess.run(parts["recorded-metrics"].argv, check=True, stdout=subprocess.DEVNULL)
    url = parts["prometheus"].endpoints["prometheus"]
    with running(list(parts["prometheus"].argv), f"{url}/-/ready"):
        answer = Prometheus(url).samples('{__name__=~".+"}', START_MS / 1000, START_MS / 1000 + 60)
    answered = {json.dumps(s["metric"], sort_keys=True): s["values"] for s in answer.metrics}
    for labels, values in SERIES:
        samples = answered.pop(json.dumps(labels, sort_keys=True))
        assert [round(t * 1000) for t, _ in samples] == [
            START_MS + 2000 * k for k in range(len(values))
        ]
        pd.testing.assert_series_equal(pd.Series([float(v) for _, v in samples]), pd.Series(values))
    assert not answered


def test_the_trace_store_answers_the_recorded_traces(tmp_path: Path) -> None:
    """Traces that are sent twice have each span once."""
    parts = parts_of(tmp_path)
    url = parts["tracestore"].endpoints["tempo"]
    with running(list(parts["tracestore"].argv), f"{url}/ready"):
        for _ in range(2):
            subprocess.run(parts["recorded-traces"].argv, check=True, stdout=subprocess.DEVNULL)
        answer = Tempo(url).traces([f"{1:032x}"])
    spans = [
        span
        for document_of_trace in map(json.loads, answer.documents)
        for resource in document_of_trace["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert len(spans) == len(agent_request())


def test_a_recording_does_not_replace_other_data(tmp_path: Path) -> None:
    """A live lab's history in LAB_STATE_DIR is kept, and so is a recording's data."""
    folder = a_recording(tmp_path / "recorded" / "mine")
    state = tmp_path / "state"
    history = state / "prometheus" / "MY-HISTORY"
    history.parent.mkdir(parents=True)
    history.write_text("")
    given = {"recording": folder.name, "data_dir": tmp_path, "state_dir": state}
    with pytest.raises(SettingsError, match="holds other data"):
        stack.up(load_settings(place="recorded", **given))
    with pytest.raises(StackError, match="no recording wrote"):
        replay.fill_prometheus(folder, history.parent, "promtool")
    assert history.exists()
    (state / replay.MARK).write_text("another\n")
    with pytest.raises(SettingsError, match="of another"):
        replay.claim_state(state, folder.name)
    with pytest.raises(SettingsError, match="holds the recording another"):
        stack.up(load_settings(**given))


def test_web_pages_cannot_read_prometheus(tmp_path: Path) -> None:
    """Queries with any Origin are answered, but no Origin is allowed to read the answer."""
    part = parts_of(tmp_path)["prometheus"]
    url = part.endpoints["prometheus"]
    with running(list(part.argv), f"{url}/-/ready"):
        request = urllib.request.Request(
            f"{url}/api/v1/labels", headers={"Origin": "http://evil.example"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] is None


def test_an_invalid_recording_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """A missing folder or file is an error with a fix."""
    with pytest.raises(StackError, match=r"no recording(.|\n)*LAB_RECORDING"):
        replay.check_recording(tmp_path / "none")
    folder = a_recording(tmp_path / "some")
    (folder / "traces.parquet").unlink()
    with pytest.raises(StackError, match="traces.parquet"):
        replay.check_recording(folder)
    with pytest.raises(NotUp, match="lab up --place recorded"):
        load_settings(place="recorded", state_dir=tmp_path).endpoint("tempo")
