"""Exact increases of counters. PromQL's increase() extrapolates to the edges of the window, so it is rarely whole."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames.samples import AnswerLike, samples_of
from lab.frames.series import label_columns


def increase_exact(
    answer: AnswerLike, start: float | datetime, end: float | datetime
) -> pd.DataFrame:
    """How much each counter grew between the last sample at or before `start` and the last one at or before `end`.

    `answer` holds raw samples (`Prometheus.samples`); instants are epoch seconds, or datetimes with a time zone.
    One row a series: its labels (categorical) and

    - `increase`: sum of the steps; where a value is below the one before, the counter was reset, and counts from 0;
    - `resets`: how many such steps;
    - `from_zero`: the series has no sample at or before `start`, so it is taken to have been born at 0 in the window
      (true of a label set that appears with its first event; not if the scraping itself began in the window);
    - `first_at`, `last_at`: instants of the samples used (UTC; `first_at` is NaT where `from_zero`).

    Series without a sample up to `end` are left out. An empty answer gives an empty frame.
    """
    first_ms, last_ms = _ms(start), _ms(end)
    counts, time_ms, values = samples_of(answer.series)
    edges = np.concatenate(([0], np.cumsum(counts)))
    rows, kept = [], []
    for i, one in enumerate(answer.series):
        part = slice(edges[i], edges[i + 1])
        row = _increase(time_ms[part], values[part], first_ms, last_ms)
        if row is not None:
            rows.append(row)
            kept.append(one.labels)
    table = pd.DataFrame(rows, columns=["increase", "resets", "from_zero", "first_at", "last_at"])
    table = table.astype({"increase": "float64", "resets": "int64", "from_zero": "bool"})
    for column in ("first_at", "last_at"):
        table[column] = pd.to_datetime(table[column], unit="ms", utc=True)
    labels = pd.DataFrame(label_columns(kept, np.ones(len(kept), dtype=np.int64)))
    return pd.concat([labels, table], axis=1)


def _increase(time_ms: np.ndarray, values: np.ndarray, first_ms: int, last_ms: int) -> tuple | None:
    real = ~np.isnan(values)
    time_ms, values = time_ms[real], values[real]
    before = np.searchsorted(time_ms, first_ms, side="right") - 1
    last = np.searchsorted(time_ms, last_ms, side="right") - 1
    if last < 0:
        return None
    born = before < 0
    path = np.concatenate(([0.0], values[: last + 1])) if born else values[before : last + 1]
    steps = np.diff(path)
    fell = steps < 0
    increase = float(np.where(fell, path[1:], steps).sum())
    return increase, int(fell.sum()), born, None if born else time_ms[before], time_ms[last]


def _ms(instant: float | datetime) -> int:
    if isinstance(instant, datetime):
        if instant.tzinfo is None:
            raise FrameError(
                "an instant without a time zone was given", got=repr(instant), fix="add tzinfo=UTC"
            )
        instant = instant.timestamp()
    return round(float(instant) * 1000)
