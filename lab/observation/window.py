"""A run that the lab did not drive: the requests that Tempo has of a window of time."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import pandas as pd

from lab.dialects import ATTRIBUTES, traceql
from lab.durations import parse_duration_s
from lab.errors import FrameError, NoData, SettingsError, StoreError, WorkloadError
from lab.frames import join_split_traces, spans_frame, trace_problems, trace_sanity
from lab.frames.completeness import Sanity
from lab.frames.requests import records_from_spans, with_roots
from lab.observation.judging import find_scenario
from lab.schema import SPAN_ATTRIBUTES, Service, Span
from lab.settings import Settings
from lab.stores import Arrival, Tempo
from lab.stores.timestamps import utc
from lab.workload import Plan, Poisson, Run

# By then the whole of a request is in the store: exporters send every few seconds.
ARRIVED_S = 12.0
MAX_TRACES = 100_000
QUERY = (
    f'{{ (name = "{Span.VLLM}" || {traceql()}) '
    f'&& resource.service.name != "{Service.VLLM_EMBED}" }}'
)
EXAMPLES = 20  # traces of an unknown kind that an error describes
FORMS = (
    "write START/END in ISO 8601 with a time zone "
    "(2026-11-26T12:00:00Z/2026-11-26T12:10:00Z), or 'last 15m'"
)


@dataclass(repr=False)
class WindowRun(Run):
    """A run made of spans.

    `records` are those of `lab.frames.requests.records_from_spans`, `spans` their source, and
    `warnings` what the store said of its answer.
    """

    spans: pd.DataFrame = field(default_factory=pd.DataFrame)
    warnings: tuple[str, ...] = ()

    @property
    def not_sent(self) -> int:
        """Return 0: there was no plan."""
        return 0

    def __repr__(self) -> str:
        counts = self.records["status"].value_counts()
        by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
        unknown = (self.records["cached_tokens"] < 0) & (self.records["prompt_tokens"] > 0)
        text = (
            f"<Window {utc(self.window[0])} to {utc(self.window[1])}: {len(self.records)} requests "
            f"({by_status}), made of spans; nothing was sent>"
        )
        if unknown.any():
            text += (
                f"\n{unknown.sum()} of them do not say what was in the prefix cache: "
                "counted as nothing"
            )
        return "\n".join((text, *self.warnings, str(self.sanity)))

    @cached_property
    def sanity(self) -> Sanity:
        """Return the checks of its traces: `lab.frames.trace_sanity`."""
        return trace_sanity(self.spans)

    def save(self, out_dir: object) -> None:  # type: ignore[override]
        """Raise WorkloadError: there is no plan to save."""
        raise WorkloadError(
            "a window's run has no plan, so it cannot be saved",
            fix="keep the telemetry: `lab record NAME --start --end`",
        )

    def arrival(self) -> Arrival:
        """Return which of its traces are complete. Nothing is waited for."""
        problems = {str(i): why for i, why in trace_problems(self.spans).items() if why}
        problems = self.sanity.excluded | problems
        complete = tuple(i for i in self.records["trace_id"].astype(str) if i not in problems)
        return Arrival(complete, problems, 0.0)


def window_run(
    settings: Settings, window: str, *, model: str = "", max_traces: int = MAX_TRACES
) -> WindowRun:
    """Return the requests that began in the window as a run; with a `model`, only those to it.

    A request is a trace with an agent's request or a model call in it, in one of the dialects of
    `lab.dialects`. The run's window ends with the last of their answers, so that the counters of
    the same time hold all of them.

    Raises WorkloadError for a window that cannot be read, NoData where there is no request (it
    describes the traces that there are instead), StoreError where there are more than `max_traces`:
    Tempo chooses which of them it returns, so any number would be wrong.
    """
    start, end = parse_window(window)
    time.sleep(max(0.0, min(ARRIVED_S, end + ARRIVED_S - time.time())))
    tempo = Tempo(settings)
    answer = tempo.spans(QUERY, start, end, max_traces=max_traces)
    spans = spans_frame(answer)
    if answer.arrow is not None and _lacks_dialects(spans):
        names = (*SPAN_ATTRIBUTES, *ATTRIBUTES)
        answer = tempo.spans(QUERY, start, end, max_traces=max_traces, attributes=names)
        spans = spans_frame(answer, attributes=list(dict.fromkeys(names)))
    found = spans["trace_id"].nunique()
    if answer.limited or found > max_traces:
        raise StoreError(
            f"there are more than {min(found, max_traces):,} requests in this window",
            query=QUERY,
            got=f"{utc(start)} to {utc(end)} at {tempo.url}",
            fix="take a shorter window",
        )

    where = f"{utc(start)} to {utc(end)} at {tempo.url}"
    spans = with_roots(join_split_traces(spans))
    try:
        records = records_from_spans(spans)
    except FrameError as e:
        raise _unknown_kind(where, e.got) from e
    if spans.empty and (others := tempo.search("{}", start, end, limit=EXAMPLES).traces):
        kinds = sorted({f"{trace.root_service}: {trace.root_name}" for trace in others})
        raise _unknown_kind(where, f"{len(others)} or more traces, of {'; '.join(kinds)}")
    records = records[records["scheduled_at"].between(start, end, inclusive="left")]
    chosen = records[records["model"] == model] if model else records
    if chosen.empty:
        raise _no_request(where, model, records, spans)

    run_id = f"window-{utc(start)}"
    chosen = _with_scenarios(chosen.reset_index(drop=True)).assign(run_id=run_id)
    chosen["run_id"] = chosen["run_id"].astype("string")
    kept = spans[spans["trace_id"].astype(str).isin(set(chosen["trace_id"]))]
    until = max(end, float(chosen["done_at"].max()))
    no_plan = Plan((), Poisson(1.0), 0)
    kept = kept.reset_index(drop=True)
    warnings = answer.provenance.warnings
    return WindowRun(run_id, (start, until), chosen, no_plan, spans=kept, warnings=warnings)


def parse_window(window: str, now: float | None = None) -> tuple[float, float]:
    """Return (start, end) of a window in seconds since the epoch.

    'last 15m' ends ARRIVED_S seconds before `now`, since younger traces have not arrived
    completely. Raises WorkloadError for text that is not a window, lacks a time zone, or ends in
    the future.
    """
    now = time.time() if now is None else now
    try:
        if last := re.fullmatch(r"last\s+(.+)", window.strip().lower()):
            end_s = now - ARRIVED_S
            return end_s - parse_duration_s(last[1]), end_s
        start, end = (datetime.fromisoformat(part.strip()) for part in window.split("/"))
    except (ValueError, SettingsError) as e:
        got = f"{window!r} ({e})"
        raise WorkloadError("this is not a window of time", got=got, fix=FORMS) from e

    if start.tzinfo is None or end.tzinfo is None:
        raise WorkloadError(
            "the window has no time zone, so it is not clear when it is",
            got=repr(window),
            fix=FORMS,
        )
    if not start < end or end.timestamp() > now:
        why = "ends in the future" if start < end else "does not end after its start"
        raise WorkloadError(f"the window {why}", got=f"{window!r}; now it is {utc(now)}", fix=FORMS)
    return start.timestamp(), end.timestamp()


def _with_scenarios(records: pd.DataFrame) -> pd.DataFrame:
    """Add kind and intent where a span names a scenario of the lab's own world."""
    names = records["scenario_id"].dropna().unique()
    scenarios = {name: find_scenario(name) for name in names}
    for column in ("kind", "intent"):
        values = {name: getattr(scenario, column, None) for name, scenario in scenarios.items()}
        records[column] = records["scenario_id"].map(values).astype("string")
    return records


def _lacks_dialects(spans: pd.DataFrame) -> bool:
    """Return whether some trace has no request by the names that the lab's own store streams."""
    if spans.empty:
        return False
    try:
        known = records_from_spans(spans)["trace_id"]
    except FrameError:
        return True
    return len(known) < spans["trace_id"].nunique()


def _unknown_kind(where: str, got: str) -> NoData:
    """Return the error for a window whose traces are all of a kind that the lab does not know."""
    return NoData(
        "there are traces in this window, but no request in them that the lab can read",
        query=QUERY,
        got=f"{where}: {got}",
        fix="see lab/dialects.py for the libraries and servers that it reads; add the one that "
        "wrote these, or let the model server export its spans",
    )


def _no_request(where: str, model: str, records: pd.DataFrame, spans: pd.DataFrame) -> NoData:
    """Return the error for a window without a request: what there was instead."""
    if len(records):
        models = ", ".join(sorted(records["model"].dropna().unique())) or "no named model"
        got = f"{len(records)} requests, to {models}"
    elif len(spans):
        got = (
            f"{spans['trace_id'].nunique()} such traces, all begun before {where.split(' to ')[0]}"
        )
    else:
        got = f"{where}: no trace at all"
    return NoData(
        f"no request{f' to {model}' if model else ''} began in this window",
        query=QUERY,
        got=got,
        fix="check the window's time zone, the address (LAB_TEMPO_URL; see `lab attach`), the "
        "store's retention, and that vLLM and Llama Stack send their traces there",
    )
