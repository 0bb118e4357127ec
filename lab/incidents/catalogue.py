"""The table of incidents: what each changes, where it shows, and which alerts must fire."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from lab.world.catalogue import MCP_TOOLS

# How an incident is brought about; see worker.py.
Kind = Literal["tool", "plan", "rollout", "traffic", "embeddings", "cpu", "hang"]

RARE_TOOLS = ("get_quota",)  # one call in 25: a window of a minute has too few of them to tell
# Tools that only read, that requests often call, and whose faults are not by design.
PLAIN_TOOLS = tuple(
    tool.name
    for tool in MCP_TOOLS
    if not (tool.slow or tool.flaky or tool.writes) and tool.name not in RARE_TOOLS
)
TENANTS = ("hooli", "soylent", "tyrell", "vandelay", "wonka")
CAN_HANG = ("tools", "llama-stack", "vllm")
# vLLM's argument, and how many blocks of 32 tokens hold one request of that length. The help desk's
# prompts and answers have up to 540 tokens, of which most have 170.
SHORT_CONTEXT = 640
KV_BLOCKS = 21


@dataclass(frozen=True)
class Incident:
    """One kind of incident.

    Attributes:
        changes: what it changes
        kind: how it is brought about
        phase: the phase of lab.schema.PHASES that grows, or what else it shows in
        place: the part, tenant or tool that is responsible; a parameter's name in braces
        draw: returns the parameters of one incident, from its random numbers and strength
        alerts: which must fire while about two agent requests per second come; () where no alert
            covers it at that load (a small KV cache preempts requests only at a higher one)
        alert_within_s: within how long after it is in effect, with a reserve: measured were 8 s
            (hanging_component) to 26 s (slow_tool)
        restarts: whether vLLM (or Llama Stack) restarts, at the start and at the end
        needs: the parts that it acts on
    """

    changes: str
    kind: Kind
    phase: str
    place: str
    draw: Callable[[Random, float], dict[str, Any]]
    alerts: tuple[str, ...] = ()
    alert_within_s: float = 0.0
    restarts: bool = False
    needs: tuple[str, ...] = ()


def _tool(random: Random, **values: float) -> dict[str, Any]:
    return {"tool": random.choice(PLAIN_TOOLS), **values}


def _tenant(random: Random, users: float, **values: Any) -> dict[str, Any]:
    return {"tenant": random.choice(TENANTS), "users": round(users), **values}


INCIDENTS: dict[str, Incident] = {
    "slow_tool": Incident(
        "one tool takes 0.5 to 3 s longer",
        "tool",
        phase="tool_s",
        place="{tool}",
        alerts=("ToolSlow",),
        alert_within_s=60.0,
        draw=lambda random, s: _tool(random, delay_s=round(0.5 + 2.5 * s, 2)),
        needs=("tools",),
    ),
    "failing_tool": Incident(
        "most calls of one tool fail",
        "tool",
        phase="tool_failures",
        place="{tool}",
        alerts=("ToolFailsOften",),
        alert_within_s=90.0,
        draw=lambda random, s: _tool(random, error_ratio=round(0.8 + 0.2 * s, 2)),
        needs=("tools",),
    ),
    "wrong_tool": Incident(
        "one tool returns the answer to an earlier question, without an error",
        "tool",
        phase="quality of answers",
        place="{tool}",
        draw=lambda random, s: _tool(random, stale_ratio=round(0.7 + 0.3 * s, 2)),
        needs=("tools",),
    ),
    "spans_lost": Incident(
        "the tool server loses a share of its spans",
        "tool",
        phase="telemetry: incomplete traces",
        place="tools",
        draw=lambda _, s: {"lost_spans_ratio": round(0.3 + 0.7 * s, 2)},
        needs=("tools",),
    ),
    "clock_skew": Incident(
        "the clock of the tool server's spans is seconds early or late",
        "tool",
        phase="telemetry: times of spans",
        place="tools",
        draw=lambda random, s: {"clock_skew_s": round(random.choice((-1, 1)) * (2 + 8 * s), 2)},
        needs=("tools",),
    ),
    "small_kv_cache": Incident(
        "vLLM has a KV cache for two to five requests, and a shorter context",
        "plan",
        phase="queue_s",
        place="vllm",
        draw=lambda _, s: {
            "vllm_args": f"--max-model-len {SHORT_CONTEXT} "
            f"--num-gpu-blocks-override {KV_BLOCKS + round(20 * (1 - s))}"
        },
        restarts=True,
        needs=("vllm",),
    ),
    "small_batch_limit": Incident(
        "vLLM runs one or two requests at a time",
        "plan",
        phase="queue_s",
        place="vllm",
        alerts=("RequestsWait",),
        alert_within_s=60.0,
        draw=lambda _, s: {"vllm_args": f"--max-num-seqs {1 if s > 0.3 else 2}"},
        restarts=True,
        needs=("vllm",),
    ),
    "prefix_cache_off": Incident(
        "vLLM computes each prompt from the beginning",
        "plan",
        phase="prefill_s",
        place="vllm",
        alerts=("PrefixCacheMisses",),
        alert_within_s=60.0,
        draw=lambda _, __: {"vllm_args": "--no-enable-prefix-caching"},
        restarts=True,
        needs=("vllm",),
    ),
    "bad_rollout": Incident(
        "Llama Stack sends a share of its model calls to the canary, an earlier checkpoint",
        "rollout",
        phase="quality of answers",
        place="vllm-canary",
        draw=lambda _, s: {"share": round(0.3 + 0.5 * s, 2)},
        restarts=True,
        needs=("vllm", "vllm-canary", "llama-stack"),
    ),
    "scrape_gap": Incident(
        "Prometheus no longer scrapes vLLM",
        "plan",
        phase="telemetry: missing samples",
        place="prometheus",
        alerts=("NoModelMetrics",),
        alert_within_s=60.0,
        draw=lambda _, __: {"unscraped": "vllm"},
        needs=("prometheus", "vllm"),
    ),
    "noisy_neighbour": Incident(
        "one more tenant sends prompts of nearly the longest context",
        "traffic",
        phase="prefill_s",
        place="{tenant}",
        alerts=("LongPrompts",),
        alert_within_s=60.0,
        draw=lambda random, s: _tenant(random, 1 + 3 * s, prompt_tokens=3000),
        needs=("vllm",),
    ),
    "unique_system_prompts": Incident(
        "one more tenant begins each prompt with text that no other has, so nothing is cached",
        "traffic",
        phase="prefill_s",
        place="{tenant}",
        alerts=("PrefixCacheMisses",),
        alert_within_s=60.0,
        draw=lambda random, s: _tenant(random, 2 + 4 * s, prompt_tokens=1200),
        needs=("vllm",),
    ),
    "token_runaway": Incident(
        "the answers to one more tenant do not end before hundreds of tokens",
        "traffic",
        phase="decode_s",
        place="{tenant}",
        alerts=("LongAnswers",),
        alert_within_s=60.0,
        draw=lambda random, s: _tenant(random, 3 + 9 * s, max_tokens=800),
        needs=("vllm",),
    ),
    "retry_storm": Incident(
        "clients of one more tenant give up too early and send the same question again",
        "traffic",
        phase="queue_s",
        place="{tenant}",
        draw=lambda random, s: _tenant(random, 6 + 14 * s, timeout_s=0.3, attempts=5),
        needs=("llama-stack",),
    ),
    "agent_loop": Incident(
        "the agent of one more tenant asks the same again and again, with all tools",
        "traffic",
        phase="model_http_s",
        place="{tenant}",
        draw=lambda random, s: _tenant(random, 2 + 6 * s, turns=10),
        needs=("llama-stack", "tools"),
    ),
    "busy_cpu": Incident(
        "other processes take the CPU",
        "cpu",
        phase="all phases",
        place="machine",
        draw=lambda _, s: {"processes": max(1, round((os.cpu_count() or 1) * (0.5 + 1.5 * s)))},
    ),
    "slow_embeddings": Incident(
        "a job that indexes documents again keeps the embedding server busy",
        "embeddings",
        phase="stack_s",
        place="vllm-embed",
        draw=lambda _, s: {"users": round(1 + 2 * s)},
        needs=("vllm-embed",),
    ),
    "hanging_component": Incident(
        "the processes of one component stop without ending",
        "hang",
        phase="no answers",
        place="{part}",
        alerts=("TargetDown",),
        alert_within_s=60.0,
        draw=lambda random, _: {"part": random.choice(CAN_HANG)},
        needs=CAN_HANG,
    ),
}
