"""Known delays, bursts and queues show in the measures' numbers, within their intervals."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from lab import capacity, latency, measures
from lab.observation import Observation, drive, observe, wait_for_spans
from lab.settings import Settings
from lab.workload import Run, make_scenarios, plan_of, run_plan

INJECTED_S = 0.6
PAIRS = 12  # the median of so many differences lies outside their range once in 2,000 times
MOST_RUNNING = 128  # --max-num-seqs of the lab's vLLM on a CPU
WAITED_S = 0.1  # longer than a free place is waited for, which is one step of the engine at most


@pytest.fixture
def slow_tool(live_lab: Settings):
    """Makes one tool slow, and takes that back."""
    url = f"{live_lab.endpoint('mcp')}/admin/faults"
    yield lambda name: httpx.post(
        url, json={"tool": name, "delay_s": INJECTED_S}
    ).raise_for_status()
    httpx.delete(url).raise_for_status()


def test_a_tools_known_delay_is_in_the_interval_of_the_difference_and_on_the_critical_path(
    live_lab: Settings, slow_tool
) -> None:
    """The tool phase becomes longer by what was injected, and all of it is critical."""
    scenarios = [s for s in make_scenarios(400, seed=6, kinds=["single"]) if s.intent == "invoice"][
        :PAIRS
    ]
    plan = plan_of(scenarios, settings=live_lab, gap_s=0.5)

    def ask() -> Observation:
        return observe(run_plan(plan, live_lab, progress=False), live_lab, wait_s=60)

    before = ask()
    slow_tool("get_invoice")
    after = ask()
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
    assert len(runs) and (runs["critical_s"] >= INJECTED_S).all()
    path = measures.critical_path(trees)
    assert path["critical_s"].sum() == pytest.approx(path.attrs["root_s"], rel=0.02)


def test_a_known_number_of_users_is_littles_number_in_the_system(live_lab: Settings) -> None:
    """Eight users who never think are eight requests under way, by the integral and by the law."""
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
    """So many calls of the model at once."""
    scenarios = make_scenarios(n, seed=8, kinds=["single", "no_tool"])
    return run_plan(
        plan_of(scenarios, api="chat", settings=settings), settings, progress=False, timeout_s=120
    )


def test_a_known_burst_is_the_peak_of_the_backlog(live_lab: Settings) -> None:
    """Forty requests at once are forty under way, and there is no forty-first."""
    run = burst(live_lab, 40)
    steps = measures.concurrency(
        run.records["scheduled_at"].to_numpy(), run.records["done_at"].to_numpy()
    )
    assert steps["running"].max() == 40 and steps["running"].iloc[-1] == 0


def test_those_who_found_the_engine_full_are_those_with_a_queue_phase(live_lab: Settings) -> None:
    """Forty at once find a free place each: none waits longer than a step of the engine.

    Of three times --max-num-seqs at once at least a fifth waits until others have ended, and the
    queue phase's p95 says so.
    """
    waited = {}
    for n in (40, 3 * MOST_RUNNING):
        run = burst(live_lab, n)
        assert (run.records["status"] == "ok").all()
        spans, arrival = wait_for_spans(live_lab, run.records, 90, bulk=True)
        waited[n] = latency.chat_calls(Observation(run, live_lab, spans=spans))["queue_s"]
        assert len(waited[n]) == n, arrival
    few, many = waited.values()
    assert measures.quantile(few, 0.95).high < WAITED_S
    share, low, high = measures.wilson(int((many > WAITED_S).sum()), len(many))
    assert low > 0.2, (share, low, high)
    assert measures.quantile(many, 0.95).low > 2 * WAITED_S


def test_overload_is_called_by_its_name_and_light_load_is_not(live_lab: Settings) -> None:
    """800 requests in two seconds are more than the lab can serve; two a second are not."""

    def judged(n: int, rate: float) -> measures.Saturation:
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
        found = measures.saturation(
            records["scheduled_at"].to_numpy(), records["done_at"].to_numpy(), window
        )
        left = measures.in_flight_at(records["scheduled_at"], records["done_at"], np.array(window))
        # By counting: what is left at the end, less what was there at the beginning, is the growth.
        grown = (found.offered_per_s - found.answered_per_s) * (window[1] - window[0])
        assert left[1] - left[0] == pytest.approx(grown, abs=1.5)
        return found

    heavy = judged(800, 400.0)
    assert (
        heavy.verdict == "saturated"
        and heavy.growth_low > 0
        and heavy.answered_high < heavy.offered_per_s
    )
    assert judged(20, 2.0).verdict != "saturated"


def test_default_buckets_hide_a_doubling_that_spans_show(live_lab: Settings) -> None:
    """The same calls beside fifteen others are slower by the spans, the same by default buckets."""
    alone, beside = (
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
    for run in (alone, beside):
        spans, _ = wait_for_spans(live_lab, run.records, 60, bulk=True)
        calls = latency.chat_calls(Observation(run, live_lab, spans=spans))
        buckets = measures.rebin(calls["prefill_s"], measures.VLLM_REQUEST_LATENCY_S)
        bucketed.append(measures.bucket_quantile(buckets, 0.5))
        truth.append(measures.quantile(calls["prefill_s"], 0.5))
    assert truth[1].low > truth[0].high, truth
    if bucketed[0].single_bucket and bucketed[1].single_bucket:
        assert bucketed[0].value == bucketed[1].value
