"""One row a model call: whose it was, what it read, its tokens, and when the engine worked on it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames.completeness import MAX_LEVELS, Shape, shape_of
from lab.frames.roles import Role
from lab.schema import Attr

QUESTION = "(question)"  # what the first call of a request reads
OTHERS = "(others)"  # whose a call is that belongs to no request of this run
NOT_SAID = "(not said)"  # whose a request is that no span names anybody of
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
    """One row for each of vLLM's `llm_request` spans, in order of its start:

    - `trace_id`, `turn` (1 for a request's first call), and of the request the columns of WHO: '(others)' where the
      trace is none of these requests', so that a shared server's other work is seen;
    - `model`: the name asked for; `reads`: the tools whose results this call is the first to read, joined by ' + ',
      or '(question)'. So every token belongs to one tool or to the question, and sums over tools are sums over all;
    - `prompt_tokens`, `cached_tokens` (the part of them from the prefix cache), `completion_tokens` (int64);
    - `queue_s`, `prefill_s`, `decode_s`, and when the engine worked on it: `scheduled_at`, `first_token_at`, `ended_at`
      (seconds since the epoch, on vLLM's clock: its span's start and its own latencies).

    `requests` is a request frame, `spans` a span frame that may hold other traces too. vLLM's span does not say what
    was cached: that is Llama Stack's model call's attribute, or in a direct call the client's word.
    Raises FrameError without a span of vLLM.
    """
    shape = shape_of(spans)
    rows = np.flatnonzero(shape.role == Role.ENGINE)
    if not len(rows):
        raise FrameError(
            "there is no model call in these spans",
            fix="wait for the traces; check that vLLM exports any",
        )
    start_s = spans["start_at"].dt.as_unit("ns").astype("int64").to_numpy() / _NS
    rows = rows[np.argsort(start_s[rows], kind="stable")]
    call = _model_calls(shape, rows)
    engine = spans.iloc[rows].reset_index(drop=True)
    prefill, decode = _number(engine, Attr.VLLM_PREFILL_S), _number(engine, Attr.VLLM_DECODE_S)
    ttft = _number(engine, Attr.VLLM_TTFT_S)
    queue = _number(engine, Attr.VLLM_QUEUE_S)
    first = start_s[rows] + np.where(np.isnan(ttft), queue + prefill, ttft)
    turns = pd.DataFrame(
        {
            "trace_id": engine["trace_id"].astype(str),
            "turn": pd.Series(shape.group[rows]).groupby(shape.group[rows]).cumcount() + 1,
            "model": _text_at(spans, Attr.REQUEST_MODEL, call),
            "reads": _reads(spans, shape, rows, start_s),
            "prompt_tokens": _number(engine, Attr.VLLM_PROMPT_TOKENS),
            "cached_tokens": _number_at(spans, Attr.CACHE_READ_TOKENS, call),
            "completion_tokens": _number(engine, Attr.VLLM_COMPLETION_TOKENS),
            "queue_s": queue,
            "prefill_s": prefill,
            "decode_s": decode,
            "scheduled_at": first - prefill,
            "first_token_at": first,
            "ended_at": first + decode,
        }
    )
    return _with_who(turns, requests)


def _with_who(turns: pd.DataFrame, requests: pd.DataFrame) -> pd.DataFrame:
    known = requests[["trace_id", *WHO, "model", "cached_tokens"]].astype({"trace_id": str})
    known = known.rename(columns={"model": "_model", "cached_tokens": "_cached"})
    known[list(WHO)] = known[list(WHO)].astype(object).where(known[list(WHO)].notna(), NOT_SAID)
    joined = turns.merge(known, on="trace_id", how="left", validate="many_to_one")
    direct = joined["api"] == "chat"
    cached = joined["cached_tokens"].where(~direct, joined["_cached"])
    joined["model"] = joined["model"].fillna(joined["_model"]).fillna(OTHERS).astype(str)
    joined[list(WHO)] = joined[list(WHO)].astype(object).fillna(OTHERS)
    tokens = {"prompt_tokens": joined["prompt_tokens"], "cached_tokens": cached}
    tokens["completion_tokens"] = joined["completion_tokens"]
    for name, values in tokens.items():
        joined[name] = values.fillna(0).clip(lower=0).astype("int64")
    return joined.drop(columns=["_model", "_cached"])[["trace_id", *WHO, *turns.columns[1:]]]


def _model_calls(shape: Shape, rows: np.ndarray) -> np.ndarray:
    """Row of the model call above each of vLLM's spans, -1 for a call that came straight from a client."""
    at = shape.parent[rows].copy()
    for _ in range(MAX_LEVELS):
        climb = (at >= 0) & (shape.role[at] != Role.MODEL_CALL)
        at[climb] = shape.parent[at[climb]]
    return np.where((at >= 0) & (shape.role[at] == Role.MODEL_CALL), at, -1)


def _reads(spans: pd.DataFrame, shape: Shape, rows: np.ndarray, start_s: np.ndarray) -> np.ndarray:
    """What each call is the first to read: the tool calls begun since the same request's call before it."""
    inside = (shape.parent >= 0) & (shape.role[shape.parent] == Role.TOOL_CALL)
    tools = np.flatnonzero((shape.role == Role.TOOL_CALL) & ~inside)
    named = _text_at(spans, Attr.LLAMA_STACK_TOOL_NAME, tools)
    names = named.where(named.notna(), spans["name"].astype(str).iloc[tools].to_numpy())
    events = pd.DataFrame(
        {
            "group": np.concatenate((shape.group[rows], shape.group[tools])),
            "at": np.concatenate((start_s[rows], start_s[tools])),
            "turn": np.concatenate((np.ones(len(rows), int), np.zeros(len(tools), int))),
            "tool": [""] * len(rows) + names.tolist(),
        }
    ).sort_values(["group", "at"], kind="stable")
    before = (
        events.groupby("group")["turn"].cumsum() - events["turn"]
    )  # calls that this row follows
    of_tool = events["turn"] == 0
    read = (
        events[of_tool]
        .groupby([events["group"], before])["tool"]
        .agg(lambda t: " + ".join(dict.fromkeys(t)))
    )
    turn = events[~of_tool].sort_index()
    keys = pd.MultiIndex.from_arrays([turn["group"], before[turn.index]])
    found = read.reindex(keys).to_numpy(object)
    later = before[turn.index].to_numpy() > 0
    # A call that follows another without a tool between them reads on in the same question.
    return np.where(pd.isna(found), np.where(later, "(again)", QUESTION), found)


def _number(frame: pd.DataFrame, name: str) -> np.ndarray:
    return frame[name].to_numpy("float64") if name in frame else np.full(len(frame), np.nan)


def _number_at(spans: pd.DataFrame, name: str, rows: np.ndarray) -> np.ndarray:
    return np.where(rows >= 0, _number(spans, name)[rows], np.nan)


def _text_at(spans: pd.DataFrame, name: str, rows: np.ndarray) -> pd.Series:
    if name not in spans:
        return pd.Series([None] * len(rows), dtype=object)
    return pd.Series(np.where(rows >= 0, spans[name].to_numpy(object)[rows], None), dtype=object)
