"""A recording holds what the servers answered, and where it came from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab import recording
from lab.cli.record import main
from lab.errors import NoData, SettingsError, StoreError
from lab.runs import runs_in
from lab.settings import Settings, load_settings
from tests.frames.telemetry import agent_request, document
from tests.observation.test_driving import a_run
from tests.stores.servers import Reply, telling

TRACE = document(*agent_request()).decode()
SERIES = [
    {"metric": {"__name__": "up", "job": "vllm"}, "values": [[100.5, "1"], [102.5, "0"]]},
    {
        "metric": {"__name__": "p95", "job": "vllm"},
        "values": [[100.5, "NaN"], [101.5, "+Inf"], [103, "1e-07"]],
    },
]


def servers(path: str, params: dict[str, str]) -> Reply:
    """A Prometheus and a Tempo of one trace in one."""
    if path == "/api/search":
        found = [] if params["q"] == "{ false }" else [{"traceID": "1"}]
        return Reply(json.dumps({"traces": found}).encode())
    if path.startswith("/api/v2/traces/"):
        return Reply(b'{"trace":' + TRACE.encode() + b"}")
    if path == "/api/v1/query":
        result = [] if params["query"].startswith("none[") else SERIES
        return Reply(
            json.dumps(
                {"status": "success", "data": {"resultType": "matrix", "result": result}}
            ).encode()
        )
    return Reply(
        b"not here", 404
    )  # no targets, as Thanos has none; no bulk endpoint, as Tempo has none


@pytest.fixture
def attached(tmp_path: Path):  # noqa: ANN201
    """Return settings that point at attached servers."""
    with telling(servers) as told:
        yield load_settings(
            data_dir=tmp_path, state_dir=tmp_path, prometheus_url=told.url, tempo_url=told.url
        )


def test_what_was_answered_is_kept(attached: Settings, tmp_path: Path) -> None:
    """Every sample, NaN and Inf among them, every trace, the run, and where all this came from."""
    run = a_run(tmp_path / "runs", "run-a", n_requests=5, label="cache off")
    made = recording.record(attached, "mine", 100, 104, runs=[run], command="lab record mine")
    samples = pd.read_parquet(made.folder / "samples.parquet")
    series = {
        row.series: json.loads(row.labels)
        for row in pd.read_parquet(made.folder / "series.parquet").itertuples()
    }
    found = [(series[s.series]["__name__"], s.time_ms, s.value) for s in samples.itertuples()]
    assert [f[:2] for f in found] == [
        ("p95", 100_500), ("p95", 101_500), ("p95", 103_000), ("up", 100_500), ("up", 102_500),
    ]  # fmt: skip
    assert math.isnan(found[0][2]) and [f[2] for f in found[1:]] == [math.inf, 1e-7, 1, 0]
    documents = pd.read_parquet(made.folder / "traces.parquet").document
    assert [json_format.Parse(d, TracesData()) for d in documents] == [
        json_format.Parse(TRACE, TracesData())
    ]
    assert [
        (str(conditions), kept.run_id) for conditions, kept in runs_in(made.folder / "runs")
    ] == [("n_requests=5, rate_per_s=1.0, model='lab-model', label='cache off'", "run-a")]
    about = json.loads((made.folder / "recording.json").read_text())
    assert (about["samples"], about["series"], about["traces"], about["window"]) == (
        5,
        2,
        1,
        [100, 104],
    )
    assert (
        about["made_on"]["python"]
        and about["command"] == "lab record mine"
        and about["targets"] == {}
    )
    assert "lab record mine --replace" in (made.folder / "README.md").read_text()


def test_nothing_is_left_of_a_recording_that_fails(attached: Settings, tmp_path: Path) -> None:
    """No samples, no traces, too many traces: an error, and no half folder."""
    with pytest.raises(NoData, match="no sample"):
        recording.record(attached, "a", 100, 104, selector="none")
    with pytest.raises(NoData, match="no trace"):
        recording.record(attached, "a", 100, 104, traceql="{ false }")
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(StoreError, match="more than 1 traces"),
    ):
        patch.setattr(recording, "MAX_TRACES", 1)
        recording.record(attached, "a", 100, 104)
    assert list((tmp_path / "recorded").iterdir()) == []


def test_a_recording_is_replaced_only_with_the_option(attached: Settings) -> None:
    """And a name is a folder's name, no path."""
    recording.record(attached, "mine", 100, 104)
    with pytest.raises(SettingsError, match="already"):
        recording.record(attached, "mine", 100, 104)
    assert recording.record(attached, "mine", 100, 105, replace=True).about["window"] == [100, 105]
    for name in ("", "../mine", "a/b"):
        with pytest.raises(SettingsError, match="cannot name"):
            recording.record(attached, name, 100, 104)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["x", "--last", "soon"], "is not a duration"),
        (["x", "--start", "2026-11-26T10:00:00", "--end", "2026-11-26T10:05:00Z"], "no time zone"),
        (["x", "--start", "yesterday", "--end", "today"], "is not a timestamp"),
        (["x", "--start", "2026-11-26T10:00:00Z"], "needs an end"),
        (["x"], "not 1 runs to record"),
    ],
)
def test_the_command_says_what_it_cannot_read(
    argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any query."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match=words):
        main(argv)
