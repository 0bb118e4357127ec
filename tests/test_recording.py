"""A recording contains the servers' answers and where they came from."""

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
from lab.errors import LabError, NoData, QueryRejected, SettingsError, StoreError
from lab.runs import runs_in
from lab.settings import REPO, Settings, load_settings
from tests.frames.telemetry import agent_request, document
from tests.observation.test_driving import a_run
from tests.stores.servers import Reply, serving

TRACE = document(*agent_request()).decode()
SERIES = [
    {"metric": {"__name__": "up", "job": "vllm"}, "values": [[100.5, "1"], [102.5, "0"]]},
    {
        "metric": {"__name__": "p95", "job": "vllm"},
        "values": [[100.5, "NaN"], [101.5, "+Inf"], [103, "1e-07"]],
    },
]


TOO_LARGE = "trace exceeds max size (max bytes: 5000000)"
FOUND = {"{ false }": (), "{ true }": ("2", "1", "3"), "{ large }": ("2",), "{ cut }": ("4",)}


def servers(path: str, params: dict[str, str]) -> Reply:
    """Respond like a Prometheus and like a Tempo: 1 is returned, 2 refused, 4 returned in part."""
    if path == "/api/search":
        traces = [{"traceID": number} for number in FOUND.get(params["q"], "1")]
        return Reply(json.dumps({"traces": traces}).encode())
    if path == f"/api/v2/traces/{2:032x}":
        return Reply(TOO_LARGE.encode(), 422)
    if path == f"/api/v2/traces/{1:032x}":
        return Reply(b'{"trace":' + TRACE.encode() + b"}")
    if path == f"/api/v2/traces/{4:032x}":
        return Reply(b'{"status":"PARTIAL","trace":' + TRACE.encode() + b"}")
    if path == "/api/v1/query":
        result = [] if params["query"].startswith("none[") else SERIES
        return Reply(
            json.dumps(
                {"status": "success", "data": {"resultType": "matrix", "result": result}}
            ).encode()
        )
    # No targets, like Thanos, and no bulk endpoint, like Tempo.
    return Reply(b"not here", 404)


@pytest.fixture
def attached(tmp_path: Path):  # noqa: ANN201
    """Yield settings that point at attached servers."""
    with serving(servers) as server:
        yield load_settings(
            data_dir=tmp_path, state_dir=tmp_path, prometheus_url=server.url, tempo_url=server.url
        )


def test_the_servers_answers_are_recorded(attached: Settings, tmp_path: Path) -> None:
    """All samples (also NaN and Inf), traces, the run and the origin are recorded."""
    run = a_run(tmp_path / "runs", "run-a", n_requests=5, label="cache off")
    made = recording.record(attached, "mine", 100, 104, runs=[run], command="lab record mine")
    samples = pd.read_parquet(made.folder / "samples.parquet")
    series = {
        row.series: json.loads(row.labels)
        for row in pd.read_parquet(made.folder / "series.parquet").itertuples()
    }
    rows = [(series[s.series]["__name__"], s.time_ms, s.value) for s in samples.itertuples()]
    assert [row[:2] for row in rows] == [
        ("p95", 100_500),
        ("p95", 101_500),
        ("p95", 103_000),
        ("up", 100_500),
        ("up", 102_500),
    ]
    assert math.isnan(rows[0][2]) and [row[2] for row in rows[1:]] == [math.inf, 1e-7, 1, 0]
    documents = pd.read_parquet(made.folder / "traces.parquet").document
    assert [json_format.Parse(d, TracesData()) for d in documents] == [
        json_format.Parse(TRACE, TracesData())
    ]
    assert [
        (str(conditions), saved_run.run_id)
        for conditions, saved_run in runs_in(made.folder / "runs")
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


def test_traces_that_the_store_refuses_are_left_out_and_named(
    attached: Settings, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large trace and one that was deleted since the search, in all that is written."""
    too_large = f"Tempo refused the query (HTTP 422): {TOO_LARGE}"
    monkeypatch.setattr("lab.cli.record.load_settings", lambda: attached)
    window = ["--start", "2026-01-01T00:00:00Z", "--end", "2026-01-01T00:00:10Z"]
    assert main(["mine", *window, "--traceql", "{ true }"]) == 0

    folder = attached.data_dir / "recorded" / "mine"
    assert pd.read_parquet(folder / "traces.parquet")["trace_id"].tolist() == [f"{1:032x}"]
    about = json.loads((folder / "recording.json").read_text())
    assert about["traces"] == 1
    assert about["refused"] == {
        f"{2:032x}": too_large,
        f"{3:032x}": f"Tempo does not know the trace {3:032x}",
    }
    for text in (capsys.readouterr().out, (folder / "README.md").read_text()):
        assert f"Traces left out: {too_large}: 1 ({2:032x})" in text
        assert f"Traces left out: Tempo does not know the trace: 1 ({3:032x})" in text


def test_a_trace_that_the_store_returns_in_part_is_recorded_and_named(attached: Settings) -> None:
    """Tempo says so in its answer, which the recording does not keep."""
    made = recording.record(attached, "mine", 100, 104, traceql="{ cut }")
    assert (made.about["traces"], made.about["partial"]) == (1, [f"{4:032x}"])
    note = f"Traces of which the store returned only a part: 1 ({4:032x})"
    assert note in str(made) and note in (made.folder / "README.md").read_text()


def test_nothing_is_left_of_a_recording_that_fails(attached: Settings, tmp_path: Path) -> None:
    """Missing samples, no, too many and only refused traces are errors and leave no folder."""
    with pytest.raises(NoData, match="no sample"):
        recording.record(attached, "a", 100, 104, selector="none")
    with pytest.raises(NoData, match="no trace"):
        recording.record(attached, "a", 100, 104, traceql="{ false }")
    with pytest.raises(QueryRejected, match="exceeds max size"):
        recording.record(attached, "a", 100, 104, traceql="{ large }")
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(StoreError, match="more than 1 traces"),
    ):
        patch.setattr(recording, "MAX_TRACES", 1)
        recording.record(attached, "a", 100, 104)
    assert list((tmp_path / "recorded").iterdir()) == []


def test_a_recording_is_replaced_only_with_the_option(attached: Settings) -> None:
    """Only a plain folder name is accepted as a name."""
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
        (["x", "--start", "yesterday", "--end", "today"], "not a window of time"),
        (["x", "--start", "2026-11-26T10:00:00Z"], "needs an end"),
        (["x"], "not 1 runs to record"),
    ],
)
def test_invalid_arguments_are_refused(
    argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before any query is sent."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    with pytest.raises(LabError, match=words):
        main(argv)


def test_file_paths_do_not_show_where_the_lab_is(tmp_path: Path) -> None:
    """Neither the checkout's folder nor a state folder outside of it is in a recording."""
    labels = f'{{"a": "{tmp_path}/run/rules.yml;g", "b": "{REPO}/data/lab-model"}}'
    expected = '{"a": ".lab/run/rules.yml;g", "b": "data/lab-model"}'
    assert recording.public_text(labels, tmp_path) == expected
