"""What a server can take: goodput under an SLO, the steps of a sweep, its knee, and replicas.

Latency at a load that was not run is predicted from minutes with a fixed number of requests under
way. A server that batches works at a speed that depends on how many requests it holds. With n
closed-loop users who never think, exactly n are held, and the mean time W(n) of a request gives the
speed n / W(n). In a birth-and-death process, these speeds give the number in the system when
requests come at random instead: the flow-equivalent server (Chandy, Herzog & Woo, 'Parametric
analysis of queuing networks', IBM J. R&D 1975), which is exact for processor sharing whatever the
requests' sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.rates import confint_poisson

from lab.errors import FrameError
from lab.measures.latency import quantile, token_latencies
from lab.measures.quality import wilson


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
    steps = concurrency(start, end)
    edges = np.clip(np.append(steps["at"], span_s), 0, span_s)
    mean_in = float((steps["running"].to_numpy(float) * np.diff(edges)).sum()) / span_s
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


def poisson_interval(count: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a Poisson mean, from a count of events (Garwood 1936)."""
    low, high = confint_poisson(count, 1, method="exact-c")
    return float(low), float(high)


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
    return steps.assign(
        verdict=steps["verdict"].where(~contradicted, UNCLEAR), contradicted=contradicted
    )


def _sent(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = np.asarray(start, dtype=float)
    end = np.asarray(end, dtype=float)
    known = ~(np.isnan(start) | np.isnan(end))
    return start[known], end[known]


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

        An arriving request sees the same (PASTA). p(n) = p(n-1) * rate * W(n) / n, which makes a
        negative binomial distribution. Raises FrameError from the capacity on, where there is no
        steady state.
        """
        busy = rate_per_s * self.slot_s
        if not 0 <= busy < 1:
            raise FrameError(
                "at this rate the backlog grows without end",
                got=f"{rate_per_s:g} requests per second, capacity {self.capacity_per_s:.4g}",
                fix="ask for a rate below capacity",
            )

        size = min(MAX_IN_SYSTEM, int(50 + 40 * (1 + rate_per_s * self.alone_s) / (1 - busy)))
        weights = stats.nbinom.pmf(np.arange(size), self.alone_s / self.slot_s, 1 - busy)
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
