"""How many requests are under way, whether that number grows, and Little's law as a check of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import FrameError

KEEPS_UP, UNCLEAR, SATURATED = "keeps up", "cannot tell", "saturated"
BATCHES = 12  # of a step: neighbouring instants have nearly the same backlog, so they are averaged
INSTANTS = 50  # per batch


def concurrency(start: np.ndarray, end: np.ndarray) -> pd.DataFrame:
    """Return how many requests were under way, as a step function.

    Columns: `at` (seconds), `running` (from `at` on). NaN (never sent) is left out.
    """
    start, end = _sent(start, end)
    steps = pd.DataFrame(
        {"at": np.concatenate((start, end)), "running": np.repeat([1, -1], len(start))}
    )
    table = steps.groupby("at", as_index=False)["running"].sum()
    return table.assign(running=table["running"].cumsum())


def in_flight_at(start: np.ndarray, end: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """Return how many requests were under way at these instants.

    A request counts from its start on, and not at its end any more.
    """
    start, end = _sent(start, end)
    begun = np.searchsorted(np.sort(start), np.asarray(instants, dtype=float), "right")
    ended = np.searchsorted(np.sort(end), np.asarray(instants, dtype=float), "right")
    return begun - ended


@dataclass(frozen=True)
class LittlesLaw:
    """L = λW over a finite window, corrected at its edges (Little & Graves 2008, section 5.2).

    - `mean_in_system` is L: the exact integral of the number in the system over the window, divided
      by its length;
    - `arrivals_per_s` * `mean_time_s` is λW: arrivals in the window and their whole times;
    - `before`: time inside the window of requests that arrived before it, and `after`: time beyond
      the window of those that arrived in it, both per second of the window;
    - `rest` = L - (λW + before - after), which must be rounding only;
    - `n`: arrivals.
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
        """Arrival rate times mean time."""
        return self.arrivals_per_s * self.mean_time_s


def littles_law(start: np.ndarray, end: np.ndarray, window: tuple[float, float]) -> LittlesLaw:
    """Return both sides of Little's law from the same requests.

    The integral is taken over the step function of how many were under way, not over the requests,
    so that an error in either shows in `rest`. NaN (never sent) is left out. Raises FrameError for
    a window without an arrival.
    """
    start, end = _sent(start, end)
    # Seconds since the window's beginning: seconds since the epoch leave a float only tenths of a
    # microsecond.
    start = start - window[0]
    end = end - window[0]
    span_s = window[1] - window[0]
    arrived = (start >= 0) & (start < span_s)
    if not arrived.any() or not span_s > 0:
        raise FrameError(
            "no request arrived in this window",
            got=f"{window[0]} to {window[1]}, {len(start)} requests",
        )

    n = int(arrived.sum())
    rate = n / span_s
    mean_time = float((end - start)[arrived].mean())
    inside = np.clip(np.minimum(end, span_s), 0, None)
    before = float(inside[start < 0].sum()) / span_s
    after = float(np.clip(end - span_s, 0, None)[arrived].sum()) / span_s
    mean_in = _integral(start, end, span_s) / span_s
    rest = mean_in - (rate * mean_time + before - after)
    return LittlesLaw(mean_in, rate, mean_time, before, after, rest, n)


def batch_mean(
    values: Sequence[float] | pd.Series, *, batches: int = 10
) -> tuple[float, float, float]:
    """Return (mean, low, high) of values in order of time that resemble their neighbours.

    The 95 % interval is that of the means of `batches` equal parts, by Student's t (batch means:
    Law & Kelton, Simulation Modeling and Analysis, chapter 9); that of the values themselves would
    be far too short. Fewer parts are used where a part would have fewer than two values, and
    (mean, NaN, NaN) is returned for fewer than four values.
    """
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < 4:
        return (float(known.mean()) if len(known) else math.nan), math.nan, math.nan

    parts = np.array_split(known, min(batches, len(known) // 2))
    means = np.array([part.mean() for part in parts])
    half = float(stats.t.ppf(0.975, len(means) - 1) * stats.sem(means))
    mean = float(known.mean())
    return mean, mean - half, mean + half


def poisson_interval(count: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a Poisson mean, from a count of events (Garwood 1936)."""
    edge = (1 - confidence) / 2
    low = float(stats.chi2.ppf(edge, 2 * count) / 2) if count else 0.0
    return low, float(stats.chi2.ppf(1 - edge, 2 * (count + 1)) / 2)


@dataclass(frozen=True)
class Saturation:
    """What happened to the backlog in a step of open-loop load.

    - `offered_per_s`: requests that were due;
    - `answered_per_s`, with the Poisson interval of the server's true rate;
    - `backlog_growth_per_s`: the slope of the number under way, with its 95 % interval.

    The verdict rests on two tests: the slope is above 0, and even the upper end of the answered
    rate is below the offered one. Both hold: 'saturated'; neither: 'keeps up'; one: 'cannot tell'
    (near the limit a backlog wanders for longer than a step, so no step can tell).
    """

    offered_per_s: float
    answered_per_s: float
    answered_low: float
    answered_high: float
    backlog_growth_per_s: float
    growth_low: float
    growth_high: float
    verdict: str


def saturation(
    start: np.ndarray, end: np.ndarray, window: tuple[float, float], *, batches: int = BATCHES
) -> Saturation:
    """Judge a step of open-loop load by the times of its requests.

    `window` is the step without its warm-up and without the time after its last arrival. The slope
    is of a least-squares line through the means of `batches` equal parts of the window (batch
    means, as in `batch_mean`), its interval by Student's t. Raises FrameError for a window without
    an arrival.
    """
    start = np.asarray(start, dtype=float)
    end = np.asarray(end, dtype=float)
    first, last = window
    span_s = last - first
    arrived = int(((start >= first) & (start <= last)).sum())
    if not arrived or not span_s > 0:
        raise FrameError("no request arrived in this window", got=f"{first} to {last}")

    answered = int(((end > first) & (end <= last)).sum())
    low, high = poisson_interval(answered)
    growth, growth_low, growth_high = _trend(start, end, window, batches)
    return Saturation(
        arrived / span_s,
        answered / span_s,
        low / span_s,
        high / span_s,
        growth,
        growth_low,
        growth_high,
        verdict=(KEEPS_UP, UNCLEAR, SATURATED)[(growth_low > 0) + (high < arrived)],
    )


def settle_verdicts(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the steps of a sweep with every contradicted verdict changed to 'cannot tell'.

    A server that keeps up with a load keeps up with every lighter one. Where it did not (the
    machine was busy with something else, the driver lagged), neither the saturated step below nor
    the step that kept up above can be trusted. `steps` has `offered_per_s` and `verdict`; the
    result adds `contradicted` (bool) and keeps the order.
    """
    saturated = steps["verdict"] == SATURATED
    keeps_up = steps["verdict"] == KEEPS_UP
    rate = steps["offered_per_s"]
    lowest_saturated = rate[saturated].min()
    highest_kept = rate[keeps_up].max()

    contradicted = (saturated & (rate < highest_kept)) | (keeps_up & (rate > lowest_saturated))
    verdict = steps["verdict"].where(~contradicted, UNCLEAR)
    return steps.assign(verdict=verdict, contradicted=contradicted)


def _sent(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = np.asarray(start, dtype=float)
    end = np.asarray(end, dtype=float)
    known = ~(np.isnan(start) | np.isnan(end))
    return start[known], end[known]


def _integral(start: np.ndarray, end: np.ndarray, span_s: float) -> float:
    """Return the area under the step function of requests under way, from 0 to `span_s`."""
    steps = concurrency(start, end)
    edges = np.clip(np.append(steps["at"], span_s), 0, span_s)
    return float((steps["running"].to_numpy(float) * np.diff(edges)).sum())


def _trend(
    start: np.ndarray, end: np.ndarray, window: tuple[float, float], batches: int
) -> tuple[float, float, float]:
    """Return the slope of the number under way per second, with its 95 % interval."""
    instants = np.linspace(*window, batches * INSTANTS, endpoint=False)
    backlog = in_flight_at(start, end, instants)
    means = backlog.reshape(batches, INSTANTS).mean(axis=1)
    times = instants.reshape(batches, INSTANTS).mean(axis=1)
    fit = stats.linregress(times - window[0], means)
    half = float(stats.t.ppf(0.975, batches - 2)) * float(fit.stderr)
    slope = float(fit.slope)
    return slope, slope - half, slope + half
