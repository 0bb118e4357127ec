"""A known share of tool errors shows in every source and measure of quality."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pandas as pd
import pytest

from lab import quality
from lab.measures import share_table, wilson
from lab.observation import Observation, observe
from lab.settings import Settings
from lab.workload import Run, make_scenarios, plan_of, run_plan
from lab.world import facts

INJECTED = 0.4
CONFIDENCE = 0.999  # a 95 % interval would miss the truth in one run of twenty
TOOL = "get_job_status"
INTENT = "job_status"


@pytest.fixture(scope="module")
def run_with_faults(live_lab: Settings):
    """Ask 60 questions for one tool whose calls time out with the injected probability."""
    url = f"{live_lab.endpoint('mcp')}/admin/faults"
    httpx.post(url, json={"tool": TOOL, "error_ratio": INJECTED}, timeout=60).raise_for_status()
    try:
        return _driven(live_lab)
    finally:
        httpx.delete(url, timeout=60).raise_for_status()


def _driven(live_lab: Settings) -> tuple[Run, Observation]:
    scenarios = make_scenarios(800, seed=17, kinds=["single"])
    scenarios = [s for s in scenarios if s.intent == INTENT][:60]
    run = run_plan(
        plan_of(scenarios, settings=live_lab, gap_s=0.25), live_lab, progress=False, timeout_s=240
    )
    assert run.records["status"].eq("ok").all(), "a request failed: its tool calls are unknown"
    return run, observe(run, live_lab, wait_s=60)


def test_an_injected_share_of_tool_errors_shows_in_every_source(
    live_lab: Settings, run_with_faults
) -> None:
    """Answers, spans and counter agree on every call, and the failed share is the injected one.

    Calls that fail because of the model's arguments are excluded.
    """
    run, seen = run_with_faults
    by_source = quality.calls_by_source(seen).loc[TOOL].unstack()
    assert by_source["calls"].nunique() == 1, by_source
    assert by_source["failed"].nunique() == 1, by_source
    spans = seen.spans[seen.spans["name"].astype(str) == f"execute_tool {TOOL}"]
    timed_out = int((spans["status_message"] == facts.TIMED_OUT).sum())
    share, low, high = wilson(timed_out, len(spans), confidence=CONFIDENCE)
    assert low <= INJECTED <= high, (
        f"{timed_out} of {len(spans)} timed out: {share:.2f} ({low:.2f} to {high:.2f})"
    )
    assert not ((seen.spans["name"] == "invoke_mcp_tool") & (seen.spans["status"] == "error")).any()


def test_the_measures_separate_the_worlds_errors_from_the_models(run_with_faults) -> None:
    """Timeouts count as given errors, and the telemetry's signal flags the requests with one."""
    _, seen = run_with_faults
    frame = quality.judged(seen)
    spans = seen.spans[seen.spans["name"].astype(str) == f"execute_tool {TOOL}"]
    late = spans[spans["status_message"] == facts.TIMED_OUT]
    exact = frame[frame["arguments_exact"].fillna(False).astype(bool)]
    assert len(exact) >= 10, "the model copied too few names for this test to be conclusive"
    of_exact = late[late["trace_id"].isin(exact["trace_id"])]
    assert exact["given_errors"].sum() == len(of_exact) and exact["own_errors"].sum() == 0
    first = exact["given_errors"] > 0  # the first call timed out
    share, low, high = wilson(int(first.sum()), len(exact), confidence=CONFIDENCE)
    assert low <= INJECTED <= high, f"{share:.2f} ({low:.2f} to {high:.2f})"
    flagged = set(frame.loc[frame["failed_call"], "trace_id"])
    assert set(late["trace_id"]) <= flagged


def test_right_answers_fall_only_where_a_tool_failed(run_with_faults) -> None:
    """Recovery is judged only where a call failed, and faithfulness in both cases."""
    _, seen = run_with_faults
    frame = quality.judged(seen)
    had_error = frame["failed_call"]
    assert (frame["recovered"].notna() == (had_error & (frame["status"] == "ok"))).all()
    table = share_table(
        frame.assign(failed=had_error), ["answer_faithful"], by=["failed"]
    ).set_index("failed")
    assert isinstance(table, pd.DataFrame) and table.n.sum() > 0


def test_answers_that_were_falsified_are_ungrounded(run_with_faults) -> None:
    """A known share of real answers gets an invented value, and the signal finds exactly those.

    The share is within the signal's interval.
    """
    _, seen = run_with_faults
    clean = seen.requests.loc[~quality.judged(seen)["ungrounded"]].reset_index(drop=True)
    spoiled = clean.index % 4 == 0
    answers = clean["answer"].where(~spoiled, clean["answer"] + " Ask for 987654321.")
    again = quality.judged(replace(seen, requests=clean.assign(answer=answers)))
    assert again["ungrounded"].tolist() == spoiled.tolist()
    row = share_table(again, ["ungrounded"]).loc["ungrounded"]
    assert row.low_ratio <= 0.25 <= row.high_ratio
