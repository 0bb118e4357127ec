"""Measures against cases computed by hand, and against the truth that they estimate."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.measures import books, cost_table, histogram_quantile, rates, sample_quantile, wilson
from lab.prices import ApiPrice, MachinePrice


def test_wilson_by_hand() -> None:
    """8 of 10: centre (p + z²/2n)/(1 + z²/n), half width z·sqrt(p(1-p)/n + z²/4n²)/(1 + z²/n), z = 1.959964."""
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson(0, 10)[0] == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(FrameError, match="no share"):
        wilson(0, 0)


def test_rates_leave_out_what_is_missing() -> None:
    """Two of three known values are true; the unknown one does not count as false."""
    judged = pd.DataFrame({"kind": list("aabb"), "right": pd.array([True, False, True, None], dtype="boolean")})
    assert rates(judged, ["right"]).loc["right", ["hits", "n"]].tolist() == [2, 3]
    assert rates(judged, ["right"], by="kind").loc["b", "n"] == 1
    with pytest.raises(FrameError, match="wrong"):
        rates(judged, ["wrong"])


def test_books_show_a_missing_token() -> None:
    """One token less in one source is a difference of one; equal sources have none."""
    table = books({"client": {"prompt": 10, "completion": 5}, "spans": {"prompt": 9, "completion": 5}})
    assert table["difference_tokens"].to_dict() == {"prompt": 1, "completion": 0}
    with pytest.raises(FrameError, match="two sources"):
        books({"client": {"prompt": 1}})


def test_cost_by_hand() -> None:
    """An hour at 2 USD, half of it busy, for 1,000 requests of 900 prompt and 100 completion tokens."""
    machine = MachinePrice("m", 2.0, "", date(2026, 1, 1), "https://x")
    api = ApiPrice("a", 1.0, 10.0, "", date(2026, 1, 1), "https://x")
    table = cost_table(900_000, 0, 100_000, 1000, seconds=3600, busy_s=1800, machine=machine, apis={"a": api})
    assert table["cost_usd"].tolist() == pytest.approx([2.0, 1.0, 1.9])
    assert table["usd_per_mtok"].tolist() == pytest.approx([2.0, 1.0, 1.9])


@given(st.lists(st.floats(0.0005, 50), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_the_buckets_interval_holds_the_true_quantile(values: list[float], q: float) -> None:
    """Whatever the values, the true quantile (the value of that rank) lies in the bucket that is named."""
    bounds = np.array([0.001, 0.01, 0.1, 0.3, 1.0, 5.0, np.inf])
    counts = np.histogram(values, np.concatenate(([0.0], bounds[:-1], [1e9])))[0]
    # numpy's bins are closed on the left, Prometheus' on the right: nudge what lies on a bound
    counts = np.array([sum(lo < v <= hi for v in values) for lo, hi in zip([0, *bounds[:-1]], bounds, strict=True)])
    buckets = pd.DataFrame({"lower": [0.0, *bounds[:-1]], "upper": bounds, "count": counts})
    found = histogram_quantile(buckets, q)
    true = sorted(values)[int(np.ceil(q * len(values))) - 1]
    assert found.low_s <= true <= found.high_s
    assert found.low_s <= found.estimate_s <= found.high_s


def test_one_bucket_is_said() -> None:
    """vLLM's default first bound of 0.3 s: p50 reads 0.15 s whatever the truth, so it says so."""
    buckets = pd.DataFrame({"lower": [0.0, 0.3], "upper": [0.3, np.inf], "count": [100, 0]})
    found = histogram_quantile(buckets, 0.5)
    assert (found.estimate_s, found.low_s, found.high_s) == (0.15, 0.0, 0.3)
    assert "ONE bucket" in str(found)
    with pytest.raises(FrameError, match="empty"):
        histogram_quantile(buckets.assign(count=0), 0.5)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 60 samples of 100 exponential values, the 95 % interval of the median holds ln 2 in at least 50."""
    rng = np.random.default_rng(1)
    found = [sample_quantile(rng.exponential(size=100), 0.5) for _ in range(60)]
    assert sum(f.low_s <= np.log(2) <= f.high_s for f in found) >= 50
