"""Does the server keep up with this load? A verdict from two tests, which may also be that one cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import FrameError
from lab.measures.capacity_littles import in_flight_at

KEEPS_UP, SATURATED, UNCLEAR = "keeps up", "saturated", "cannot tell"
BATCHES = 12  # of a step: neighbouring instants see nearly the same backlog, so they are averaged before the line


@dataclass(frozen=True)
class Saturation:
    """What happened to the backlog in a step.

    offered_per_s: requests that were due; answered_per_s, with the Poisson interval of the server's true rate;
    backlog_growth_per_s, the slope of the number under way, with its 95 % interval. Two tests: the slope is above 0,
    and even the upper end of the answered rate is below the offered one. Both say so: 'saturated'; neither: 'keeps up';
    only one: 'cannot tell' (near the limit a backlog wanders for longer than a step, so no step can tell).
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
    """Judge a step of open-loop load by its requests' times. `window` is the step without its warm-up and without the
    time after its last arrival.

    The slope is of a least-squares line through the means of `batches` equal parts of the window (batch means: Law &
    Kelton, Simulation Modeling and Analysis, chapter 9), its interval by Student's t. Answers are counted in the
    window; the interval of their rate is Garwood's (1936), exact for a Poisson count. Raises FrameError for a window
    without an arrival.
    """
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    first, last = window
    span_s = last - first
    arrived = int(((start >= first) & (start <= last)).sum())
    if not arrived or not span_s > 0:
        raise FrameError("no request arrived in this window", got=f"{first} to {last}")
    answered = int(((end > first) & (end <= last)).sum())
    low, high = poisson_interval(answered)
    growth, growth_low, growth_high = _trend(start, end, first, last, batches)
    grows, behind = growth_low > 0, high < arrived
    verdict = SATURATED if grows and behind else UNCLEAR if grows or behind else KEEPS_UP
    return Saturation(
        arrived / span_s,
        answered / span_s,
        low / span_s,
        high / span_s,
        growth,
        growth_low,
        growth_high,
        verdict,
    )


def poisson_interval(count: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a Poisson mean of which `count` events were seen (Garwood 1936)."""
    edge = (1 - confidence) / 2
    low = float(stats.chi2.ppf(edge, 2 * count) / 2) if count else 0.0
    return low, float(stats.chi2.ppf(1 - edge, 2 * (count + 1)) / 2)


def batch_mean(values: Sequence[float], *, batches: int = 10) -> tuple[float, float, float]:
    """(mean, low, high) of values in order of time that are alike their neighbours: the 95 % interval is that of the
    means of `batches` equal parts, by Student's t, since that of the values themselves would be far too short.

    Fewer parts where there are fewer than two values a part; (mean, NaN, NaN) of fewer than four values.
    """
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    if len(found) < 4:
        return (float(found.mean()) if len(found) else math.nan), math.nan, math.nan
    parts = np.array([part.mean() for part in np.array_split(found, min(batches, len(found) // 2))])
    half = float(stats.t.ppf(0.975, len(parts) - 1) * parts.std(ddof=1) / math.sqrt(len(parts)))
    mean = float(found.mean())
    return mean, mean - half, mean + half


def settle_verdicts(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the steps of a sweep with every verdict that another step contradicts changed to 'cannot tell'.

    A server that keeps up with a load keeps up with every lighter one. Where it did not (the machine was busy with
    something else, the driver lagged), neither the saturated step below nor the step that kept up above can be trusted.
    `steps` has `offered_per_s` and `verdict`; the result adds `contradicted` (bool) and keeps the order.
    """
    saturated = steps["verdict"] == SATURATED
    keeps_up = steps["verdict"] == KEEPS_UP
    rate = steps["offered_per_s"]
    lowest_saturated = rate[saturated].min()
    highest_kept = rate[keeps_up].max()

    contradicted = (saturated & (rate < highest_kept)) | (keeps_up & (rate > lowest_saturated))
    verdict = steps["verdict"].where(~contradicted, UNCLEAR)
    return steps.assign(verdict=verdict, contradicted=contradicted)


def knee(steps: pd.DataFrame) -> pd.Series:
    """Return the row of a sweep with the greatest power: throughput / latency (Kleinrock 1979).

    Beyond it, latency grows by a larger share than throughput. `steps` has `answered_per_s` and `e2e_mean_s`, and may
    have `verdict`: then only steps that keep up count, since the latency of others grows with the length of the step.
    Raises FrameError where no step is left.
    """
    if "verdict" in steps:
        steps = steps[steps["verdict"] == KEEPS_UP]
    if steps.empty:
        raise FrameError(
            "a knee needs the steps of a sweep",
            got="no step that keeps up",
            fix="begin the sweep at a lower load, or make its steps longer",
        )
    return steps.loc[(steps["answered_per_s"] / steps["e2e_mean_s"]).idxmax()]


def _trend(
    start: np.ndarray, end: np.ndarray, first: float, last: float, batches: int
) -> tuple[float, float, float]:
    instants = np.linspace(first, last, batches * 50, endpoint=False)
    means = in_flight_at(start, end, instants).reshape(batches, 50).mean(axis=1)
    times = instants.reshape(batches, 50).mean(axis=1)
    fit = stats.linregress(times - first, means)
    half = float(stats.t.ppf(0.975, batches - 2)) * float(fit.stderr)
    return float(fit.slope), float(fit.slope) - half, float(fit.slope) + half
