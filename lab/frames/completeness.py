"""Is a trace whole? A trace that has not wholly arrived must never be used silently."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab.frames.ids import span_numbers, trace_codes
from lab.frames.roles import Role, roles_of
from lab.frames.spans import check_spans

MAX_LEVELS = (
    6  # between vLLM's span and the model call that it belongs to: HTTP clients, proxies, routers
)


@dataclass(frozen=True)
class Shape:
    """What of each trace is there, one element a trace (`ids`); `group` is the trace of every span, `role` its role."""

    ids: pd.Index
    group: np.ndarray
    role: np.ndarray
    parent: np.ndarray
    roots: np.ndarray
    orphans: np.ndarray
    unanswered: np.ndarray  # model calls without vLLM's span, other than those that failed
    answered: np.ndarray  # boolean, one a span: a model call that has its vLLM span

    def count(self, role: Role) -> np.ndarray:
        return np.bincount(self.group[self.role == role], minlength=len(self.ids))


def shape_of(spans: pd.DataFrame) -> Shape:
    """Look at every trace of a span frame. Raises FrameError for another frame."""
    check_spans(spans)
    group, ids = trace_codes(spans["trace_id"])
    role = roles_of(spans)
    parent = _parent_rows(spans, group)
    root = (spans["parent_id"] == "").to_numpy(bool)
    orphan = (parent < 0) & ~root
    answered = _answered(role, parent)
    failed = (spans["status"] == "error").to_numpy(bool)
    unanswered = (role == Role.MODEL_CALL) & ~answered & ~failed
    size = len(ids)
    return Shape(
        ids, group, role, parent,
        roots=np.bincount(group[root], minlength=size),
        orphans=np.bincount(group[orphan], minlength=size),
        unanswered=np.bincount(group[unanswered], minlength=size),
        answered=answered,
    )  # fmt: skip


def trace_problems(spans: pd.DataFrame) -> pd.Series:
    """What each trace lacks, in words; '' for a complete one. The index is `trace_id`.

    Complete: it has a root, every parent that is named, and for every model call that did not fail vLLM's span.
    Traces that are not in the frame at all are not in the result either.
    """
    shape = shape_of(spans)
    return pd.Series(
        problems_of(shape), index=shape.ids.rename("trace_id"), name="trace_problem", dtype="str"
    )


def problems_of(shape: Shape) -> np.ndarray:
    """One text a trace, the gravest problem of each."""
    found = np.full(len(shape.ids), "", dtype=object)
    for counts, words in (
        (shape.unanswered, "{} of its model calls lack vLLM's span"),
        (shape.orphans, "{} of its spans name a parent that is not there"),
    ):
        for i in np.flatnonzero(counts):
            found[i] = words.format(counts[i])
    found[shape.roots == 0] = "it has no root span"
    return found


def _parent_rows(spans: pd.DataFrame, group: np.ndarray) -> np.ndarray:
    """Row of each span's parent, -1 where it has none or it is not there."""
    own, wanted = span_numbers(spans["span_id"]), span_numbers(spans["parent_id"])
    order = np.argsort(own, kind="stable")
    at = np.searchsorted(own[order], wanted)
    rows = order[np.minimum(at, len(order) - 1)] if len(order) else at
    there = (
        (wanted != 0) & (own[rows] == wanted) & (group[rows] == group)
        if len(order)
        else wanted != 0
    )
    return np.where(there, rows, -1)


def _answered(role: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Which spans are model calls with vLLM's span below them."""
    answered = np.zeros(len(role), dtype=bool)
    at = parent[role == Role.ENGINE]
    for _ in range(MAX_LEVELS):
        at = at[at >= 0]
        calls = at[role[at] == Role.MODEL_CALL]
        answered[calls] = True
        at = parent[at[role[at] != Role.MODEL_CALL]]
    return answered
