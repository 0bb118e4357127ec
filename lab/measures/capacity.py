"""What a server can take: goodput under an SLO, the steps of a sweep, its knee, and replicas."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.measures.latency import token_latencies
from lab.measures.quality import wilson
from lab.measures.quantiles import quantile
from lab.measures.queueing import KEEPS_UP, batch_mean, littles_law, saturation


@dataclass(frozen=True)
class Slo:
    """The bounds of a good request, in seconds: first token, mean time between tokens, the whole.

    inf: no bound.
    """

    ttft_s: float = math.inf
    e2e_s: float = math.inf
    itl_s: float = math.inf

    def kept(self, frame: pd.DataFrame) -> np.ndarray:
        """Return one bool per request: answered, and within every bound.

        A request without a first token does not keep a bound on it; a request of a single token
        keeps one on the time between tokens. `itl_s` is compared with the request's mean:
        (last token - first token) / (tokens - 1).
        """
        good = (frame["status"] == "ok") & (frame["e2e_s"] <= self.e2e_s)
        if math.isfinite(self.ttft_s):
            good &= frame["ttft_s"] <= self.ttft_s
        if math.isfinite(self.itl_s):
            gaps = (frame["completion_tokens"] - 1).clip(lower=1)
            itl = (frame["last_token_at"] - frame["first_token_at"]) / gaps
            good &= (itl <= self.itl_s) | (frame["completion_tokens"] == 1)
        return good.to_numpy(bool)


@dataclass(frozen=True)
class Goodput:
    """Good requests per second, and their share of all that were due, with its Wilson interval."""

    good_per_s: float
    throughput_per_s: float
    good_ratio: float
    low_ratio: float
    high_ratio: float
    n: int


def goodput(frame: pd.DataFrame, slo: Slo, window_s: float) -> Goodput:
    """Return the requests that were answered within the SLO, per second (DistServe, OSDI 2024).

    Failed requests are never good. `frame` has the client's columns; its latencies count from the
    scheduled time, so a request that waited in the driver's queue because the server was slow is
    late. Raises FrameError unless the window is positive.
    """
    if not window_s > 0:
        raise FrameError("the window must be longer than nothing", got=f"{window_s} s")

    answered = int((frame["status"] == "ok").sum())
    good = int(slo.kept(frame).sum())
    return Goodput(good / window_s, answered / window_s, *wilson(good, len(frame)), len(frame))


def steady_window(records: pd.DataFrame, *, warm_s: float, users: int = 0) -> tuple[float, float]:
    """Return the part of a step in which its load was what it should be, in epoch seconds.

    It begins `warm_s` after the first request was due. In open loop it ends with the last arrival
    (afterwards nothing new comes); with closed-loop users when the first of them has finished
    (afterwards fewer are there). Raises FrameError where nothing is left.
    """
    first = float(records["scheduled_at"].min()) + warm_s
    last = float(records["scheduled_at"].max())
    if users:
        last = float(records.groupby("user_id")["done_at"].max().min())

    if not last > first:
        step_s = last - first + warm_s
        raise FrameError(
            "nothing is left of a step after its warm-up",
            got=f"{len(records)} requests in {step_s:.2f} s, of which {warm_s:g} s are warm-up",
            fix="make the step longer",
        )
    return first, last


def level_row(records: pd.DataFrame, users: int, *, warm_s: float, slo: Slo) -> dict[str, float]:
    """Return what `users` closed-loop users saw who never think, so that as many are under way.

    - `users`, `n` (requests sent in the steady window), `window_s`;
    - `answered_per_s`: answers in the window; users / answered_per_s is the mean time by Little's
      law;
    - `e2e_mean_s`, `ttft_mean_s`, `itl_s` (mean time between tokens) and `tokens` (generated, mean)
      of those that were answered;
    - `good_ratio`: the share that kept the SLO.

    Raises FrameError where no request was answered.
    """
    first, last = steady_window(records, warm_s=warm_s, users=users)
    inside = records[(records["scheduled_at"] >= first) & (records["scheduled_at"] < last)]
    ok = _answered(inside, f"with {users} users")
    answered = int(((records["done_at"] > first) & (records["done_at"] <= last)).sum())
    return {
        "users": users,
        "n": len(inside),
        "window_s": last - first,
        "answered_per_s": answered / (last - first),
        "e2e_mean_s": float(ok["e2e_s"].mean()),
        "ttft_mean_s": float(ok["ttft_s"].mean()),
        "itl_s": float(token_latencies(ok)["tpot_s"].mean()),
        "tokens": float(ok["completion_tokens"].mean()),
        "good_ratio": float(slo.kept(inside).mean()),
    }


def step_row(
    records: pd.DataFrame, rate_per_s: float, *, warm_s: float, slo: Slo
) -> dict[str, float | str]:
    """Return what an open-loop step of `rate_per_s` Poisson arrivals showed.

    Warm-up and drain are left out:

    - `offered_per_s` (planned), `arrived_per_s` (in the window), `n`, `window_s`, `failed`;
    - `e2e_mean_s` with its batch-means interval `e2e_low_s`, `e2e_high_s`, and `e2e_p95_s`;
    - `ttft_mean_s`, `ttft_p95_s` with its bootstrap interval, `itl_s`;
    - `good_ratio` with its Wilson interval, and `goodput_per_s`;
    - both sides of Little's law: `mean_in_flight`, `lambda_w`, `littles_edges`, `littles_rest`;
    - the fields of `saturation`: the backlog's growth and the verdict.

    Raises FrameError where no request was answered.
    """
    window = steady_window(records, warm_s=warm_s)
    inside = records[records["scheduled_at"].between(*window)]
    ok = _answered(inside, f"at {rate_per_s:g} per second")
    start = records["scheduled_at"].to_numpy(float)
    end = records["done_at"].to_numpy(float)

    state = asdict(saturation(start, end, window))
    law = littles_law(start, end, window)
    mean, low, high = batch_mean(ok["e2e_s"])
    ttft = quantile(ok["ttft_s"], 0.95)
    good = goodput(inside, slo, window[1] - window[0])
    return {
        "offered_per_s": rate_per_s,
        "arrived_per_s": state.pop("offered_per_s"),
        "n": len(inside),
        "window_s": window[1] - window[0],
        "e2e_mean_s": mean,
        "e2e_low_s": low,
        "e2e_high_s": high,
        "e2e_p95_s": quantile(ok["e2e_s"], 0.95).value,
        "ttft_mean_s": float(ok["ttft_s"].mean()),
        "ttft_p95_s": ttft.value,
        "ttft_p95_low_s": ttft.low,
        "ttft_p95_high_s": ttft.high,
        "itl_s": float(token_latencies(ok)["tpot_s"].mean()),
        "good_ratio": good.good_ratio,
        "good_low_ratio": good.low_ratio,
        "good_high_ratio": good.high_ratio,
        "goodput_per_s": good.good_per_s,
        "mean_in_flight": law.mean_in_system,
        "lambda_w": law.lambda_w,
        "littles_rest": law.rest,
        "littles_edges": law.before - law.after,
        "failed": int((inside["status"] != "ok").sum()),
        **state,
    }


def knee(steps: pd.DataFrame) -> pd.Series:
    """Return the row of a sweep with the greatest power: throughput / latency (Kleinrock 1979).

    Beyond it, latency grows by a larger share than throughput. `steps` has `answered_per_s` and
    `e2e_mean_s`, and may have `verdict`: then only steps that keep up count, since the latency of
    others grows with the length of the step. Raises FrameError where no step is left.
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


@dataclass(frozen=True)
class ReplicaNeed:
    """Replicas for `demand_per_s`: `enough` surely are, fewer than `at_least` surely are not.

    `good_per_s`: the highest rate at which a replica has been seen to keep the SLO; `bad_per_s`:
    the lowest at which it has been seen not to (inf: never). `contradicting` are the rates at which
    it did not, though at a higher one it did: they decide nothing. `lagged` are the rates at which
    the load driver itself was late, so that the latencies contain its delay.
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
            rates = _rates(self.contradicting)
            text += f"; undecided: worse at {rates} than at a higher load, measure again"
        if self.lagged:
            text += f"; the driver lagged at {_rates(self.lagged)}"
        return text


def replicas_for(
    demand_per_s: float, steps: pd.DataFrame, *, target_ratio: float = 0.95
) -> ReplicaNeed:
    """Return how many replicas a demand needs, from the steps of a sweep.

    `steps` has `offered_per_s`, `good_low_ratio` and `good_high_ratio`, the interval of the share
    of requests that kept the SLO, and may have `lagged`. A step is good where even the low end
    reaches the target, bad where even the high end does not; in between it is not known.

    The good rate is the highest below the first step that is not good, and the bad rate the lowest
    above the last step that is good: where steps contradict each other, the range includes all of
    them. Independent users who are assigned at random to k replicas make each one's arrivals
    Poisson at demand / k, as in the sweep; a router that knows the queues does better. The result
    holds for the same mix of requests, for one machine per replica, and leaves nothing over for one
    that fails.

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
    bad_rate = float(min(rate[bad & (rate > last_good)], default=math.inf))
    lagged = rate[steps["lagged"].astype(bool)] if "lagged" in steps else ()
    return ReplicaNeed(
        demand_per_s,
        good_rate,
        bad_rate,
        at_least=max(1, math.ceil(demand_per_s / bad_rate)),
        enough=math.ceil(demand_per_s / good_rate),
        contradicting=tuple(rate[bad & (rate < last_good)]),
        lagged=tuple(lagged),
    )


def _answered(inside: pd.DataFrame, load: str) -> pd.DataFrame:
    """Return the requests of a window that were answered; raises FrameError where none was."""
    ok = inside[inside["status"] == "ok"]
    if ok.empty:
        raise FrameError(f"no request was answered {load}", got=f"{len(inside)} were due")
    return ok


def _rates(rates: tuple[float, ...]) -> str:
    return ", ".join(f"{rate:g}/s" for rate in rates)
