"""Exact increases of counters, and histograms made of them.

PromQL's increase() extrapolates to the edges of the window, so its result is rarely a whole number.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames.replicas import merge_copies
from lab.frames.series import AnswerLike, label_columns, samples_of

_DTYPES = {"increase": "float64", "resets": "int64", "from_zero": "bool"}
_TIMES = ("first_at", "last_at")


def increase_exact(
    answer: AnswerLike, start: float | datetime, end: float | datetime
) -> pd.DataFrame:
    """Return the growth of each counter from the last sample up to `start` to the last up to `end`.

    `answer` holds raw samples (`Prometheus.samples`); times are seconds since the epoch, or
    datetimes with a time zone. The result has one row per series: its labels (categorical) and

    - `increase`: the sum of the steps; where a value is below the one before, the counter was
      reset, and counts from 0;
    - `resets`: the number of such steps;
    - `from_zero`: the series has no sample up to `start`, so it is taken to start at 0 in the
      window (right for a label set that appears with its first event; wrong if the scraping itself
      began in the window);
    - `first_at`, `last_at`: the times of the samples used (UTC; `first_at` is NaT if `from_zero`).

    Series without a sample up to `end` are left out. An empty answer gives an empty frame. Raises
    FrameError for samples that are not Prometheus', and for times that are not usable.
    """
    start_ms = _to_ms(start)
    end_ms = _to_ms(end)
    counts, time_ms, values = samples_of(answer.series)
    edges = np.concatenate(([0], np.cumsum(counts)))
    rows = []
    labels = []
    for i, series in enumerate(answer.series):
        part = slice(edges[i], edges[i + 1])
        row = _increase(time_ms[part], values[part], start_ms, end_ms)
        if row is not None:
            rows.append(row)
            labels.append(series.labels)
    table = pd.DataFrame(rows, columns=[*_DTYPES, *_TIMES]).astype(_DTYPES)
    for column in _TIMES:
        table[column] = pd.to_datetime(table[column], unit="ms", utc=True)
    label_table = pd.DataFrame(label_columns(labels, np.ones(len(labels), dtype=np.int64)))
    return pd.concat([label_table, table], axis=1)


def histogram_frame(
    answer: AnswerLike, start: float | datetime, end: float | datetime, *, by: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the observations between two times, one row per bucket, in order of `by` and `upper`.

    `answer` holds raw samples (`Prometheus.samples`) of `<histogram>_bucket`, or of all parts of
    the histogram, as a native one has them. They are summed over all labels but those in `by`;
    ranks that repeat one engine's values count once. The columns are those of `by`, then

    - `lower`, `upper`: the bucket holds values in (lower, upper]; the first lower bound is 0, the
      last upper bound is inf;
    - `count`: observations in this bucket alone;
    - `cumulative`: observations up to `upper`.

    Raises FrameError where there is no `le` label, a label of `by` is missing, or buckets
    contradict each other.
    """
    buckets = merge_copies(increase_exact(answer, start, end), [*_DTYPES, *_TIMES])
    columns = [*by, "lower", "upper", "count", "cumulative"]
    if buckets.empty:
        return pd.DataFrame({name: [] for name in columns})
    missing = [name for name in ("le", *by) if name not in buckets]
    if missing:
        raise FrameError(
            f"these samples have no label {', '.join(missing)}",
            got=f"labels {', '.join(c for c in buckets.columns if c not in (*_DTYPES, *_TIMES))}",
            fix="query the samples of a histogram's `_bucket` series",
        )
    buckets = buckets[buckets["le"].notna()].copy()
    buckets["upper"] = _bounds(buckets["le"])
    sums = buckets.groupby([*by, "upper"], observed=True, sort=True)["increase"].sum()
    table = sums.rename("cumulative").reset_index()
    groups = table.groupby(list(by) or np.zeros(len(table)), observed=True, sort=False)
    table["lower"] = groups["upper"].shift(fill_value=0.0)
    table["count"] = table["cumulative"] - groups["cumulative"].shift(fill_value=0.0)
    contradictions = table[table["count"] < 0]
    if len(contradictions):
        raise FrameError(
            "the buckets of a histogram contradict each other: a wider one counts less",
            got=contradictions.head(3).to_string(index=False),
            fix="sum only over series with the same bucket bounds (`by` the label that separates "
            "versions), and over counters rather than recorded rates",
        )
    if not np.isinf(groups["upper"].max()).all():
        raise FrameError(
            "a histogram has no +Inf bucket", got=f"bounds {sorted(table.upper.unique())}"
        )
    return table[columns]


def _bounds(labels: pd.Series) -> pd.Series:
    try:
        return labels.astype(str).astype(float)
    except ValueError as e:
        raise FrameError("a bucket's bound (`le`) is not a number", got=str(e)) from e


def _increase(time_ms: np.ndarray, values: np.ndarray, start_ms: int, end_ms: int) -> tuple | None:
    """Return one row of `increase_exact`, None for a series without a sample up to the end."""
    valid = ~np.isnan(values)
    time_ms = time_ms[valid]
    values = values[valid]
    first = np.searchsorted(time_ms, start_ms, side="right") - 1
    last = np.searchsorted(time_ms, end_ms, side="right") - 1
    if last < 0:
        return None
    from_zero = first < 0
    path = values[max(first, 0) : last + 1]
    if from_zero:
        path = np.concatenate(([0.0], path))
    steps = np.diff(path)
    is_reset = steps < 0
    increase = float(np.where(is_reset, path[1:], steps).sum())
    first_ms = None if from_zero else time_ms[first]
    return increase, int(is_reset.sum()), from_zero, first_ms, time_ms[last]


def _to_ms(time: float | datetime) -> int:
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise FrameError("a datetime has no time zone", got=repr(time), fix="add tzinfo=UTC")
        time = time.timestamp()
    try:
        return round(min(max(float(time), -1e12), 1e12) * 1000)
    except (TypeError, ValueError) as e:
        raise FrameError("a time is not a number of seconds", got=repr(time)[:100]) from e
