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
class Quantile:
    """A quantile of n observations, with its interval at the level that was asked for. NaN of none."""

    q: float
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return (
            f"p{self.q * 100:g} = {self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"
        )


@dataclass(frozen=True)
class BucketQuantile:
    """A quantile read from a histogram. All that is known is that it lies in (`low`, `high`], the bounds of its bucket.

    `value` is what PromQL's histogram_quantile() prints: a straight line drawn through the bucket. `single_bucket`: all
    observations lie in this one bucket, so `value` says nothing but the bucket's bounds and q.
    """

    q: float
    value: float
    low: float
    high: float
    n: float
    bucket_ratio: float

    @property
    def single_bucket(self) -> bool:
        return self.bucket_ratio == 1.0

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"p{self.q * 100:g}: no observations"
        if self.single_bucket:
            return f"p{self.q * 100:g} is somewhere in ({self.low:g}, {self.high:g}]: one bucket holds all {self.n:g}"
        return f"p{self.q * 100:g} in ({self.low:g}, {self.high:g}], by interpolation {self.value:.4g} (n={self.n:g})"


def quantile(
    values: Sequence[float],
    q: float,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = SEED,
) -> Quantile:
    """The q-quantile (linear interpolation between order statistics: Hyndman & Fan 1996, type 7) of the values that are
    there, with a percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    Rather than resampling n values again and again, the rank that a resample would pick is drawn: the r-th smallest of
    n uniform draws is Beta(r, n-r+1) distributed, so one draw a resample is enough, whatever n is. NaN is left out. The
    bootstrap knows nothing beyond the largest value seen: its interval of p99 of 50 values is too short.

    Raises FrameError unless 0 <= q <= 1.
    """
    if not 0 <= q <= 1:
        raise FrameError("a quantile is between 0 and 1", got=repr(q), fix="write 0.95 for p95")
    found = np.sort(np.asarray(values, dtype=float))
    found = found[~np.isnan(found)]
    n = len(found)
    if n == 0:
        return Quantile(q, math.nan, math.nan, math.nan, 0)
    rank = math.floor(q * (n - 1)) + 1
    draws = np.random.default_rng(seed).beta(rank, n - rank + 1, size=resamples)
    resampled = found[np.minimum((draws * n).astype(int), n - 1)]
    edge = (1 - confidence) / 2
    value = float(np.quantile(found, q))
    low, high = np.quantile(resampled, [edge, 1 - edge])
    return Quantile(q, value, min(float(low), value), max(float(high), value), n)


def quantiles(
    frame: pd.DataFrame,
    column: str,
    *,
    q: Sequence[float] = (0.5, 0.95, 0.99),
    by: Sequence[str] = (),
) -> pd.DataFrame:
    """`quantile` of a column, one row a group and q: the columns of `by`, then q, value, low, high, n."""
    if column not in frame:
        raise FrameError(f"there is no column {column}", got=", ".join(map(str, frame.columns)))
    groups = frame.groupby(list(by), observed=True) if by else [((), frame)]
    rows = [
        {**dict(zip(by, key, strict=True)), **asdict(quantile(part[column].to_numpy(float), one))}
        for key, part in groups
        for one in q
    ]
    return pd.DataFrame(rows, columns=[*by, "q", "value", "low", "high", "n"])


def bucket_quantile(buckets: pd.DataFrame, q: float) -> BucketQuantile:
    """The q-quantile as far as a histogram knows it. `buckets` is one histogram of `lab.frames.histogram_frame`.

    Its bucket is the first whose cumulative count reaches q*n; the value is interpolated in it as Prometheus' does:
    low + (high - low) * (q*n - count below) / (count in bucket). In the last bucket, which has no upper bound, the
    value is its lower bound, and `high` is inf. (promql/quantile.go, `bucketQuantile`.)
    """
    if not 0 <= q <= 1:
        raise FrameError("a quantile is between 0 and 1", got=repr(q), fix="write 0.95 for p95")
    count = buckets["count"].to_numpy(float)
    total = count.sum()
    if total == 0:
        return BucketQuantile(q, math.nan, math.nan, math.nan, 0.0, math.nan)
    upto, rank = np.cumsum(count), q * total
    at = int(np.argmax((upto >= rank) & (count > 0)))
    low, high = float(buckets["lower"].iloc[at]), float(buckets["upper"].iloc[at])
    share = (rank - (upto[at] - count[at])) / count[at]
    value = low if math.isinf(high) else low + (high - low) * share
    return BucketQuantile(q, float(value), low, high, float(total), float(count[at] / total))


def quantiles_by_source(
    q: Sequence[float],
    *,
    samples: Mapping[str, Sequence[float]],
    histograms: Mapping[str, pd.DataFrame],
) -> pd.DataFrame:
    """The same quantile from several sources, side by side: one row a source and q.

    Columns: `source`, `q`, `value`, `low`, `high`, `n`, `interval` ('bootstrap 95 %' for samples, 'bucket' or
    'one bucket holds all' for histograms).
    """
    rows = []
    for one in q:
        for name, values in samples.items():
            rows.append(
                {"source": name, **asdict(quantile(values, one)), "interval": "bootstrap 95 %"}
            )
        for name, buckets in histograms.items():
            found = bucket_quantile(buckets, one)
            how = "one bucket holds all" if found.single_bucket else "bucket"
            row = {k: v for k, v in asdict(found).items() if k != "bucket_ratio"}
            rows.append({"source": name, **row, "interval": how})
    return pd.DataFrame(rows, columns=["source", "q", "value", "low", "high", "n", "interval"])
