"""A run is saved whole or not at all, and read back as it was."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lab.errors import WorkloadError
from lab.workload import Lag, Run, run_plan
from tests.workload.misbehaving import chat_answer, serving
from tests.workload.plans import plan, request, settings


@pytest.fixture(scope="module")
def run() -> Run:
    with serving(chat_answer) as server:
        return run_plan(
            plan(request(0), request(1, offset_s=0.05)), settings(server.url), progress=False
        )


def test_round_trip(run: Run, tmp_path: Path) -> None:
    """Records, window, lag and plan come back equal."""
    again = Run.load(run.save(tmp_path))
    pd.testing.assert_frame_equal(again.records, run.records)
    assert (again.run_id, again.window, again.lag, again.plan) == (
        run.run_id,
        run.window,
        run.lag,
        run.plan,
    )
    assert sorted(p.name for p in (tmp_path / run.run_id).iterdir()) == [
        "plan.jsonl",
        "records.parquet",
        "run.json",
    ]


def test_saving_twice_is_refused(run: Run, tmp_path: Path) -> None:
    """A run that is there is not written over, and nothing half-written stays beside it."""
    run.save(tmp_path)
    with pytest.raises(WorkloadError, match="cannot be saved"):
        run.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [run.run_id]


@pytest.mark.parametrize("part", ["records.parquet", "run.json", "plan.jsonl"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_damaged_runs_are_refused(run: Run, tmp_path: Path, part: str, how: str) -> None:
    """A folder with a part missing or cut is reported, not partly read."""
    path = run.save(tmp_path) / part
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(WorkloadError):
        Run.load(tmp_path / run.run_id)


def test_window_holds_the_run(run: Run) -> None:
    """The window begins with the plan's start and ends after the last answer."""
    start, end = run.window
    assert start <= run.records.scheduled_at.min() and run.records.done_at.max() <= end


def test_lag_is_flagged_on_either_side() -> None:
    """Late sending and late noticing both count, from the 99th percentile on."""
    few, many = [0.0] * 99 + [1.0], [0.0] * 90 + [1.0] * 10
    assert not Lag.of([0.0], [0.0], [], 0.03).lagged
    assert Lag.of(many, [0.0], [], 0.03).lagged and Lag.of([0.0], many, [], 0.03).lagged
    assert not Lag.of([0.0] * 900 + few, [], [], 0.03).lagged
