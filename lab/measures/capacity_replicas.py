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
    has been seen not to (inf: never). `contradicting` are the rates at which it was seen not to, though at a higher one
    it did: they decide nothing. `lagged` are the rates at which the load driver itself was late, so that the latencies
    contain its delay.
    """

    demand_per_s: float
    good_per_s: float
    bad_per_s: float
    at_least: int
    enough: int
    contradicting: tuple[float, ...] = ()
    lagged: tuple[float, ...] = ()

    def __str__(self) -> str:
        bound = "more than was tried"
        if math.isfinite(self.bad_per_s):
            bound = f"less than {self.bad_per_s:.3g}"
        text = (
            f"a replica takes at least {self.good_per_s:.3g} and {bound} requests per second; "
            f"{self.demand_per_s:g} per second need {self.at_least} to {self.enough} replicas"
        )

        if self.contradicting:
            text += f"; undecided: worse at {_rates(self.contradicting)} than at a higher load, measure again"
        if self.lagged:
            text += f"; the driver lagged at {_rates(self.lagged)}"
        return text


def replicas_for(
    demand_per_s: float, steps: pd.DataFrame, *, target_ratio: float = 0.95
) -> ReplicaNeed:
    """Return how many replicas a demand needs, from the steps of a sweep.

    `steps` has `offered_per_s`, `good_low_ratio` and `good_high_ratio`, the interval of the share of requests that kept
    the SLO, and may have `lagged`. A step is good where even the low end reaches the target, bad where even the high end
    does not; in between it is not known.

    The good rate is the highest below the first step that is not good, and the bad rate the lowest above the last step
    that is good: where steps contradict each other, the range includes all of them. Independent users who are assigned
    at random to k replicas make each one's arrivals Poisson at demand / k, as in the sweep; a router that knows the
    queues does better. The result holds for the same mix of requests, for one machine per replica, and leaves nothing
    over for one that fails.

    Raises FrameError where no step keeps the SLO, or the demand is not above 0.
    """
    if not demand_per_s > 0:
        raise FrameError("a demand is more than nothing", got=f"{demand_per_s}")

    steps = steps.sort_values("offered_per_s", ignore_index=True)
    rate = steps["offered_per_s"]
    good = steps["good_low_ratio"] >= target_ratio
    bad = steps["good_high_ratio"] < target_ratio

    surely_good = rate[good.cummin()]
    if surely_good.empty:
        raise FrameError(
            f"not even the lightest step surely keeps the SLO in {target_ratio:.0%}",
            got=steps[["offered_per_s", "good_low_ratio"]].head(3).to_string(index=False),
            fix="loosen the SLO, lengthen the steps, or begin the sweep at a lower load",
        )

    good_rate = float(surely_good.max())
    last_good = float(rate[good].max())
    surely_bad = rate[bad & (rate > last_good)]
    bad_rate = float(surely_bad.min()) if len(surely_bad) else math.inf

    contradicting = rate[bad & (rate < last_good)]
    lagged = rate[steps["lagged"].astype(bool)] if "lagged" in steps else rate[:0]
    return ReplicaNeed(
        demand_per_s,
        good_rate,
        bad_rate,
        at_least=max(1, math.ceil(demand_per_s / bad_rate)),
        enough=math.ceil(demand_per_s / good_rate),
        contradicting=tuple(contradicting),
        lagged=tuple(lagged),
    )


def _rates(rates: tuple[float, ...]) -> str:
    return ", ".join(f"{rate:g}/s" for rate in rates)
