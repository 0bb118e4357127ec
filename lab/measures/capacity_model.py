"""Latency at a load that was not run, from a few minutes with a fixed number of requests under way.

The mechanism: a server that batches works at a speed that depends on how many requests it holds. With n closed-loop
users who never think, exactly n are held, and the mean time W(n) of a request gives the speed n / W(n). Put into a
birth-and-death process, these speeds give the number in the system when requests come at random instead: the
flow-equivalent server (Chandy, Herzog & Woo, 'Parametric analysis of queuing networks', IBM J. R&D 1975), which is
exact for processor sharing whatever the requests' sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lab.errors import FrameError

MAX_IN_SYSTEM = 20_000


@dataclass(frozen=True)
class ServiceCurve:
    """W(n) = alone_s - slot_s + slot_s * n: `alone_s` for a lone request, `slot_s` more for every other beside it.

    `slot_s` is the part of a request that the others must wait for; the rest is done for all at once. No more than
    1 / slot_s requests a second can be served.
    """

    alone_s: float
    slot_s: float

    @property
    def capacity_per_s(self) -> float:
        return 1 / self.slot_s

    def time_s(self, n: np.ndarray | float) -> np.ndarray | float:
        """W(n), the mean time of a request where n are under way."""
        return self.alone_s + self.slot_s * (np.asarray(n, dtype=float) - 1)

    def open_loop_s(self, rate_per_s: float) -> float:
        """Mean time of a request in seconds where they come at random: alone_s / (1 - rate * slot_s); inf from the
        capacity on.

        The birth-and-death process with speeds n / W(n) has a negative binomial number in the system, of mean
        rate * alone_s / (1 - rate * slot_s); Little's law makes a time of it.
        """
        free = 1 - rate_per_s * self.slot_s
        return self.alone_s / free if free > 0 else math.inf

    def states(self, rate_per_s: float) -> np.ndarray:
        """Probability that 0, 1, 2, ... are in the system at this rate; an arriving request sees the same (PASTA).

        p(n) = p(n-1) * rate * W(n) / n. Raises FrameError from the capacity on, where there is no steady state.
        """
        if not 0 <= rate_per_s * self.slot_s < 1:
            got = f"{rate_per_s:g} requests a second, capacity {self.capacity_per_s:.4g}"
            raise FrameError(
                "at this rate the backlog grows without end",
                got=got,
                fix="ask for a rate below capacity",
            )
        busy = rate_per_s * self.slot_s
        size = min(MAX_IN_SYSTEM, int(50 + 40 * (1 + rate_per_s * self.alone_s) / (1 - busy)))
        n = np.arange(1, size)
        logs = np.concatenate(
            ([0.0], np.cumsum(np.log(np.maximum(rate_per_s * self.time_s(n) / n, 1e-300))))
        )
        weights = np.exp(logs - logs.max())
        return weights / weights.sum()


def fit_service_curve(users: Sequence[float], time_s: Sequence[float]) -> ServiceCurve:
    """The line through W(n), by least squares of the relative errors, so that one user counts as much as sixty-four.

    Raises FrameError for fewer than two different numbers of users, or a line that does not rise.
    """
    n, w = np.asarray(users, dtype=float), np.asarray(time_s, dtype=float)
    if len(n) != len(w) or len(np.unique(n)) < 2 or (w <= 0).any():
        raise FrameError(
            "a service time needs at least two different numbers of users", got=f"{n} users, {w} s"
        )
    design = np.stack([np.ones_like(n), n - 1], axis=1) / w[:, None]
    alone, slot = np.linalg.lstsq(design, np.ones_like(w), rcond=None)[0]
    if not (alone > 0 and slot > 0):
        got = f"{alone:.4g} s alone, {slot:.4g} s for every other"
        raise FrameError(
            "more users did not take longer",
            got=got,
            fix="add levels with more users, or longer ones",
        )
    return ServiceCurve(float(alone), float(slot))


@dataclass(frozen=True)
class Prediction:
    """The mean time at a rate: what one more run would show, with 95 % confidence, as runs differ from each other."""

    rate_per_s: float
    value_s: float
    low_s: float
    high_s: float
    rounds: int


def predict(services: Sequence[ServiceCurve], rate_per_s: float) -> Prediction:
    """Mean time at a rate, of services that were fitted to independent rounds of the same measurement.

    The value is the geometric mean of the rounds' predictions. The interval is for one further run: Student's t on the
    logarithms, with the spread between rounds times sqrt(1 + 1/rounds) (Hahn & Meeker, Statistical Intervals, 4.7). A
    round whose capacity is below the rate makes the upper end inf. Raises FrameError for fewer than two rounds.
    """
    if len(services) < 2:
        raise FrameError(
            "without a second round nobody knows how much runs differ", got=f"{len(services)} round"
        )
    each = np.array([one.open_loop_s(rate_per_s) for one in services])
    if not np.isfinite(each).all():
        low = float(each.min()) if np.isfinite(each).any() else math.inf
        return Prediction(rate_per_s, math.inf, low, math.inf, len(each))
    logs = np.log(each)
    spread = logs.std(ddof=1) * math.sqrt(1 + 1 / len(logs))
    reach = math.exp(float(stats.t.ppf(0.975, len(logs) - 1)) * spread)
    value = math.exp(float(logs.mean()))
    return Prediction(rate_per_s, value, value / reach, value * reach, len(logs))


def expected_on_arrival(
    service: ServiceCurve, rate_per_s: float, users: Sequence[float], values: Sequence[float]
) -> float:
    """Mean of something that depends on how many requests are under way (a TTFT, a share of good requests), measured
    with closed-loop `users`, at an open-loop rate: an arriving request finds k others with probability p(k) and then
    fares as one of k + 1. Between the levels a straight line is drawn; beyond the last it stays level."""
    states = service.states(rate_per_s)
    order = np.argsort(users)
    level = np.interp(
        np.arange(1, len(states) + 1),
        np.asarray(users, float)[order],
        np.asarray(values, float)[order],
    )
    return float((states * level).sum())
