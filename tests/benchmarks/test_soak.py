"""The soak's judgement of growth."""

from __future__ import annotations

import random

import pytest

from benchmarks.soak import growth, verdict

MINUTES = [i / 6 for i in range(150)]


@pytest.mark.parametrize(("percent", "expected"), [(0, "steady"), (20, "grows")])
def test_growth_is_found_in_noise(percent: float, expected: str) -> None:
    """A known growth lies in the interval, with noise of 0.05 % and one jump down."""
    r = random.Random(1)
    mib = [400 * (1 + percent / 100 * t / 60) * (1 + r.gauss(0, 0.0005)) for t in MINUTES]
    mib[40] -= 150
    slope = growth(MINUTES, mib)
    assert slope["low"] - 1 < percent < slope["high"] + 1
    assert verdict(slope, 1) == expected


def test_a_wide_interval_is_not_a_verdict() -> None:
    """An interval on both sides of the limit says that it is not known."""
    slope = {"percent_per_hour": 1.2, "low": -3.0, "high": 5.0}
    assert verdict(slope, 1).startswith("not known")
