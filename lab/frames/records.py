"""Requests as their spans tell of them, where nobody kept a client's record: somebody else's traffic."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.frames.completeness import Shape, shape_of
from lab.frames.roles import Role
from lab.schema import CLIENT_RECORD, Attr

HTTP_STATUS = "http.response.status_code"
NOT_KNOWN = -1  # of a whole number that no span tells
_NS = 1e9
_WHO = {
    "tenant": Attr.TENANT, "user_id": Attr.USER, "session_id": Attr.SESSION, "scenario_id": Attr.SCENARIO,
    "model": Attr.REQUEST_MODEL,
}  # fmt: skip
_STATUS = {
    "timeout": "timeout",
    "cancelled": "cancelled",
    "predecessor_failed": "cancelled",
}  # as the driver says it


def with_roots(spans: pd.DataFrame) -> pd.DataFrame:
    """The spans, where each trace that has no root begins with its earliest server span, as a root.

    A caller that passes on its trace context but sends its own spans elsewhere leaves such traces. Only a server's span
    whose parent is not there is taken: any other span without its parent is a hole in the trace, and stays one.
    """
    shape = shape_of(spans)
    first = _outermost(spans, shape)
    rows = first[(shape.roots == 0)[shape.group[first]]] if len(first) else first
    rows = rows[(spans["kind"].iloc[rows] == "server").to_numpy(bool)]
    if not len(rows):
        return spans
    parent = spans["parent_id"].to_numpy(object).copy()
    parent[rows] = ""
    return spans.assign(parent_id=pd.array(parent, dtype=spans["parent_id"].dtype))


def records_from_spans(spans: pd.DataFrame) -> pd.DataFrame:
    """One row a trace with a request to Llama Stack or vLLM in it, by its start: the columns of CLIENT_RECORD.

    The outermost span stands for the client: `scheduled_at` and `sent_at` are its start, `done_at` its end, `e2e_s` its
    duration. Where it is the server's own span, no time before the server is seen: `lab.frames.request_frame` then has
    `network_s` 0. Where it is a caller's, `network_s` is all that the caller did outside of the server. `lag_s` is 0:
    nobody knows of a plan.

    `status` is 'error' where that span or Llama Stack's has an error or an HTTP status of 400 or more ('timeout' and
    'cancelled' where its `error.type` says so). Tokens are those that the callers of vLLM were told (their spans of the
    model calls, if all have them), else those of vLLM's spans. What no span tells is NA: time of the first and last
    token, chunks, question, answer, tool calls; so is whose it is where no attribute says that. Whole numbers that are
    not known are -1 (`turn_index`, `http_status`, `cached_tokens`). `request_id` is the trace id.
    Raises FrameError for another frame than of spans.
    """
    shape = shape_of(spans)
    asked = (shape.count(Role.SERVER) > 0) | (shape.count(Role.ENGINE) > 0)
    first = _outermost(spans, shape)
    first = first[asked[shape.group[first]]]
    trace = shape.group[first]
    start = spans["start_at"].dt.as_unit("ns").astype("int64").to_numpy()[first] / _NS
    duration = spans["duration_s"].to_numpy()[first]
    table = {
        "request_id": shape.ids[trace], "trace_id": shape.ids[trace],
        "api": np.where(shape.count(Role.SERVER)[trace] > 0, "responses", "chat"),
        "scheduled_at": start, "sent_at": start, "done_at": start + duration, "lag_s": 0.0, "e2e_s": duration,
        **_who(spans, shape, trace), **_outcome(spans, shape, first), **_tokens(spans, shape, trace),
    }  # fmt: skip
    dtypes = {c.name: "string" if c.dtype == "json" else c.dtype for c in CLIENT_RECORD}
    rows = pd.DataFrame(table, index=range(len(first))).reindex(columns=list(dtypes))
    whole = [name for name, dtype in dtypes.items() if dtype == "int64"]
    rows[whole] = rows[whole].fillna(NOT_KNOWN)
    return rows.astype(dtypes).sort_values("scheduled_at", kind="stable", ignore_index=True)


def _outermost(spans: pd.DataFrame, shape: Shape) -> np.ndarray:
    """The row of each trace's outermost span: a root, else the earliest (of these the longest) without its parent."""
    rows = np.flatnonzero(shape.parent < 0)
    start = spans["start_at"].dt.as_unit("ns").astype("int64").to_numpy()[rows]
    root = (spans["parent_id"] == "").to_numpy(bool)[rows]
    order = np.lexsort((-spans["duration_s"].to_numpy()[rows], start, ~root, shape.group[rows]))
    rows = rows[order]
    return rows[np.unique(shape.group[rows], return_index=True)[1]]


def _who(spans: pd.DataFrame, shape: Shape, trace: np.ndarray) -> dict[str, np.ndarray]:
    """Whatever span of the trace says it first."""
    there = {name: attribute for name, attribute in _WHO.items() if attribute in spans}
    said = spans[list(there.values())].groupby(shape.group).first()
    return {name: said[attribute].to_numpy(object)[trace] for name, attribute in there.items()}


def _outcome(spans: pd.DataFrame, shape: Shape, first: np.ndarray) -> dict[str, np.ndarray]:
    """`status`, `http_status`, `error_type`, `error_message` by the outermost span, and by Llama Stack's own."""
    size, trace = len(shape.ids), shape.group[first]
    code = (
        spans[HTTP_STATUS].to_numpy("float64")
        if HTTP_STATUS in spans
        else np.full(len(spans), np.nan)
    )
    failed = (spans["status"] == "error").to_numpy(bool) | (code >= 400)
    server = shape.role == Role.SERVER
    inside = np.full(size, np.nan)
    inside[shape.group[server]] = code[server]
    http = np.where(np.isnan(code[first]), inside[trace], code[first])
    wrong = failed[first] | (np.bincount(shape.group[server & failed], minlength=size) > 0)[trace]
    said = (
        spans[Attr.ERROR_TYPE].to_numpy(object)[first]
        if Attr.ERROR_TYPE in spans
        else np.full(len(first), None)
    )
    kind = np.where(
        pd.isna(said), np.where(http >= 400, [f"http_{c:.0f}" for c in http], "error"), said
    )
    return {
        "status": np.where(wrong, [_STATUS.get(str(k), "error") for k in kind], "ok"),
        "http_status": http,
        "error_type": np.where(wrong, kind, ""),
        "error_message": np.where(wrong, spans["status_message"].to_numpy(object)[first], ""),
    }


def _tokens(spans: pd.DataFrame, shape: Shape, trace: np.ndarray) -> dict[str, np.ndarray]:
    """What the callers were told, if every model call of the trace tells it, else vLLM's own."""
    calls = shape.role == Role.MODEL_CALL
    told = (
        calls
        & ~np.isnan(_numbers(spans, Attr.INPUT_TOKENS))
        & ~np.isnan(_numbers(spans, Attr.OUTPUT_TOKENS))
    )
    every = (shape.count(Role.MODEL_CALL) > 0) & (
        _sums(told, told, shape) == shape.count(Role.MODEL_CALL)
    )
    engine = shape.role == Role.ENGINE
    pairs = {
        "prompt_tokens": (Attr.INPUT_TOKENS, Attr.VLLM_PROMPT_TOKENS),
        "completion_tokens": (Attr.OUTPUT_TOKENS, Attr.VLLM_COMPLETION_TOKENS),
    }
    found = {
        name: np.where(
            every,
            _sums(told, _numbers(spans, caller), shape),
            _sums(engine, _numbers(spans, own), shape),
        )
        for name, (caller, own) in pairs.items()
    }
    found["cached_tokens"] = np.where(
        every, _sums(told, _numbers(spans, Attr.CACHE_READ_TOKENS), shape), NOT_KNOWN
    )
    return {name: values[trace] for name, values in found.items()}


def _sums(mask: np.ndarray, values: np.ndarray, shape: Shape) -> np.ndarray:
    weights = np.nan_to_num(values[mask].astype("float64"))
    return np.bincount(shape.group[mask], weights=weights, minlength=len(shape.ids))


def _numbers(spans: pd.DataFrame, name: str) -> np.ndarray:
    return spans[name].to_numpy("float64") if name in spans else np.full(len(spans), np.nan)
