"""Little's law as a check of measurements, without the excuse of wide intervals: exact books, a paired comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import FrameError


@dataclass(frozen=True)
class LittlesBooks:
    """L = λW over a finite window, with what its edges owe (Little & Graves 2008, section 5.2).

    `mean_in_system` is the exact integral of the number in the system over the window, divided by its length;
    `arrivals_per_s` * `mean_time_s` (arrivals in the window, their whole times) is λW. What differs is due to requests
    that were there before the window (`before`: their time inside) and time after it of those that arrived in it
    (`after`), both a second of the window. `rest` = mean_in_system - (λW + before - after) must be mere rounding.
    """

    mean_in_system: float
    arrivals_per_s: float
    mean_time_s: float
    before: float
    after: float
    rest: float
    n: int

    @property
    def lambda_w(self) -> float:
        return self.arrivals_per_s * self.mean_time_s


def littles_books(start: np.ndarray, end: np.ndarray, window: tuple[float, float]) -> LittlesBooks:
    """Both sides of Little's law from the same requests. The integral is taken over the step function of how many were
    under way, not over the requests, so that an error in either shows in `rest`. NaN (never sent) is left out.

    Raises FrameError for a window without a request.
    """
    start, end = _real(start, end)
    # From the window's beginning: seconds since the epoch leave a float only tenths of a microsecond.
    start, end, first, last = start - window[0], end - window[0], 0.0, window[1] - window[0]
    arrived = (start >= first) & (start < last)
    if not arrived.any() or not last > first:
        raise FrameError(
            "no request arrived in this window",
            got=f"{window[0]} to {window[1]}, {len(start)} requests",
        )
    span_s = last - first
    mean_time = float((end - start)[arrived].mean())
    rate = arrived.sum() / span_s
    earlier = start < first
    before = float(np.clip(np.minimum(end, last) - first, 0, None)[earlier].sum()) / span_s
    after = float(np.clip(end - last, 0, None)[arrived].sum()) / span_s
    mean_in = _integral(start, end, first, last) / span_s
    rest = mean_in - (rate * mean_time + before - after)
    return LittlesBooks(mean_in, float(rate), mean_time, before, after, rest, int(arrived.sum()))


def in_flight_at(start: np.ndarray, end: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How many requests were under way at these instants (started at or before, not yet ended)."""
    start, end = _real(start, end)
    instants = np.asarray(at, dtype=float)
    return np.searchsorted(np.sort(start), instants, "right") - np.searchsorted(
        np.sort(end), instants, "right"
    )


@dataclass(frozen=True)
class GaugeCheck:
    """A sampled gauge against the number that was really there at the very instants of its samples.

    `difference` is the mean of gauge - true over the samples, with its 95 % interval (t, samples taken as independent).
    The comparison is paired, so that the coming and going of the load is not in the interval.
    """

    gauge_mean: float
    true_mean: float
    difference: float
    low: float
    high: float
    samples: int

    @property
    def relative(self) -> float:
        return self.difference / self.true_mean if self.true_mean else math.nan


def gauge_check(
    samples: pd.DataFrame, start: np.ndarray, end: np.ndarray, *, delay_s: float = 0.0
) -> GaugeCheck:
    """Compare samples of a gauge (columns `at` in epoch seconds, `value`) with requests' intervals.

    `delay_s`: how much later than its timestamp a sample was taken (Prometheus stamps a scrape with its beginning).
    Raises FrameError for fewer than two samples.
    """
    return paired_check(
        samples["value"], in_flight_at(start, end, samples["at"].to_numpy(float) + delay_s)
    )


def paired_check(gauge: Sequence[float], true: Sequence[float]) -> GaugeCheck:
    """Samples of a gauge against what should be there at each of them. Raises FrameError for fewer than two."""
    value, there = np.asarray(gauge, dtype=float), np.asarray(true, dtype=float)
    if len(value) < 2:
        raise FrameError("a gauge cannot be checked by fewer than two samples", got=f"{len(value)}")
    difference = value - there
    half = float(
        stats.t.ppf(0.975, len(value) - 1) * difference.std(ddof=1) / math.sqrt(len(value))
    )
    mean = float(difference.mean())
    return GaugeCheck(
        float(value.mean()), float(there.mean()), mean, mean - half, mean + half, len(value)
    )


def _integral(start: np.ndarray, end: np.ndarray, first: float, last: float) -> float:
    """Area under the step function of requests under way, between two instants."""
    at = np.concatenate((start, end))
    step = np.concatenate((np.ones(len(start)), -np.ones(len(end))))
    order = np.argsort(at, kind="stable")
    at, level = at[order], np.cumsum(step[order])
    edges = np.clip(np.append(at, last), first, last)
    return float((level * np.diff(edges)).sum())


def _real(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    there = ~(np.isnan(start) | np.isnan(end))
    return start[there], end[there]
