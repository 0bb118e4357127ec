"""Goodput and Little's law."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lab.errors import FrameError
from lab.measures import Slo, concurrency, goodput


def test_goodput_counts_what_was_in_time() -> None:
    """Late ones, failed ones and those without a first token are not good;
    throughput has every answer.
    """
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
