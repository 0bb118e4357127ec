"""Where a request's time went: its stream, its critical path, its growth with tokens, quantiles.

Quantiles are of samples and of histograms, each with the interval of the truth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import FrameError, require_columns

SEED = 20_261_125  # of bootstraps and samples: the same data give the same interval
MAX_POINTS = 2_000  # there are n²/2 pairs; beyond this a seeded sample of the points is taken


@dataclass(frozen=True)
class Slope:
    """y = intercept + per_x * x, fitted to `n` points with x from `x_low` to `x_high`.

    (`low`, `high`) is the 95 % interval of `per_x`. The line is not valid beyond its points.
    """

    per_x: float
    low: float
    high: float
    intercept: float
    n: int
    x_low: float
    x_high: float

    def at(self, x: float) -> float:
        """Return the line's y at x."""
        return self.intercept + self.per_x * x


def slope(
    x: Sequence[float] | np.ndarray | pd.Series,
    y: Sequence[float] | np.ndarray | pd.Series,
    *,
    confidence: float = 0.95,
) -> Slope:
    """Return the median slope of all pairs of points (Theil 1950; Sen 1968), with its interval.

    Up to 29 % of the points may be stalls without moving it much, where least squares follows a
    single one. The interval is by Kendall's tau. Pairs with a missing value are left out. Raises
    FrameError where fewer than three points or a single x is left.
    """
    points = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
    points = points[:, np.isfinite(points).all(axis=0)]
    n = points.shape[1]
    x_low = float(points[0].min()) if n else math.nan
    x_high = float(points[0].max()) if n else math.nan
    if n < 3 or x_low == x_high:
        raise FrameError(
            "no line can be drawn through these points",
            got=f"{n} points, x from {x_low:g} to {x_high:g}",
            fix="give points of different x",
        )

    if n > MAX_POINTS:
        points = np.random.default_rng(SEED).choice(points, MAX_POINTS, replace=False, axis=1)
    fit = stats.theilslopes(points[1], points[0], alpha=confidence)
    per_x, intercept, low, high = map(float, fit)
    return Slope(per_x, low, high, intercept, n, x_low, x_high)


def slopes_by_half(
    x: Sequence[float] | pd.Series, y: Sequence[float] | pd.Series
) -> tuple[Slope, Slope]:
    """Return the slope up to the median x, and that beyond it.

    Where the two intervals do not meet, one line through all points describes neither half. Prefill
    is such a case: each token attends to all before it, so a token of a long prompt costs more than
    one of a short prompt. Raises FrameError where a half has fewer than three points or a single x.
    """
    xs = np.asarray(x, dtype=float)
    ys = np.asarray(y, dtype=float)
    lower = xs <= np.nanmedian(xs)
    return slope(xs[lower], ys[lower]), slope(xs[~lower], ys[~lower])


def token_latencies(records: pd.DataFrame) -> pd.DataFrame:
    """Return TTFT, TPOT and E2E of each request as its client saw them.

    Columns: `request_id`, `ttft_s`, `tpot_s`, `e2e_s`. TPOT (time per output token) is a mean per
    request: (last token - first token) / (tokens - 1), NaN for fewer than two tokens and for
    tokens that all came in a single chunk. The inter-token latency (ITL) is not a number per
    request but one per gap: see `stream_gaps`.
    """
    gaps = (records["completion_tokens"] - 1).where(records["completion_tokens"] > 1)
    table = records[["request_id", "ttft_s", "e2e_s"]].copy()
    stream_s = records["last_token_at"] - records["first_token_at"]
    table.insert(2, "tpot_s", stream_s.where(stream_s > 0) / gaps)
    return table


def stream_gaps(records: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pause between two chunks of a stream.

    Columns: `request_id`, `position` (1: after the first chunk), `gap_s`.

    `records` are the driver's (`chunk_offsets_s`: a JSON list of seconds). A chunk is what the
    server sent at once: one that holds tokens back (a parser that waits for a whole tool name)
    sends several in one chunk, after a longer pause. Requests with fewer than two chunks have no
    pause. Raises FrameError without that column.
    """
    gaps = [np.diff(offsets) for offsets in _chunk_offsets(records)]
    sizes = [len(each) for each in gaps]
    positions = [np.arange(1, size + 1) for size in sizes]
    return pd.DataFrame(
        {
            "request_id": np.repeat(records["request_id"].to_numpy(), sizes),
            "position": np.concatenate([np.empty(0, dtype="int64"), *positions]),
            "gap_s": np.concatenate([np.empty(0), *gaps]),
        }
    )


def longest_gaps(records: pd.DataFrame) -> pd.DataFrame:
    """Return the longest pause in each request's stream, one row per request.

    Columns: `request_id`, `chunks`, `longest_gap_s` (NaN for fewer than two chunks), and
    `share_ratio`: that pause's share of the time from first to last chunk.
    """
    by_request = stream_gaps(records).groupby("request_id")["gap_s"].agg(["max", "sum"])
    table = by_request.reindex(records["request_id"]).reset_index()
    table["chunks"] = [len(offsets) for offsets in _chunk_offsets(records)]
    table["share_ratio"] = table["max"] / table["sum"].where(table["sum"] > 0)
    table = table.rename(columns={"max": "longest_gap_s"})
    return table[["request_id", "chunks", "longest_gap_s", "share_ratio"]]


def critical_path(trees: pd.DataFrame) -> pd.DataFrame:
    """Return which spans hold the critical path of many traces, the longest first.

    `trees` holds the rows of `lab.frames.trace_tree` of any number of traces (`critical_s`: the
    time that a span itself spends on its trace's critical path). One row per service and span name:

    - `service`, `name`;
    - `critical_s`, summed, and `share_ratio` of the sum over all spans;
    - `traces`: in how many it is on the path at all;
    - `duration_s`: sum of the spans' whole durations. What is long but not critical could be
      removed without a user noticing.

    `attrs["root_s"]` is the sum of the roots' durations, which `critical_s` adds up to where
    children lie inside their parents. Raises FrameError for rows that are not trees.
    """
    require_columns(
        trees,
        ("critical_s", "depth", "duration_s", "name", "service", "trace_id"),
        "these are no trees: {} missing",
        fix="make them with trace_tree",
    )

    keys = ["service", "name"]
    on_path = trees["trace_id"].where(trees["critical_s"] > 0)
    named = trees.assign(traces=on_path).astype({key: str for key in keys})
    table = named.groupby(keys, as_index=False).agg(
        critical_s=("critical_s", "sum"),
        traces=("traces", "nunique"),
        duration_s=("duration_s", "sum"),
    )
    table.insert(3, "share_ratio", table["critical_s"] / table["critical_s"].sum())
    table = table.sort_values("critical_s", ascending=False, ignore_index=True)
    table.attrs["root_s"] = float(trees.loc[trees["depth"] == 0, "duration_s"].sum())
    return table


def blocking_prefills(
    turns: pd.DataFrame, *, min_wait_s: float = 0.5, tolerance_s: float = 0.1
) -> pd.DataFrame:
    """Return the model calls whose prefill held up others (head-of-line blocking).

    `turns` is a turn frame of one engine. A call was held up where it waited at least `min_wait_s`,
    was scheduled within `tolerance_s` after a long prefill's end, and spent most of its wait beside
    that prefill. Queues that end one after another are no such case: there the engine lacked room.

    One row per culprit, the worst first: `trace_id`, `prompt_tokens`, `prefill_s`,
    `first_token_at`, `victims` (calls held up), `waited_s` (their waits, in total). Calls without
    the engine's times are left out.
    """
    timed = turns.dropna(subset=["queue_s", "prefill_s", "scheduled_at", "first_token_at"])
    culprits = timed[timed["prefill_s"] >= min_wait_s / 2]
    waiting = timed[timed["queue_s"] >= min_wait_s]
    columns = ["trace_id", "prompt_tokens", "prefill_s", "scheduled_at", "first_token_at"]
    pairs = pd.merge_asof(
        waiting[["queue_s", "scheduled_at"]]
        .rename(columns={"scheduled_at": "at"})
        .sort_values("at"),
        culprits[columns].assign(at=culprits["first_token_at"]).sort_values("at"),
        on="at",
        tolerance=tolerance_s,
    ).dropna(subset="first_token_at")

    arrived = pairs["at"] - pairs["queue_s"]
    beside_s = pairs["first_token_at"] - np.maximum(arrived, pairs["scheduled_at"])
    pairs = pairs[beside_s >= pairs["queue_s"] / 2]
    table = pairs.groupby(["trace_id", "prompt_tokens", "prefill_s", "first_token_at"])["queue_s"]
    table = table.agg(victims="size", waited_s="sum").reset_index()
    table["prompt_tokens"] = table["prompt_tokens"].astype("int64")
    return table.sort_values("waited_s", ascending=False, ignore_index=True)


def _chunk_offsets(records: pd.DataFrame) -> list[np.ndarray]:
    require_columns(
        records,
        ["chunk_offsets_s"],
        "these records have no {}",
        fix="take them from Run.records, not a request frame",
    )
    cells = records["chunk_offsets_s"]
    lists = [json.loads(cell) if isinstance(cell, str) else cell for cell in cells]
    return [np.asarray(seconds, dtype=float) for seconds in lists]


# vLLM 0.32, vllm/v1/metrics/buckets.py: REQUEST_LATENCY_BUCKETS (e2e, queue, prefill, decode,
# inference), in seconds.
VLLM_REQUEST_LATENCY_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
# The default bounds of opentelemetry-sdk, made for milliseconds. Llama Stack 0.7 and OGX 1.5 define
# no bounds for their histograms of seconds, so they use these.
OTEL_DEFAULT = (
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10000.0,
)  # fmt: skip


@dataclass(frozen=True)
class Quantile:
    """A quantile of n observations, with its confidence interval. NaN where n is 0."""

    q: float
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        interval = f"[{self.low:.4g}, {self.high:.4g}]"
        return f"p{self.q * 100:g} = {self.value:.4g} {interval} (n={self.n})"


@dataclass(frozen=True)
class BucketQuantile:
    """A quantile read from a histogram: it lies in (`low`, `high`], the bounds of its bucket.

    `value` is what PromQL's histogram_quantile() returns, an interpolation within the bucket.
    `bucket_ratio` is the share of all observations in that bucket.
    """

    q: float
    value: float
    low: float
    high: float
    n: float
    bucket_ratio: float

    @property
    def single_bucket(self) -> bool:
        """Whether one bucket holds all observations: then `value` follows from its bounds and q."""
        return self.bucket_ratio == 1.0

    def __str__(self) -> str:
        name = f"p{self.q * 100:g}"
        bucket = f"({self.low:g}, {self.high:g}]"
        if math.isnan(self.value):
            return f"{name}: no observations"
        if self.single_bucket:
            return f"{name} is somewhere in {bucket}: one bucket holds all {self.n:g}"
        return f"{name} in {bucket}, by interpolation {self.value:.4g} (n={self.n:g})"


def quantile(
    values: Sequence[float] | np.ndarray | pd.Series,
    q: float,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = SEED,
) -> Quantile:
    """Return the q-quantile of the values, with a percentile bootstrap interval.

    The value is interpolated between order statistics (Hyndman & Fan 1996, type 7); NaN is left
    out. For the interval (Efron & Tibshirani 1993, chapter 13) the rank that a resample would pick
    is drawn instead of the resample itself: the r-th smallest of n uniform draws is
    Beta(r, n-r+1) distributed. The bootstrap knows nothing beyond the largest value: its interval
    of the p99 of 50 values is too short.

    Raises FrameError unless 0 <= q <= 1.
    """
    _check_q(q)
    known = np.sort(np.asarray(values, dtype=float))
    known = known[~np.isnan(known)]
    n = len(known)
    if n == 0:
        return Quantile(q, math.nan, math.nan, math.nan, 0)

    rank = math.floor(q * (n - 1)) + 1
    draws = np.random.default_rng(seed).beta(rank, n - rank + 1, size=resamples)
    resampled = known[np.minimum((draws * n).astype(int), n - 1)]
    edge = (1 - confidence) / 2
    value = float(np.quantile(known, q))
    low, high = np.quantile(resampled, [edge, 1 - edge])
    return Quantile(q, value, min(float(low), value), max(float(high), value), n)


def bucket_quantile(buckets: pd.DataFrame, q: float) -> BucketQuantile:
    """Return the q-quantile as far as a histogram determines it.

    `buckets` is one histogram of `lab.frames.histogram_frame`. The bucket is the first whose
    cumulative count reaches q*n; within it Prometheus interpolates (promql/quantile.go,
    `bucketQuantile`): low + (high - low) * (q*n - count below) / (count in bucket). In the last
    bucket, which has no upper bound, the value is its lower bound and `high` is inf.

    Raises FrameError unless 0 <= q <= 1.
    """
    _check_q(q)
    count = buckets["count"].to_numpy(float)
    total = float(count.sum())
    if total == 0:
        return BucketQuantile(q, math.nan, math.nan, math.nan, 0.0, math.nan)

    cumulative = np.cumsum(count)
    rank = q * total
    index = int(np.argmax((cumulative >= rank) & (count > 0)))
    low = float(buckets["lower"].iloc[index])
    high = float(buckets["upper"].iloc[index])
    value = low
    if math.isfinite(high):
        below = cumulative[index] - count[index]
        value = float(low + (high - low) * (rank - below) / count[index])
    return BucketQuantile(q, value, low, high, total, float(count[index] / total))


@dataclass(frozen=True)
class HistogramReading:
    """What a histogram of durations determines: the mean, and the bucket of each quantile.

    `why_not` says why quantiles, or all numbers, are not known; empty where they are. A quantile is
    (low, high]; where one bucket holds everything that is the bucket, for every q.
    """

    n: float
    mean_s: float
    quantiles: Mapping[float, tuple[float, float]]
    why_not: str = ""


def read_histogram(
    buckets: pd.DataFrame, sum_s: float, q: Sequence[float] = (0.5, 0.95, 0.99)
) -> HistogramReading:
    """Return what a histogram determines, after checking it against its own sum.

    `buckets` is one histogram of `lab.frames.histogram_frame`, `sum_s` the growth of its `_sum` in
    the same window (NaN if not known). A sum of 0, or one that the buckets do not allow, is a
    defect of the exporter: then no number is returned.
    """
    count = buckets["count"].to_numpy(float)
    n = float(count.sum())
    nothing = {each: (math.nan, math.nan) for each in q}
    if n == 0:
        return HistogramReading(0.0, math.nan, nothing, "no observation in this window")
    if why := _contradiction(buckets, count, sum_s):
        return HistogramReading(n, math.nan, nothing, why)

    read = [bucket_quantile(buckets, each) for each in q]
    limits = {each.q: (each.low, each.high) for each in read}
    why = ""
    if read[0].single_bucket:
        bucket = f"({read[0].low:g}, {read[0].high:g}]"
        why = f"one bucket, {bucket} s, holds all {n:g}: no quantile is known, only the mean"
    return HistogramReading(n, sum_s / n, limits, why)


def _contradiction(buckets: pd.DataFrame, count: np.ndarray, sum_s: float) -> str:
    """Return why a histogram's sum and its buckets cannot both be true, '' if they can."""
    if (count < 0).any():
        return (
            "its buckets contradict each other (a wider one counts less): two sets of bounds were "
            "added up, or recorded rates"
        )
    n = count.sum()
    if sum_s == 0:
        return (
            f"the sum of {n:g} durations is 0: a defect of the exporter, or all were below its "
            "resolution; this is not a latency"
        )
    least = float((buckets["lower"].to_numpy(float) * count).sum())
    upper = buckets["upper"].to_numpy(float)
    most = float((upper[count > 0] * count[count > 0]).sum())
    slack = 0.02 * max(abs(sum_s), least)  # a scrape may fall between a bucket and its sum
    if sum_s < least - slack or sum_s > most + slack:
        return (
            f"its sum, {sum_s:g} s, is not possible with its buckets ({least:g} to {most:g} s): "
            "they are not of the same requests, or the exporter is wrong"
        )
    return ""


def quantiles_by_source(
    q: Sequence[float],
    *,
    samples: Mapping[str, Sequence[float]],
    histograms: Mapping[str, pd.DataFrame],
) -> pd.DataFrame:
    """Return the same quantiles from several sources, one row per source and q.

    Columns: `source`, `q`, `value`, `low`, `high`, `n`, and `interval`, which is 'bootstrap 95 %'
    for samples and 'bucket' or 'one bucket holds all' for histograms.
    """
    rows = []
    for each in q:
        for name, values in samples.items():
            exact = asdict(quantile(values, each))
            rows.append({"source": name, **exact, "interval": "bootstrap 95 %"})
        for name, buckets in histograms.items():
            read = bucket_quantile(buckets, each)
            interval = "one bucket holds all" if read.single_bucket else "bucket"
            rows.append({"source": name, **asdict(read), "interval": interval})
    return pd.DataFrame(rows, columns=["source", "q", "value", "low", "high", "n", "interval"])


def rebin(values: Sequence[float] | pd.Series, bounds: Sequence[float]) -> pd.DataFrame:
    """Return the histogram that Prometheus would hold of these values.

    Columns as of `lab.frames.histogram_frame`: `lower`, `upper`, `count`, `cumulative`. A value on
    a bound belongs to the bucket below (`le`); NaN is left out. Raises FrameError unless the bounds
    are finite and rise.
    """
    edges = np.asarray(bounds, dtype=float)
    if not len(edges) or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise FrameError(
            "the bounds of a histogram are finite and rise", got=repr(list(bounds))[:200]
        )

    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    upper = np.append(edges, math.inf)
    count = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(upper))
    return pd.DataFrame(
        {
            "lower": np.minimum(np.append(0.0, edges), upper),
            "upper": upper,
            "count": count.astype(float),
            "cumulative": np.cumsum(count).astype(float),
        }
    )


def quantiles_by_bucketing(
    values: Mapping[str, Sequence[float]],
    bounds: Mapping[str, Sequence[float]],
    q: Sequence[float] = (0.5, 0.95, 0.99),
) -> pd.DataFrame:
    """Compare exact quantiles with what histogram_quantile() would return from these buckets.

    `values` and `bounds` have the same keys: the quantities. One row per quantity and q:

    - `what`, `q`, and `n`, the number of values;
    - `exact_s` with its bootstrap interval `exact_low_s`, `exact_high_s`;
    - `bucketed_s`, the interpolation, and the bucket `low_s`, `high_s`;
    - `in_bucket_ratio`: share of all values that lie in that one bucket;
    - `error_ratio` = bucketed_s / exact_s - 1.
    """
    if set(values) != set(bounds):
        raise FrameError(
            "values and bounds must name the same quantities",
            got=f"{sorted(values)}, {sorted(bounds)}",
        )

    rows = []
    for what in values:
        buckets = rebin(values[what], bounds[what])
        for each in q:
            exact = quantile(values[what], each)
            bucketed = bucket_quantile(buckets, each)
            rows.append(
                {
                    "what": what,
                    "q": each,
                    "exact_s": exact.value,
                    "exact_low_s": exact.low,
                    "exact_high_s": exact.high,
                    "bucketed_s": bucketed.value,
                    "low_s": bucketed.low,
                    "high_s": bucketed.high,
                    "in_bucket_ratio": bucketed.bucket_ratio,
                    "error_ratio": bucketed.value / exact.value - 1 if exact.value else math.nan,
                    "n": exact.n,
                }
            )
    return pd.DataFrame(rows)


def _check_q(q: float) -> None:
    if not 0 <= q <= 1:
        raise FrameError("a quantile is between 0 and 1", got=repr(q), fix="write 0.95 for p95")
