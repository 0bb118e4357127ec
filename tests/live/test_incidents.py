"""Incidents change what they say, raise their alerts, stay hidden, and are always undone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from lab import incidents, stack
from lab.incidents import INCIDENTS
from lab.observation import observe
from lab.schema import Metric
from lab.settings import Settings, load_settings
from lab.stack.plan import INCIDENT
from lab.stores import Prometheus
from lab.workload import make_scenarios, plan_of, run_plan

ALERT_S = 120.0


@pytest.fixture
def lab_with_incidents(live_lab: Settings) -> Iterator[Settings]:
    """Yield a lab, and undo what a test that failed has left."""
    yield load_settings(state_dir=live_lab.state_dir)
    record = incidents.current(live_lab)
    if record and record.ended_at is None:
        incidents.stop(live_lab)
    stack.up(live_lab)


def wait_for(condition: Callable[[], bool], limit_s: float = ALERT_S) -> None:
    """Poll until the condition holds; fail after `limit_s` seconds."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "the condition did not hold in time"
        time.sleep(0.5)


def test_a_hidden_slow_tool_shows_only_in_the_tool_phase(lab_with_incidents: Settings) -> None:
    """Calls of that tool take longer by the delay; no file and no process names the incident."""
    settings = lab_with_incidents
    shown = incidents.start("slow_tool", settings, seed=3, strength=0.2, hidden=True)
    assert (shown.name, shown.parameters) == ("", {})
    found = subprocess.run(
        ["grep", "-rlaiE", "slow.?tool", str(settings.state_dir)], capture_output=True, text=True
    )
    assert found.stdout == ""
    processes = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True)
    ours = [line for line in processes.stdout.splitlines() if "lab." in line]
    assert ours and not any("slow" in line for line in ours)

    truth = incidents.reveal(settings)
    tool = truth.parameters["tool"]
    scenarios = make_scenarios(200, seed=6, kinds=["single"])
    chosen = [s for s in scenarios if s.turns[0].calls[0].tool == tool][:3]
    run = run_plan(plan_of(chosen, settings=settings, gap_s=0.5), settings, progress=False)
    requests = observe(run, settings, wait_s=60).requests
    called = requests[requests["tool_runs"] == 1]
    assert len(called) and (called["tool_s"] >= truth.parameters["delay_s"]).all()

    ended = incidents.stop(settings)
    assert ended.ended_at and ended.onset_at and ended.ended_at > ended.onset_at


def test_a_scrape_gap_raises_its_alert(lab_with_incidents: Settings) -> None:
    """vLLM's metrics are missing, so NoModelMetrics fires, and the job comes back afterwards."""
    settings = lab_with_incidents
    prometheus = Prometheus(settings)
    incidents.start("scrape_gap", settings, onset_after_s=0.0)
    (expected,) = INCIDENTS["scrape_gap"].alerts

    def fires() -> bool:
        return (expected, "firing") in {(a.name, a.state) for a in prometheus.alerts()}

    wait_for(fires)
    incidents.stop(settings)
    wait_for(lambda: any(t.job == "vllm" and t.up for t in prometheus.targets()))
    wait_for(lambda: not fires())


def test_a_killed_incident_is_undone(lab_with_incidents: Settings) -> None:
    """vLLM runs one request at a time, and several again after its process was killed."""
    settings = lab_with_incidents
    incidents.start("small_batch_limit", settings, strength=1.0, onset_after_s=0.0)
    assert _most_running(settings) == 1

    worker = next(p for p in stack.status(settings) if p.name == INCIDENT)
    assert worker.pid
    os.kill(worker.pid, signal.SIGKILL)

    def undone() -> bool:
        record = incidents.current(settings)
        stack.require(settings, wait_s=ALERT_S)
        return record is not None and record.ended_at is not None and _most_running(settings) > 1

    wait_for(undone)
    assert next(p for p in stack.status(settings) if p.name == INCIDENT).pid is None


def _most_running(settings: Settings) -> int:
    """Return how many of twelve simultaneous requests vLLM ran at once, by its own gauge."""
    url = settings.endpoint("vllm")
    body = {
        "model": settings.model_name,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 80,
        "ignore_eos": True,
    }

    def send(_: int) -> None:
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)

    most = 0
    with ThreadPoolExecutor(12) as pool:
        sent = [pool.submit(send, n) for n in range(12)]
        while not all(future.done() for future in sent):
            page = httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text
            lines = [line for line in page.splitlines() if line.startswith(f"{Metric.RUNNING}{{")]
            most = max([most, *(int(float(line.split()[-1])) for line in lines)])
    return most
