"""A run that nobody here drove: the requests that Tempo has of a window, whoever's clients sent them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import datetime

import pandas as pd

from lab.errors import LabError, NoData, StoreError, WorkloadError
from lab.frames import spans_frame, trace_problems
from lab.frames.records import records_from_spans, with_roots
from lab.schema import Service, Span
from lab.settings import Settings
from lab.stores import Arrival, Tempo
from lab.stores.timestamps import utc
from lab.workload import Plan, Poisson, Run
from lab.world import scenario_of

ARRIVED_S = 12.0  # so long after its end everything of a request is in the store: exporters send every few seconds
MAX_TRACES = 100_000
QUERY = (
    f'{{ name = "{Span.LLAMA_STACK_RESPONSES}" || '
    f'(name = "{Span.VLLM}" && resource.service.name != "{Service.VLLM_EMBED}") }}'
)
LAST = re.compile(r"last\s+(\d+(?:\.\d+)?)\s*([smhd])")
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FORMS = "write START/END in ISO 8601 with a time zone (2026-11-26T12:00:00Z/2026-11-26T12:10:00Z), or 'last 15m'"
# What a window's run does not have, and why.
LACKS = {
    "chunks": "the client's chunks: no span tells when each part of an answer reached its reader",
    "client": "the client's clock: a window has spans only, and the outermost span stands for the client",
    "truth": "right and wrong: nobody knows which answer these questions should have had",
    "experiment": "this experiment: it sends requests of its own, and with a window nothing is sent",
}


@dataclass(repr=False)
class WindowRun(Run):
    """A run made of spans: `records` as `lab.frames.records_from_spans` makes them, `spans` those that they are made of."""

    spans: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def not_sent(self) -> int:
        return 0

    def __repr__(self) -> str:
        by_status = ", ".join(
            f"{n} {status}" for status, n in self.records["status"].value_counts().items()
        )
        silent = int(
            ((self.records["cached_tokens"] < 0) & (self.records["prompt_tokens"] > 0)).sum()
        )
        return (
            f"<Window {utc(self.window[0])} to {utc(self.window[1])}: {len(self.records)} requests ({by_status}), made "
            "of spans; nothing was sent>"
        ) + (
            f"\n{silent} of them do not say what they found in the prefix cache: it counts as nothing"
            if silent
            else ""
        )

    def save(self, out_dir: object) -> None:  # type: ignore[override]
        """Raises WorkloadError: there is no plan to save."""
        raise WorkloadError(
            "a window's run has no plan, so it is not saved",
            fix="keep the telemetry: `lab record NAME --start --end`",
        )

    def arrival(self) -> Arrival:
        """Which of its traces are whole. Nothing is waited for."""
        wrong = {str(i): why for i, why in trace_problems(self.spans).items() if why}
        whole = tuple(i for i in self.records["trace_id"].astype(str) if i not in wrong)
        return Arrival(whole, {i: why for i, why in wrong.items() if i not in whole}, 0.0)


def window_run(
    settings: Settings, window: str, *, model: str = "", max_traces: int = MAX_TRACES
) -> WindowRun:
    """The requests that began in the window, as a run; of one `model` where it is named.

    A request is a trace with Llama Stack's request, or a model call of vLLM, in it. Its run's window ends with the last
    of their answers, so that the counters of the same time hold all of them.
    Raises WorkloadError for a window that cannot be read, NoData where nothing is found, StoreError where there are
    more than `max_traces` requests: which of them a Tempo gives is its own choice, so any number would be wrong.
    """
    start, end = instants(window)
    time.sleep(max(0.0, min(ARRIVED_S, end + ARRIVED_S - time.time())))
    tempo = Tempo(settings)
    answer = tempo.spans(QUERY, start, end, max_traces=max_traces)
    spans = spans_frame(answer)
    if answer.limited or spans["trace_id"].nunique() > max_traces:
        raise StoreError(
            f"there are more than {max_traces:,} requests in this window",
            query=QUERY,
            got=f"{utc(start)} to {utc(end)} at {tempo.url}",
            fix="take a shorter window",
        )
    spans = with_roots(spans)
    found = records_from_spans(spans)
    found = found[found["scheduled_at"].between(start, end, inclusive="left")]
    of_model = found[found["model"] == model] if model else found
    if of_model.empty:
        raise _nothing(tempo, start, end, model, found, spans)
    records = _with_scenarios(of_model.reset_index(drop=True)).assign(run_id=f"window-{utc(start)}")
    records["run_id"] = records["run_id"].astype("string")
    kept = spans[spans["trace_id"].astype(str).isin(set(records["trace_id"]))].reset_index(
        drop=True
    )
    until = max(end, float(records["done_at"].max()))
    none = Plan((), Poisson(1.0), 0)  # of no request, so the rate says nothing
    return WindowRun(f"window-{utc(start)}", (start, until), records, none, spans=kept)


def instants(window: str, now: float | None = None) -> tuple[float, float]:
    """(start, end) in seconds since the epoch of a window as text.

    'last 15m' (s, m, h, d) ends `ARRIVED_S` ago, for what is younger has not wholly arrived. Raises WorkloadError for
    anything that is no window, lacks a time zone, or ends in the future.
    """
    now = time.time() if now is None else now
    if last := LAST.fullmatch(window.strip().lower()):
        end = now - ARRIVED_S
        return end - float(last[1]) * UNITS_S[last[2]], end
    try:
        start, end = (datetime.fromisoformat(part.strip()) for part in window.split("/"))
    except ValueError as e:
        raise WorkloadError(
            "this is not a window of time", got=f"{window!r} ({e})", fix=FORMS
        ) from e
    if start.tzinfo is None or end.tzinfo is None:
        raise WorkloadError(
            "the window has no time zone, so nobody can tell when it is",
            got=repr(window),
            fix=FORMS,
        )
    if not start < end or end.timestamp() > now:
        why = "ends in the future" if start < end else "does not end after its start"
        raise WorkloadError(f"the window {why}", got=f"{window!r}; now it is {utc(now)}", fix=FORMS)
    return start.timestamp(), end.timestamp()


def known(run: Run, what: str) -> bool:
    """Whether a run can have this (a key of LACKS). Where it cannot, a line says why: nothing is drawn of nothing."""
    if not isinstance(run, WindowRun):
        return True
    print(f"no data on {LACKS[what]}.")
    return False


def fresh_tokens(run: Run, turns: pd.DataFrame) -> pd.Series:
    """Prompt tokens of each model call (lab.frames.turn_frame) that were not in the prefix cache.

    Of a window's direct calls no span says what was cached: NaN. Where there are no others, their whole prompts, which
    is the most that it can have been; a line says so.
    """
    fresh = turns["prompt_tokens"] - turns["cached_tokens"]
    known_cache = ~(turns["api"].eq("chat") & isinstance(run, WindowRun))
    if known_cache.any():
        return fresh.where(known_cache)
    print("of no call is known what was cached: whole prompts are taken instead")
    return fresh


def _with_scenarios(records: pd.DataFrame) -> pd.DataFrame:
    """Kind and intent, where a span names a scenario of the lab's own world."""
    names = {
        name: scenario_of(name)
        for name in records["scenario_id"].dropna().unique()
        if _is_ours(name)
    }
    for column in ("kind", "intent"):
        said = records["scenario_id"].map(
            {name: getattr(one, column) for name, one in names.items()}
        )
        records[column] = said.astype("string")
    return records


def _is_ours(scenario_id: str) -> bool:
    try:
        scenario_of(scenario_id)
    except (LabError, KeyError):
        return False
    return True


def _nothing(
    tempo: Tempo, start: float, end: float, model: str, found: pd.DataFrame, spans: pd.DataFrame
) -> NoData:
    got = f"{utc(start)} to {utc(end)} at {tempo.url}: no trace with Llama Stack's request or a model call of vLLM"
    if len(found):
        got = f"{len(found)} requests, to {', '.join(sorted(found['model'].dropna().unique())) or 'no named model'}"
    elif len(spans):
        got = f"{spans['trace_id'].nunique()} such traces, all begun before {utc(start)}"
    return NoData(
        "no request" + (f" to {model}" if model else "") + " began in this window",
        query=QUERY,
        got=got,
        fix="check the window's time zone, the address (LAB_TEMPO_URL; see `lab attach`), the store's retention, and "
        "that vLLM and Llama Stack send their traces there",
    )
