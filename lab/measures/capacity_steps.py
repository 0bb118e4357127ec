"""From the requests of a step to one row of what the step showed: closed-loop levels and open-loop steps."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.measures.capacity import Slo
from lab.measures.capacity_littles import littles_law
from lab.measures.capacity_saturation import batch_mean, saturation
from lab.measures.latency import quantile
from lab.measures.quality import wilson
from lab.measures.streaming import token_latencies


def steady_window(records: pd.DataFrame, *, warm_s: float, users: int = 0) -> tuple[float, float]:
    """The part of a step in which its load was what it should be, in epoch seconds.

    It begins `warm_s` after the first request was due. In open loop it ends with the last arrival (afterwards nothing
    new comes); with closed-loop users when the first of them has finished (afterwards fewer are there). Raises
    FrameError where nothing is left.
    """
    first = float(records["scheduled_at"].min()) + warm_s
    if users:
        # Users are told apart by their names; each goes through its own requests.
        ends = records.groupby("user_id")["done_at"].max()
        last = float(ends.min())
    else:
        last = float(records["scheduled_at"].max())
    if not last > first:
        got = f"{len(records)} requests in {last - first + warm_s:.2f} s, of which {warm_s:g} s are warm-up"
        raise FrameError(
            "nothing is left of a step after its warm-up", got=got, fix="make the step longer"
        )
    return first, last


def level_row(records: pd.DataFrame, users: int, *, warm_s: float, slo: Slo) -> dict[str, float]:
    """What `users` closed-loop users found, who never think: always so many requests are under way.

    `e2e_mean_s` is the mean of the requests that were sent in the steady window; `answered_per_s` counts answers in it;
    users / answered_per_s is the same time by Little's law. `itl_s` is the mean time between tokens, `good_ratio` the
    share that kept the SLO.
    """
    first, last = window = steady_window(records, warm_s=warm_s, users=users)
    inside = records[(records["scheduled_at"] >= first) & (records["scheduled_at"] < last)]
    ok = inside[inside["status"] == "ok"]
    if ok.empty:
        raise FrameError(
            f"no request was answered with {users} users",
            got=f"{len(inside)} were sent in {window}",
        )
    answered = int(((records["done_at"] > first) & (records["done_at"] <= last)).sum())
    times = token_latencies(ok)
    return {
        "users": users,
        "n": len(inside),
        "window_s": last - first,
        "answered_per_s": answered / (last - first),
        "e2e_mean_s": float(ok["e2e_s"].mean()),
        "ttft_mean_s": float(ok["ttft_s"].mean()),
        "itl_s": float(times["tpot_s"].mean()),
        "tokens": float(ok["completion_tokens"].mean()),
        "good_ratio": float(slo.kept(inside).mean()),
    }


def step_row(
    records: pd.DataFrame, rate_per_s: float, *, warm_s: float, slo: Slo
) -> dict[str, float | str]:
    """What an open-loop step of `rate_per_s` Poisson arrivals a second showed, warm-up and drain left out.

    `offered_per_s` is what was planned, `arrived_per_s` what came of it in the window; mean latency with its
    batch-means interval, p95 with its bootstrap interval, the share of good requests with Wilson's; both sides of
    Little's law; the backlog's growth and the verdict of `saturation`.
    """
    first, last = window = steady_window(records, warm_s=warm_s)
    inside = records[(records["scheduled_at"] >= first) & (records["scheduled_at"] <= last)]
    ok = inside[inside["status"] == "ok"]
    if ok.empty:
        raise FrameError(
            f"no request was answered at {rate_per_s:g} a second", got=f"{len(inside)} were due"
        )
    start, end = records["scheduled_at"].to_numpy(float), records["done_at"].to_numpy(float)
    state = asdict(saturation(start, end, window))
    mean, low, high = batch_mean(ok["e2e_s"].to_numpy(float))
    p95, books = quantile(ok["ttft_s"].to_numpy(float), 0.95), littles_law(start, end, window)
    good = slo.kept(inside)
    share, share_low, share_high = wilson(int(good.sum()), len(inside))
    return {
        "offered_per_s": rate_per_s,
        "arrived_per_s": state.pop("offered_per_s"),
        "n": len(inside),
        "window_s": last - first,
        "e2e_mean_s": mean, "e2e_low_s": low, "e2e_high_s": high,
        "e2e_p95_s": quantile(ok["e2e_s"].to_numpy(float), 0.95).value,
        "ttft_mean_s": float(ok["ttft_s"].mean()),
        "ttft_p95_s": p95.value, "ttft_p95_low_s": p95.low, "ttft_p95_high_s": p95.high,
        "itl_s": float(token_latencies(ok)["tpot_s"].mean()),
        "good_ratio": share, "good_low_ratio": share_low, "good_high_ratio": share_high,
        "goodput_per_s": float(good.sum()) / (last - first),
        "mean_in_flight": books.mean_in_system, "lambda_w": books.lambda_w, "littles_rest": books.rest,
        "littles_edges": books.before - books.after,
        "failed": int((inside["status"] != "ok").sum()),
        **state,
    }  # fmt: skip


def prediction_errors(steps: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """What was foretold beside what came. One row a step: `offered_per_s`, `predicted_s`, `low_s`, `high_s` (of the
    prediction), `measured_s` with `measured_low_s`, `measured_high_s`, `error_ratio` = predicted / measured - 1 (NaN
    where no steady state was foretold), `verdict`, and `inside`: the two intervals touch.

    `predicted` has `offered_per_s`, `value_s`, `low_s`, `high_s` (rows of `lab.measures.predict`).
    """
    table = steps.merge(predicted, on="offered_per_s", validate="one_to_one")
    result = pd.DataFrame(
        {
            "offered_per_s": table["offered_per_s"],
            "predicted_s": table["value_s"],
            "low_s": table["low_s"],
            "high_s": table["high_s"],
            "measured_s": table["e2e_mean_s"],
            "measured_low_s": table["e2e_low_s"],
            "measured_high_s": table["e2e_high_s"],
            "error_ratio": table["value_s"] / table["e2e_mean_s"] - 1,
            "verdict": table["verdict"],
        }
    )
    touching = (result["low_s"] <= result["measured_high_s"]) & (
        result["high_s"] >= result["measured_low_s"]
    )
    result["inside"] = touching & np.isfinite(result["predicted_s"])
    return result.replace({"error_ratio": {math.inf: math.nan}})
