"""Small plans for the driver's tests."""

from __future__ import annotations

from typing import Any

from lab.settings import Settings, load_settings
from lab.workload.plan import Arrivals, Constant, Plan, PlannedRequest


def request(
    number: int, *, session: int | None = None, turn: int = 0, **changes: Any
) -> PlannedRequest:
    values: dict[str, Any] = {
        "request_id": f"r{number}",
        "session_id": f"s{number if session is None else session}",
        "turn_index": turn,
        "user": -1,
        "offset_s": 0.0 if turn == 0 else None,
        "think_s": 0.0,
        "tenant": "acme",
        "user_id": "acme-u01",
        "scenario_id": "x-1",
        "kind": "single",
        "intent": "quote",
        "text": "how much?",
        "tools": [],
        "api": "chat",
        "model": "lab/model",
        "max_tokens": 16,
        "temperature": 0.0,
    }
    return PlannedRequest(**(values | changes))


def plan(*requests: PlannedRequest, arrivals: Arrivals | None = None) -> Plan:
    return Plan(requests, arrivals or Constant(1.0), seed=1)


def settings(url: str, **more: Any) -> Settings:
    """Settings that know one server under every name that a plan may need."""
    return load_settings(vllm_url=url, llama_stack_url=url, mcp_url=url, otlp_url=None, **more)
