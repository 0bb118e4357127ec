"""Whether a trace is complete. A trace that has not fully arrived must never be used silently."""

from __future__ import annotations

import binascii
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lab.errors import FrameError
from lab.frames.roles import Role, roles_of
from lab.frames.spans import check_spans

# Spans between vLLM's and the model call that it belongs to: HTTP clients, proxies, routers.
MAX_LEVELS = 6


@dataclass(frozen=True)
class TraceShapes:
    """The shape of every trace of a span frame.

    `group`, `role`, `parent` and `answered` have one element per span: its trace (a row of `ids`),
    its Role, the row of its parent (-1 for none), and whether it is a model call with a span of
    vLLM. The others have one element per trace: the number of its roots, of spans whose parent is
    absent, and of model calls that lack vLLM's span although they did not fail.
    """

    ids: pd.Index
    group: np.ndarray
    role: np.ndarray
    parent: np.ndarray
    answered: np.ndarray
    roots: np.ndarray
    orphans: np.ndarray
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
    role = roles_of(spans)
    parent = _parent_rows(spans, group)
    answered = _answered(role, parent)
    is_root = (spans["parent_id"] == "").to_numpy(bool)
    failed = (spans["status"] == "error").to_numpy(bool)

    def count(mask: np.ndarray) -> np.ndarray:
        return np.bincount(group[mask], minlength=len(ids))

    return TraceShapes(
        ids=ids,
        group=group,
        role=role,
        parent=parent,
        answered=answered,
        roots=count(is_root),
        orphans=count((parent < 0) & ~is_root),
        unanswered=count((role == Role.MODEL_CALL) & ~answered & ~failed),
    )


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
    ):
        for i in np.flatnonzero(counts):
            problems[i] = words.format(counts[i])
    problems[shapes.roots == 0] = "it has no root span"
    return problems


def _parent_rows(spans: pd.DataFrame, group: np.ndarray) -> np.ndarray:
    """Return the row of each span's parent, -1 where it has none or it is absent."""
    span_id = _span_numbers(spans["span_id"])
    parent_id = _span_numbers(spans["parent_id"])
    if not len(span_id):
        return np.empty(0, dtype=np.int64)
    order = np.argsort(span_id, kind="stable")
    place = np.searchsorted(span_id[order], parent_id)
    rows = order[np.minimum(place, len(order) - 1)]
    present = (parent_id != 0) & (span_id[rows] == parent_id) & (group[rows] == group)
    return np.where(present, rows, -1)


def _answered(role: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Return which spans are model calls with vLLM's span below them."""
    answered = np.zeros(len(role), dtype=bool)
    rows = parent[role == Role.ENGINE]
    for _ in range(MAX_LEVELS):
        rows = rows[rows >= 0]
        is_call = role[rows] == Role.MODEL_CALL
        answered[rows[is_call]] = True
        rows = parent[rows[~is_call]]
    return answered


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
