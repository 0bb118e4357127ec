"""Goodput and Little's law."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lab.errors import FrameError
from lab.measures import Slo, concurrency, goodput, littles_law


def test_goodput_counts_what_was_in_time() -> None:
    """Late ones, failed ones and those without a first token are not good; throughput has every answer."""
    frame = pd.DataFrame(
        {
            "status": ["ok", "ok", "ok", "error"],
            "ttft_s": [0.1, 0.9, math.nan, 0.1],
            "e2e_s": [1.0, 1.0, 1.0, 1.0],
        }
    )
    found = goodput(frame, Slo(ttft_s=0.5), window_s=2.0)
    assert (
        found.good_per_s == 0.5
        and found.throughput_per_s == 1.5
        and found.good_ratio == 0.25
        and found.n == 4
    )
    assert goodput(frame, Slo(), 1.0).good_ratio == 0.75
    with pytest.raises(FrameError, match="longer than nothing"):
        goodput(frame, Slo(), 0)


def test_concurrency_is_a_step_function() -> None:
    """Two requests that overlap; one that was never sent."""
    table = concurrency(np.array([0.0, 1.0, math.nan]), np.array([2.0, 3.0, math.nan]))
    assert table["at"].tolist() == [0, 1, 2, 3] and table.running.tolist() == [1, 2, 1, 0]


def test_littles_law_holds_of_what_was_measured_right_and_shows_what_was_not() -> None:
    """A queue made by hand: sampled truly, both sides agree within the sampling; sampled at half, the error shows."""
    rng = np.random.default_rng(3)
    start = np.cumsum(rng.exponential(0.1, 3000))
    end = start + rng.exponential(0.5, 3000)
    window = (20.0, 250.0)
    instants = np.arange(20, 250, 0.05)
    running = np.searchsorted(np.sort(start), instants, "right") - np.searchsorted(
        np.sort(end), instants, "right"
    )
    samples = pd.DataFrame({"at": instants, "running": running})
    law = littles_law(start, end, samples, window)
    assert law.arrivals_per_s == pytest.approx(10, rel=0.1) and law.mean_time_s == pytest.approx(
        0.5, rel=0.1
    )
    assert abs(law.error_ratio) < 0.02
    half = samples.assign(running=running / 2)
    assert littles_law(start, end, half, window).error_ratio == pytest.approx(1.0, abs=0.05)
    with pytest.raises(FrameError, match="no sample"):
        littles_law(start, end, samples, (1000.0, 1001.0))
