"""A rehearsal's window ends with its load; one that cannot be driven starts no incident."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab import incidents
from lab.errors import WorkloadError
from lab.investigation import Rehearsal, rehearse
from lab.observation.window import parse_window
from lab.runs import RUNS
from lab.settings import load_settings
from lab.workload import Run

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


def test_the_window_ends_with_the_load() -> None:
    """The minute in which a request that hangs is waited for would be a change of the load."""
    run = Run.load(next(path.parent for path in RECORDED.glob("*/run.json")))
    start, end = run.window
    last_sent = run.records["scheduled_at"].max()
    rehearsal = Rehearsal(replace(run, window=(start, end + 60)), None, calm_until=start + 1)
    assert last_sent < parse_window(rehearsal.window)[1] < last_sent + 5
