"""Latency at a load that was not run, from minutes with a fixed number of requests under way.

The mechanism: a server that batches works at a speed that depends on how many requests it holds.
With n closed-loop users who never think, exactly n are held, and the mean time W(n) of a request
gives the speed n / W(n). In a birth-and-death process, these speeds give the number in the system
when requests come at random instead: the flow-equivalent server (Chandy, Herzog & Woo, 'Parametric
analysis of queuing networks', IBM J. R&D 1975), which is exact for processor sharing whatever the
requests' sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import FrameError

MAX_IN_SYSTEM = 20_000


@dataclass(frozen=True)
class ServiceCurve:
    """W(n) = alone_s - slot_s + slot_s * n, the mean time of a request among n.

    `alone_s` is the time of a lone request and `slot_s` what every other beside it adds: the part
    of a request that the others must wait for. At most 1 / slot_s requests per second can be
    served.
    """

    alone_s: float
    slot_s: float

    @property
    def capacity_per_s(self) -> float:
        """The rate at which the backlog begins to grow without end, 1 / slot_s."""
        return 1 / self.slot_s

    def time_s(self, n: np.ndarray | float) -> np.ndarray | float:
        """Return W(n), the mean time of a request where n are under way."""
        return self.alone_s + self.slot_s * (np.asarray(n, dtype=float) - 1)

    def open_loop_s(self, rate_per_s: float) -> float:
        """Return the mean time of a request in seconds where they come at random.

        alone_s / (1 - rate * slot_s), inf from the capacity on: the birth-and-death process with
        speeds n / W(n) has a negative binomial number in the system, of mean
        rate * alone_s / (1 - rate * slot_s), and Little's law turns it into a time.
        """
        free = 1 - rate_per_s * self.slot_s
        return self.alone_s / free if free > 0 else math.inf

    def states(self, rate_per_s: float) -> np.ndarray:
        """Return the probability that 0, 1, 2, ... are in the system at this rate.

        An arriving request sees the same (PASTA). p(n) = p(n-1) * rate * W(n) / n. Raises
        FrameError from the capacity on, where there is no steady state.
        """
        busy = rate_per_s * self.slot_s
        if not 0 <= busy < 1:
            raise FrameError(
                "at this rate the backlog grows without end",
                got=f"{rate_per_s:g} requests per second, capacity {self.capacity_per_s:.4g}",
                fix="ask for a rate below capacity",
            )

        size = min(MAX_IN_SYSTEM, int(50 + 40 * (1 + rate_per_s * self.alone_s) / (1 - busy)))
        n = np.arange(1, size)
        ratios = np.maximum(rate_per_s * self.time_s(n) / n, 1e-300)
        logs = np.concatenate(([0.0], np.cumsum(np.log(ratios))))
        weights = np.exp(logs - logs.max())
        return weights / weights.sum()


def fit_service_curve(
    users: Sequence[float] | pd.Series, time_s: Sequence[float] | pd.Series
) -> ServiceCurve:
    """Fit W(n) by least squares of the relative errors, so that one user counts as much as 64.

    Raises FrameError for fewer than two different numbers of users, or a line that does not rise.
    """
    n = np.asarray(users, dtype=float)
    w = np.asarray(time_s, dtype=float)
    if len(n) != len(w) or len(np.unique(n)) < 2 or (w <= 0).any():
        raise FrameError(
            "a service time needs at least two different numbers of users", got=f"{n} users, {w} s"
        )

    design = np.stack([np.ones_like(n), n - 1], axis=1) / w[:, None]
    alone, slot = np.linalg.lstsq(design, np.ones_like(w), rcond=None)[0]
    if not (alone > 0 and slot > 0):
        raise FrameError(
            "more users did not take longer",
            got=f"{alone:.4g} s alone, {slot:.4g} s for every other",
            fix="add levels with more users, or longer ones",
        )
    return ServiceCurve(float(alone), float(slot))


@dataclass(frozen=True)
class Prediction:
    """The mean time at a rate, with the interval of one further run (95 %)."""

    rate_per_s: float
    value_s: float
    low_s: float
    high_s: float
    rounds: int


def predict(services: Sequence[ServiceCurve], rate_per_s: float) -> Prediction:
    """Predict the mean time at a rate from curves that were fitted to independent rounds.

    The value is the geometric mean of the rounds' predictions. The interval is for one further run:
    Student's t on the logarithms, with the spread between rounds times sqrt(1 + 1/rounds) (Hahn &
    Meeker, Statistical Intervals, 4.7). A round whose capacity is below the rate makes the upper
    end inf. Raises FrameError for fewer than two rounds.
    """
    rounds = len(services)
    if rounds < 2:
        raise FrameError(
            "how much runs differ is not known without a second round", got=f"{rounds} round"
        )

    each = np.array([service.open_loop_s(rate_per_s) for service in services])
    if not np.isfinite(each).all():
        return Prediction(rate_per_s, math.inf, float(each.min()), math.inf, rounds)

    logs = np.log(each)
    spread = logs.std(ddof=1) * math.sqrt(1 + 1 / rounds)
    reach = math.exp(float(stats.t.ppf(0.975, rounds - 1)) * spread)
    value = math.exp(float(logs.mean()))
    return Prediction(rate_per_s, value, value / reach, value * reach, rounds)


def expected_on_arrival(
    service: ServiceCurve,
    rate_per_s: float,
    users: Sequence[float] | pd.Index,
    values: Sequence[float] | pd.Series,
) -> float:
    """Predict an open-loop mean of something that depends on how many requests are under way.

    `values` (a TTFT, a share of good requests) were measured with closed-loop `users`. An arriving
    request sees k others with probability p(k) and then fares as one of k + 1. Values are
    interpolated linearly between the levels and stay level beyond the last.
    """
    states = service.states(rate_per_s)
    measured = pd.Series(np.asarray(values, float), index=np.asarray(users, float)).sort_index()
    level = np.interp(np.arange(1, len(states) + 1), measured.index, measured)
    return float((states * level).sum())


def prediction_errors(steps: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """Compare what was predicted with what was measured, one row per step.

    - `offered_per_s`, `verdict`;
    - `predicted_s`, `low_s`, `high_s` (of the prediction);
    - `measured_s`, `measured_low_s`, `measured_high_s`;
    - `error_ratio` = predicted / measured - 1 (NaN where no steady state was predicted);
    - `inside`: whether the two intervals touch.

    `predicted` has `offered_per_s`, `value_s`, `low_s`, `high_s` (rows of `lab.measures.predict`).
    """
    table = steps.merge(predicted, on="offered_per_s", validate="one_to_one")
    names = {
        "offered_per_s": "offered_per_s",
        "value_s": "predicted_s",
        "low_s": "low_s",
        "high_s": "high_s",
        "e2e_mean_s": "measured_s",
        "e2e_low_s": "measured_low_s",
        "e2e_high_s": "measured_high_s",
    }
    result = table[list(names)].rename(columns=names)
    steady = np.isfinite(result["predicted_s"])
    ratio = result["predicted_s"] / result["measured_s"] - 1
    below = result["low_s"] <= result["measured_high_s"]
    above = result["high_s"] >= result["measured_low_s"]
    return result.assign(
        error_ratio=ratio.where(steady),
        verdict=table["verdict"],
        inside=below & above & steady,
    )
