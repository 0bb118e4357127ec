"""Whether a window's traces can be believed: foreign spans, split traces, clocks, repetitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab.frames.completeness import TraceShapes, shapes_of
from lab.frames.roles import Role, field_numbers
from lab.frames.spans import numbers, start_ns
from lab.schema import Attr

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
      exclude a trace), `joined` (traces that were joined to it, by a guess), `remainder_s` (by how
      much its parts add up to more than their whole), `excluded`;
    - `skew`: one row per machine (or service, where no span names machines) with children that
      begin before their parents elsewhere: `where`, `behind_s` (its clock is behind by at least
      this), `spans`. Phases are differences of durations on one clock, so they stay right.
    """

    traces: int
    faults: pd.DataFrame
    skew: pd.DataFrame

    @property
    def excluded(self) -> dict[str, str]:
        """Return {trace id: reason} of the traces that no analysis of phases may use."""
        rows = self.faults[self.faults["excluded"]]
        return {str(row.trace_id): _reason(row) for row in rows.itertuples()}

    def __str__(self) -> str:
        counts = {
            "with spans of other requests": self.faults["strangers"] > 0,
            "joined from split traces, by tokens and time: a guess": self.faults["joined"] > 0,
            "whose parts add up to more than the whole": self.faults["remainder_s"] > 0,
            "with spans that came twice (counted once)": self.faults["duplicates"] > 0,
        }
        lines = [f"{mask.sum()} {what}" for what, mask in counts.items() if mask.any()]
        lines += [
            f"the clock of {row.where} is behind by at least {row.behind_s:.3f} s "
            f"({row.spans} spans begin before their parents)"
            for row in self.skew.itertuples()
        ]
        excluded = int(self.faults["excluded"].sum())
        head = f"{self.traces} traces checked, {excluded} excluded from phases"
        return "\n  ".join([head, *lines])


def trace_sanity(spans: pd.DataFrame) -> Sanity:
    """Return the checks of a span frame. Raises FrameError for another frame."""
    shapes = shapes_of(spans)
    ids = shapes.ids
    duplicates = pd.Series(spans.attrs.get("duplicates", {}), dtype="float64")
    faults = pd.DataFrame(
        {
            "trace_id": ids,
            "strangers": shapes.strangers,
            "duplicates": duplicates.reindex(ids).fillna(0).astype("int64").to_numpy(),
            "joined": shapes.joined,
            "remainder_s": _remainder_s(spans, shapes),
        }
    )
    faults["excluded"] = (faults[["strangers", "joined", "remainder_s"]] > 0).any(axis=1)
    is_fault = faults["excluded"] | (faults["duplicates"] > 0)
    return Sanity(len(ids), faults[is_fault].reset_index(drop=True), _skew(spans, shapes))


def join_split_traces(spans: pd.DataFrame) -> pd.DataFrame:
    """Return the spans, with an engine's lone trace placed below the model call that it answers.

    Where a hop does not pass the trace context on, a request leaves two traces, and would count as
    two. They are joined where the engine's span has the tokens of a model call without an engine,
    and lies in its time: a guess, which `frame.attrs["joined"]` counts by trace. Where several
    engines fit a call, none is joined.
    """
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
    return _joined(spans, shapes, pairs["row"].to_numpy(), pairs["row_call"].to_numpy("int64"))


def _reason(row: object) -> str:
    if row.strangers:  # type: ignore[attr-defined]
        return f"{row.strangers} of its spans belong to other requests"  # type: ignore[attr-defined]
    if row.joined:  # type: ignore[attr-defined]
        return "it was joined from two traces, by tokens and time: a guess"
    return f"its parts add up to {row.remainder_s:.3f} s more than it"  # type: ignore[attr-defined]


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


def _joined(
    spans: pd.DataFrame, shapes: TraceShapes, engines: np.ndarray, calls: np.ndarray
) -> pd.DataFrame:
    """Return the spans, with the traces of these engines moved below these calls."""
    trace_id = spans["trace_id"].to_numpy(object).copy()
    span_id = spans["span_id"].to_numpy(object)
    parent_id = spans["parent_id"].to_numpy(object).copy()
    target = pd.Series(trace_id[calls], index=shapes.group[engines])
    moved = np.isin(shapes.group, shapes.group[engines])
    trace_id[moved] = target.reindex(shapes.group[moved]).to_numpy(object)
    # Whatever is above the engine in its own trace would be a second root.
    above = moved & (shapes.parent < 0)
    call_of = pd.Series(span_id[calls], index=shapes.group[engines])
    parent_id[above] = call_of.reindex(shapes.group[above]).to_numpy(object)
    joined = spans.assign(
        trace_id=pd.array(trace_id, dtype="str"), parent_id=pd.array(parent_id, dtype="str")
    )
    joined.attrs["joined"] = pd.Series(target.to_numpy()).astype(str).value_counts().to_dict()
    return joined
