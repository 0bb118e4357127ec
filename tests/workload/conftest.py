"""Run the driver without its garbage collections, which visit every object of the session."""

from __future__ import annotations

import gc
from unittest.mock import Mock

import pytest

from lab.workload import driver


@pytest.fixture(autouse=True)
def no_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save some tenths of a second per run; `test_a_run_is_not_disturbed` uses the real ones."""
    monkeypatch.setattr(driver, "gc", Mock(spec=gc))
