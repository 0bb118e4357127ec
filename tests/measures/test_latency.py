"""Quantiles and means, with the intervals in which the truth lies."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.measures import (
    bucket_quantile,
    quantile,
    quantiles_by_source,
)

BOUNDS = [
    0.3,
    0.5,
    0.8,
    1.0,
    2.0,
    math.inf,
]  # vLLM's default for request latencies begins like this


def histogram(values, bounds=BOUNDS) -> pd.DataFrame:
    """What Prometheus would keep of these values."""
    counts = np.histogram(values, [-math.inf, *bounds])[0] if len(values) else np.zeros(len(bounds))
    edges = (
        np.searchsorted(bounds, values, side="left") if len(values) else []
    )  # le: a bound belongs to its bucket
    counts = np.bincount(edges, minlength=len(bounds)).astype(float) if len(values) else counts
    return pd.DataFrame({"lower": [0.0, *bounds[:-1]], "upper": bounds, "count": counts})


def test_a_quantile_is_that_of_the_values() -> None:
    """By hand: the median of 1..5 is 3, p25 of 1..5 is 2;
    what is missing is left out and not counted.
    """
    assert quantile([5, 1, math.nan, 4, 2, 3], 0.5).value == 3
    found = quantile([1, 2, 3, 4, 5], 0.25)
    assert found.value == 2 and found.low <= 2 <= found.high and found.n == 5


def test_a_quantile_of_nothing_is_nan() -> None:
    """No number is made up."""
    found = quantile([math.nan], 0.5)
    assert found.n == 0 and math.isnan(found.value) and math.isnan(found.low)


def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 400 samples of 200 exponential values,
    95 % intervals hold the true median in 91 to 99 of 100.
    """
    rng = np.random.default_rng(1)
    truth = math.log(2)
    hits = sum(
        f.low <= truth <= f.high
        for f in (quantile(rng.exponential(size=200), 0.5) for _ in range(400))
    )
    assert 0.91 <= hits / 400 <= 0.99


def test_the_interval_is_that_of_plain_resampling() -> None:
    """The short cut by order statistics gives what resampling all values gives."""
    values = np.random.default_rng(2).lognormal(size=150)
    short = quantile(values, 0.9, resamples=4000)
    rng = np.random.default_rng(3)
    plain = np.quantile(
        [np.quantile(rng.choice(values, 150), 0.9) for _ in range(4000)], [0.025, 0.975]
    )
    assert [short.low, short.high] == pytest.approx(plain, rel=0.12)


def test_a_quantile_is_a_share() -> None:
    """95 instead of 0.95 is refused."""
    with pytest.raises(FrameError, match="between 0 and 1"):
        quantile([1.0], 95)


def test_one_bucket_that_holds_all_says_so() -> None:
    """Any value under the first bound reads p95 = 0.285 in PromQL:
    the bounds are all that is known.
    """
    fast, slow = (bucket_quantile(histogram([v] * 100), 0.95) for v in (0.002, 0.29))
    assert fast == slow and fast.value == pytest.approx(0.285)
    assert fast.single_bucket and (fast.low, fast.high) == (0.0, 0.3)
    assert "one bucket holds all 100" in str(fast)


def test_interpolation_is_prometheus() -> None:
    """10 values up to 0.3, 10 in (0.3, 0.5]: p75 is half way through the second bucket."""
    found = bucket_quantile(histogram([0.1] * 10 + [0.4] * 10), 0.75)
    assert found.value == pytest.approx(0.4) and not found.single_bucket


def test_beyond_the_last_bound_nothing_is_known() -> None:
    """In the +Inf bucket the value is the last bound,
    as PromQL gives it, and the interval has no end.
    """
    found = bucket_quantile(histogram([5.0, 7.0, 0.1]), 0.9)
    assert found.value == 2.0 and found.high == math.inf
    assert math.isnan(bucket_quantile(histogram([]), 0.5).value)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.001, 50), min_size=1, max_size=40), st.floats(0, 1))
def test_the_buckets_interval_holds_the_true_quantile(values: list[float], q: float) -> None:
    """The smallest value with at least q of all at or below it lies in the bucket that is named."""
    ordered = sorted(values)
    truth = ordered[max(0, math.ceil(q * len(values) - 1e-12) - 1)]
    found = bucket_quantile(histogram(values), q)
    assert found.low < truth <= found.high and found.low <= found.value <= found.high


def test_sources_side_by_side_say_what_kind_of_interval() -> None:
    """One row per source and q."""
    table = quantiles_by_source(
        [0.5, 0.95],
        samples={"client": [0.1, 0.2, 0.3]},
        histograms={
            "default buckets": histogram([0.1, 0.2, 0.25]),
            "fine": histogram([0.1, 0.4], [0.2, 0.5, math.inf]),
        },
    )
    assert table.interval.tolist()[:3] == ["bootstrap 95 %", "one bucket holds all", "bucket"]
    assert (
        len(table) == 6 and (table.low <= table.value).all() and (table.value <= table.high).all()
    )
