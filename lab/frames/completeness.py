"""Whether traces are complete, and can be believed.

A trace that has not fully arrived must never be used silently; nor may one with foreign spans, two
halves of a split trace, skewed clocks or repetitions.
"""

from __future__ import annotations

import binascii
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lab.dialects import OGX
from lab.errors import FrameError
from lab.frames.calls import Calls, ancestor, resolve_calls
from lab.frames.roles import Role, field_numbers, field_texts
from lab.frames.spans import check_spans, codes, numbers, start_ns
from lab.schema import Attr

SERVER_NAMES = [name for name, role in OGX.names.items() if role == Role.SERVER]


@dataclass(frozen=True)
class TraceShapes(Calls):
    """The shape of every trace of a span frame, with its calls.

    `group`, `answered` and `turn` have one element per span, as the calls do: its trace (a row of
    `ids`), whether it is a model call with an engine's span, and whether it stands for its model
    call: the engine's span, or the caller's where the engine writes none. The others have one
    element per trace: the number of its roots, of spans whose parent is absent, of spans that
    belong to another request, of traces that were joined to it by a guess (`join_split_traces`), of
    answers in which the store cut it, and of model calls that lack their engine's span although
    they did not fail.

    An engine's span is expected where Llama Stack is the agent, and of a service that has one for
    another of its calls.
    """

    ids: pd.Index
    group: np.ndarray
    answered: np.ndarray
    turn: np.ndarray
    roots: np.ndarray
    orphans: np.ndarray
    strangers: np.ndarray
    joined: np.ndarray
    partial: np.ndarray
    unanswered: np.ndarray

    def count(self, spans: np.ndarray) -> np.ndarray:
        """Return the number of these spans (a mask) in every trace."""
        return np.bincount(self.group[spans], minlength=len(self.ids))

    def total(self, spans: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the sum of values over these spans (a mask) in every trace; NaN counts as 0."""
        weights = np.nan_to_num(values[spans].astype("float64"))
        return np.bincount(self.group[spans], weights=weights, minlength=len(self.ids))


def shapes_of(spans: pd.DataFrame) -> TraceShapes:
    """Return the shapes of all traces of a span frame. Raises FrameError for another frame."""
    check_spans(spans)
    encoded = _array(spans["trace_id"]).dictionary_encode()
    group = np.asarray(encoded.indices)
    ids = pd.Index(encoded.dictionary.to_pandas(), dtype="str")
    parent_id = _span_numbers(spans["parent_id"])
    parent = _parent_rows(spans, group, parent_id)
    calls = resolve_calls(spans, group, parent, parent_id)
    role = calls.role
    answered = np.zeros(len(role), dtype=bool)
    answered[calls.call[role == Role.ENGINE]] = True
    answered &= role == Role.MODEL_CALL
    silent = (role == Role.MODEL_CALL) & ~answered
    expected = _expecting_engine(spans, group, role, answered, silent)
    is_root = (spans["parent_id"] == "").to_numpy(bool)
    failed = (spans["status"] == "error").to_numpy(bool)

    def count(mask: np.ndarray) -> np.ndarray:
        return np.bincount(group[mask], minlength=len(ids))

    return TraceShapes(
        ids=ids,
        group=group,
        **vars(calls),
        answered=answered,
        turn=(role == Role.ENGINE) | (silent & ~expected),
        roots=count(is_root),
        orphans=count((calls.parent < 0) & ~is_root & (role != Role.STRANGER)),
        strangers=count(role == Role.STRANGER) + _noted(spans, "collisions", ids),
        joined=_noted(spans, "joined", ids),
        partial=_noted(spans, "partial", ids),
        unanswered=count(expected & ~failed),
    )


def _noted(spans: pd.DataFrame, name: str, ids: pd.Index) -> np.ndarray:
    """Return the counts by trace that the frame's `attrs` have under this name."""
    counts = spans.attrs.get(name)
    if not counts:
        return np.zeros(len(ids), dtype=np.int64)
    return pd.Series(counts).reindex(ids, fill_value=0).astype("int64").to_numpy()


def roles_of(spans: pd.DataFrame) -> np.ndarray:
    """Return one Role (int8) per span. Raises FrameError for another frame."""
    return shapes_of(spans).role


def usage(spans: pd.DataFrame, shapes: TraceShapes, name: str) -> np.ndarray:
    """Return a field of the model calls per span: a number at each `turn`, NaN elsewhere.

    It is the engine's, else the first that a span of the same call has. Where several engines
    answered one call (a retry), the caller's number is of none of them alone.

    Cached tokens are part of the prompt. Some libraries report Anthropic's own numbers, in which
    they are not: a prompt with fewer tokens than were cached gets those added.
    """
    values = field_numbers(spans, name)
    if name == "prompt_tokens":
        cached = field_numbers(spans, "cached_tokens")
        written = np.nan_to_num(field_numbers(spans, "cache_write_tokens"))
        values = np.where(cached > values, values + cached + written, values)
    known = ~np.isnan(values)
    result = np.where(shapes.turn, values, np.nan)
    missing = np.flatnonzero(shapes.turn & ~known)
    if not len(missing) or not known.any():
        return result

    engines = np.bincount(shapes.call[shapes.role == Role.ENGINE], minlength=len(result))
    missing = missing[engines[shapes.call[missing]] < 2]
    views = np.flatnonzero(known & (shapes.call >= 0))
    # The first of a call's views is the last that is written.
    of_call = np.full(len(result), np.nan)
    of_call[shapes.call[views[::-1]]] = values[views[::-1]]
    result[missing] = of_call[shapes.call[missing]]
    return result


def _expecting_engine(
    spans: pd.DataFrame,
    group: np.ndarray,
    role: np.ndarray,
    answered: np.ndarray,
    silent: np.ndarray,
) -> np.ndarray:
    """Return which of the model calls without an engine's span (a mask) should have one."""
    if not silent.any():
        return silent
    is_agent = (role == Role.SERVER) & spans["name"].isin(SERVER_NAMES).to_numpy(bool)
    service = codes(spans, "service")
    with_answers = np.unique(service[answered])
    return silent & (np.isin(group, group[is_agent]) | np.isin(service, with_answers))


def trace_problems(spans: pd.DataFrame) -> pd.Series:
    """Return what each trace lacks, in words; '' for a complete one. The index is `trace_id`.

    A complete trace has a root, every parent that a span names, and vLLM's span for every model
    call that did not fail. Traces that are not in the frame at all are not in the result either.
    Raises FrameError for another frame.
    """
    shapes = shapes_of(spans)
    index = shapes.ids.rename("trace_id")
    return pd.Series(problems_of(shapes), index=index, name="trace_problem", dtype="str")


def problems_of(shapes: TraceShapes) -> np.ndarray:
    """Return the gravest problem of each trace."""
    problems = np.full(len(shapes.ids), "", dtype=object)
    for counts, words in (
        (shapes.unanswered, "{} of its model calls lack vLLM's span"),
        (shapes.orphans, "{} of its spans name a parent that is not there"),
        (shapes.partial, "the store returned only a part of it"),
        (shapes.joined, "it was joined from split traces, by tokens and time: a guess"),
        (shapes.strangers, "{} of its spans belong to other requests"),
    ):
        for i in np.flatnonzero(counts):
            problems[i] = words.format(counts[i])
    problems[shapes.roots == 0] = "it has no root span"
    return problems


def _parent_rows(spans: pd.DataFrame, group: np.ndarray, parent_id: np.ndarray) -> np.ndarray:
    """Return the row of each span's parent, -1 where it has none or it is absent."""
    span_id = _span_numbers(spans["span_id"])
    if not len(span_id):
        return np.empty(0, dtype=np.int64)
    order = np.argsort(span_id, kind="stable")
    place = np.searchsorted(span_id[order], parent_id)
    rows = order[np.minimum(place, len(order) - 1)]
    present = (parent_id != 0) & (span_id[rows] == parent_id) & (group[rows] == group)
    return np.where(present, rows, -1)


def _span_numbers(ids: pd.Series) -> np.ndarray:
    """Return span ids (16 hex digits, '' for none) as uint64, 0 for none: numbers join faster."""
    padded = pc.utf8_lpad(_array(ids).fill_null(""), 16, "0")
    _, offsets, data = padded.buffers()
    edges = np.frombuffer(offsets, dtype=np.int64)[padded.offset : padded.offset + len(padded) + 1]
    digits = memoryview(data)[edges[0] : edges[-1]] if data is not None else b""
    try:
        return np.frombuffer(binascii.unhexlify(digits), dtype=">u8").astype(np.uint64)
    except ValueError as e:
        raise FrameError("a span id is not 16 hex digits", got=str(e)) from e


def _array(ids: pd.Series) -> pa.Array:
    array = pa.array(ids, type=pa.large_string(), from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


_NS = 1e9
_HOST = "host.name"
SKEW_S = 0.002  # a child that begins earlier than its parent by more than this
REMAINDER_S = 0.1  # parts that add up to more than their whole by more than this, and by
REMAINDER_RATIO = 0.1  # this share of it
SPLIT_TOLERANCE_S = 0.25  # between the clocks of the two halves of a split trace


@dataclass(frozen=True)
class Sanity:
    """The checks of a window's traces.

    - `traces`: their number;
    - `faults`: one row per trace with a fault: `trace_id`, `strangers` (spans of other requests),
      `duplicates` (spans that the store returned again; they are counted once, and are no reason to
      exclude a trace), `joined` (traces that were joined to it, by a guess), `repeated` (traces of
      another library with the same model calls, by their response ids: counted once, and no reason
      either), `remainder_s` (by how much its parts add up to more than their whole), `excluded`;
    - `refused`: {trace id: the store's words} of traces that the store did not return: they are not
      among the `traces`;
    - `skew`: one row per machine (or service, where no span names machines) with children that
      begin before their parents elsewhere: `where`, `behind_s` (its clock is behind by at least
      this), `spans`. Phases are differences of durations on one clock, so they stay right.
    """

    traces: int
    faults: pd.DataFrame
    skew: pd.DataFrame
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def excluded(self) -> dict[str, str]:
        """Return {trace id: reason} of the traces that no analysis of phases may use."""
        faults = self.faults[self.faults["excluded"]].to_dict("records")
        return {fault["trace_id"]: _reason(fault) for fault in faults}

    def __str__(self) -> str:
        counts = {
            "with spans of other requests": self.faults["strangers"] > 0,
            "joined from split traces, by tokens and time: a guess": self.faults["joined"] > 0,
            "whose parts add up to more than the whole": self.faults["remainder_s"] > 0,
            "with spans that came twice (counted once)": self.faults["duplicates"] > 0,
            "whose calls another trace repeats, by response id (counted once)": (
                self.faults["repeated"] > 0
            ),
        }
        lines = [f"{mask.sum()} {what}" for what, mask in counts.items() if mask.any()]
        lines += [
            f"the clock of {row.where} is behind by at least {row.behind_s:.3f} s "
            f"({row.spans} spans begin before their parents)"
            for row in self.skew.itertuples()
        ]
        reasons = Counter(words.replace(i, "").strip() for i, words in self.refused.items())
        lines += [
            f"{count} more were left out, which the store did not return: {words}"
            for words, count in reasons.most_common()
        ]
        excluded = int(self.faults["excluded"].sum())
        head = f"{self.traces} traces checked, {excluded} excluded from phases"
        return "\n  ".join([head, *lines])


def trace_sanity(spans: pd.DataFrame) -> Sanity:
    """Return the checks of a span frame. Raises FrameError for another frame."""
    shapes = shapes_of(spans)
    ids = shapes.ids
    faults = pd.DataFrame(
        {
            "trace_id": ids,
            "strangers": shapes.strangers,
            "duplicates": _noted(spans, "duplicates", ids),
            "joined": shapes.joined,
            "repeated": _noted(spans, "repeated", ids),
            "remainder_s": _remainder_s(spans, shapes),
        }
    )
    faults["excluded"] = (faults[["strangers", "joined", "remainder_s"]] > 0).any(axis=1)
    is_fault = faults["excluded"] | (faults[["duplicates", "repeated"]] > 0).any(axis=1)
    faults = faults[is_fault].reset_index(drop=True)
    return Sanity(len(ids), faults, _skew(spans, shapes), spans.attrs.get("refused", {}))


def join_split_traces(spans: pd.DataFrame) -> pd.DataFrame:
    """Return the spans, with an engine's lone trace placed below the model call that it answers.

    Where a hop does not pass the trace context on, a request leaves two traces, and would count as
    two. They are joined where the engine's span has the tokens of a model call without an engine,
    and lies in its time: a guess, which `frame.attrs["joined"]` counts by trace. Where several
    engines fit a call, none is joined.

    Two libraries that do not share a context leave two traces of the same model calls. They are
    known by their response ids, and become one, which `frame.attrs["repeated"]` counts.
    """
    shapes = shapes_of(spans)
    once = _without_repetitions(spans, shapes)
    if once is not spans:
        spans = once
        shapes = shapes_of(spans)
    engines, calls = _halves(spans, shapes)
    if not len(engines) or not len(calls):
        return spans
    left = _timed(spans, engines)
    right = _timed(spans, calls)
    left["begin"] = left["start"] + SPLIT_TOLERANCE_S
    right["begin"] = right["start"]
    tokens = ["prompt_tokens", "completion_tokens"]
    pairs = pd.merge_asof(
        left.sort_values("begin"),
        right.sort_values("begin"),
        on="begin",
        by=tokens,
        suffixes=("", "_call"),
    ).dropna(subset="row_call")
    pairs = pairs[pairs["end"] <= pairs["end_call"] + SPLIT_TOLERANCE_S]
    pairs = pairs[~pairs["row_call"].duplicated(keep=False)]
    if pairs.empty:
        return spans
    into = pd.Series(pairs["row_call"].to_numpy("int64"), index=shapes.group[pairs["row"]])
    rows = np.flatnonzero(np.isin(shapes.group, into.index))
    # Whatever is above the engine in its own trace would be a second root.
    tops = rows[shapes.parent[rows] < 0]
    joined = _moved(spans, shapes, rows, into, tops, into[shapes.group[tops]].to_numpy())
    joined.attrs["joined"] = shapes.ids[shapes.group[into]].value_counts().to_dict()
    return joined


def _reason(fault: Mapping[str, Any]) -> str:
    if fault["strangers"]:
        return f"{fault['strangers']} of its spans belong to other requests"
    if fault["joined"]:
        return "it was joined from two traces, by tokens and time: a guess"
    return f"its parts add up to {fault['remainder_s']:.3f} s more than it"


def _remainder_s(spans: pd.DataFrame, shapes: TraceShapes) -> np.ndarray:
    """Return the most by which parts exceed their whole in each trace, 0 within the tolerance."""
    duration_s = spans["duration_s"].to_numpy()
    is_engine = shapes.role == Role.ENGINE
    phases = (Attr.VLLM_QUEUE_S, Attr.VLLM_PREFILL_S, Attr.VLLM_DECODE_S)
    inside_s = sum(np.nan_to_num(numbers(spans, name)) for name in phases)
    over_s = np.where(is_engine, inside_s - duration_s, 0.0)
    allowed_s = REMAINDER_S + REMAINDER_RATIO * duration_s

    size = len(duration_s)
    engine_s = np.bincount(shapes.call[is_engine], weights=duration_s[is_engine], minlength=size)
    over_s = np.where(shapes.answered, engine_s - duration_s, over_s)
    worst = np.zeros(len(shapes.ids))
    np.maximum.at(worst, shapes.group, np.where(over_s > allowed_s, over_s, 0.0))
    return worst


def _skew(spans: pd.DataFrame, shapes: TraceShapes) -> pd.DataFrame:
    where = spans["service"].astype(object)
    if _HOST in spans:
        where = spans[_HOST].astype(object).where(spans[_HOST].notna(), where)
    place = where.astype("category")
    codes = place.cat.codes.to_numpy()
    start = start_ns(spans)
    parent = shapes.parent
    crossing = (parent >= 0) & (codes[parent] != codes) & (shapes.role != Role.STRANGER)
    early_s = np.where(crossing, (start[parent] - start) / _NS, 0.0)
    rows = np.flatnonzero(early_s > SKEW_S)
    early = pd.DataFrame({"where": place.iloc[rows].astype(str), "early_s": early_s[rows]})
    table = early.groupby("where")["early_s"].agg(behind_s="max", spans="size").reset_index()
    return table.sort_values("behind_s", ascending=False, ignore_index=True)


def _halves(spans: pd.DataFrame, shapes: TraceShapes) -> tuple[np.ndarray, np.ndarray]:
    """Return the engines that are alone in their traces, and the model calls without an engine."""
    others = shapes.count(np.isin(shapes.role, (Role.MODEL_CALL, Role.SERVER, Role.CLIENT)))
    is_engine = shapes.role == Role.ENGINE
    alone = (others == 0) & (shapes.count(is_engine) == 1)
    engines = np.flatnonzero(is_engine & alone[shapes.group])
    calls = np.flatnonzero((shapes.role == Role.MODEL_CALL) & ~shapes.answered)
    return engines, calls


def _timed(spans: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """Return these spans' rows, times (s) and tokens; only those that have both tokens."""
    part = spans.iloc[rows]
    start = start_ns(part) / _NS
    table = pd.DataFrame(
        {
            "row": rows,
            "start": start,
            "end": start + part["duration_s"].to_numpy(),
            "prompt_tokens": field_numbers(part, "prompt_tokens"),
            "completion_tokens": field_numbers(part, "completion_tokens"),
        }
    )
    return table.dropna()


def _moved(
    spans: pd.DataFrame,
    shapes: TraceShapes,
    rows: np.ndarray,
    into: pd.Series,
    children: np.ndarray,
    parents: np.ndarray,
) -> pd.DataFrame:
    """Return the spans, with these rows in other traces, and new parents of `children`.

    `into` has, by the trace of such a row, a row of the trace to which it is moved.
    """
    trace_id = spans["trace_id"].to_numpy(object).copy()
    parent_id = spans["parent_id"].to_numpy(object).copy()
    trace_id[rows] = trace_id[into[shapes.group[rows]].to_numpy()]
    parent_id[children] = spans["span_id"].to_numpy(object)[parents]
    return spans.assign(
        trace_id=pd.array(trace_id, dtype="str"), parent_id=pd.array(parent_id, dtype="str")
    )


def _without_repetitions(spans: pd.DataFrame, shapes: TraceShapes) -> pd.DataFrame:
    """Return the spans without the traces that only repeat model calls of another trace.

    What is below such a call (an engine's span) is moved below the call that it repeats. An id
    that calls at different times have is not used: caches return an old answer with its id.
    """
    calls = _shared_answers(spans, shapes)
    if calls.empty:
        return spans
    # Of each id, the call in the trace with the most calls, tools and spans comes first.
    sizes = [shapes.count(shapes.role == role) for role in (Role.MODEL_CALL, Role.TOOL_CALL)]
    sizes.append(np.bincount(shapes.group))
    rank = np.empty(len(shapes.ids), dtype=np.int64)
    rank[np.lexsort([-size for size in reversed(sizes)])] = np.arange(len(rank))
    calls = calls.assign(rank=rank[calls["group"]]).sort_values("rank")
    calls["first"] = calls.groupby("id")["row"].transform("first")
    calls["into"] = shapes.group[calls["first"]]
    by_trace = calls.groupby("group").agg(
        n=("row", "size"),
        first=("first", "first"),
        into=("into", "first"),
        targets=("into", "nunique"),
    )
    is_whole = by_trace["n"] == sizes[0][by_trace.index]
    by_trace = by_trace[
        is_whole & (by_trace["targets"] == 1) & (by_trace["into"] != by_trace.index)
    ]
    if by_trace.empty:
        return spans

    moved = calls[calls["group"].isin(by_trace.index)]
    is_moved = np.zeros(len(spans), dtype=bool)
    is_moved[moved["row"]] = True
    rows = np.flatnonzero(np.isin(shapes.group, by_trace.index))
    kept = is_moved[rows] | (ancestor(shapes.parent, rows, is_moved) >= 0)
    once = _moved(
        spans,
        shapes,
        rows[kept],
        by_trace["first"],
        moved["row"].to_numpy(),
        moved["first"].to_numpy(),
    )
    others = np.delete(np.arange(len(spans)), rows[~kept])
    once = once.iloc[others].reset_index(drop=True)
    once.attrs["repeated"] = by_trace.groupby(shapes.ids[by_trace["into"]]).size().to_dict()
    return once


def _shared_answers(spans: pd.DataFrame, shapes: TraceShapes) -> pd.DataFrame:
    """Return the model calls (`row`, `group`) whose response `id` is in several traces at once."""
    views = np.flatnonzero(shapes.call >= 0)
    ids = field_texts(spans, "response_id", views)
    known = pd.notna(ids)
    table = pd.DataFrame({"id": ids[known], "row": shapes.call[views[known]]})
    table = table[table["id"] != ""].drop_duplicates()
    table["group"] = shapes.group[table["row"]]
    table = table[table["id"].duplicated(keep=False)]
    start = start_ns(spans)[table["row"]] / _NS
    table = table.assign(start=start, end=start + spans["duration_s"].to_numpy()[table["row"]])
    by_id = table.groupby("id").agg(
        start=("start", "max"),
        end=("end", "min"),
        rows=("row", "size"),
        traces=("group", "nunique"),
    )
    is_one = (by_id["start"] <= by_id["end"]) & (by_id["rows"] == by_id["traces"])
    return table[table["id"].isin(by_id.index[is_one])]
