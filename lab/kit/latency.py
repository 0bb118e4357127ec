"""Latency from several sources: the same calls by client and engine, a probe of the prefix cache, critical paths."""

from __future__ import annotations

import secrets

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames import trace_tree
from lab.frames.roles import Role, roles_of
from lab.kit import recorded
from lab.kit.arrived import wait_for_spans
from lab.kit.asked import Asked, save_asked
from lab.kit.window import WindowRun
from lab.measures import Slope, slope
from lab.schema import Attr, Service
from lab.settings import Settings
from lab.workload import Plan, PlannedRequest, Run, Users, make_scenarios, run_plan

PROBE = "prefix probe"
WORDS = (
    "invoice",
    "cluster",
    "shows",
    "hours",
    "of",
    "use",
    "and",
    "a",
    "quota",
    "for",
    "each",
    "tenant",
    "region",
)
_ENGINE = {
    Attr.VLLM_QUEUE_S: "queue_s", Attr.VLLM_PREFILL_S: "prefill_s", Attr.VLLM_DECODE_S: "decode_s",
    Attr.VLLM_TTFT_S: "engine_ttft_s", Attr.VLLM_E2E_S: "engine_e2e_s",
    Attr.VLLM_PROMPT_TOKENS: "engine_prompt_tokens", Attr.VLLM_COMPLETION_TOKENS: "tokens",
}  # fmt: skip


def engine_calls(spans: pd.DataFrame) -> pd.DataFrame:
    """vLLM's own account of each model call in a span frame: trace_id, queue_s, prefill_s, decode_s, engine_ttft_s,
    engine_e2e_s (seconds), engine_prompt_tokens and tokens (generated). Raises FrameError where there is none."""
    calls = spans[(roles_of(spans) == Role.ENGINE) & (spans["service"] != Service.VLLM_CANARY)]
    if calls.empty:
        raise FrameError(
            "there is no model call in these spans",
            fix="wait for the traces; check that vLLM exports any",
        )
    return calls[["trace_id", *_ENGINE]].rename(columns=_ENGINE).reset_index(drop=True)


def chat_calls(run: Run, spans: pd.DataFrame) -> pd.DataFrame:
    """Requests that went straight to vLLM, as client and engine saw them: the client's record and `engine_calls` of the
    same trace, one row a request whose span has arrived; `held_back_s` is how much later its first chunk reached the
    client than the engine had the first token.

    Of a window's run: every model call of its requests, with NaN where a client would have to know.
    """
    if isinstance(run, WindowRun):
        nobody = {"ttft_s": np.nan, "e2e_s": np.nan, "held_back_s": np.nan, "finish_reason": ""}
        return engine_calls(spans).assign(**nobody)
    both = run.records.merge(
        engine_calls(spans).astype({"trace_id": str}), on="trace_id", validate="one_to_one"
    )
    return both.assign(held_back_s=both["ttft_s"] - both["lag_s"] - both["engine_ttft_s"])


def critical_trees(requests: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    """`lab.frames.trace_tree` of every complete trace of a request frame, one below the other.

    Raises FrameError where no trace is complete.
    """
    whole = requests.loc[requests["trace_complete"].astype(bool), "trace_id"].astype(str)
    groups = spans.groupby(spans["trace_id"].astype(str), sort=False)
    trees = [trace_tree(groups.get_group(one)) for one in whole]
    if not trees:
        raise FrameError(
            "no trace is complete, so there is no critical path", got=f"{len(requests)} requests"
        )
    return pd.concat(trees, ignore_index=True)


def prefix_probe(
    settings: Settings, *, max_words: int, prompts: int, seed: int = 0, wait_s: float = 30.0
) -> pd.DataFrame:
    """Ask vLLM directly, one request at a time: `prompts` prompts of up to `max_words` words that nobody has asked
    before, each twice in a row. The first must be computed, the second's beginning lies in the prefix cache.

    One row a request, in order: `again` (the second time), `prompt_tokens`, `cached_tokens`, `ttft_s` (client),
    `prefill_s`, `queue_s` (vLLM's span). A recording has those of its own probe. Raises IncompleteTraces where a span
    did not come.
    """
    asked = Asked(
        n_requests=2 * prompts,
        users=1,
        seed=seed,
        model=settings.model_name,
        api="chat",
        label=PROBE,
    )
    if settings.place == "recorded":
        run = recorded.run_for(settings, asked)
    else:
        plan = _probe_plan(settings, max_words, prompts, seed)
        run = run_plan(plan, settings, out_dir=settings.state_dir / "runs", progress=False)
        save_asked(run.folder, asked)
    spans, arrival = wait_for_spans(settings, run.records, wait_s)
    arrival.require()
    calls = chat_calls(run, spans).sort_values("scheduled_at", ignore_index=True)
    calls["again"] = calls["prompt"].duplicated()
    columns = [
        "request_id",
        "again",
        "prompt_tokens",
        "cached_tokens",
        "ttft_s",
        "prefill_s",
        "queue_s",
    ]
    return calls.loc[calls["status"] == "ok", columns].reset_index(drop=True)


def probe_slopes(probe: pd.DataFrame) -> dict[str, Slope]:
    """Prefill seconds by prompt token, {'fresh': ..., 'again': ...}, each with its interval."""
    return {
        name: slope(part["prompt_tokens"], part["prefill_s"])
        for name, part in (("fresh", probe[~probe["again"]]), ("again", probe[probe["again"]]))
    }


def _probe_plan(settings: Settings, max_words: int, prompts: int, seed: int) -> Plan:
    """Every text twice, in an order of lengths that is no slope in time. Each begins with letters that no probe had
    before (not seeded), so that a second probe finds nothing of the first in the cache."""
    rng = np.random.default_rng(seed)
    lengths = rng.permutation(np.linspace(8, max_words, prompts).astype(int))
    scenario = make_scenarios(1, seed, kinds=["no_tool"])[0]
    made = [
        PlannedRequest(
            request_id=f"p{number:04d}-{time}", session_id=f"probe-{number:04d}-{time}", turn_index=0, user=0,
            offset_s=0.0 if number == time == 0 else None, think_s=0.05, tenant="probe", user_id="probe-u00",
            scenario_id=scenario.id, kind=scenario.kind, intent=scenario.intent, text=text, tools=[], api="chat",
            model=settings.model_name, max_tokens=4, temperature=0.0,
        )
        for number, text in enumerate(_text(rng, length) for length in lengths)
        for time in (0, 1)
    ]  # fmt: skip
    return Plan(tuple(made), Users(1), seed)


def _text(rng: np.random.Generator, words: int) -> str:
    return f"{secrets.token_hex(12)} " + " ".join(rng.choice(WORDS, words))
