"""A rehearsal that cannot be driven starts no incident, and leaves none behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab import incidents
from lab.errors import WorkloadError
from lab.investigation import rehearse
from lab.settings import load_settings


def test_a_load_that_cannot_be_planned_starts_no_incident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes at once, not after the calm time."""
    started: list[str] = []
    monkeypatch.setattr(incidents, "start", lambda name, *_, **__: started.append(name))
    settings = load_settings(state_dir=tmp_path)
    began = time.monotonic()
    with pytest.raises(WorkloadError, match="seed is negative"):
        rehearse(settings, "slow_tool", calm_s=120.0, load_seed=-1)
    assert time.monotonic() - began < 60
    assert started == []
    assert incidents.current(settings) is None
