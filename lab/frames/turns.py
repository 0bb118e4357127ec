"""One row per model call: its request, what it reads, its tokens, and when the engine ran it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames.completeness import MAX_LEVELS, TraceShapes, shapes_of
from lab.frames.roles import Role
from lab.frames.spans import numbers, start_ns
from lab.schema import Attr

QUESTION = "(question)"  # read by the first call of a request
OTHERS = "(others)"  # a call that belongs to no request of this run
UNKNOWN = "(unknown)"  # a request without an attribute that names its user
WHO = (
    "request_id",
    "tenant",
    "user_id",
    "session_id",
    "scenario_id",
    "kind",
    "intent",
    "status",
    "api",
)
_NS = 1e9


def turn_frame(requests: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each of vLLM's `llm_request` spans, in order of its start.

    - `trace_id`, `turn` (1 for a request's first call), and the request's columns WHO: '(others)'
      where the trace belongs to none of these requests, so that a shared server's other work shows;
    - `model`: the requested name; `reads`: the tools whose results this call is the first to read,
      joined by ' + ', or '(question)'. So every token belongs to one tool or to the question, and
      sums over tools are sums over all;
    - `prompt_tokens`, `cached_tokens` (the part of them from the prefix cache),
      `completion_tokens` (int64);
    - `queue_s`, `prefill_s`, `decode_s`, and when the engine worked on it: `scheduled_at`,
      `first_token_at`, `ended_at` (seconds since the epoch, on vLLM's clock: its span's start and
      its own latencies).

    `requests` is a request frame, `spans` a span frame that may hold other traces too. vLLM's span
    does not have the cached tokens: they are Llama Stack's attribute of the model call, or the
    client's record of a direct call. Raises FrameError without a span of vLLM.
    """
    shapes = shapes_of(spans)
    start_s = start_ns(spans) / _NS
    rows = np.flatnonzero(shapes.role == Role.ENGINE)
    rows = rows[np.argsort(start_s[rows], kind="stable")]
    if not len(rows):
        raise FrameError(
            "there is no model call in these spans",
            fix="wait for the traces; check that vLLM exports any",
        )
    call = _model_calls(shapes, rows)
    engine = spans.iloc[rows].reset_index(drop=True)
    queue_s = numbers(engine, Attr.VLLM_QUEUE_S)
    prefill_s = numbers(engine, Attr.VLLM_PREFILL_S)
    decode_s = numbers(engine, Attr.VLLM_DECODE_S)
    ttft_s = numbers(engine, Attr.VLLM_TTFT_S)
    first_token_at = start_s[rows] + np.where(np.isnan(ttft_s), queue_s + prefill_s, ttft_s)
    trace = pd.Series(shapes.group[rows])
    cached = np.where(call >= 0, numbers(spans, Attr.CACHE_READ_TOKENS)[call], np.nan)
    turns = pd.DataFrame(
        {
            "trace_id": engine["trace_id"].astype(str),
            "turn": trace.groupby(trace).cumcount() + 1,
            "model": _texts(spans, Attr.REQUEST_MODEL, call),
            "reads": _reads(spans, shapes, rows, start_s),
            "prompt_tokens": numbers(engine, Attr.VLLM_PROMPT_TOKENS),
            "cached_tokens": cached,
            "completion_tokens": numbers(engine, Attr.VLLM_COMPLETION_TOKENS),
            "queue_s": queue_s,
            "prefill_s": prefill_s,
            "decode_s": decode_s,
            "scheduled_at": first_token_at - prefill_s,
            "first_token_at": first_token_at,
            "ended_at": first_token_at + decode_s,
        }
    )
    return _with_requests(turns, requests)


def _with_requests(turns: pd.DataFrame, requests: pd.DataFrame) -> pd.DataFrame:
    """Return the turns with the columns WHO, and with tokens as integers."""
    who = list(WHO)
    known = requests[["trace_id", *who, "model", "cached_tokens"]].astype({"trace_id": str})
    known = known.rename(columns={"model": "_model", "cached_tokens": "_cached"})
    known[who] = known[who].astype(object).where(known[who].notna(), UNKNOWN)
    joined = turns.merge(known, on="trace_id", how="left", validate="many_to_one")
    is_direct = joined["api"] == "chat"
    joined["cached_tokens"] = joined["cached_tokens"].where(~is_direct, joined["_cached"])
    joined["model"] = joined["model"].fillna(joined["_model"]).fillna(OTHERS).astype(str)
    joined[who] = joined[who].astype(object).fillna(OTHERS)
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        joined[name] = joined[name].fillna(0).clip(lower=0).astype("int64")
    return joined[["trace_id", *who, *turns.columns[1:]]]


def _model_calls(shapes: TraceShapes, rows: np.ndarray) -> np.ndarray:
    """Return the row of the model call above each of these spans, -1 for a client's direct call."""
    above = shapes.parent[rows].copy()
    for _ in range(MAX_LEVELS):
        climb = (above >= 0) & (shapes.role[above] != Role.MODEL_CALL)
        above[climb] = shapes.parent[above[climb]]
    return np.where((above >= 0) & (shapes.role[above] == Role.MODEL_CALL), above, -1)


def _reads(
    spans: pd.DataFrame, shapes: TraceShapes, rows: np.ndarray, start_s: np.ndarray
) -> np.ndarray:
    """Return what each call is the first to read: the tool calls since the request's last call."""
    is_tool = shapes.role == Role.TOOL_CALL
    inside = (shapes.parent >= 0) & is_tool[shapes.parent]
    tools = np.flatnonzero(is_tool & ~inside)
    names = _texts(spans, Attr.LLAMA_STACK_TOOL_NAME, tools)
    names = names.where(names.notna(), spans["name"].astype(str).iloc[tools].to_numpy())
    both = np.concatenate((rows, tools))
    events = pd.DataFrame(
        {
            "group": shapes.group[both],
            "start_s": start_s[both],
            "turn": np.repeat([1, 0], [len(rows), len(tools)]),
            "tool": [""] * len(rows) + names.tolist(),
        }
    ).sort_values(["group", "start_s"], kind="stable")
    events["before"] = events.groupby("group")["turn"].cumsum() - events["turn"]
    by_turn = events[events["turn"] == 0].groupby(["group", "before"])["tool"]
    tools_read = by_turn.agg(lambda names: " + ".join(dict.fromkeys(names)))
    turns = events[events["turn"] == 1].sort_index()
    reads = tools_read.reindex(pd.MultiIndex.from_frame(turns[["group", "before"]]))
    # A call that follows another without a tool between them reads on in the same question.
    otherwise = np.where(turns["before"] > 0, "(again)", QUESTION)
    return np.where(reads.isna(), otherwise, reads.to_numpy(object))


def _texts(spans: pd.DataFrame, attribute: str, rows: np.ndarray) -> pd.Series:
    """Return an attribute of these spans, None for row -1 and where a span lacks it."""
    if attribute not in spans:
        return pd.Series([None] * len(rows), dtype=object)
    values = np.where(rows >= 0, spans[attribute].to_numpy(object)[rows], None)
    return pd.Series(values, dtype=object)
