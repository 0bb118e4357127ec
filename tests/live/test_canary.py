"""The canary is served, called through Llama Stack, visible in traces and metrics, and stopped."""

from __future__ import annotations

import time

from lab import quality, stack
from lab.observation import observe
from lab.settings import Settings
from lab.stack.plan import CANARY
from lab.stores import Prometheus
from lab.workload import make_scenarios, plan_of, run_plan, with_model


def _scraped(settings: Settings) -> bool:
    return any(t.job == quality.CANARY_PART and t.up for t in Prometheus(settings).targets())


def _wait(condition, limit_s: float = 120.0) -> bool:
    """Poll until the condition holds or the time is up; return its last value."""
    limit = time.monotonic() + limit_s
    while not (holds := condition()) and time.monotonic() < limit:
        time.sleep(0.5)
    return holds


def test_the_canary_answers_next_to_the_model(live_lab: Settings) -> None:
    """Calls are in the spans of the requested server, and Prometheus scrapes the canary.

    After the canary has stopped, Prometheus no longer lists it as a target.
    """
    if any(p.name == quality.CANARY_PART and p.ready for p in stack.status(live_lab)):
        stack.stop(live_lab, quality.CANARY_PART)
    plan = plan_of(make_scenarios(3, seed=5, kinds=["no_tool"]), settings=live_lab)
    with quality.canary_served(live_lab):
        seen = {
            model: observe(run_plan(with_model(plan, model), live_lab, progress=False), live_lab)
            for model in (live_lab.model_name, CANARY)
        }
        assert _wait(lambda: _scraped(live_lab))
    for model, service in ((live_lab.model_name, "vllm"), (CANARY, quality.CANARY_PART)):
        spans = seen[model].spans
        assert (
            seen[model].requests["status"].eq("ok").all()
            and seen[model].requests["trace_complete"].all()
        )
        assert set(spans.loc[spans["name"] == "llm_request", "service"]) == {service}
    part = next(p for p in stack.status(live_lab) if p.name == quality.CANARY_PART)
    assert (part.state, part.pid) == ("off", None)
    assert _wait(
        lambda: not any(t.job == quality.CANARY_PART for t in Prometheus(live_lab).targets())
    )
