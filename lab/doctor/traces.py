"""Faults of traces: lost context, foreign and missing spans, clocks, hidden failures, secrets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from lab.dialects import Role, attributes_of
from lab.doctor.findings import Finding
from lab.doctor.secrets import check_secrets, strings_of
from lab.frames import spans_frame, tool_frame
from lab.frames.completeness import (
    TraceShapes,
    join_split_traces,
    shapes_of,
    trace_problems,
    trace_sanity,
)
from lab.frames.spans import numbers, start_ns
from lab.measures import blocking_prefills
from lab.schema import Attr
from lab.stores import SpansAnswer

Faults = Iterator[tuple[str, str, str]]  # of (check, where, evidence)
# In the texts of trace_problems, what has a check of its own.
OTHER_CHECKS = ("belong to other requests", "joined from split traces")
OF_CALLS = (Role.MODEL_CALL, Role.ENGINE, Role.REPEAT, Role.AGENT)
MIN_VICTIMS = 3
MIN_ROOTS = 5  # of a service that never continues a trace
SLACK_S = 0.25  # by which a span may begin before, or end after, the call that it is in
_NS = 1e9
_YEAR_2000_NS = 946_684_800 * 10**9
_YEAR_2100_NS = 4_102_444_800 * 10**9


def check_traces(answer: SpansAnswer, target: str) -> list[Finding]:
    """Return the faults of an answer's traces. Raises FrameError for what is not a trace."""
    spans = spans_frame(answer)
    if spans.empty:
        return [Finding("incomplete-trace", target, "", "there is no span")]
    spans = join_split_traces(spans)
    shapes = shapes_of(spans)
    faults = [
        *_incomplete(answer, spans),
        *_sanity(spans),
        *_unpropagated(spans, shapes),
        *_tokens(spans, shapes),
        *_failures(spans),
        *_blocked(spans, shapes),
    ]
    if answer.arrow is None:
        documents = [json.loads(document) for document in answer.documents]
        faults += _times(documents)
        texts = [pair for document in documents for pair in strings_of(document)]
    else:
        texts = _texts(spans_frame(answer, attributes=None))
    findings = [Finding(check, target, where, evidence) for check, where, evidence in faults]
    return findings + check_secrets(texts, target, counted=True)


def _incomplete(answer: SpansAnswer, spans: pd.DataFrame) -> Faults:
    problems = {
        trace: text
        for trace, text in trace_problems(spans).items()
        if text and not any(other in text for other in OTHER_CHECKS)
    }
    for trace in answer.partial:
        problems.setdefault(trace, "the store reports it as cut")
    problems |= answer.refused
    if problems:
        trace, text = next(iter(problems.items()))
        more = f", and {len(problems) - 1} more traces" if len(problems) > 1 else ""
        yield "incomplete-trace", str(trace), f"{text}{more}"


def _sanity(spans: pd.DataFrame) -> Faults:
    sanity = trace_sanity(spans)
    faults = sanity.faults
    for column, check, text in (
        ("strangers", "foreign-spans", "spans belong to other requests"),
        ("duplicates", "repeated-spans", "spans came twice"),
        ("joined", "unpropagated", "traces are a part of it, by tokens and time"),
    ):
        rows = faults[faults[column] > 0]
        if len(rows):
            number = int(rows[column].sum())
            yield check, str(rows["trace_id"].iloc[0]), f"{number} {text}"
    rows = faults[faults["remainder_s"] > 0]
    if len(rows):
        worst = rows["remainder_s"].max()
        evidence = f"the parts of {len(rows)} traces add up to {worst:.3f} s more than the whole"
        yield "span-times", str(rows["trace_id"].iloc[0]), evidence
    for row in sanity.skew.itertuples():
        evidence = f"{row.spans} spans begin up to {row.behind_s:.3f} s before their parents"
        yield "clock-skew", str(row.where), evidence


def _unpropagated(spans: pd.DataFrame, shapes: TraceShapes) -> Faults:
    """Yield engines whose spans are alone in their traces, beside callers without an engine."""
    if spans.attrs.get("joined"):
        return
    is_engine = shapes.role == Role.ENGINE
    callers = np.isin(shapes.role, (Role.MODEL_CALL, Role.SERVER, Role.CLIENT))
    alone = is_engine & (shapes.count(callers) == 0)[shapes.group]
    unanswered = (shapes.role == Role.MODEL_CALL) & ~shapes.answered
    inside = _inside(spans, np.flatnonzero(alone), np.flatnonzero(unanswered))
    if inside:
        evidence = (
            f"{inside} engine spans are alone in their traces, within the time of model calls "
            f"without an engine's span ({unanswered.sum()})"
        )
        yield "unpropagated", str(spans["service"].iloc[np.argmax(alone)]), evidence
        return
    yield from _never_continues(spans, shapes)


def _never_continues(spans: pd.DataFrame, shapes: TraceShapes) -> Faults:
    """Yield services whose spans always begin a trace, within calls of another service."""
    root = shapes.parent < 0
    server = (spans["kind"] == "server").to_numpy(bool)
    has_child = np.zeros(len(root), dtype=bool)
    has_child[shapes.parent[~root]] = True
    calls = np.flatnonzero((spans["kind"] == "client").to_numpy(bool) & ~has_child)
    services = spans["service"].astype(str).to_numpy(object)
    for service in np.unique(services[root & server]):
        mine = (services == service) & server
        roots = np.flatnonzero(mine & root)
        if len(roots) < MIN_ROOTS or len(roots) < mine.sum():
            continue
        others = calls[services[calls] != service]
        inside = _inside(spans, roots, others)
        if inside >= 0.8 * len(roots):
            evidence = f"all {len(roots)} spans of {service} begin a trace, within calls of others"
            yield "unpropagated", str(service), evidence


def _inside(spans: pd.DataFrame, rows: np.ndarray, others: np.ndarray) -> int:
    """Return how many spans lie in the time of one of the others, of another trace."""
    start_s = start_ns(spans) / _NS
    end_s = start_s + spans["duration_s"].to_numpy()
    earliest_s = start_s[others] - SLACK_S
    latest_s = end_s[others] + SLACK_S
    around = (((earliest_s <= start_s[row]) & (end_s[row] <= latest_s)).any() for row in rows)
    return sum(map(bool, around))


def _tokens(spans: pd.DataFrame, shapes: TraceShapes) -> Faults:
    """Yield attributes of tokens that several spans of one model call repeat, or an agent sums."""
    names = [name for name in attributes_of("prompt_tokens") if name in spans]
    for name in names:
        values = pd.to_numeric(spans[name], errors="coerce").to_numpy(float)
        has = np.isfinite(values) & np.isin(shapes.role, OF_CALLS)
        calls = pd.Series(shapes.call[has])
        first = ~calls.duplicated().to_numpy() | (calls < 0).to_numpy()
        counted = first & np.isin(shapes.role[has], (Role.MODEL_CALL, Role.ENGINE))
        tokens = values[has].sum()
        once = values[has][counted].sum()
        if 0 < once < tokens:
            evidence = f"all spans have {tokens:,.0f}, the model calls {once:,.0f}"
            yield "tokens-repeated", name, evidence


def _failures(spans: pd.DataFrame) -> Faults:
    tools = tool_frame(spans)
    hidden = tools[tools["failed"] & ~tools["status_error"]]
    if len(hidden):
        evidence = (
            f"{int(tools['failed'].sum())} of {len(tools)} tool calls failed, the status of "
            f"{int(tools['status_error'].sum())} shows it: {hidden['error'].iloc[0]!s:.80}"
        )
        yield "hidden-failures", str(hidden["tool"].iloc[0]), evidence


def _blocked(spans: pd.DataFrame, shapes: TraceShapes) -> Faults:
    rows = np.flatnonzero(shapes.role == Role.ENGINE)
    part = spans.iloc[rows]
    start_s = start_ns(part) / _NS
    queue_s = numbers(part, Attr.VLLM_QUEUE_S)
    prefill_s = numbers(part, Attr.VLLM_PREFILL_S)
    turns = pd.DataFrame(
        {
            "trace_id": part["trace_id"].to_numpy(object),
            "prompt_tokens": numbers(part, Attr.VLLM_PROMPT_TOKENS),
            "queue_s": queue_s,
            "prefill_s": prefill_s,
            "scheduled_at": start_s + queue_s,
            "first_token_at": start_s + queue_s + prefill_s,
        }
    ).dropna()
    for row in blocking_prefills(turns).itertuples():
        if row.victims >= MIN_VICTIMS:
            evidence = (
                f"a prefill of {row.prompt_tokens:,} tokens took {row.prefill_s:.1f} s, and "
                f"{row.victims} requests waited for its end"
            )
            yield "head-of-line", str(row.trace_id), evidence


def _texts(spans: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the distinct texts of each attribute."""
    texts = spans.select_dtypes(include=["str", "object"])
    return [(str(key), str(text)) for key in texts for text in texts[key].dropna().unique()]


def _times(documents: list[Any]) -> Faults:
    faults: Counter[str] = Counter()
    for span in _spans(documents):
        start = int(span.get("startTimeUnixNano", 0))
        end = int(span.get("endTimeUnixNano", 0))
        if not _YEAR_2000_NS < start < _YEAR_2100_NS:
            faults["spans begin before 2000 or after 2100: are their times in nanoseconds?"] += 1
        elif end < start:
            faults["spans end before they begin"] += 1
    for text, count in faults.items():
        yield "span-times", "", f"{count} {text}"


def _spans(documents: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the spans of TracesData as JSON."""
    for document in documents:
        for owner in document.get("resourceSpans", ()):
            for scope in owner.get("scopeSpans", ()):
                yield from scope.get("spans", ())
