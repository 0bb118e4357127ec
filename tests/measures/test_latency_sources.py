"""Default buckets, growth with tokens, streams and critical paths."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.measures import (
    OTEL_DEFAULT,
    VLLM_REQUEST_LATENCY_S,
    bucket_quantile,
    critical_path,
    longest_gaps,
    quantiles_by_bucketing,
    rebin,
    slope,
    stream_gaps,
    token_latencies,
)


def test_rebinning_puts_a_bound_into_the_bucket_below() -> None:
    """Prometheus' `le`: 0.5 belongs to (0.3, 0.5];
    what is missing is not counted; what is beyond lies in +Inf.
    """
    found = rebin([0.1, 0.3, 0.5, math.nan, 9.0], [0.3, 0.5])
    assert found["count"].tolist() == [2, 1, 1] and found["cumulative"].tolist() == [2, 3, 4]
    assert found["lower"].tolist() == [0, 0.3, 0.5] and found["upper"].tolist() == [
        0.3,
        0.5,
        math.inf,
    ]
    for bounds in ([], [0.5, 0.3], [0.3, math.inf]):
        with pytest.raises(FrameError, match="finite and rise"):
            rebin([1.0], bounds)


def test_what_a_dashboard_of_default_buckets_shows_whatever_the_truth() -> None:
    """A fast model: p95 reads 0.285 s in vLLM's default buckets,
    4.75 s in OpenTelemetry's; it says how wrong.
    """
    fast = np.full(200, 0.02)
    table = quantiles_by_bucketing(
        {"vLLM": fast, "Llama Stack": fast},
        {"vLLM": VLLM_REQUEST_LATENCY_S, "Llama Stack": OTEL_DEFAULT},
        [0.95],
    )
    assert table["bucketed_s"].tolist() == pytest.approx([0.285, 4.75])
    assert table["exact_s"].tolist() == [0.02, 0.02] and table["in_bucket_ratio"].tolist() == [1, 1]
    assert table["error_ratio"].tolist() == pytest.approx([0.285 / 0.02 - 1, 4.75 / 0.02 - 1])
    with pytest.raises(FrameError, match="the same quantities"):
        quantiles_by_bucketing({"a": fast}, {"b": OTEL_DEFAULT})


@given(st.lists(st.floats(0.0001, 100), min_size=1, max_size=60), st.floats(0.01, 1))
def test_the_rebinned_bucket_holds_the_true_quantile(values: list[float], q: float) -> None:
    """For any values, each one is counted once,
    and the quantile's bucket is the true one's.
    """
    buckets = rebin(values, VLLM_REQUEST_LATENCY_S)
    truth = sorted(values)[max(0, math.ceil(q * len(values) - 1e-12) - 1)]
    found = bucket_quantile(buckets, q)
    assert buckets["count"].sum() == len(values) and found.low < truth <= found.high


def test_a_slope_is_that_of_the_line_even_beside_stalls() -> None:
    """y = 2 + 3x exactly;
    a fifth of the points stalls for a hundred seconds and moves it by less than its interval.
    """
    x = np.arange(50.0)
    found = slope(x, 2 + 3 * x)
    assert (
        found.per_x == pytest.approx(3)
        and found.intercept == pytest.approx(2)
        and found.at(10) == pytest.approx(32)
    )
    noisy = 2 + 3 * x + np.random.default_rng(1).normal(0, 1, 50)
    noisy[::5] += 100
    stalled = slope(x, noisy)
    assert 0 < stalled.low < 3 < stalled.high
    with pytest.raises(FrameError, match="no line"):
        slope([1, 1, 1], [1, 2, 3])


def test_the_interval_of_a_slope_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 300 noisy lines, 95 % intervals hold the true slope in 90 to 99 of 100."""
    rng = np.random.default_rng(4)
    x = rng.uniform(0, 100, 40)
    found = (slope(x, 0.5 * x + rng.exponential(5, 40)) for _ in range(300))
    assert 0.90 <= np.mean([f.low <= 0.5 <= f.high for f in found]) <= 0.99


def records() -> pd.DataFrame:
    """Three requests: four chunks, one chunk, none."""
    return pd.DataFrame(
        {
            "request_id": ["a", "b", "c"],
            "chunk_offsets_s": ["[0.1, 0.2, 0.5, 0.6]", "[0.3]", "[]"],
            "ttft_s": [0.1, 0.3, math.nan],
            "e2e_s": [0.7, 0.4, 1.0],
            "first_token_at": [10.1, 10.3, math.nan],
            "last_token_at": [10.6, 10.3, math.nan],
            "completion_tokens": [6, 1, -1],
        }
    )


def test_gaps_are_between_chunks_and_the_longest_is_named() -> None:
    """By hand: 0.1, 0.3, 0.1; the longest is 3/5 of the stream. One chunk has no gap."""
    gaps = stream_gaps(records())
    assert gaps["gap_s"].tolist() == pytest.approx([0.1, 0.3, 0.1]) and gaps[
        "position"
    ].tolist() == [1, 2, 3]
    longest = longest_gaps(records())
    assert longest["longest_gap_s"].iloc[0] == pytest.approx(0.3) and longest["share_ratio"].iloc[
        0
    ] == pytest.approx(0.6)
    assert longest["chunks"].tolist() == [4, 1, 0] and longest["longest_gap_s"].isna().tolist() == [
        False,
        True,
        True,
    ]
    assert stream_gaps(records().iloc[1:]).empty
    with pytest.raises(FrameError, match="chunk_offsets_s"):
        stream_gaps(records().drop(columns="chunk_offsets_s"))


def test_tpot_is_a_requests_mean_and_needs_two_tokens() -> None:
    """Six tokens in half a second after the first: 0.1 s each."""
    found = token_latencies(records())
    assert found["tpot_s"].iloc[0] == pytest.approx(0.1) and found["tpot_s"].isna().tolist() == [
        False,
        True,
        True,
    ]


def test_the_critical_path_adds_up_over_traces() -> None:
    """Two traces: shares are of the sum, a span that is nowhere critical stays with zero traces."""
    trees = pd.DataFrame(
        {
            "trace_id": ["t1", "t1", "t1", "t2"], "service": ["c", "v", "x", "c"],
            "name": ["root", "call", "beside", "root"], "depth": [0, 1, 1, 0],
            "duration_s": [1.0, 0.7, 0.2, 3.0], "critical_s": [0.3, 0.7, 0.0, 3.0],
        }
    )  # fmt: skip
    table = critical_path(trees)
    assert table["name"].tolist() == ["root", "call", "beside"] and table["traces"].tolist() == [
        2,
        1,
        0,
    ]
    assert table["share_ratio"].tolist() == pytest.approx([3.3 / 4, 0.7 / 4, 0])
    assert table["critical_s"].sum() == pytest.approx(table.attrs["root_s"])
    with pytest.raises(FrameError, match="no trees"):
        critical_path(trees.drop(columns="depth"))
