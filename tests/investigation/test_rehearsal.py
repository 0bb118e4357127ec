"""A rehearsal's window ends with its load; one that cannot be driven starts no incident."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab import incidents
from lab.errors import WorkloadError
from lab.investigation import Rehearsal, rehearsal, rehearse
from lab.observation.window import parse_window
from lab.runs import RUNS
from lab.settings import load_settings
from lab.workload import Poisson, Run, make_plan

RECORDED = Path(__file__).parents[2] / "data" / "recorded" / "notebooks" / RUNS


def test_a_load_that_cannot_be_planned_starts_no_incident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes before the calm time, which is a day here."""
    started: list[str] = []
    monkeypatch.setattr(incidents, "start", lambda name, *_, **__: started.append(name))
    settings = load_settings(state_dir=tmp_path)
    with pytest.raises(WorkloadError, match="seed is negative"):
        rehearse(settings, "slow_tool", calm_s=86_400.0, load_seed=-1)
    assert started == []
    assert incidents.current(settings) is None


def test_the_load_lasts_as_long_as_the_calm_time_and_the_incident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conversations of several requests do not shorten the load."""

    def drive(_: object, *, n_requests: int, rate_per_s: float, seed: int, **__: object) -> None:
        plan = make_plan(arrivals=Poisson(rate_per_s), requests=n_requests, seed=seed)
        lasts_s.append(plan.frame()["offset_s"].max())
        raise WorkloadError("nothing is sent in this test")

    lasts_s: list[float] = []
    monkeypatch.setattr(rehearsal, "drive", drive)
    with pytest.raises(WorkloadError, match="nothing is sent"):
        rehearse(load_settings(state_dir=tmp_path), calm_s=40.0, incident_s=60.0)
    assert 90.0 < lasts_s[0] < 100.0


def test_the_window_ends_with_the_load() -> None:
    """The minute in which a request that hangs is waited for would be a change of the load."""
    run = Run.load(next(path.parent for path in RECORDED.glob("*/run.json")))
    start, end = run.window
    last_sent = run.records["scheduled_at"].max()
    rehearsal = Rehearsal(replace(run, window=(start, end + 60)), None, calm_until=start + 1)
    assert last_sent < parse_window(rehearsal.window)[1] < last_sent + 5
