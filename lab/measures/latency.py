"""Quantiles and means of durations, each with the interval in which the truth lies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from lab.errors import FrameError

SEED = 20_261_125  # of the bootstrap: the same data give the same interval


@dataclass(frozen=True)
class SampleQuantile:
    """A quantile of n durations, in seconds, with its bootstrap interval. NaN of none."""

    q: float
    estimate_s: float
    low_s: float
    high_s: float
    n: int

    def __str__(self) -> str:
        return f"p{self.q * 100:g} = {self.estimate_s:.4g} s [{self.low_s:.4g}, {self.high_s:.4g}] (n={self.n})"


@dataclass(frozen=True)
class HistogramQuantile:
    """A quantile read from a histogram. All that is known is that it lies in (`low_s`, `high_s`], its bucket's bounds.

    `estimate_s` is what PromQL's histogram_quantile() prints: a straight line drawn through the bucket. `bucket_ratio`:
    the share of all observations in that bucket; if it is 1, the estimate says nothing but the bucket's bounds and q.
    """

    q: float
    estimate_s: float
    low_s: float
    high_s: float
    n: float
    bucket_ratio: float

    @property
    def one_bucket(self) -> bool:
        return self.bucket_ratio == 1.0

    def __str__(self) -> str:
        name, inside = f"p{self.q * 100:g}", f"({self.low_s:g}, {self.high_s:g}] s"
        if self.one_bucket:
            return (
                f"{name} is somewhere in {inside}: ONE bucket holds all {self.n:g}, {self.estimate_s:.4g} s is made up"
            )
        return f"{name} is in {inside}, by interpolation {self.estimate_s:.4g} s (n={self.n:g})"


def sample_quantile(
    values: Sequence[float], q: float, *, confidence: float = 0.95, resamples: int = 1000, seed: int = SEED
) -> SampleQuantile:
    """The q-quantile (linear interpolation between order statistics: Hyndman & Fan 1996, type 7) of the values that are
    there, with a percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    Rather than resampling n values again and again, the rank that a resample would pick is drawn: the r-th smallest of
    n uniform draws is Beta(r, n-r+1) distributed, so one draw a resample is enough, whatever n is. NaN is left out. The
    bootstrap knows nothing beyond the largest value seen: its interval of p99 of 50 values is too short.

    Raises FrameError unless 0 <= q <= 1.
    """
    _check(q)
    found = np.sort(np.asarray(values, dtype=float))
    found = found[~np.isnan(found)]
    n = len(found)
    if n == 0:
        return SampleQuantile(q, math.nan, math.nan, math.nan, 0)
    rank = math.floor(q * (n - 1)) + 1
    draws = np.random.default_rng(seed).beta(rank, n - rank + 1, size=resamples)
    resampled = found[np.minimum((draws * n).astype(int), n - 1)]
    edge = (1 - confidence) / 2
    estimate = float(np.quantile(found, q))
    low, high = np.quantile(resampled, [edge, 1 - edge])
    return SampleQuantile(q, estimate, min(float(low), estimate), max(float(high), estimate), n)


def quantile_table(
    frame: pd.DataFrame, column: str, *, q: Sequence[float] = (0.5, 0.95, 0.99), by: Sequence[str] = ()
) -> pd.DataFrame:
    """`sample_quantile` of a column in seconds, one row a group and q.

    Columns: those of `by`, then q, estimate_s, low_s, high_s, n. Raises FrameError for a column that is not there.
    """
    if missing := [name for name in (column, *by) if name not in frame]:
        raise FrameError(f"there is no column {', '.join(missing)}", had=", ".join(map(str, frame.columns)))
    groups = frame.groupby(list(by), observed=True) if by else [((), frame)]
    rows = [
        {**dict(zip(by, key, strict=True)), **asdict(sample_quantile(part[column].to_numpy(float), one))}
        for key, part in groups
        for one in q
    ]
    return pd.DataFrame(rows, columns=[*by, "q", "estimate_s", "low_s", "high_s", "n"])


def histogram_quantile(buckets: pd.DataFrame, q: float) -> HistogramQuantile:
    """The q-quantile as far as a histogram knows it. `buckets` is one histogram of `lab.frames.histogram_frame`.

    Its bucket is the first whose cumulative count reaches q*n; the estimate is interpolated in it as Prometheus' is:
    low + (high - low) * (q*n - count below) / (count in bucket). In the last bucket, which has no upper bound, the
    estimate is its lower bound, and `high_s` is inf. (promql/quantile.go, `bucketQuantile`.)

    Raises FrameError for an empty histogram, or unless 0 <= q <= 1.
    """
    _check(q)
    count = buckets["count"].to_numpy(float)
    total = count.sum()
    if total == 0:
        raise FrameError("the histogram is empty: nothing was observed in the window", do="widen the window")
    upto, rank = np.cumsum(count), q * total
    at = int(np.argmax((upto >= rank) & (count > 0)))
    low, high = float(buckets["lower"].iloc[at]), float(buckets["upper"].iloc[at])
    share = (rank - (upto[at] - count[at])) / count[at]
    estimate = low if math.isinf(high) else low + (high - low) * share
    return HistogramQuantile(q, float(estimate), low, high, float(total), float(count[at] / total))


def histogram_mean(total_s: float, count: float) -> float:
    """The exact mean of a histogram's observations, whatever its buckets: the increase of `_sum` over that of `_count`.

    NaN of none.
    """
    return total_s / count if count > 0 else math.nan


def quantiles_by_source(
    q: Sequence[float], *, samples: Mapping[str, Sequence[float]], histograms: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """The same quantile from several sources, side by side: one row a q and source.

    Columns: `source`, `q`, `estimate_s`, `low_s`, `high_s`, `n`, `interval` ('bootstrap 95 %' for samples, 'bucket' or
    'one bucket holds all' for histograms).
    """
    rows = []
    for one in q:
        for name, values in samples.items():
            rows.append({"source": name, **asdict(sample_quantile(values, one)), "interval": "bootstrap 95 %"})
        for name, buckets in histograms.items():
            found = histogram_quantile(buckets, one)
            how = "one bucket holds all" if found.one_bucket else "bucket"
            rows.append({"source": name, **asdict(found), "interval": how})
    return pd.DataFrame(rows, columns=["source", "q", "estimate_s", "low_s", "high_s", "n", "interval"])


def _check(q: float) -> None:
    if not 0 <= q <= 1:
        raise FrameError("a quantile is between 0 and 1", had=repr(q), do="write 0.95 for p95")
