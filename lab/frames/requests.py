"""The request frame: one row per request, joined by trace id from client records and spans.

For traffic that the lab did not drive, the client records are rebuilt from spans.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.dialects import attributes_of
from lab.errors import FrameError
from lab.frames.completeness import (
    REMAINDER_RATIO,
    REMAINDER_S,
    TraceShapes,
    problems_of,
    shapes_of,
    usage,
)
from lab.frames.roles import Role, field_numbers, field_texts
from lab.frames.spans import end_ns, numbers, start_ns
from lab.frames.tools import failed_calls
from lab.schema import CLIENT_RECORD, PHASES, REQUEST_FRAME, Attr, Span

_NS = 1e9
_CALLS = (Role.MODEL_CALL, Role.TOOL_CALL, Role.TOOL_LIST)
_COLUMNS = [c.name for c in REQUEST_FRAME]
_FROM_RECORD = _COLUMNS[: _COLUMNS.index("turns")]
_TOKENS = {
    "span_prompt_tokens": "prompt_tokens",
    "span_completion_tokens": "completion_tokens",
    "span_cached_tokens": "cached_tokens",
}
_ENGINE_PHASES = {
    "queue_s": Attr.VLLM_QUEUE_S,
    "prefill_s": Attr.VLLM_PREFILL_S,
    "decode_s": Attr.VLLM_DECODE_S,
}


def request_frame(
    records: pd.DataFrame, spans: pd.DataFrame, judgements: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return one row per record, in the order of the records.

    The columns are those of `lab.schema.REQUEST_FRAME`, then those of the judgements (one row per
    `request_id`, from the scenarios' ground truth), where given.

    Every phase is a difference of durations on one clock; two machines' clocks are never compared.
    The client's interval less the server's span is network; the server's span less the union of the
    calls it made is the stack; a model call less vLLM's span is HTTP; vLLM's own attributes divide
    its span. Phases of several calls are sums, so that they can be compared with Prometheus' sums;
    `overlap_s` is the time that calls running at once have in common.

    A phase that would be negative (a child that outlasts its parent) is 0 and the difference is in
    `unexplained_s`; if that is not small, the trace counts as incomplete. A phase whose spans are
    missing is NaN, and all of its time is in `unexplained_s`. Raises FrameError for frames that
    lack columns, or more than one judgement per request.
    """
    missing = [c for c in _FROM_RECORD if c not in records]
    if missing:
        raise FrameError(
            f"these are not the client's records: they lack {', '.join(missing)}",
            fix="take them from Run.records",
        )
    shapes = shapes_of(spans)
    row = shapes.ids.get_indexer(records["trace_id"].astype("str"))
    # Row -1 is a request without a trace: NaN.
    traces = _traces(spans, shapes).reindex(row).set_axis(records.index)
    frame = records[_FROM_RECORD].copy()
    for name, values in _phases(records, traces).items():
        frame[name] = values
    for name in ("turns", "tool_runs", "tool_failures", "spans", *_TOKENS):
        frame[name] = traces[name].fillna(0).astype("int64")
    # Row -1 is the last element.
    problems = np.append(problems_of(shapes), "no span of it has arrived")[row]
    problems = _with_missing_spans(problems, records, traces)
    e2e_s = records["e2e_s"].astype("float64")
    ok = (records["status"] == "ok").to_numpy(bool)
    allowed_s = REMAINDER_S + REMAINDER_RATIO * e2e_s
    too_long = ok & (frame["unexplained_s"] < -allowed_s).to_numpy(bool) & (problems == "")
    problems[too_long] = "its parts add up to more than the whole"
    frame["trace_complete"] = pd.array(problems == "", dtype="boolean")
    frame["trace_problem"] = pd.array(problems, dtype="str")
    frame = frame[_COLUMNS]
    return frame if judgements is None else _with_judgements(frame, judgements)


def union_length(group: np.ndarray, start: np.ndarray, end: np.ndarray, groups: int) -> np.ndarray:
    """Return the length of the union of each group's intervals, as float64.

    `group` holds indices 0..groups-1, `start` and `end` are int64 (of one unit and any origin).
    Intervals that end before they start are empty.
    """
    order = np.lexsort((start, group))
    group = group[order]
    start = start[order]
    covered_until = pd.Series(end[order]).groupby(group).cummax()
    covered_before = covered_until.groupby(group).shift(fill_value=start.min(initial=0))
    added = np.maximum(0, covered_until - np.maximum(start, covered_before))
    return np.bincount(group, weights=added, minlength=groups)


def _traces(spans: pd.DataFrame, shapes: TraceShapes) -> pd.DataFrame:
    """Return counts, summed durations and tokens, one row per trace."""
    role = shapes.role
    duration_s = spans["duration_s"].to_numpy()
    is_engine = role == Role.ENGINE
    is_server = role == Role.SERVER
    is_tool = role == Role.TOOL_CALL
    is_call = np.isin(role, _CALLS)
    start = start_ns(spans)[is_call]
    end = end_ns(spans)[is_call]
    columns = {
        "turns": shapes.count(shapes.turn),
        "engines": shapes.count(is_engine),
        "servers": shapes.count(is_server),
        "unanswered": shapes.unanswered,
        "tool_runs": shapes.count(is_tool),
        "tool_failures": shapes.count(failed_calls(spans, shapes)),
        "spans": np.bincount(shapes.group, minlength=len(shapes.ids)),
        "server_s": shapes.total(is_server, duration_s),
        "engine_s": shapes.total(is_engine, duration_s),
        "model_call_s": shapes.total(role == Role.MODEL_CALL, duration_s),
        "answered_s": shapes.total(shapes.answered, duration_s),
        "tool_s": shapes.total(is_tool, duration_s),
        "tool_list_s": shapes.total(role == Role.TOOL_LIST, duration_s),
        "calls_s": union_length(shapes.group[is_call], start, end, len(shapes.ids)) / _NS,
    }
    for name, attribute in _ENGINE_PHASES.items():
        columns[name] = shapes.total(is_engine, numbers(spans, attribute))
    for name, field in _TOKENS.items():
        columns[name] = shapes.total(shapes.turn, usage(spans, shapes, field))
    return pd.DataFrame(columns, dtype="float64")


def _phases(records: pd.DataFrame, traces: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the phases of every request, and the time that they leave over.

    `traces` is aligned with the records; a request without a trace has NaN.
    """
    is_agent = (records["api"] == "responses").to_numpy(bool)
    has_engine = (traces["engines"] > 0).to_numpy()
    server_s = traces["server_s"].where(traces["servers"] > 0)
    called_s = traces["model_call_s"].where((traces["turns"] > 0).to_numpy())
    served_s = np.where(is_agent, server_s, traces["engine_s"].where(has_engine, called_s))
    failed = (records["status"] != "ok").to_numpy(bool)
    without_call = ((traces["turns"] == 0) & (traces["model_call_s"] == 0)).to_numpy()
    known = has_engine | (is_agent & failed & without_call)
    in_engine_s = traces["queue_s"] + traces["prefill_s"] + traces["decode_s"]
    http_s = (traces["answered_s"] - traces["engine_s"]).where(is_agent, 0.0)
    durations = {
        "lag_s": records["lag_s"],
        "network_s": records["e2e_s"] - records["lag_s"] - served_s,
        "stack_s": (served_s - traces["calls_s"]).where(is_agent, 0.0 * traces["turns"]),
        "tool_list_s": traces["tool_list_s"],
        "tool_s": traces["tool_s"],
        "model_http_s": http_s.where(known),
        **{name: traces[name].where(known) for name in _ENGINE_PHASES},
        "engine_other_s": (traces["engine_s"] - in_engine_s).where(known),
    }
    phases = {name: durations[name].astype("float64").clip(lower=0.0) for name in PHASES}
    explained_s = sum(phase.fillna(0.0) for phase in phases.values())
    calls_s = traces["model_call_s"] + traces["tool_s"] + traces["tool_list_s"]
    phases["overlap_s"] = (calls_s - traces["calls_s"]).clip(lower=0.0).where(is_agent, 0.0)
    explained_s -= phases["overlap_s"].fillna(0.0)
    phases["unexplained_s"] = records["e2e_s"].astype("float64") - explained_s
    return phases


def _with_missing_spans(
    problems: np.ndarray, records: pd.DataFrame, traces: pd.DataFrame
) -> np.ndarray:
    """Return why each request's trace is not complete, with the spans that its request needs."""
    is_agent = (records["api"] == "responses").to_numpy(bool)
    ok = (records["status"] == "ok").to_numpy(bool)
    no_server = is_agent & (traces["servers"] == 0).to_numpy()
    no_engine = ok & (traces["turns"] == 0).to_numpy()
    for mask, span in (
        (no_server, f"Llama Stack's {Span.LLAMA_STACK_RESPONSES}"),
        (no_engine, f"vLLM's {Span.VLLM}"),
    ):
        problems[mask & (problems == "")] = f"{span} span is missing"
    return problems


def _with_judgements(frame: pd.DataFrame, judgements: pd.DataFrame) -> pd.DataFrame:
    if "request_id" not in judgements or judgements["request_id"].duplicated().any():
        raise FrameError(
            "judgements must have one row per request_id",
            got=f"columns {', '.join(judgements.columns)}",
        )
    repeated = set(judgements) & set(frame) - {"request_id"}
    return frame.merge(
        judgements.drop(columns=list(repeated)),
        on="request_id",
        how="left",
        validate="many_to_one",
    )


HTTP_STATUS = "http.response.status_code"
UNKNOWN = -1  # a whole number that no span has
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
    first = spans[present].groupby(shapes.group).first().astype(object)
    columns = {}
    for name, attributes in _IDENTITY.items():
        best_first = first.reindex(columns=list(attributes)).bfill(axis="columns")
        columns[name] = best_first.iloc[:, 0].to_numpy(object)[trace]
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
    error_type = field_texts(spans, "error", first)
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
