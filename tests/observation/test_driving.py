"""`lab.drive` in the place `recorded`: the run of the same conditions, or one clear message."""

from __future__ import annotations

from pathlib import Path

import pytest

import lab
from lab.errors import NotUp, WorkloadError
from lab.runs import Conditions, load_conditions, runs_in, save_conditions
from lab.settings import Settings, load_settings
from lab.workload import Poisson, Run, Users, make_plan
from lab.workload.outcome import records_frame


def a_run(folder: Path, run_id: str, *, start: float = 0.0, **conditions: object) -> Run:
    """Return a saved run without records, with its conditions next to it."""
    count = int(conditions.get("n_requests", 5))
    plan = make_plan(requests=count, arrivals=Poisson(1.0), seed=1)
    run = Run(run_id, (start, start + 10.0), records_frame([]), plan)
    run.save(folder)
    defaults = {"n_requests": count, "rate_per_s": 1.0, "model": "lab-model"}
    save_conditions(run.folder, Conditions(**defaults | conditions))
    return run


@pytest.fixture
def recorded(tmp_path: Path) -> Settings:
    """A recording of three runs."""
    runs = tmp_path / "recorded" / "mine" / "runs"
    a_run(runs, "run-b", start=50.0, n_requests=20, seed=3)
    a_run(runs, "run-a", start=0.0, n_requests=5, seed=1)
    a_run(
        runs, "run-c", start=90.0, model="canary", label="second model", kinds=("chain", "single")
    )
    return load_settings(
        place="recorded", recording="mine", data_dir=tmp_path, state_dir=tmp_path / "state"
    )


def test_the_nearest_run_of_the_same_conditions_comes_back(
    recorded: Settings, capsys: pytest.CaptureFixture
) -> None:
    """Another number of requests or another seed is printed, not refused."""
    assert lab.drive(recorded, n_requests=18, seed=3).run_id == "run-b"
    assert "n_requests 20, not 18" in capsys.readouterr().out
    assert lab.drive(recorded, n_requests=5, seed=1).run_id == "run-a"
    assert capsys.readouterr().out == "recorded run run-a\n"


def test_kinds_in_any_order_are_the_same_kinds(recorded: Settings) -> None:
    """A comparison is found by its model, kinds and label."""
    found = lab.drive(
        recorded, n_requests=5, model="canary", kinds=["single", "chain"], label="second model"
    )
    assert found.run_id == "run-c"


@pytest.mark.parametrize(
    "other", [{"rate_per_s": 2.0}, {"model": "canary"}, {"users": 3}, {"label": "cache off"}]
)
def test_other_conditions_are_never_passed_off_as_these(recorded: Settings, other: dict) -> None:
    """Another rate, model or label is another experiment; the message lists what is recorded."""
    with pytest.raises(
        WorkloadError, match=r"no such run(.|\n)*n_requests=20, rate_per_s=1.0(.|\n)*second model"
    ):
        lab.drive(recorded, n_requests=5, **other)


def test_an_empty_recording_says_so(tmp_path: Path) -> None:
    """No folder, no run."""
    settings = load_settings(
        place="recorded", recording="none", data_dir=tmp_path, state_dir=tmp_path
    )
    with pytest.raises(WorkloadError, match="holds no run at all"):
        lab.drive(settings, n_requests=1)


def test_runs_are_listed_in_order_of_time(recorded: Settings) -> None:
    """By their windows, not by their names."""
    assert [run.run_id for _, run in runs_in(recorded.recording_dir / "runs")] == [
        "run-a",
        "run-b",
        "run-c",
    ]


def test_a_run_that_drive_did_not_make_is_known_by_its_plan(tmp_path: Path) -> None:
    """`lab load` writes no such file: rate, users and seed are in the plan."""
    plan = make_plan(requests=4, arrivals=Poisson(2.5), seed=9)
    read = load_conditions(tmp_path, plan)
    assert (read.n_requests, read.rate_per_s, read.seed, read.model) == (4, 2.5, 9, "lab-model")
    read = load_conditions(tmp_path, make_plan(requests=4, arrivals=Users(2, 0.5), seed=9))
    assert (read.rate_per_s, read.users, read.think_s) == (0.0, 2, 0.5)


def test_a_recording_does_not_take_the_live_lab_s_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may be up at once; the message for a missing endpoint names the recording."""
    for name in ("LAB_STATE_DIR", "LAB_PLACE", "LAB_RECORDING", "LAB_VLLM_URL"):
        monkeypatch.delenv(name, raising=False)
    live, replayed = load_settings(place="local"), load_settings(place="recorded", recording="x")
    assert replayed.state_dir == live.state_dir / "recorded" / "x"
    monkeypatch.setenv("LAB_PLACE", "recorded")
    assert load_settings().state_dir == live.state_dir / "recorded" / "notebooks"
    with pytest.raises(NotUp, match="place is `recorded`"):
        load_settings(recording="x").endpoint("vllm")
