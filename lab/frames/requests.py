"""The request frame: one row a request, joined by trace id from the client's record and the spans."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames.completeness import Shape, problems_of, shape_of
from lab.frames.roles import Role
from lab.schema import PHASES, REQUEST_FRAME, Attr, Span

_NS = 1e9
_CALLS = (Role.MODEL_CALL, Role.TOOL_CALL, Role.TOOL_LIST)
_FROM_RECORD = tuple(
    c.name for c in REQUEST_FRAME[: [c.name for c in REQUEST_FRAME].index("turns")]
)


def request_frame(
    records: pd.DataFrame, spans: pd.DataFrame, judgements: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row a record, in the order of the records: the columns of `lab.schema.REQUEST_FRAME`, then those of the
    judgements (one row a `request_id`, from the scenarios' ground truth), where given.

    The phases are told apart by durations on one clock each, never by comparing two machines' clocks: the client's
    interval less the server's span is network, the server's span less the union of the calls it made is the stack, a
    model call less vLLM's span is HTTP, and vLLM's own attributes divide its span. Phases of several calls are sums, so
    that they can be held against Prometheus' sums; `overlap_s` is what calls running at once have in common.

    A phase that would come out negative (a child that outlasts its parent) is 0 and the difference is in
    `unexplained_s`; a phase whose spans are missing is NaN, and all of its time is in `unexplained_s`.
    Raises FrameError for frames that lack columns, or more than one judgement a request.
    """
    _check_records(records)
    shape = shape_of(spans)
    traces = _traces(spans, shape)
    row = shape.ids.get_indexer(records["trace_id"].astype("str"))
    found = traces.reindex(row).set_axis(records.index)  # row -1 is no trace: NaN
    frame = records[[c for c in _FROM_RECORD if c in records]].copy()
    for name, values in _phases(records, found).items():
        frame[name] = values
    for name in ("turns", "tool_runs", "tool_failures", "spans", *_TOKENS):
        frame[name] = found[name].fillna(0).astype("int64")
    problem = _problems(records, problems_of(shape), row, found)
    frame["trace_complete"] = pd.array(problem == "", dtype="boolean")
    frame["trace_problem"] = pd.array(problem, dtype="str")
    frame = frame[[c.name for c in REQUEST_FRAME]]
    return frame if judgements is None else _with_judgements(frame, judgements)


_TOKENS = {
    "span_prompt_tokens": (Role.ENGINE, Attr.VLLM_PROMPT_TOKENS),
    "span_completion_tokens": (Role.ENGINE, Attr.VLLM_COMPLETION_TOKENS),
    "span_cached_tokens": (Role.MODEL_CALL, Attr.CACHE_READ_TOKENS),
}
_ENGINE_PHASES = {
    "queue_s": Attr.VLLM_QUEUE_S,
    "prefill_s": Attr.VLLM_PREFILL_S,
    "decode_s": Attr.VLLM_DECODE_S,
}


def _traces(spans: pd.DataFrame, shape: Shape) -> pd.DataFrame:
    """One row a trace: counts, summed durations and tokens."""
    group, role, size = shape.group, shape.role, len(shape.ids)
    duration = spans["duration_s"].to_numpy()
    failed = (spans["status"] == "error").to_numpy(bool)

    def total(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.bincount(group[mask], weights=np.nan_to_num(values[mask]), minlength=size)

    outermost = _outermost_tools(role, shape.parent)
    columns = {
        "turns": shape.count(Role.ENGINE),
        "servers": shape.count(Role.SERVER),
        "unanswered": shape.unanswered,
        "tool_runs": np.bincount(group[outermost], minlength=size),
        "tool_failures": np.bincount(group[(role == Role.TOOL_RUN) & failed], minlength=size),
        "spans": np.bincount(group, minlength=size),
        "server_s": total(role == Role.SERVER, duration),
        "engine_s": total(role == Role.ENGINE, duration),
        "model_call_s": total(role == Role.MODEL_CALL, duration),
        "answered_s": total(shape.answered, duration),
        "tool_s": total(outermost, duration),
        "tool_list_s": total(role == Role.TOOL_LIST, duration),
        "calls_s": _union_s(spans, group, np.isin(role, _CALLS), size),
    }
    for name, attribute in _ENGINE_PHASES.items():
        columns[name] = total(role == Role.ENGINE, _column(spans, attribute))
    for name, (of, attribute) in _TOKENS.items():
        columns[name] = total(role == of, _column(spans, attribute))
    return pd.DataFrame(columns, dtype="float64")


def _phases(records: pd.DataFrame, found: pd.DataFrame) -> dict[str, pd.Series]:
    """The phases of every request, with what they leave over. `found` is aligned with the records; NaN: no trace."""
    agent = (records["api"] == "responses").to_numpy(bool)
    served = np.where(
        agent,
        found["server_s"].where(found["servers"] > 0),
        found["engine_s"].where(found["turns"] > 0),
    )
    engine_there = (found["turns"] > 0).to_numpy()
    failed = (records["status"] != "ok").to_numpy(bool)
    quiet = (
        agent & failed & ((found["turns"] == 0) & (found["model_call_s"] == 0)).to_numpy()
    )  # it asked no model
    in_engine = found["queue_s"] + found["prefill_s"] + found["decode_s"]
    raw = {
        "lag_s": records["lag_s"],
        "network_s": records["e2e_s"] - records["lag_s"] - served,
        "stack_s": (served - found["calls_s"]).where(agent, 0.0 * found["turns"]),
        "tool_list_s": found["tool_list_s"],
        "tool_s": found["tool_s"],
        "model_http_s": (found["answered_s"] - found["engine_s"])
        .where(agent, 0.0)
        .where(engine_there | quiet),
        **{name: found[name].where(engine_there | quiet) for name in _ENGINE_PHASES},
        "engine_other_s": (found["engine_s"] - in_engine).where(engine_there | quiet),
    }
    phases = {name: raw[name].astype("float64").clip(lower=0.0) for name in PHASES}
    calls_s = found["model_call_s"] + found["tool_s"] + found["tool_list_s"]
    phases["overlap_s"] = (calls_s - found["calls_s"]).clip(lower=0.0).where(agent, 0.0)
    known = sum(phases[name].fillna(0.0) for name in PHASES) - phases["overlap_s"].fillna(0.0)
    phases["unexplained_s"] = records["e2e_s"].astype("float64") - known
    return phases


def _problems(
    records: pd.DataFrame, problems: np.ndarray, row: np.ndarray, found: pd.DataFrame
) -> np.ndarray:
    """Why each request's trace is not complete; '' if it is."""
    texts = np.append(problems, "no span of it has arrived")[row]  # row -1: the last element
    agent = (records["api"] == "responses").to_numpy(bool)
    ok = (records["status"] == "ok").to_numpy(bool)
    no_server = agent & (found["servers"] == 0).to_numpy()
    no_engine = ok & (found["turns"] == 0).to_numpy()
    for mask, span in (
        (no_server, f"Llama Stack's {Span.LLAMA_STACK_RESPONSES}"),
        (no_engine, f"vLLM's {Span.VLLM}"),
    ):
        texts[mask & (texts == "")] = f"{span} span is missing"
    return texts


def _outermost_tools(role: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Tool call spans whose parent is not one: a search inside a tool call is the same call."""
    is_tool = role == Role.TOOL_CALL
    inside = np.zeros(len(role), dtype=bool)
    known = is_tool & (parent >= 0)
    inside[known] = is_tool[parent[known]]
    return is_tool & ~inside


def _union_s(spans: pd.DataFrame, group: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
    start = spans["start_at"].dt.as_unit("ns").astype("int64").to_numpy()[mask]
    end = start + np.rint(spans["duration_s"].to_numpy()[mask] * _NS).astype(np.int64)
    return union_length(group[mask], start, end, size) / _NS


def union_length(group: np.ndarray, start: np.ndarray, end: np.ndarray, groups: int) -> np.ndarray:
    """Length of the union of the intervals of each group: what was covered at least once counts once.

    `group` holds indices 0..groups-1, `start` and `end` int64 (one unit, any origin); intervals that end before they
    start are empty. The result has one float64 a group.
    """
    if not len(group):
        return np.zeros(groups)
    order = np.lexsort((start, group))
    group, start, end = group[order], start[order], np.maximum(start, end)[order]
    first = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
    sizes = np.diff(np.concatenate((first, [len(group)])))
    origin = np.repeat(start[first], sizes)
    start, end = start - origin, end - origin
    # Groups are laid out one after another on one axis, so that a single running maximum serves them all.
    reach = np.maximum.reduceat(end, first)
    shift = np.repeat(np.concatenate(([0], np.cumsum(reach)[:-1])), sizes)
    start, end = start + shift, end + shift
    covered = np.concatenate(([0], np.maximum.accumulate(end)[:-1]))
    fresh = np.maximum(0, end - np.maximum(start, covered))
    return np.bincount(group, weights=fresh, minlength=groups)


def _column(spans: pd.DataFrame, attribute: str) -> np.ndarray:
    return (
        spans[attribute].to_numpy("float64") if attribute in spans else np.full(len(spans), np.nan)
    )


def _check_records(records: pd.DataFrame) -> None:
    missing = [c for c in _FROM_RECORD if c not in records]
    if missing:
        raise FrameError(
            f"these are not the client's records: they lack {', '.join(missing)}",
            fix="take them from Run.records",
        )


def _with_judgements(frame: pd.DataFrame, judgements: pd.DataFrame) -> pd.DataFrame:
    if "request_id" not in judgements or judgements["request_id"].duplicated().any():
        raise FrameError(
            "judgements must have one row a request_id",
            got=f"columns {', '.join(judgements.columns)}",
        )
    twice = set(judgements) & set(frame) - {"request_id"}
    return frame.merge(
        judgements.drop(columns=list(twice)), on="request_id", how="left", validate="many_to_one"
    )
