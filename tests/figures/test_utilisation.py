"""Modes add up to the cores, and what is not known is not drawn as nothing."""

from __future__ import annotations

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.dates import date2num

from lab import figures
from lab.errors import FrameError
from lab.measures import cores_by_mode
from tests.measures.recorded import recorded_samples

TIMES = pd.to_datetime(["2026-01-01T00:00:00Z", "2026-01-01T00:00:02Z"])
CORES = pd.DataFrame(
    {
        "time": [t for t in TIMES for _ in range(3)],
        "mode": ["idle", "user", "weird"] * 2,
        "value": [1.5, 0.5, 0.0, 1.0, 1.0, 0.0],
    }
)


@pytest.fixture(autouse=True)
def _close() -> object:
    yield
    plt.close("all")


def test_modes_are_stacked_up_to_the_cores() -> None:
    """Work below, idle on top; a mode that never occurs takes no place in the legend."""
    ax = figures.cpu_modes(CORES)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["user", "idle"]
    assert ax.get_ylim() == (0.0, 2.0)


def test_minutes_without_samples_stay_empty() -> None:
    """Recorded samples without those of 80 seconds: no line and no area across the gap."""
    first = recorded_samples("node_cpu_seconds_total")["time"].min()
    gap = (first + pd.Timedelta("120s"), first + pd.Timedelta("200s"))
    running = recorded_samples("vllm:num_requests_running", job="vllm")
    running = running[~running["time"].between(*gap)]
    cores = cores_by_mode(recorded_samples("node_cpu_seconds_total"))
    cores = cores[~cores["time"].between(*gap)]
    middle = date2num(gap[0] + pd.Timedelta("40s"))

    (line,) = figures.timeline(running, label="metric", unit="requests").lines
    x = date2num(line.get_xdata())
    y = np.asarray(line.get_ydata(), float)
    last = np.flatnonzero(x < middle)[-1]
    assert np.isnan(y[last]) and np.isfinite(np.delete(y, last)).all()

    for area in figures.cpu_modes(cores).collections:
        assert not any(path.contains_point((middle, 0.01)) for path in area.get_paths())


def test_counts_have_whole_numbers_on_their_axis() -> None:
    """A quarter of a request is not a tick; the legend covers no line."""
    running = recorded_samples("vllm:num_requests_running", job="vllm")
    ax = figures.timeline(running[running["value"] <= 1], label="metric", unit="requests")
    assert all(tick % 1 == 0 for tick in ax.get_yticks())
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1


def test_no_data_is_written_where_nothing_is_known() -> None:
    """A missing source has no bar and says so; small shares keep their digits."""
    ax = figures.busy_by({"cores": 0.5, "MFU": 0.0012, "GPU": math.nan})
    assert [t.get_text() for t in ax.texts] == ["50%", "0.12%", "no data"]
    assert [p.get_width() for p in ax.patches] == [50.0, 0.12, 0.0]


def test_nothing_is_refused() -> None:
    """An empty figure would look like a quiet machine."""
    with pytest.raises(FrameError, match="nothing to draw"):
        figures.cpu_modes(CORES.iloc[:0])
    with pytest.raises(FrameError, match="no source has an answer"):
        figures.busy_by({"GPU": math.nan})
