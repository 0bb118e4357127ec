"""What a histogram would have said: the same values, kept in somebody's default buckets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.measures.latency import bucket_quantile, quantile

# vLLM 0.32, vllm/v1/metrics/buckets.py: REQUEST_LATENCY_BUCKETS (e2e, queue, prefill, decode, inference),
# TIME_TO_FIRST_TOKEN_BUCKETS and INTER_TOKEN_LATENCY_BUCKETS, in seconds.
VLLM_REQUEST_LATENCY_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
VLLM_TTFT_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
VLLM_ITL_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
# opentelemetry-sdk's default bounds, made for milliseconds. Llama Stack 0.7 and OGX 1.5 give their histograms of
# seconds no bounds of their own, so these are what they have.
OTEL_DEFAULT = (
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0, 10000.0,
)  # fmt: skip


def rebin(values: Sequence[float], bounds: Sequence[float]) -> pd.DataFrame:
    """The histogram that Prometheus would hold of these values: lower, upper, count, cumulative, as
    `lab.frames.histogram_frame` has it. A value on a bound belongs to the bucket below (`le`); NaN is left out.

    Raises FrameError unless the bounds are finite and rise.
    """
    edges = np.asarray(bounds, dtype=float)
    if not len(edges) or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise FrameError(
            "the bounds of a histogram are finite and rise", got=repr(list(bounds))[:200]
        )
    found = np.asarray(values, dtype=float)
    found = found[~np.isnan(found)]
    upper = np.append(edges, math.inf)
    count = np.bincount(np.searchsorted(edges, found, side="left"), minlength=len(upper)).astype(
        float
    )
    lower = np.append(0.0, edges)
    return pd.DataFrame(
        {
            "lower": np.minimum(lower, upper),
            "upper": upper,
            "count": count,
            "cumulative": np.cumsum(count),
        }
    )


def quantiles_by_bucketing(
    values: Mapping[str, Sequence[float]],
    bounds: Mapping[str, Sequence[float]],
    q: Sequence[float] = (0.5, 0.95, 0.99),
) -> pd.DataFrame:
    """What histogram_quantile() would say of these values if they had been kept in these bounds, beside the truth.

    `values` and `bounds` have the same keys: the quantities. One row a quantity and q: `what`, `q`, `exact_s` with its
    bootstrap interval `exact_low_s`, `exact_high_s`, `bucketed_s` (the interpolation), the bucket `low_s`, `high_s`,
    `in_bucket_ratio` (share of all observations that lie in that one bucket), `error_ratio` = bucketed_s / exact_s - 1, `n`.
    """
    if set(values) != set(bounds):
        raise FrameError(
            "values and bounds must name the same quantities",
            got=f"{sorted(values)}, {sorted(bounds)}",
        )
    rows = []
    for what in values:
        buckets = rebin(values[what], bounds[what])
        for one in q:
            true, said = quantile(values[what], one), bucket_quantile(buckets, one)
            wrong = said.value / true.value - 1 if true.value else math.nan
            rows.append(
                (what, one, true.value, true.low, true.high, said.value, said.low, said.high, said.bucket_ratio, wrong,
                 true.n)
            )  # fmt: skip
    columns = [
        "what",
        "q",
        "exact_s",
        "exact_low_s",
        "exact_high_s",
        "bucketed_s",
        "low_s",
        "high_s",
        "in_bucket_ratio",
        "error_ratio",
    ]
    return pd.DataFrame(rows, columns=[*columns, "n"])
