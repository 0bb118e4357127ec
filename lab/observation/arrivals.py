"""Wait for the spans of a run until its traces are complete."""

from __future__ import annotations

import pandas as pd

from lab.frames import spans_frame, trace_problems
from lab.frames.roles import Role, roles_of
from lab.places import place_of
from lab.settings import Settings
from lab.stores import Arrival, Tempo

NO_ENGINE = "vLLM's span has not arrived"


def wait_for_spans(
    settings: Settings, records: pd.DataFrame, wait_s: float = 30.0, *, bulk: bool = False
) -> tuple[pd.DataFrame, Arrival]:
    """Return the spans of these client records, waited for at most `wait_s` s, and what arrived.

    With `bulk`, a store that can stream is queried for everything in the records' time at once,
    instead of once per trace; for hundreds of short traces that is many times faster.
    """
    tempo = Tempo(settings)
    ids = records["trace_id"].astype(str).tolist()
    direct = direct_ids(records)
    window = None
    if bulk:
        window = float(records["scheduled_at"].min()) - 1, float(records["done_at"].max()) + 1

    arrival = tempo.wait_for_traces(
        ids,
        timeout_s=place_of(settings).trace_wait_s(wait_s),
        problems=lambda answer: problems(spans_frame(answer), direct),
        window=window,
    )
    if window and tempo.streams:
        spans = spans_frame(tempo.spans("{}", *window))
        return spans[spans["trace_id"].isin(ids)].reset_index(drop=True), arrival
    return spans_frame(tempo.traces(ids)), arrival


def problems(spans: pd.DataFrame, direct: set[str]) -> dict[str, str]:
    """Return `lab.frames.trace_problems`; the traces in `direct` also need vLLM's span.

    In these the client called vLLM itself. The client's own span arrives seconds before it, and
    such a trace looks complete without it.
    """
    reasons = {str(trace_id): why for trace_id, why in trace_problems(spans).items()}
    arrived = set(spans.loc[roles_of(spans) == Role.ENGINE, "trace_id"].astype(str))

    for trace_id in direct - arrived:
        if trace_id in reasons:
            reasons[trace_id] = reasons[trace_id] or NO_ENGINE

    return reasons


def direct_ids(records: pd.DataFrame) -> set[str]:
    """Return the trace ids of the answered requests that were sent straight to vLLM."""
    direct = (records["api"] == "chat") & (records["status"] == "ok")
    return set(records.loc[direct, "trace_id"].astype(str))
