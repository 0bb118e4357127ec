"""Faults are visible, named and measured, and lose no record.

These tests come last, as they break parts of the shared lab.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import httpx
import pytest

from lab import stack
from lab.errors import IncompleteTraces, NotUp, PartFailed
from lab.observation import observe, parse_tool_calls
from lab.settings import Settings, load_settings
from lab.stores import Tempo
from lab.workload import Poisson, make_plan, make_scenarios, plan_of, run_plan

INJECTED_S = 0.8


def _pid(settings: Settings, part: str) -> int:
    return next(p.pid for p in stack.status(settings) if p.name == part and p.pid)


def _repair(settings: Settings) -> Settings:
    stack.up(settings)
    return load_settings(state_dir=settings.state_dir)


@pytest.fixture
def faults(live_lab: Settings):
    """Yield a function that sets a tool's fault, and remove all faults afterwards."""
    url = f"{live_lab.endpoint('mcp')}/admin/faults"
    yield lambda **fault: httpx.post(url, json=fault, timeout=60).raise_for_status()
    httpx.delete(url, timeout=60).raise_for_status()


def test_an_injected_delay_shows_in_the_tool_phase(live_lab: Settings, faults) -> None:
    """A known delay of a known tool is in the tool phase of its calls."""
    faults(tool="get_invoice", delay_s=INJECTED_S)
    scenarios = make_scenarios(120, seed=6, kinds=["single"])
    scenarios = [s for s in scenarios if s.intent == "invoice"][:4]
    run = run_plan(plan_of(scenarios, settings=live_lab, gap_s=2.0), live_lab, progress=False)
    frame = observe(run, live_lab).requests
    called = frame[(frame["tool_runs"] == 1) & (frame["tool_failures"] == 0)]
    assert len(called) >= 1, frame[["prompt", "answer", "tool_runs", "status"]].to_string()
    assert ((called["tool_s"] >= INJECTED_S) & (called["tool_s"] < INJECTED_S + 0.5)).all()


def test_a_failing_tool_is_counted_only_by_its_server(live_lab: Settings, faults) -> None:
    """The request is answered, and the failures are in the frame but not in Llama Stack's spans."""
    faults(tool="get_quota", error_ratio=1.0)
    scenarios = make_scenarios(120, seed=7, kinds=["single"])
    scenarios = [s for s in scenarios if s.intent == "quota"][:3]
    run = run_plan(plan_of(scenarios, settings=live_lab, gap_s=1.0), live_lab, progress=False)
    seen = observe(run, live_lab)
    in_records = sum(
        bool(c["error"]) for calls in run.records["tool_calls"] for c in parse_tool_calls(calls)
    )
    assert seen.requests["tool_failures"].sum() == in_records >= 1
    assert not ((seen.spans["name"] == "invoke_mcp_tool") & (seen.spans["status"] == "error")).any()


def test_a_trace_that_never_arrives_is_reported(live_lab: Settings) -> None:
    """The wait is bounded, and the missing trace is named."""
    arrival = Tempo(live_lab).wait_for_traces(["deadbeef" * 4], timeout_s=2)
    assert not arrival.complete
    with pytest.raises(IncompleteTraces, match="1 of 1 traces are not complete"):
        arrival.require()


def test_vllm_killed_mid_workload_loses_no_record(live_lab: Settings) -> None:
    """Requests after the kill are rows with an error, and `lab up` restarts the part."""
    plan = make_plan(requests=16, arrivals=Poisson(2.0), seed=9, settings=live_lab)
    killer = threading.Timer(3.0, os.kill, (_pid(live_lab, "vllm"), signal.SIGKILL))
    killer.start()
    run = run_plan(plan, live_lab, progress=False, timeout_s=30)
    killer.join()
    assert len(run.records) + run.not_sent == 16
    assert (run.records["status"] == "error").any()
    assert (run.records.loc[run.records["status"] != "ok", "error_message"] != "").all()
    with pytest.raises(PartFailed, match="vllm"):
        for _ in range(120):  # the failure is detected within seconds
            stack.require(live_lab, "vllm", wait_s=0.5)
            time.sleep(0.5)
    settings = _repair(live_lab)
    again = run_plan(
        plan_of(make_scenarios(1, seed=1, kinds=["no_tool"]), settings=settings),
        settings,
        progress=False,
    )
    assert again.records["status"].tolist() == ["ok"]


def test_llama_stack_down_is_reported_before_anything_is_sent(live_lab: Settings) -> None:
    """The error names the server and how to check it."""
    os.kill(_pid(live_lab, "llama-stack"), signal.SIGKILL)
    plan = make_plan(requests=2, arrivals=Poisson(5.0), seed=9, settings=live_lab)
    with pytest.raises(NotUp, match="Llama Stack"):
        run_plan(plan, live_lab, progress=False)
    settings = _repair(live_lab)
    assert run_plan(plan, settings, progress=False).records["status"].eq("ok").all()
