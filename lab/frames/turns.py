"""One row per model call: its request, what it reads, its tokens, and when the engine ran it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames.completeness import TraceShapes, shapes_of, usage
from lab.frames.roles import Role, field_numbers, field_texts
from lab.frames.spans import numbers, start_ns
from lab.frames.tools import first_of
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
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_NS = 1e9


def turn_frame(requests: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model call, in order of its start.

    It is the engine's span, or the caller's where the engine writes none: then the times of the
    engine are NaN.

    - `trace_id`, `turn` (1 for a request's first call), and the request's columns WHO: '(others)'
      where the trace belongs to none of these requests, so that a shared server's other work shows;
    - `model`: the requested name; `reads`: the tools whose results this call is the first to read,
      joined by ' + ', or '(question)'. So every token belongs to one tool or to the question, and
      sums over tools are sums over all;
    - `prompt_tokens`, `cached_tokens` (the part of them from the prefix cache),
      `completion_tokens` (int64), `reasoning_tokens` (the part of them that is not the answer, NA
      where no span reports it);
    - `called_at`: when the caller sent it, by its span or, in a direct call, the client's record.
      An engine that is busy may accept a call late, and its own span begins only then;
    - `queue_s`, `prefill_s`, `decode_s`, and when the engine worked on it: `scheduled_at`,
      `first_token_at`, `ended_at` (seconds since the epoch, on vLLM's clock: its span's start and
      its own latencies).

    `requests` is a request frame, `spans` a span frame that may hold other traces too. vLLM's span
    does not have the cached tokens: they are Llama Stack's attribute of the model call, or the
    client's record of a direct call. Raises FrameError without a model call.
    """
    shapes = shapes_of(spans)
    start_s = start_ns(spans) / _NS
    rows = np.flatnonzero(shapes.turn)
    rows = rows[np.argsort(start_s[rows], kind="stable")]
    if not len(rows):
        raise FrameError(
            "there is no model call in these spans",
            fix="wait for the traces; check that vLLM exports any",
        )
    engine = spans.iloc[rows].reset_index(drop=True)
    queue_s = numbers(engine, Attr.VLLM_QUEUE_S)
    prefill_s = numbers(engine, Attr.VLLM_PREFILL_S)
    decode_s = numbers(engine, Attr.VLLM_DECODE_S)
    ttft_s = field_numbers(engine, "ttft_s")
    first_token_at = start_s[rows] + np.where(np.isnan(ttft_s), queue_s + prefill_s, ttft_s)
    trace = pd.Series(shapes.group[rows])
    views = np.flatnonzero(shapes.call >= 0)
    of_call = shapes.call[views]
    is_engine = shapes.role[rows] == Role.ENGINE
    ended_at = first_token_at + decode_s
    span_ended_at = start_s[rows] + engine["duration_s"].to_numpy()
    turns = pd.DataFrame(
        {
            "trace_id": engine["trace_id"].astype(str),
            "turn": trace.groupby(trace).cumcount() + 1,
            "model": first_of(of_call, field_texts(spans, "model", views), shapes.call[rows]),
            "reads": _reads(spans, shapes, rows, start_s),
            **{name: usage(spans, shapes, name)[rows] for name in _TOKENS},
            "called_at": start_s[np.where(shapes.call[rows] >= 0, shapes.call[rows], rows)],
            "queue_s": queue_s,
            "prefill_s": prefill_s,
            "decode_s": decode_s,
            "scheduled_at": first_token_at - prefill_s,
            "first_token_at": first_token_at,
            "ended_at": np.where(is_engine, ended_at, span_ended_at),
        }
    )
    return _with_requests(turns, requests)


def _with_requests(turns: pd.DataFrame, requests: pd.DataFrame) -> pd.DataFrame:
    """Return the turns with the columns WHO, and with tokens as integers."""
    who = list(WHO)
    known = requests[["trace_id", *who, "model", "cached_tokens", "sent_at"]]
    known = known.astype({"trace_id": str})
    known = known.rename(
        columns={"model": "_model", "cached_tokens": "_cached", "sent_at": "_sent"}
    )
    known[who] = known[who].astype(object).where(known[who].notna(), UNKNOWN)
    joined = turns.merge(known, on="trace_id", how="left", validate="many_to_one")
    is_direct = joined["api"] == "chat"
    joined["cached_tokens"] = joined["cached_tokens"].where(~is_direct, joined["_cached"])
    sent_at = joined["_sent"].astype(float).where(is_direct & (joined["turn"] == 1))
    joined["called_at"] = sent_at.fillna(joined["called_at"])
    joined["model"] = joined["model"].fillna(joined["_model"]).fillna(OTHERS).astype(str)
    joined[who] = joined[who].astype(object).fillna(OTHERS)
    for name in _TOKENS[:3]:
        joined[name] = joined[name].fillna(0).clip(lower=0).astype("int64")
    joined["reasoning_tokens"] = joined["reasoning_tokens"].astype("Int64")
    return joined[["trace_id", *who, *turns.columns[1:]]]


def _reads(
    spans: pd.DataFrame, shapes: TraceShapes, rows: np.ndarray, start_s: np.ndarray
) -> np.ndarray:
    """Return what each call is the first to read: the tool calls since the request's last call."""
    tools = np.flatnonzero(shapes.role == Role.TOOL_CALL)
    names = pd.Series(field_texts(spans, "tool", tools), dtype=object)
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
