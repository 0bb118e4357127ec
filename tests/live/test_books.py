"""In a real workload traces are complete, phases add up, and three sources agree on tokens."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from lab import cost, latency, measures
from lab.observation import Observation, observe
from lab.settings import Settings
from lab.workload import Poisson, Run, make_plan, run_plan


@pytest.fixture(scope="module")
def driven(live_lab: Settings) -> tuple[Run, Observation]:
    """Drive twenty requests to the agent and observe them."""
    plan = make_plan(requests=20, arrivals=Poisson(1.5), seed=5, settings=live_lab)
    run = run_plan(plan, live_lab, progress=False)
    return run, observe(run, live_lab, wait_s=60)


def test_every_request_is_answered_and_every_trace_is_complete(
    driven: tuple[Run, Observation],
) -> None:
    """No request is lost and no trace is silently incomplete."""
    run, seen = driven
    assert len(run.records) == 20 and run.not_sent == 0 and run.spans_lost == 0
    assert seen.requests["trace_complete"].all(), seen.requests["trace_problem"].unique()


def test_phases_add_up(driven: tuple[Run, Observation]) -> None:
    """The phases of each request add up to the client's duration, with little unexplained time."""
    _, seen = driven
    frame = seen.requests
    for _, request in frame.iterrows():
        total = latency.phase_seconds(pd.DataFrame([request])).sum()
        assert total == pytest.approx(request["e2e_s"], abs=1e-6)
    assert frame["unexplained_s"].abs().sum() < 0.05 * frame["e2e_s"].sum()


def test_token_counts_are_equal_in_all_sources(
    driven: tuple[Run, Observation],
) -> None:
    """Client, spans and counters have equal prompt and completion tokens on an unshared server."""
    _, seen = driven
    if (seen.requests["status"] != "ok").any():
        pytest.skip("a request failed, so the client cannot know all of its tokens")
    totals = measures.token_totals(seen.requests, cost.counter_totals(seen))
    balanced = measures.reconcile_totals(totals)["balanced"]
    assert balanced["prompt"] and balanced["completion"], totals.to_string()


def test_the_agent_really_chooses_tools(driven: tuple[Run, Observation]) -> None:
    """Most tool choices are right, so the served model is not a random one."""
    _, seen = driven
    assert seen.requests["right_tool"].mean() > 0.6
    assert (seen.requests["tool_runs"] > 0).sum() >= 10


def test_a_saved_run_can_be_observed_again(
    driven: tuple[Run, Observation], live_lab: Settings, tmp_path
) -> None:
    """A run loaded from files has the same requests and judgements."""
    run, seen = driven
    again = observe(Run.load(run.save(tmp_path)), live_lab, wait_s=30)
    assert again.requests["right_tool"].tolist() == seen.requests["right_tool"].tolist()
    assert json.loads((tmp_path / run.run_id / "run.json").read_text())["requests"] == 20
