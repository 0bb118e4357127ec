"""Whether a trace is complete. A trace that has not fully arrived must never be used silently."""

from __future__ import annotations

import binascii
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lab.dialects import OGX
from lab.errors import FrameError
from lab.frames.calls import resolve_calls
from lab.frames.roles import Role, field_numbers
from lab.frames.spans import check_spans, service_codes

SERVER_NAMES = [name for name, role in OGX.names.items() if role == Role.SERVER]


@dataclass(frozen=True)
class TraceShapes:
    """The shape of every trace of a span frame.

    `group`, `role`, `parent`, `call`, `tool`, `answered` and `turn` have one element per span: its
    trace (a row of `ids`), its Role, the row of its parent (-1 for none), the outermost span of the
    model call and of the tool call that it is a view of (`lab.frames.calls`), whether it is a model
    call with an engine's span, and whether it stands for its model call: the engine's span, or the
    caller's where the engine writes none. The others have one element per trace: the number of its
    roots, of spans whose parent is absent, of spans that belong to another request, of traces that
    were joined to it by a guess (`lab.frames.sanity`), and of model calls that lack their engine's
    span although they did not fail.

    An engine's span is expected where Llama Stack is the agent, and of a service that has one for
    another of its calls.
    """

    ids: pd.Index
    group: np.ndarray
    role: np.ndarray
    parent: np.ndarray
    call: np.ndarray
    tool: np.ndarray
    answered: np.ndarray
    turn: np.ndarray
    roots: np.ndarray
    orphans: np.ndarray
    strangers: np.ndarray
    joined: np.ndarray
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
    expected = _expecting_engine(spans, group, role, answered, np.flatnonzero(silent))
    is_root = (spans["parent_id"] == "").to_numpy(bool)
    failed = (spans["status"] == "error").to_numpy(bool)

    def count(mask: np.ndarray) -> np.ndarray:
        return np.bincount(group[mask], minlength=len(ids))

    def noted(name: str) -> np.ndarray:
        counts = spans.attrs.get(name)
        if not counts:
            return np.zeros(len(ids), dtype=np.int64)
        return pd.Series(counts).reindex(ids, fill_value=0).astype("int64").to_numpy()

    return TraceShapes(
        ids=ids,
        group=group,
        role=role,
        parent=calls.parent,
        call=calls.call,
        tool=calls.tool,
        answered=answered,
        turn=(role == Role.ENGINE) | (silent & ~expected),
        roots=count(is_root),
        orphans=count((calls.parent < 0) & ~is_root & (role != Role.STRANGER)),
        strangers=count(role == Role.STRANGER) + noted("collisions"),
        joined=noted("joined"),
        unanswered=count(expected & ~failed),
    )


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
    """Return which spans lack an engine's span, of those (rows) that have none (a mask of all)."""
    expecting = np.zeros(len(role), dtype=bool)
    if not len(silent):
        return expecting
    service = service_codes(spans)
    servers = np.flatnonzero(role == Role.SERVER)
    servers = servers[spans["name"].iloc[servers].isin(SERVER_NAMES).to_numpy(bool)]
    with_answers = np.unique(service[answered])
    expecting[silent] = np.isin(group[silent], group[servers])
    expecting[silent] |= np.isin(service[silent], with_answers)
    return expecting


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
