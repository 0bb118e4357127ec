"""Capacity: what load a server can take, measured and predicted.

Closed-loop levels give a model of the server; an open-loop sweep of load to saturation tests it.
"""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from lab.engines import actual_name
from lab.errors import FrameError, NoData
from lab.frames import series_frame
from lab.frames.replicas import merge_copies
from lab.headlines import LAGGED
from lab.latency import engine_calls
from lab.measures import (
    SATURATED,
    ServiceCurve,
    Slo,
    batch_mean,
    concurrency,
    expected_on_arrival,
    fit_service_curve,
    in_flight_at,
    knee,
    level_over_time,
    level_row,
    predict,
    prediction_errors,
    replicas_for,
    settle_verdicts,
    slope,
    steady_window,
    step_row,
)
from lab.observation import Observation, Sampler, drive, wait_for_spans
from lab.places import place_of
from lab.schema import Metric
from lab.settings import Settings
from lab.stores.http import HttpClient
from lab.workload import Run

__all__ = [
    "Measured",
    "Slo",
    "backlog_lines",
    "batch_mean",
    "engine_parts",
    "engine_pressure",
    "fit_rounds",
    "gauge_samples",
    "knee",
    "polled_level",
    "predict_latency",
    "predict_slo_attainment",
    "prediction_errors",
    "replicas_for",
    "run_levels",
    "slope",
    "sweep",
    "sweep_rates",
]

# A follow-up is due after an answer, so its arrivals would not be the plan's.
SINGLE_TURN = ("single", "chain", "rag", "tool_error", "no_tool", "out_of_scope")
SAMPLED = 40  # requests per level whose spans are fetched, if need be one by one
LABEL = "capacity"
POLL_S = 0.1


@dataclass
class Measured:
    """Rows of steps or levels (`table`), and the runs behind them in the same order."""

    settings: Settings
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    runs: list[Run] = field(default_factory=list)

    @property
    def window(self) -> tuple[float, float]:
        """Return the first run's start and the last run's end, in epoch seconds."""
        return self.runs[0].window[0], self.runs[-1].window[1]

    def records(self) -> pd.DataFrame:
        """Return the client's records of all runs, in order of time."""
        return pd.concat([run.records for run in self.runs], ignore_index=True)

    def add(self, run: Run, row: dict[str, Any]) -> None:
        """Append a run and its row, with the driver's lag."""
        self.runs.append(run)
        lag_s = max(run.lag.dispatch_p99_s, run.lag.loop_p99_s)
        added = pd.DataFrame([row | {"driver_lag_p99_s": lag_s, "lagged": run.lag.lagged}])
        self.table = pd.concat([self.table, added], ignore_index=True)


def run_levels(
    settings: Settings,
    users: Sequence[int],
    *,
    rounds: int,
    level_s: float,
    warm_s: float,
    slo: Slo,
    seed: int,
    first_round: int = 1,
) -> Measured:
    """Drive each number of closed-loop users, who never think, for about `level_s` seconds.

    All of it is repeated in `rounds` rounds. Every second round begins with the most users, so that
    a drift of the machine does not look like an effect of load. The number of requests of a level
    follows from the level before it. Rows of `lab.measures.level_row`, and `round`.
    """
    measured = Measured(settings)
    rates: dict[int, float] = {}
    guess_per_s = 12.0
    for number in range(first_round, first_round + rounds):
        downwards = (number - first_round) % 2 == 1
        for level in sorted(users, reverse=downwards):
            expected = math.ceil(rates.get(level, guess_per_s) * level_s)
            run = drive(
                settings,
                n_requests=max(8 * level, 24, expected),
                users=level,
                think_s=0.0,
                seed=seed + 100 * number + level,
                kinds=SINGLE_TURN,
                api="chat",
                progress=False,
                label=f"{LABEL} round {number}",
            )
            row = level_row(run.records, level, warm_s=warm_s, slo=slo)
            measured.add(run, {"round": number} | row)
            rates[level] = row["answered_per_s"]
            guess_per_s = 1.4 * row["answered_per_s"]
    return measured


def fit_rounds(levels: pd.DataFrame) -> list[ServiceCurve]:
    """Return one fitted service curve per round."""
    rounds = levels.groupby("round")
    return [fit_service_curve(part["users"], part["e2e_mean_s"]) for _, part in rounds]


def engine_parts(levels: Measured, *, wait_s: float = 30.0, sampled: int = SAMPLED) -> pd.DataFrame:
    """Return where a request's time goes at each level, by `sampled` requests of its later half.

    One row per level and round, in their order:

    - `users`, `round`, and `n`, the number of requests;
    - `queue_s`, `prefill_s`, `decode_s`: mean seconds in vLLM's phases, and `outside_s`, outside of
      its engine (HTTP, tokenising, parsing, the driver);
    - `engine_itl_s`: decode by tokens - 1;
    - `by_little`: how many requests are in the engine by Little's law, answers per second times the
      time in it.

    Raises FrameError where no span of a level has arrived.
    """
    answered = [run.records[run.records["status"] == "ok"] for run in levels.runs]
    chosen = [records.iloc[-(2 * sampled) :][:sampled] for records in answered]
    records = pd.concat(chosen, ignore_index=True)
    spans, _ = wait_for_spans(levels.settings, records, wait_s, bulk=True)
    calls = engine_calls(spans).astype({"trace_id": str})
    rows = []
    for row, part in zip(levels.table.itertuples(), chosen, strict=True):
        both = part.merge(calls, on="trace_id")
        if both.empty:
            raise FrameError(
                "none of these requests' vLLM spans has arrived",
                got=f"{len(part)}, {row.users} users",
            )
        inside = both[["queue_s", "prefill_s", "decode_s"]].mean()
        gaps = (both["tokens"] - 1).where(both["tokens"] > 1)
        rows.append(
            {
                "users": row.users,
                "round": row.round,
                **inside,
                "outside_s": both["e2e_s"].mean() - inside.sum(),
                "engine_itl_s": float((both["decode_s"] / gaps).mean()),
                "by_little": row.answered_per_s * inside.sum(),
                "n": len(both),
            }
        )
    return pd.DataFrame(rows)


def sweep_rates(capacity_per_s: float, shares: Sequence[float]) -> list[float]:
    """Return loads as shares of a capacity, ascending and rounded to two digits.

    Rounded, a recording is likely to have the same ones.
    """
    return sorted({float(f"{capacity_per_s * share:.2g}") for share in shares})


def step_length_s(rate: float, step_s: float, limit_per_s: float | None) -> float:
    """Return how long a step is: half of `step_s` below half of the limit or 15 % above it."""
    is_near = limit_per_s is None or 0.5 <= rate / limit_per_s <= 1.15
    return step_s if is_near else step_s / 2


def sweep(
    settings: Settings,
    rates: Sequence[float],
    *,
    step_s: float,
    min_requests: int,
    warm_s: float,
    slo: Slo,
    seed: int,
    limit_per_s: float | None = None,
    stop_after: int = 2,
    api: Literal["chat", "responses"] = "chat",
) -> Measured:
    """Offer these loads one after another, lowest first: an open loop with Poisson arrivals.

    `rates` are requests per second. Each lasts `step_s` seconds and has at least `min_requests`
    requests; with the expected limit `limit_per_s`, those far from it last half as long, since
    their verdict is clear sooner. A step begins when all requests of the one before are answered.
    After `stop_after` saturated steps in a row the sweep ends. Prints one line per step. Rows of
    `lab.measures.step_row`, their verdicts by `lab.measures.settle_verdicts`.
    """
    measured = Measured(settings)
    saturated = 0
    for number, rate in enumerate(sorted(rates)):
        expected = math.ceil(rate * step_length_s(rate, step_s, limit_per_s))
        run = drive(
            settings,
            n_requests=max(min_requests, expected),
            rate_per_s=rate,
            seed=seed + 1000 + number,
            kinds=SINGLE_TURN,
            api=api,
            progress=False,
            label=LABEL,
        )
        row = step_row(run.records, rate, warm_s=warm_s, slo=slo)
        measured.add(run, row)
        lagged = f" ({LAGGED})" if run.lag.lagged else ""
        print(
            f"{rate:6g}/s offered, {row['answered_per_s']:6.1f}/s answered, "
            f"mean {row['e2e_mean_s']:.3f} s: {row['verdict']}{lagged}",
            flush=True,
        )
        saturated = saturated + 1 if row["verdict"] == SATURATED else 0
        if saturated >= stop_after:
            break

    measured.table = settle_verdicts(measured.table)
    for rate in measured.table.loc[measured.table["contradicted"], "offered_per_s"]:
        print(
            f"{rate:6g}/s: cannot tell, since a lighter load was saturated or a heavier one was not"
        )
    return measured


def predict_latency(services: Sequence[ServiceCurve], rates: Sequence[float]) -> pd.DataFrame:
    """Return `lab.measures.predict` per rate: offered_per_s, value_s, low_s, high_s, rounds."""
    table = pd.DataFrame([vars(predict(services, rate)) for rate in rates])
    return table.rename(columns={"rate_per_s": "offered_per_s"})


def predict_slo_attainment(
    services: Sequence[ServiceCurve], levels: pd.DataFrame, rates: Sequence[float]
) -> pd.DataFrame:
    """Return the share of requests that would meet the SLO at each rate, by those of the levels.

    Columns: `offered_per_s`, `predicted_ratio`: the mean over the rounds' services, NaN where one
    of them has no steady state. See `lab.measures.expected_on_arrival`.
    """
    shares = levels.groupby("users")["good_ratio"].mean()
    slowest_per_s = min(service.capacity_per_s for service in services)

    def attainment(rate: float) -> float:
        expected = [expected_on_arrival(s, rate, shares.index, shares) for s in services]
        return float(np.mean(expected))

    ratios = [attainment(rate) if rate < slowest_per_s else float("nan") for rate in rates]
    return pd.DataFrame({"offered_per_s": rates, "predicted_ratio": ratios})


def backlog_lines(steps: Measured) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Return each step's load, verdict and requests under way, for `lab.figures.backlogs`."""
    lines = []
    for row, run in zip(steps.table.itertuples(), steps.runs, strict=True):
        scheduled = run.records["scheduled_at"]
        counts = concurrency(scheduled.to_numpy(), run.records["done_at"].to_numpy())
        counts = counts[counts["at"] <= scheduled.max()]
        at = counts["at"].to_numpy() - run.window[0]
        lines.append((f"{row.offered_per_s:g}/s", row.verdict, at, counts["running"].to_numpy()))
    return lines


def gauge_samples(measured: Measured) -> pd.DataFrame:
    """Return vLLM's own count of its requests at every scrape while the steps' requests came.

    Columns: `at` (epoch seconds), `value` (running + waiting), `step` (from 0), and `true`: how
    many requests the client had under way at that time. Raises NoData where Prometheus has none.
    """
    table = _scrapes(measured)[["at", "in_engine", "step", "under_way"]]
    return table.rename(columns={"in_engine": "value", "under_way": "true"})


def engine_pressure(measured: Measured) -> pd.DataFrame:
    """Return the state of vLLM's engine in each step, by its scrapes.

    The index is the offered load.

    - `running`, `waiting`, `kv_cache_ratio`: the maxima; of several engines the sum of the requests
      and the fullest cache;
    - `preemptions`, `tokens_per_step` (mean batch of an engine step, prompt tokens included),
      `engine_steps_per_s`: from the first to the last scrape within the step, so nothing of its
      neighbours is in them;
    - `in_engine` (mean of running + waiting) and `under_way` (the client's count at the same
      times);
    - `scrapes`: the number of samples.
    """
    counts = f"{Metric.STEP_TOKENS}_count"
    tokens = f"{Metric.STEP_TOKENS}_sum"
    counters = [Metric.PREEMPTIONS, counts, tokens]
    steps = _scrapes(measured, [Metric.KV_CACHE_USAGE, *counters]).groupby("step")
    grown = steps[["at", *counters]].agg(lambda values: values.iloc[-1] - values.iloc[0])
    table = pd.DataFrame(
        {
            "running": steps[Metric.RUNNING].max(),
            "waiting": steps[Metric.WAITING].max(),
            "kv_cache_ratio": steps[Metric.KV_CACHE_USAGE].max(),
            "preemptions": grown[Metric.PREEMPTIONS],
            "tokens_per_step": grown[tokens] / grown[counts],
            "engine_steps_per_s": grown[counts] / grown["at"],
            "in_engine": steps["in_engine"].mean(),
            "under_way": steps["under_way"].mean(),
            "scrapes": steps.size(),
        }
    )
    return table.set_index(measured.table["offered_per_s"].iloc[table.index])


def polled_level(
    settings: Settings,
    users: int,
    *,
    level_s: float,
    warm_s: float,
    slo: Slo,
    seed: int,
    round_number: int,
) -> tuple[Measured, pd.DataFrame]:
    """Run one closed-loop level as `run_levels` does, and poll vLLM's gauges meanwhile.

    The samples are `at` (epoch seconds) and `value` (running + waiting), in the level's steady
    window only. vLLM is polled every POLL_S seconds, since Prometheus' scrapes of a short run are
    too few for a narrow interval. This costs its API server a few milliseconds each time, so do not
    use such a level for timing. A recording has the scrapes only. Raises NoData where vLLM's
    metrics lack the gauges.
    """
    live = place_of(settings).live
    readings: list[dict[str, float]] = []
    with ExitStack() as stack:
        if live:
            client = HttpClient("vLLM", settings.endpoint("vllm"), settings.timeout_s)
            sampler = Sampler(lambda: poll_in_engine(client), POLL_S)
            readings = stack.enter_context(sampler).readings
        level = run_levels(
            settings,
            [users],
            rounds=1,
            level_s=level_s,
            warm_s=warm_s,
            slo=slo,
            seed=seed,
            first_round=round_number,
        )

    first, last = steady_window(level.runs[0].records, warm_s=warm_s, users=users)
    table = pd.DataFrame(readings) if live else gauge_samples(level)
    steady = table[table["at"].between(first, last)]
    if steady.empty:
        raise NoData(
            "vLLM's gauges were not read while the level was run",
            query=f"{Metric.RUNNING}, {Metric.WAITING}",
        )
    return level, steady.reset_index(drop=True)


def in_engine(metrics: str) -> float:
    """Return the requests running and waiting, from the text of vLLM's /metrics.

    Raises NoData where both are missing, or are not numbers.
    """
    exported = {line.partition("{")[0] for line in metrics.splitlines() if "{" in line}
    names = [actual_name(metric, list(exported)) for metric in (Metric.RUNNING, Metric.WAITING)]
    gauges = tuple(f"{name.metric}{{" for name in names if name)
    lines = [line for line in metrics.splitlines() if gauges and line.startswith(gauges)]
    try:
        values = [float(line.rpartition(" ")[2]) for line in lines]
    except ValueError:
        values = []
    if not values:
        raise NoData(
            "this is not vLLM's /metrics",
            query=f"{Metric.RUNNING}, {Metric.WAITING}",
            got=metrics[:80],
        )
    return sum(values)


def poll_in_engine(client: HttpClient) -> dict[str, float]:
    """Return `at` (epoch seconds) and `value`: the requests running and waiting in a vLLM now.

    Raises StoreUnreachable where /metrics cannot be read, and NoData as `in_engine`.
    """
    began = time.time()
    text = client.request("/metrics").content.decode("utf-8", "replace")
    value = in_engine(text)
    return {"at": (began + time.time()) / 2, "value": value}


def _scrapes(measured: Measured, metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Return vLLM's samples while a step's requests came, one row per scrape.

    Columns: `at` (epoch seconds), `step`, the two gauges of requests and these metrics,
    `in_engine` (running + waiting) and `under_way`, the client's count at the same times.
    """
    seen = Observation(measured.runs[-1], measured.settings)
    window = measured.window[0], seen.scraped_until
    names = [Metric.RUNNING, Metric.WAITING, *metrics]
    columns = {}
    for name in names:
        answer = seen.prometheus.samples(seen.of_vllm(name), *window, lookback_s=0.0).require()
        samples = merge_copies(series_frame(answer), ["value"])
        # Engines' requests are added up; of their caches the fullest is the limit.
        how: Literal["max", "sum"] = "max" if name == Metric.KV_CACHE_USAGE else "sum"
        columns[name] = level_over_time(samples, how)
    table = pd.DataFrame(columns).dropna().reset_index()
    table["at"] = table["time"].dt.as_unit("ns").astype("int64") / 1e9

    first = [run.window[0] for run in measured.runs]
    last = np.array([float(run.records["scheduled_at"].max()) for run in measured.runs])
    table["step"] = np.searchsorted(first, table["at"], side="right") - 1
    table = table[(table["step"] >= 0) & (table["at"] <= last[table["step"].clip(lower=0)])]

    records = measured.records()
    table = table.assign(
        in_engine=table[Metric.RUNNING] + table[Metric.WAITING],
        under_way=in_flight_at(records["sent_at"], records["done_at"], table["at"]),
    )
    return table.drop(columns="time").reset_index(drop=True)
