"""How many replicas for a demand: between what surely is enough and what surely is not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from lab.errors import FrameError


@dataclass(frozen=True)
class ReplicaNeed:
    """Replicas for `demand_per_s`: `enough` surely are, fewer than `at_least` surely are not.

    `good_per_s`: the highest rate at which a replica has been seen to keep the SLO; `bad_per_s`: the lowest at which it
    has been seen not to (inf: never).
    """

    demand_per_s: float
    good_per_s: float
    bad_per_s: float
    at_least: int
    enough: int

    def __str__(self) -> str:
        most = (
            "more than was tried"
            if math.isinf(self.bad_per_s)
            else f"less than {self.bad_per_s:.3g}"
        )
        return (
            f"a replica takes at least {self.good_per_s:.3g} and {most} requests a second; "
            f"{self.demand_per_s:g} a second need {self.at_least} to {self.enough} replicas"
        )


def replicas_for(
    demand_per_s: float, steps: pd.DataFrame, *, target_ratio: float = 0.95
) -> ReplicaNeed:
    """From the steps of a sweep: columns `offered_per_s`, `good_low_ratio` and `good_high_ratio`, the interval of the
    share of requests that kept the SLO.

    A step is good where even the low end reaches the target, bad where even the high end does not; in between nobody
    knows. The good rate is the highest below the first step that is not good, so that a lucky step beyond does not
    count. Independent users who are dealt out at random to k replicas make each one's arrivals Poisson at demand / k,
    as in the sweep; a router that knows the queues does better. It holds for the same mix of requests, for a machine
    each, and leaves nothing over for one that fails.

    Raises FrameError where no step keeps the SLO, or the demand is not above 0.
    """
    if not demand_per_s > 0:
        raise FrameError("a demand is more than nothing", got=f"{demand_per_s}")
    steps = steps.sort_values("offered_per_s")
    good = (steps["good_low_ratio"] >= target_ratio).to_numpy(bool)
    bad = (steps["good_high_ratio"] < target_ratio).to_numpy(bool)
    first_bad = int(bad.argmax()) if bad.any() else len(steps)
    upto = int((~good).argmax()) if (~good).any() else len(steps)
    if upto == 0:
        shares = steps[["offered_per_s", "good_low_ratio"]].head(3).to_string(index=False)
        fix = "loosen the SLO, lengthen the steps, or begin the sweep at a lower load"
        raise FrameError(
            f"not even the lightest step surely keeps the SLO in {target_ratio:.0%}",
            got=shares,
            fix=fix,
        )
    rates = steps["offered_per_s"].to_numpy(float)
    good_rate = float(rates[upto - 1])
    bad_rate = float(rates[first_bad]) if first_bad < len(steps) else math.inf
    at_least = 1 if math.isinf(bad_rate) else max(1, math.ceil(demand_per_s / bad_rate))
    return ReplicaNeed(
        demand_per_s, good_rate, bad_rate, at_least, math.ceil(demand_per_s / good_rate)
    )
