"""Known delays, bursts and queues are measured within their intervals."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from lab import capacity, latency, measures
from lab.observation import Observation, drive, observe, wait_for_spans
from lab.settings import Settings
from lab.workload import Run, make_scenarios, plan_of, run_plan

INJECTED_S = 0.6
PAIRS = 12  # the median of this many differences is outside their range once in 2,000 times
MAX_RUNNING = 128  # --max-num-seqs of the lab's vLLM on a CPU


@pytest.fixture
def slow_tool(live_lab: Settings):
    """Yield a function that makes a tool slow, and remove the fault afterwards."""
    url = f"{live_lab.endpoint('mcp')}/admin/faults"
    yield lambda name: httpx.post(
        url, json={"tool": name, "delay_s": INJECTED_S}, timeout=60
    ).raise_for_status()
    httpx.delete(url, timeout=60).raise_for_status()


def test_a_known_tool_delay_is_in_the_interval_and_on_the_critical_path(
    live_lab: Settings, slow_tool
) -> None:
    """The tool phase grows by the injected delay, all of which is on the critical path."""
    scenarios = make_scenarios(400, seed=6, kinds=["single"])
    scenarios = [s for s in scenarios if s.intent == "invoice"][:PAIRS]
    plan = plan_of(scenarios, settings=live_lab, gap_s=0.5)

    def drive_plan() -> Observation:
        return observe(run_plan(plan, live_lab, progress=False), live_lab, wait_s=60)

    before = drive_plan()
    slow_tool("get_invoice")
    after = drive_plan()
    both = before.requests.merge(after.requests, on="request_id", suffixes=("_before", "_after"))
    called = both[(both[["tool_runs_before", "tool_runs_after"]] == 1).all(axis=1)]
    assert len(called) >= PAIRS // 2, both[
        ["prompt_before", "tool_runs_before", "tool_runs_after"]
    ].to_string()
    longer = measures.quantile(
        called["tool_s_after"] - called["tool_s_before"], 0.5, confidence=0.999
    )
    assert longer.low <= INJECTED_S + 0.02 and longer.high >= INJECTED_S - 0.02, longer
    trees = latency.critical_trees(after)
    runs = trees[trees["name"] == "execute_tool get_invoice"]
    # The delay is slept by the monotonic clock; spans have the wall clock's times, which is slewed.
    assert len(runs) and (runs["critical_s"] >= INJECTED_S * 0.99).all(), runs["critical_s"]
    path = measures.critical_path(trees)
    assert path["critical_s"].sum() == pytest.approx(path.attrs["root_s"], rel=0.02)


def test_a_known_number_of_users_is_the_number_in_the_system(live_lab: Settings) -> None:
    """Eight users without think time are eight in flight, by integral and by Little's law."""
    run = drive(
        live_lab,
        n_requests=160,
        users=8,
        think_s=0.0,
        seed=3,
        kinds=capacity.SINGLE_TURN,
        api="chat",
        progress=False,
        label="truth",
    )
    window = measures.steady_window(run.records, warm_s=0.2, users=8)
    books = measures.littles_law(run.records["scheduled_at"], run.records["done_at"], window)
    assert books.mean_in_system == pytest.approx(8, abs=0.4) and abs(books.rest) < 1e-6
    assert books.lambda_w + books.before - books.after == pytest.approx(books.mean_in_system)


def burst(settings: Settings, n: int) -> Run:
    """Send n model calls at once."""
    scenarios = make_scenarios(n, seed=8, kinds=["single", "no_tool"])
    return run_plan(
        plan_of(scenarios, api="chat", settings=settings), settings, progress=False, timeout_s=120
    )


def test_a_known_burst_is_the_peak_of_the_backlog(live_lab: Settings) -> None:
    """Forty requests at once are exactly forty in flight."""
    run = burst(live_lab, 40)
    steps = measures.concurrency(
        run.records["scheduled_at"].to_numpy(), run.records["done_at"].to_numpy()
    )
    assert steps["running"].max() == 40 and steps["running"].iloc[-1] == 0


def test_requests_that_met_a_full_engine_have_a_queue_phase(live_lab: Settings) -> None:
    """Of three times --max-num-seqs at once, at least a fifth waits, as the queue's p95 shows.

    Forty requests at once get a free slot each: none waits longer than one engine step.
    """
    waited = {}
    for n in (40, 3 * MAX_RUNNING):
        run = burst(live_lab, n)
        assert (run.records["status"] == "ok").all()
        spans, arrival = wait_for_spans(live_lab, run.records, 90, bulk=True)
        waited[n] = latency.chat_calls(Observation(run, live_lab, spans=spans))["queue_s"]
        assert len(waited[n]) == n, arrival
    few, many = waited.values()
    one_step_s = measures.quantile(few, 0.95).high
    share, low, high = measures.wilson(int((many > one_step_s).sum()), len(many))
    assert low > 0.2, (share, low, high)
    assert measures.quantile(many, 0.95).low > 2 * one_step_s


def test_overload_is_detected_and_light_load_is_not(live_lab: Settings) -> None:
    """800 requests in two seconds are more than the lab can serve, and two per second are not."""

    def judge(n: int, rate: float) -> measures.Saturation:
        run = drive(
            live_lab,
            n_requests=n,
            rate_per_s=rate,
            seed=4,
            kinds=capacity.SINGLE_TURN,
            api="chat",
            progress=False,
            label="truth",
            timeout_s=120,
        )
        records = run.records
        window = measures.steady_window(records, warm_s=0.3)
        saturation = measures.saturation(
            records["scheduled_at"].to_numpy(), records["done_at"].to_numpy(), window
        )
        left = measures.in_flight_at(records["scheduled_at"], records["done_at"], np.array(window))
        # Counting: the growth is what is left at the end, minus what was there at the beginning.
        grown = (saturation.offered_per_s - saturation.answered_per_s) * (window[1] - window[0])
        assert left[1] - left[0] == pytest.approx(grown, abs=1.5)
        return saturation

    heavy = judge(800, 400.0)
    assert (
        heavy.verdict == "saturated"
        and heavy.growth_low > 0
        and heavy.answered_high < heavy.offered_per_s
    )
    assert judge(20, 2.0).verdict != "saturated"


def test_default_buckets_hide_a_slowdown_that_spans_show(live_lab: Settings) -> None:
    """Calls next to fifteen others are slower by spans, and equal by default buckets."""
    alone, concurrent = (
        drive(
            live_lab,
            n_requests=n,
            users=users,
            think_s=0.0,
            seed=5,
            kinds=capacity.SINGLE_TURN,
            api="chat",
            progress=False,
            label="truth",
        )
        for users, n in ((1, 40), (16, 160))
    )
    bucketed = []
    truth = []
    for run in (alone, concurrent):
        spans, _ = wait_for_spans(live_lab, run.records, 60, bulk=True)
        calls = latency.chat_calls(Observation(run, live_lab, spans=spans))
        buckets = measures.rebin(calls["prefill_s"], measures.VLLM_REQUEST_LATENCY_S)
        bucketed.append(measures.bucket_quantile(buckets, 0.5))
        truth.append(measures.quantile(calls["prefill_s"], 0.5))
    assert truth[1].low > truth[0].high, truth
    if bucketed[0].single_bucket and bucketed[1].single_bucket:
        assert bucketed[0].value == bucketed[1].value
