"""Wait for the spans of a run: whole traces, those of direct calls too."""

from __future__ import annotations

import pandas as pd

from lab.frames import spans_frame, trace_problems
from lab.frames.roles import Role, roles_of
from lab.settings import Settings
from lab.stores import Arrival, Tempo

RECORDED_WAIT_S = 2.0  # of a recording all is there, or never will be
NO_ENGINE = "vLLM's span has not arrived"


def wait_for_spans(
    settings: Settings, records: pd.DataFrame, wait_s: float = 30.0, *, bulk: bool = False
) -> tuple[pd.DataFrame, Arrival]:
    """The spans of these client records' traces, waited for at most `wait_s`, and what arrived.

    `bulk`: where the store can stream, ask it for everything in the records' time at once instead of for a trace each,
    which for hundreds of short traces is many times faster.
    """
    if settings.place == "recorded":
        wait_s = min(wait_s, RECORDED_WAIT_S)
    tempo, ids = Tempo(settings), records["trace_id"].astype(str).tolist()
    direct = direct_ids(records)
    window = (
        (float(records["scheduled_at"].min()) - 1, float(records["done_at"].max()) + 1)
        if bulk
        else None
    )
    arrival = tempo.wait_for_traces(
        ids,
        timeout_s=wait_s,
        problems=lambda answer: problems(spans_frame(answer), direct),
        window=window,
    )
    if window and tempo.streams:
        spans = spans_frame(tempo.spans("{}", *window))
        return spans[spans["trace_id"].isin(ids)].reset_index(drop=True), arrival
    return spans_frame(tempo.traces(ids)), arrival


def problems(spans: pd.DataFrame, direct: set[str]) -> dict[str, str]:
    """`lab.frames.trace_problems`, and of the traces `direct` (a client called vLLM itself) those that lack its span:
    the client's own span arrives seconds before, and a trace of it alone looks whole."""
    found = {str(i): why for i, why in trace_problems(spans).items()}
    there = set(spans.loc[roles_of(spans) == Role.ENGINE, "trace_id"].astype(str))
    return found | {i: found[i] or NO_ENGINE for i in direct - there if i in found}


def direct_ids(records: pd.DataFrame) -> set[str]:
    """Trace ids of the answered requests that went straight to vLLM."""
    straight = (records["api"] == "chat") & (records["status"] == "ok")
    return set(records.loc[straight, "trace_id"].astype(str))
