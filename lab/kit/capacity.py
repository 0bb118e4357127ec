"""Measure what a server can take: fixed numbers of users for the model, a sweep of open-loop load to saturation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames import series_frame
from lab.kit.arrived import wait_for_spans
from lab.kit.driving import drive
from lab.kit.latency import engine_calls
from lab.kit.scrapes import of_vllm, scraped_until
from lab.measures import (
    ServiceCurve,
    Slo,
    concurrency,
    expected_on_arrival,
    fit_service_curve,
    in_flight_at,
    level_row,
    predict,
    settle_verdicts,
    step_row,
)
from lab.measures.capacity_saturation import SATURATED
from lab.schema import Metric
from lab.settings import Settings
from lab.stores import Prometheus
from lab.workload import Run

# Questions of a single turn: a follow-up is due after an answer, so its arrivals would not be the plan's.
SINGLE_TURN = ("single", "chain", "rag", "tool_error", "no_tool", "out_of_scope")
SAMPLED = 40  # requests of a level whose spans are fetched: enough for a mean, few enough to ask for one by one
LABEL = "capacity"


@dataclass
class Measured:
    """Rows of steps or levels (`table`), and the runs behind them in the same order."""

    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    runs: list[Run] = field(default_factory=list)

    @property
    def window(self) -> tuple[float, float]:
        """From the first run's start to the last run's end, in epoch seconds."""
        return self.runs[0].window[0], self.runs[-1].window[1]

    def records(self) -> pd.DataFrame:
        """The client's records of all runs, in order of time."""
        return pd.concat([run.records for run in self.runs], ignore_index=True)

    def add(self, run: Run, row: dict) -> None:
        self.runs.append(run)
        row |= {
            "driver_lag_p99_s": max(run.lag.dispatch_p99_s, run.lag.loop_p99_s),
            "lagged": run.lag.lagged,
        }
        self.table = pd.concat([self.table, pd.DataFrame([row])], ignore_index=True)


def run_levels(
    settings: Settings,
    users: Sequence[int],
    *,
    rounds: int,
    level_s: float,
    warm_s: float,
    slo: Slo,
    seed: int,
    api: Literal["chat", "responses"] = "chat",
    first_round: int = 1,
) -> Measured:
    """So many closed-loop users who never think, each level about `level_s` long, and all of it again in `rounds`
    rounds, every second one from the top, so that a drift of the machine does not look like an effect of load. Rows of
    `lab.measures.level_row`, and `round`. How many requests a level needs is known from the level before it.
    """  # fmt: skip
    found, rate, guess = Measured(), {}, 12.0
    for number in range(first_round, first_round + rounds):
        for level in sorted(users, reverse=(number - first_round) % 2 == 1):
            n = max(8 * level, 24, math.ceil(rate.get(level, guess) * level_s))
            run = drive(
                settings, n_requests=n, users=level, think_s=0.0, seed=seed + 100 * number + level, kinds=SINGLE_TURN,
                api=api, progress=False, label=f"{LABEL} round {number}",
            )  # fmt: skip
            row = level_row(run.records, level, warm_s=warm_s, slo=slo)
            found.add(run, {"round": number} | row)
            rate[level] = row["answered_per_s"]
            guess = 1.4 * row["answered_per_s"]
    return found


def fit_rounds(levels: pd.DataFrame) -> list[ServiceCurve]:
    """One fitted service a round."""
    return [
        fit_service_curve(part["users"], part["e2e_mean_s"]) for _, part in levels.groupby("round")
    ]


def engine_parts(
    settings: Settings, levels: Measured, *, wait_s: float = 30.0, sampled: int = SAMPLED
) -> pd.DataFrame:
    """Where a request's time goes, by how many are under way: mean seconds in vLLM's queue, prefill and decode, and
    outside its engine (HTTP, tokenising, parsing, the driver), one row a level and round, in their order;
    `engine_itl_s`, decode by tokens - 1; and `by_little`: how many are in the engine by Little's law, answers a second
    times the time in it. Of at most `sampled` requests a level, from its later half.

    Raises FrameError where no span of a level has arrived.
    """
    chosen = [
        run.records[run.records["status"] == "ok"].iloc[-(2 * sampled) :][:sampled]
        for run in levels.runs
    ]
    spans, _ = wait_for_spans(settings, pd.concat(chosen, ignore_index=True), wait_s, bulk=True)
    calls, rows = engine_calls(spans).astype({"trace_id": str}), []
    for row, part in zip(levels.table.itertuples(), chosen, strict=True):
        both = part.merge(calls, on="trace_id")
        if both.empty:
            raise FrameError(
                "none of these requests' vLLM spans has arrived",
                got=f"{len(part)}, {row.users} users",
            )
        inside = both[["queue_s", "prefill_s", "decode_s"]].mean()
        more = (both["tokens"] - 1).where(both["tokens"] > 1)
        rows.append(
            {"users": row.users, "round": row.round, **inside, "outside_s": both["e2e_s"].mean() - inside.sum(),
             "engine_itl_s": float((both["decode_s"] / more).mean()), "by_little": row.answered_per_s * inside.sum(),
             "n": len(both)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def sweep_rates(capacity_per_s: float, shares: Sequence[float]) -> list[float]:
    """Loads to offer, as shares of a capacity, rounded to two digits (so that a recording has the same ones)."""
    rates = [float(f"{capacity_per_s * share:.2g}") for share in shares]
    return sorted(set(rates))


def sweep(
    settings: Settings,
    rates: Sequence[float],
    *,
    step_s: float,
    min_requests: int,
    warm_s: float,
    slo: Slo,
    seed: int,
    stop_after: int = 2,
    api: str = "chat",
) -> Measured:
    """Offer these loads (requests a second, Poisson arrivals, open loop) one after another, lowest first, each for
    `step_s` and at least so many requests; after `stop_after` saturated steps in a row no more. Prints a line a step.

    Rows of `lab.measures.step_row` and their verdicts by `lab.measures.settle_verdicts`. A step begins when the
    one before has been answered whole.
    """  # fmt: skip
    found, saturated = Measured(), 0
    for number, rate in enumerate(sorted(rates)):
        n = max(min_requests, math.ceil(rate * step_s))
        run = drive(
            settings, n_requests=n, rate_per_s=rate, seed=seed + 1000 + number, kinds=SINGLE_TURN, api=api,
            progress=False, label=LABEL,
        )  # fmt: skip
        row = step_row(run.records, rate, warm_s=warm_s, slo=slo)
        found.add(run, row)
        print(f"{rate:6g}/s offered, {row['answered_per_s']:6.1f}/s answered, mean {row['e2e_mean_s']:.3f} s: "
              f"{row['verdict']}{' (the driver lagged)' if run.lag.lagged else ''}", flush=True)  # fmt: skip
        saturated = saturated + 1 if row["verdict"] == SATURATED else 0
        if saturated >= stop_after:
            break
    found.table = settle_verdicts(found.table)
    for rate in found.table.loc[found.table["contradicted"], "offered_per_s"]:
        print(
            f"{rate:6g}/s: cannot tell, since a lighter load was saturated or a heavier one was not"
        )
    return found


def predict_latency(services: Sequence[ServiceCurve], rates: Sequence[float]) -> pd.DataFrame:
    """`lab.measures.predict` at every rate: offered_per_s, value_s, low_s, high_s, rounds."""
    rows = [vars(predict(services, rate)) for rate in rates]
    return pd.DataFrame(rows).rename(columns={"rate_per_s": "offered_per_s"})


def predict_slo_attainment(
    services: Sequence[ServiceCurve], levels: pd.DataFrame, rates: Sequence[float]
) -> pd.DataFrame:
    """The share of requests that would keep the SLO at each rate, from the levels' shares: `offered_per_s`,
    `predicted_ratio` (mean over the rounds' services; NaN where one of them has no steady state). See `expected_on_arrival`."""
    share = levels.groupby("users")["good_ratio"].mean()
    rows = [
        (rate, np.mean([expected_on_arrival(one, rate, share.index, share) for one in services]))
        if all(rate < one.capacity_per_s for one in services)
        else (rate, np.nan)
        for rate in rates
    ]
    return pd.DataFrame(rows, columns=["offered_per_s", "predicted_ratio"])


def backlog_lines(sweep: Measured) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """For `lab.figures.backlogs`: of each step its load, its verdict, and how many requests were under way when."""
    lines = []
    for row, run in zip(sweep.table.itertuples(), sweep.runs, strict=True):
        steps = concurrency(
            run.records["scheduled_at"].to_numpy(), run.records["done_at"].to_numpy()
        )
        arriving = steps["at"] <= run.records["scheduled_at"].max()
        at = steps.loc[arriving, "at"].to_numpy() - run.window[0]
        lines.append(
            (f"{row.offered_per_s:g}/s", row.verdict, at, steps.loc[arriving, "running"].to_numpy())
        )
    return lines


def gauge_samples(settings: Settings, measured: Measured) -> pd.DataFrame:
    """vLLM's own count of requests in its engine (running + waiting) at every scrape while the steps' requests came:
    `at` (epoch seconds, the scrape's beginning), `value`, `step` (from 0), and `true`: how many the client had under
    way at that instant. Raises NoData where Prometheus has none."""
    table = _scraped(settings, measured, [Metric.RUNNING, Metric.WAITING])
    table["value"] = table.pop(Metric.RUNNING) + table.pop(Metric.WAITING)
    records = measured.records()
    table["true"] = in_flight_at(records["sent_at"], records["done_at"], table["at"])
    return table


def engine_pressure(settings: Settings, measured: Measured) -> pd.DataFrame:
    """What vLLM's engine was under in each step, by its scrapes: the most requests `running` and `waiting`, the fullest
    KV cache (`kv_cache_ratio`), `preemptions`, `tokens_per_step` (mean batch of an engine step, prompt tokens
    included) and `engine_steps_per_s`; `in_engine` (mean of running + waiting) beside `under_way`, what the client had
    at the same instants; `scrapes` says of how many samples. The index is the offered load."""
    gauges = {
        "running": Metric.RUNNING,
        "waiting": Metric.WAITING,
        "kv_cache_ratio": Metric.KV_CACHE_USAGE,
    }
    counters = {
        "preemptions": Metric.PREEMPTIONS,
        "tokens": f"{Metric.STEP_TOKENS}_sum",
        "steps": f"{Metric.STEP_TOKENS}_count",
    }
    table = _scraped(settings, measured, [*gauges.values(), *counters.values()])
    steps = table.groupby("step")
    found = pd.DataFrame({name: steps[metric].max() for name, metric in gauges.items()})
    # Between the first and the last scrape inside the step: nothing of its neighbours is in it.
    grown = {
        name: steps[metric].agg(lambda v: v.iloc[-1] - v.iloc[0])
        for name, metric in counters.items()
    }
    seconds = steps["at"].agg(lambda v: v.iloc[-1] - v.iloc[0])
    found["preemptions"] = grown["preemptions"]
    found["tokens_per_step"] = grown["tokens"] / grown["steps"]
    found["engine_steps_per_s"] = grown["steps"] / seconds
    records = measured.records()
    under_way = pd.Series(
        in_flight_at(records["sent_at"], records["done_at"], table["at"]), index=table.index
    )
    found["in_engine"] = (
        (table[Metric.RUNNING] + table[Metric.WAITING]).groupby(table["step"]).mean()
    )
    found["under_way"] = under_way.groupby(table["step"]).mean()
    found["scrapes"] = steps.size()
    return found.set_index(measured.table["offered_per_s"].iloc[found.index])


def _scraped(settings: Settings, measured: Measured, names: Sequence[str]) -> pd.DataFrame:
    """Samples of these metrics of vLLM, one row a scrape, one column a metric, with `at` and `step`; only of the time
    in which a step's requests came."""
    prometheus = Prometheus(settings)
    until = scraped_until(settings, prometheus, measured.runs[-1], settings.vllm_job)
    columns = {}
    for name in names:
        answer = prometheus.samples(
            of_vllm(settings, name), measured.window[0], until, lookback_s=0.0
        ).require()
        columns[name] = series_frame(answer).groupby("time", observed=True)["value"].sum()
    table = pd.DataFrame(columns).dropna().reset_index()
    table["at"] = table["time"].dt.as_unit("ns").astype("int64") / 1e9
    first = [run.window[0] for run in measured.runs]
    last = [float(run.records["scheduled_at"].max()) for run in measured.runs]
    step = np.searchsorted(first, table["at"], side="right") - 1
    inside = (step >= 0) & (table["at"] <= np.array(last)[np.maximum(step, 0)])
    return table.assign(step=step).loc[inside, ["at", "step", *names]].reset_index(drop=True)
