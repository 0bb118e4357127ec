"""Latency: where the time of a request goes, by client, spans and histograms."""

import secrets

import msgspec
import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames import trace_tree, turn_frame
from lab.frames.completeness import roles_of
from lab.frames.roles import Role
from lab.measures import (
    OTEL_DEFAULT,
    VLLM_REQUEST_LATENCY_S,
    Slope,
    critical_path,
    longest_gaps,
    quantile,
    quantiles_by_bucketing,
    quantiles_by_source,
    rebin,
    slope,
    slopes_by_half,
    stream_gaps,
    token_latencies,
)
from lab.observation import Observation, wait_for_spans
from lab.places import place_of
from lab.runs import Conditions
from lab.schema import PHASES, Attr, Service
from lab.settings import Settings
from lab.workload import Plan, PlannedRequest, Users, make_scenarios

__all__ = [
    "OTEL_DEFAULT",
    "PHASE_MEANINGS",
    "VLLM_REQUEST_LATENCY_S",
    "chat_calls",
    "critical_path",
    "critical_trees",
    "durations_by_source",
    "engine_calls",
    "longest_gaps",
    "outline",
    "phase_seconds",
    "phase_table",
    "prefix_probe",
    "probe_slopes",
    "quantile",
    "quantiles_by_bucketing",
    "quantiles_by_source",
    "rebin",
    "slope",
    "slopes_by_half",
    "stream_gaps",
    "token_latencies",
    "turn_frame",
]

PHASE_MEANINGS = {
    "lag_s": "the driver was late to send the request",
    "network_s": "between the client and the server, and the client's own work",
    "stack_s": "Llama Stack's own work: HTTP, the agent's loop",
    "tool_list_s": "listing the tools of the MCP server",
    "model_http_s": "a model call outside of vLLM's engine: HTTP, tokenising, parsing",
    "queue_s": "waiting in vLLM's queue",
    "prefill_s": "vLLM reads the prompt",
    "decode_s": "vLLM writes the answer, token by token",
    "engine_other_s": "the rest of vLLM's span",
    "tool_s": "the tools run",
    "unexplained_s": "no span accounts for it",
    "overlap_s": "counted twice above, since calls ran at the same time",
}
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
_ENGINE_COLUMNS = {
    Attr.VLLM_QUEUE_S: "queue_s",
    Attr.VLLM_PREFILL_S: "prefill_s",
    Attr.VLLM_DECODE_S: "decode_s",
    Attr.VLLM_TTFT_S: "engine_ttft_s",
    Attr.VLLM_E2E_S: "engine_e2e_s",
    Attr.VLLM_PROMPT_TOKENS: "engine_prompt_tokens",
    Attr.VLLM_COMPLETION_TOKENS: "tokens",
}


def durations_by_source(requests: pd.DataFrame) -> pd.DataFrame:
    """Return each request's duration in seconds by three sources: client, Llama Stack, vLLM."""
    outside = requests[["lag_s", "network_s", "unexplained_s"]].sum(axis=1, skipna=False)
    engine = ["queue_s", "prefill_s", "decode_s", "engine_other_s"]
    table = pd.DataFrame(
        {
            "client": requests["e2e_s"],
            "Llama Stack": requests["e2e_s"] - outside,
            "vLLM (all turns)": requests[engine].sum(axis=1, min_count=len(engine)),
        }
    )
    return table.rename_axis(columns="seconds")


def phase_seconds(requests: pd.DataFrame) -> pd.Series:
    """Return the total seconds in each phase; they add up to the total of the end-to-end times."""
    sums = requests[[*PHASES, "unexplained_s"]].sum()
    sums["overlap_s"] = -requests["overlap_s"].sum()
    return sums.rename("seconds")


def phase_table(requests: pd.DataFrame) -> pd.DataFrame:
    """Return the phases that took time.

    `seconds`, their `share` of the end-to-end times, and their `meaning`.
    """
    table = phase_seconds(requests).to_frame()
    table["share"] = table["seconds"] / requests["e2e_s"].sum()
    table["meaning"] = table.index.map(PHASE_MEANINGS)
    return table[table["seconds"] != 0].rename_axis("phase")


def outline(tree: pd.DataFrame) -> pd.DataFrame:
    """Return a trace's spans as an indented list: span, service, duration_ms, self_ms.

    `self_ms` is the time that no span inside accounts for.
    """
    names = [
        f"{'· ' * depth}{name}" for depth, name in zip(tree["depth"], tree["name"], strict=True)
    ]
    return pd.DataFrame(
        {
            "span": names,
            "service": tree["service"].astype(str),
            "duration_ms": (tree["duration_s"] * 1e3).round(1),
            "self_ms": (tree["self_s"] * 1e3).round(1),
        }
    )


def engine_calls(spans: pd.DataFrame) -> pd.DataFrame:
    """Return vLLM's own account of each model call in a span frame.

    Columns: trace_id; queue_s, prefill_s, decode_s, engine_ttft_s, engine_e2e_s (seconds);
    engine_prompt_tokens and tokens (generated). Raises FrameError where there is no call.
    """
    calls = spans[(roles_of(spans) == Role.ENGINE) & (spans["service"] != Service.VLLM_CANARY)]
    if calls.empty:
        raise FrameError(
            "there is no model call in these spans",
            fix="wait for the traces; check that vLLM exports any",
        )
    return (
        calls[["trace_id", *_ENGINE_COLUMNS]].rename(columns=_ENGINE_COLUMNS).reset_index(drop=True)
    )


def chat_calls(seen: Observation) -> pd.DataFrame:
    """Return the requests that were sent straight to vLLM, as client and engine saw them.

    One row per request whose span has arrived: the client's record, `engine_calls` of the same
    trace, and `held_back_s`, how much later the client had its first chunk than the engine its
    first token.
    """
    calls = engine_calls(seen.spans).astype({"trace_id": str})
    both = seen.run.records.merge(calls, on="trace_id", validate="one_to_one")
    return both.assign(held_back_s=both["ttft_s"] - both["lag_s"] - both["engine_ttft_s"])


def critical_trees(seen: Observation) -> pd.DataFrame:
    """Return `lab.frames.trace_tree` of every complete trace, one below the other.

    Raises FrameError where no trace is complete.
    """
    complete = seen.requests["trace_complete"].astype(bool)
    trace_ids = seen.requests.loc[complete, "trace_id"].astype(str)
    groups = seen.spans.groupby(seen.spans["trace_id"].astype(str), sort=False)
    trees = [trace_tree(groups.get_group(trace_id)) for trace_id in trace_ids]
    if not trees:
        raise FrameError(
            "no trace is complete, so there is no critical path",
            got=f"{len(seen.requests)} requests",
        )
    return pd.concat(trees, ignore_index=True)


def prefix_probe(
    settings: Settings, *, max_words: int, prompts: int, seed: int = 0, wait_s: float = 30.0
) -> pd.DataFrame:
    """Send new prompts straight to vLLM, each twice in a row, one request at a time.

    The `prompts` prompts have up to `max_words` words and were never sent before. The first of each
    pair must be computed; of the second the beginning is in the prefix cache. A recording returns
    its own probe.

    One row per request, in order: `request_id`, `again` (the second of its pair), `prompt_tokens`,
    `cached_tokens`, `ttft_s` (client), `prefill_s`, `queue_s` (vLLM's span). Raises
    IncompleteTraces where a span did not arrive.
    """
    conditions = Conditions(
        n_requests=2 * prompts,
        users=1,
        seed=seed,
        model=settings.model_name,
        api="chat",
        label=PROBE,
    )
    run = place_of(settings).run(
        settings,
        conditions,
        lambda: _probe_plan(settings, max_words, prompts, seed),
        progress=False,
    )
    spans, arrival = wait_for_spans(settings, run.records, wait_s)
    arrival.require()
    calls = chat_calls(Observation(run, settings, spans=spans))
    calls = calls.sort_values("scheduled_at", ignore_index=True)
    calls["again"] = calls["prompt"].duplicated()
    columns = ["request_id", "again", "prompt_tokens", "cached_tokens"]
    columns += ["ttft_s", "prefill_s", "queue_s"]
    return calls.loc[calls["status"] == "ok", columns].reset_index(drop=True)


def probe_slopes(probe: pd.DataFrame) -> dict[str, Slope]:
    """Return the prefill seconds per prompt token: {'fresh': ..., 'again': ...}."""
    parts = {"fresh": probe[~probe["again"]], "again": probe[probe["again"]]}
    return {name: slope(part["prompt_tokens"], part["prefill_s"]) for name, part in parts.items()}


def _probe_plan(settings: Settings, max_words: int, prompts: int, seed: int) -> Plan:
    """Return a plan with every text twice, in an order of lengths that is no trend over time.

    Each text begins with letters that are not seeded, so that a second probe finds nothing of the
    first in the cache.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.permutation(np.linspace(8, max_words, prompts).astype(int))
    scenario = make_scenarios(1, seed, kinds=["no_tool"])[0]
    requests = []
    for number, length in enumerate(lengths):
        first = PlannedRequest(
            request_id=f"p{number:04d}-0",
            session_id=f"probe-{number:04d}-0",
            turn_index=0,
            user=0,
            offset_s=0.0 if number == 0 else None,
            think_s=0.05,
            tenant="probe",
            user_id="probe-u00",
            scenario_id=scenario.id,
            kind=scenario.kind,
            intent=scenario.intent,
            text=f"{secrets.token_hex(12)} " + " ".join(rng.choice(WORDS, length)),
            tools=[],
            api="chat",
            model=settings.model_name,
            max_tokens=4,
            temperature=0.0,
        )
        again = {"request_id": f"p{number:04d}-1", "session_id": f"probe-{number:04d}-1"}
        requests += [first, msgspec.structs.replace(first, offset_s=None, **again)]
    return Plan(tuple(requests), Users(1), seed)
