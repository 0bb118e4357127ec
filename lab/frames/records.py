"""Client records rebuilt from spans, for traffic that the lab did not drive."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.dialects import attributes_of
from lab.errors import FrameError
from lab.frames.completeness import TraceShapes, shapes_of, usage
from lab.frames.roles import Role, field_numbers
from lab.frames.spans import numbers, start_ns
from lab.schema import CLIENT_RECORD, Attr

HTTP_STATUS = "http.response.status_code"
UNKNOWN = -1  # a whole number that no span has
_NS = 1e9
_IDENTITY = {
    "tenant": (Attr.TENANT,),
    "user_id": attributes_of("user_id"),
    "session_id": attributes_of("session_id"),
    "scenario_id": (Attr.SCENARIO,),
    "model": attributes_of("model"),
}
# error.type -> status, as the driver records it
_STATUS = {"timeout": "timeout", "cancelled": "cancelled", "predecessor_failed": "cancelled"}


def with_roots(spans: pd.DataFrame) -> pd.DataFrame:
    """Return the spans, with the earliest server span as the root of each trace that has no root.

    Such traces come from callers that pass on their trace context, but export their own spans
    elsewhere. Only a server's span whose parent is absent becomes a root: any other span without
    its parent is a hole in the trace, and stays one. Raises FrameError for another frame.
    """
    shapes = shapes_of(spans)
    rows = _outermost(spans, shapes)
    is_server = (spans["kind"].iloc[rows] == "server").to_numpy(bool)
    rows = rows[(shapes.roots[shapes.group[rows]] == 0) & is_server]
    if not len(rows):
        return spans
    parent = spans["parent_id"].to_numpy(object).copy()
    parent[rows] = ""
    return spans.assign(parent_id=pd.array(parent, dtype=spans["parent_id"].dtype))


def records_from_spans(spans: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trace with an agent's request or a model call, in CLIENT_RECORD's columns.

    Rows are in order of their start. The outermost span stands for the client: `scheduled_at` and
    `sent_at` are its start, `done_at` its end, `e2e_s` its duration. Where it is the server's own
    span, the time before the server is not visible: `lab.frames.request_frame` then has `network_s`
    0. Where it is a caller's, `network_s` is everything that the caller did outside of the server.
    `lag_s` is 0, since there was no plan.

    - `status` is 'error' where that span or Llama Stack's has an error or an HTTP status of 400 or
      more ('timeout' and 'cancelled' where its `error.type` says so);
    - tokens are those that the callers of the engine received (their spans of the model calls, if
      all of them have tokens), else those of the engine's spans;
    - `request_id` is the trace id;
    - what no span has is NA: times of the first and last token, chunks, question, answer, tool
      calls, and the user where no attribute names one. Unknown whole numbers are -1 (`turn_index`,
      `http_status`, `cached_tokens`).

    Raises FrameError for another frame, and for spans of which no trace has a request that
    `lab.dialects` knows.
    """
    shapes = shapes_of(spans)
    is_server = shapes.count(shapes.role == Role.SERVER) > 0
    is_call = np.isin(shapes.role, (Role.MODEL_CALL, Role.ENGINE))
    has_request = is_server | (shapes.count(is_call) > 0)
    if len(spans) and not has_request.any():
        raise FrameError(
            "no trace here has a request to an agent or a model that the lab knows",
            got=describe_traces(spans),
            fix="add the library that wrote them to lab/dialects.py",
        )
    first = _outermost(spans, shapes)
    first = first[has_request[shapes.group[first]]]
    trace = shapes.group[first]
    start_s = start_ns(spans)[first] / _NS
    duration_s = spans["duration_s"].to_numpy()[first]
    columns = {
        "request_id": shapes.ids[trace],
        "trace_id": shapes.ids[trace],
        "api": np.where(is_server[trace], "responses", "chat"),
        "scheduled_at": start_s,
        "sent_at": start_s,
        "done_at": start_s + duration_s,
        "lag_s": 0.0,
        "e2e_s": duration_s,
        **_identity(spans, shapes, trace),
        **_outcome(spans, shapes, first),
        **_tokens(spans, shapes, trace),
    }
    dtypes = {c.name: "string" if c.dtype == "json" else c.dtype for c in CLIENT_RECORD}
    records = pd.DataFrame(columns, index=range(len(first))).reindex(columns=list(dtypes))
    integers = [name for name, dtype in dtypes.items() if dtype == "int64"]
    records[integers] = records[integers].fillna(UNKNOWN)
    records = records.astype(dtypes)
    return records.sort_values("scheduled_at", kind="stable", ignore_index=True)


def describe_traces(spans: pd.DataFrame) -> str:
    """Return how many traces there are, and which spans they have most, for a message."""
    both = spans["service"].astype(str) + ": " + spans["name"].astype(str)
    names = "; ".join(f"{count} x {name!r}" for name, count in both.value_counts()[:5].items())
    return f"{spans['trace_id'].nunique()} traces with {names}"


def _outermost(spans: pd.DataFrame, shapes: TraceShapes) -> np.ndarray:
    """Return the row of each trace's outermost span: a root, else a span without its parent.

    Of several it is the earliest, and of these the longest.
    """
    rows = np.flatnonzero(shapes.parent < 0)
    start = start_ns(spans)[rows]
    is_root = (spans["parent_id"] == "").to_numpy(bool)[rows]
    duration_s = spans["duration_s"].to_numpy()[rows]
    rows = rows[np.lexsort((-duration_s, start, ~is_root, shapes.group[rows]))]
    return rows[np.unique(shapes.group[rows], return_index=True)[1]]


def _identity(spans: pd.DataFrame, shapes: TraceShapes, trace: np.ndarray) -> dict[str, np.ndarray]:
    """Return each trace's first value of the first of the attributes that the trace has."""
    wanted = {attribute for attributes in _IDENTITY.values() for attribute in attributes}
    present = [name for name in spans.columns if name in wanted and not spans[name].isna().all()]
    first = spans[present].groupby(shapes.group).first()
    columns = {}
    for name, attributes in _IDENTITY.items():
        values = np.full(len(trace), None, dtype=object)
        for attribute in (attribute for attribute in attributes if attribute in first):
            given = first[attribute].to_numpy(object)[trace]
            values = np.where(pd.isna(values), given, values)
        columns[name] = values
    return columns


def _outcome(spans: pd.DataFrame, shapes: TraceShapes, first: np.ndarray) -> dict[str, np.ndarray]:
    """Return `status` and its reasons, by the outermost span and Llama Stack's own."""
    trace = shapes.group[first]
    code = numbers(spans, HTTP_STATUS)
    failed = (spans["status"] == "error").to_numpy(bool) | (code >= 400)
    is_server = shapes.role == Role.SERVER
    server_code = np.full(len(shapes.ids), np.nan)
    server_code[shapes.group[is_server]] = code[is_server]
    http = np.where(np.isnan(code[first]), server_code[trace], code[first])
    error = failed[first] | (shapes.count(is_server & failed) > 0)[trace]
    if Attr.ERROR_TYPE in spans:
        error_type = spans[Attr.ERROR_TYPE].to_numpy(object)[first]
    else:
        error_type = np.full(len(first), None)
    by_code = np.where(http >= 400, [f"http_{c:.0f}" for c in http], "error")
    error_type = np.where(pd.isna(error_type), by_code, error_type)
    return {
        "status": np.where(error, [_STATUS.get(str(t), "error") for t in error_type], "ok"),
        "http_status": http,
        "error_type": np.where(error, error_type, ""),
        "error_message": np.where(error, spans["status_message"].to_numpy(object)[first], ""),
    }


def _tokens(spans: pd.DataFrame, shapes: TraceShapes, trace: np.ndarray) -> dict[str, np.ndarray]:
    """Return the callers' tokens if every model call of the trace has them, else the engine's."""
    is_call = shapes.role == Role.MODEL_CALL
    prompt = field_numbers(spans, "prompt_tokens")
    completion = field_numbers(spans, "completion_tokens")
    counted = is_call & ~np.isnan(prompt) & ~np.isnan(completion)
    calls = shapes.count(is_call)
    by_callers = (calls > 0) & (shapes.count(counted) == calls)

    tokens = {}
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
        given = field_numbers(spans, name)
        is_given = ~np.isnan(given)
        # What the callers report of the cache is a part of their own prompt tokens only.
        of_turns = given if name == "cached_tokens" else usage(spans, shapes, name)
        of_turns = np.where(shapes.turn, of_turns, np.nan)
        is_known = shapes.count(~np.isnan(of_turns)) > 0
        engine = np.where(is_known, shapes.total(shapes.turn, of_turns), UNKNOWN)
        # A library that reports the cache for other calls leaves it out where nothing was cached.
        reporting = spans["service"].isin(spans["service"][counted & is_given].unique())
        callers_know = by_callers & (shapes.count(counted & reporting.to_numpy(bool)) > 0)
        tokens[name] = np.where(callers_know, shapes.total(counted, given), engine)[trace]
    return tokens
