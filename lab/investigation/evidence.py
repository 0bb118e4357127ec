"""What is known of a window and its baseline: frames of requests, calls, tools, and samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lab.engines import LABELS, Dialect, recognise
from lab.errors import FrameError, LabError, NoData
from lab.frames import request_frame, tool_frame, turn_frame
from lab.frames.completeness import TraceShapes, shapes_of
from lab.frames.roles import Role
from lab.frames.series import SeriesLike, samples_of
from lab.frames.spans import start_ns
from lab.investigation.change import Span
from lab.observation import judge_requests
from lab.observation.window import window_run
from lab.runs import RUNS
from lab.schema import Service, names_of
from lab.settings import Settings
from lab.stores import Prometheus
from lab.stores.timestamps import utc
from lab.workload import Run

FEW = 20  # requests of a window or a baseline, below which traces tell little
QUESTIONS = (
    *("queue", "prefill", "decode", "itl", "e2e", "prompt_tokens", "generation_tokens"),
    *("prefix_hits", "prefix_queries", "requests", "preemptions", "running", "waiting", "kv_usage"),
)
OTHER_METRICS = {  # ours: a name of the lab; any of its exporters' names is looked for
    "tool_sum": "lab_tool_duration_seconds_sum",
    "tool_count": "lab_tool_duration_seconds_count",
    "tool_calls": "lab_tool_calls_total",
    "stack_requests": "llama_stack_requests_total",
    "up": "up",
    "started_at": "process_start_time_seconds",
    "process_cpu": "process_cpu_seconds_total",
    "machine_cpu": "node_cpu_seconds_total",
    "procs_running": "node_procs_running",
    "cache_config": "vllm:cache_config_info",
}
LABELS_KEPT = ("job", "model_name", "tool", "outcome", "status", "mode")
CONFIG = ("num_gpu_blocks", "enable_prefix_caching")
_NS = 1e9


@dataclass(frozen=True)
class Evidence:
    """Everything that an investigation looks at, of the baseline and of the window.

    - `requests`: request frame; `turns`: one row per model call; `tools`: one row per tool call;
      `services`: one row per trace and service that belongs to it, `value` 1 where its spans came;
      `skew`: one row per span whose parent is in another service, `value` seconds that it begins
      too early or too late; `embeddings`: one row per embedding call; `engines`: one row per
      span of an engine, `value` its service. All are empty without traces;
    - `answers`: one row per request whose right answer is known (`value` 1 where it was wrong);
    - `samples`: one row per sample of a metric, under the names of QUESTIONS and OTHER_METRICS;
    - `notes`: what is not known, and why.
    """

    window: Span
    baseline: Span
    requests: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    turns: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    tools: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    services: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    skew: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    embeddings: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    engines: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    answers: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    samples: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def adjacent(self) -> bool:
        """Return whether the window follows its baseline, so that the change may lie in either."""
        return abs(self.window[0] - self.baseline[1]) < 0.1 * (self.window[1] - self.window[0])


def gather(settings: Settings, window: Span, baseline: Span) -> Evidence:
    """Read the stores of the settings for both times; what a store lacks is noted.

    Raises NoData where neither traces nor metrics are known, StoreError and its kinds as the stores
    do.
    """
    notes = []
    tables: dict[str, pd.DataFrame] = {}
    try:
        tables = _tables_of_traces(settings, window, baseline)
    except (NoData, FrameError) as e:
        notes.append(f"no traces: {e.happened}; tenants, kinds and turns are not known")
    except LabError as e:
        notes.append(f"traces cannot be read: {e.happened}")

    samples = pd.DataFrame()
    try:
        samples = _samples_of_prometheus(settings, window, baseline)
    except LabError as e:
        notes.append(f"no metrics: {e.happened}; load, cache and machine are not known")
    if samples.empty and not tables:
        raise NoData(
            "neither traces nor metrics are known of this window",
            got=f"{utc(window[0])} to {utc(window[1])}; {'; '.join(notes)}",
            fix="check the window's time zone and the addresses of the stores (`lab attach`)",
        )
    evidence = Evidence(window, baseline, samples=samples, **tables)
    return note_limits(evidence, notes)


def tables_of_spans(
    requests: pd.DataFrame, spans: pd.DataFrame, records: pd.DataFrame | None = None
) -> dict[str, pd.DataFrame]:
    """Return the tables of an Evidence that are made of spans.

    `records` are client records of the same requests with their answers, where there are any: they
    tell which answers were wrong.
    """
    shapes = shapes_of(spans)
    start_s = start_ns(spans) / _NS
    turns = _with_starts(turn_frame(requests, spans))
    tables = {
        "requests": requests,
        "turns": turns,
        "tools": tool_frame(spans).rename(columns={"start_s": "time"}),
        "services": _services(spans, shapes, start_s),
        "skew": _skew(spans, shapes, start_s),
        "embeddings": _embeddings(spans, start_s),
        "engines": _engines(spans, shapes, start_s),
    }
    if records is not None and len(records):
        tables["answers"] = _answers(records, spans)
    return tables


def _tables_of_traces(settings: Settings, window: Span, baseline: Span) -> dict[str, pd.DataFrame]:
    times = [(baseline[0], window[1])] if baseline[1] >= window[0] - 1 else [baseline, window]
    runs = [window_run(settings, f"{utc(start)}/{utc(end)}") for start, end in times]
    spans = pd.concat([run.spans for run in runs], ignore_index=True)
    for name in ("service", "name", "kind", "status"):
        spans[name] = spans[name].astype("category")
    records = pd.concat([run.records for run in runs], ignore_index=True)
    requests = request_frame(records, spans)
    return tables_of_spans(requests, spans, saved_records(settings.state_dir / RUNS, times))


def saved_records(folder: Path, times: Iterable[Span]) -> pd.DataFrame:
    """Return the client records of the lab's own runs that overlap any of these times."""
    records = []
    for path in folder.glob("*/run.json"):
        try:
            run = Run.load(path.parent)
        except LabError:
            continue
        if any(run.window[0] < end and run.window[1] > start for start, end in times):
            records.append(run.records)
    return pd.concat(records, ignore_index=True) if records else pd.DataFrame()


def _with_starts(turns: pd.DataFrame) -> pd.DataFrame:
    turns["time"] = turns["scheduled_at"].fillna(turns["ended_at"])
    turns["time"] -= turns["queue_s"].fillna(0.0)
    turns["token_s"] = turns["decode_s"] / (turns["completion_tokens"] - 1).where(
        turns["completion_tokens"] > 1
    )
    turns["fresh_ratio"] = 1 - turns["cached_tokens"] / turns["prompt_tokens"].where(
        turns["prompt_tokens"] > 0
    )
    return turns


def _services(spans: pd.DataFrame, shapes: TraceShapes, start_s: np.ndarray) -> pd.DataFrame:
    """Return whether each tool call has a span of the server that ran it, and so on.

    A service is expected where its caller's span is: the tool server's below a tool call of Llama
    Stack that did not fail, an engine's below a model call.
    """
    is_caller = shapes.role == Role.TOOL_CALL
    is_caller &= (spans["service"] == Service.LLAMA_STACK).to_numpy(bool)
    is_caller &= ~spans["name"].astype(str).str.contains("search").to_numpy(bool)
    callers = np.flatnonzero(is_caller)
    answered = np.unique(shapes.tool[(shapes.role == Role.TOOL_RUN) & (shapes.tool >= 0)])
    return pd.DataFrame(
        {
            "time": start_s[callers],
            "value": (~np.isin(callers, answered)).astype(float),
            "key": Service.TOOLS,
        }
    )


def _skew(spans: pd.DataFrame, shapes: TraceShapes, start_s: np.ndarray) -> pd.DataFrame:
    """Return by how much spans lie outside the time of their parents in other services."""
    service = spans["service"].astype(str).to_numpy(object)
    parent = shapes.parent
    rows = np.flatnonzero((parent >= 0) & (service[parent] != service))
    end_s = start_s + spans["duration_s"].to_numpy()
    early = start_s[parent[rows]] - start_s[rows]
    late = start_s[rows] - end_s[parent[rows]]
    outside = np.maximum(np.maximum(early, late), 0.0)
    return pd.DataFrame({"time": start_s[parent[rows]], "value": outside, "key": service[rows]})


def _embeddings(spans: pd.DataFrame, start_s: np.ndarray) -> pd.DataFrame:
    names = spans["name"].astype(str)
    is_embedding = (spans["service"] == Service.VLLM_EMBED) | names.str.startswith("embeddings")
    rows = np.flatnonzero(is_embedding.to_numpy(bool))
    return pd.DataFrame({"time": start_s[rows], "value": spans["duration_s"].to_numpy()[rows]})


def _engines(spans: pd.DataFrame, shapes: TraceShapes, start_s: np.ndarray) -> pd.DataFrame:
    """Return which service ran each model call: a router may send it elsewhere than requested."""
    service = spans["service"].astype(str)
    is_engine = (shapes.role == Role.ENGINE) & (service != Service.VLLM_EMBED).to_numpy(bool)
    rows = np.flatnonzero(is_engine)
    return pd.DataFrame({"time": start_s[rows], "value": service.to_numpy(object)[rows]})


def _answers(records: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    verdicts = judge_requests(records, spans)
    table = pd.DataFrame(
        {
            "time": records["scheduled_at"],
            "wrong": 1.0 - verdicts["answer_states"].astype("Float64"),
            "tools": verdicts["called_tools"],
            "trace_id": records["trace_id"],
        }
    )
    return table.dropna(subset="wrong").astype({"wrong": float})


def _samples_of_prometheus(settings: Settings, window: Span, baseline: Span) -> pd.DataFrame:
    prometheus = Prometheus(settings)
    known = set(prometheus.metric_names())
    names = metric_names(known, settings.metric_prefix)
    if not names:
        raise NoData(f"no metric that the lab knows at {prometheus.url}")
    selector = f'{{__name__=~"{"|".join(sorted(names))}"}}'
    tables = []
    for start, end in (baseline, window):
        answer = prometheus.samples(selector, start, end, lookback_s=0.0)
        tables.append(sample_table(answer.series, names))
    return pd.concat(tables).drop_duplicates(ignore_index=True)


def metric_names(known: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Return {name in this store: our name} of the metrics that signals are made of."""
    known = set(known)
    names: dict[str, str] = {}
    for dialect in recognise(known, prefix):
        names |= _engine_names(dialect, known)
    for ours, name in OTHER_METRICS.items():
        names |= {actual: ours for actual in names_of(name) if actual in known}
    return names


def _engine_names(dialect: Dialect, known: set[str]) -> dict[str, str]:
    names = {}
    for question in QUESTIONS:
        name = dialect.names.get(question)
        for part in ("", "_sum", "_count"):
            if name and name.metric + part in known:
                names[name.metric + part] = question + part
    return names


def sample_table(series: Sequence[SeriesLike], names: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per sample: `metric` (our name), `series`, `time`, `value`, LABELS_KEPT."""
    chosen = [each for each in series if each.labels.get("__name__") in names]
    counts, time_ms, values = samples_of(chosen)
    rows = []
    for each in chosen:
        labels = {name: each.labels.get(name, "") for name in LABELS_KEPT}
        labels["model_name"] = next(
            (each.labels[name] for name in LABELS["model"] if each.labels.get(name)), ""
        )
        labels |= {name: each.labels.get(name, "") for name in CONFIG}
        key = "|".join(f"{name}={text}" for name, text in sorted(each.labels.items()))
        rows.append({"metric": names[each.labels["__name__"]], "series": key, **labels})
    columns = ["metric", "series", *LABELS_KEPT, *CONFIG]
    table = pd.DataFrame(rows, columns=columns).astype("category")
    table = table.loc[np.repeat(np.arange(len(rows)), counts)].reset_index(drop=True)
    table["time"] = time_ms / 1000
    table["value"] = values
    for name in columns:
        table[name] = table[name].astype(object)
    return table[np.isfinite(values)].reset_index(drop=True)


def note_limits(evidence: Evidence, notes: Sequence[str] = ()) -> Evidence:
    """Return the evidence with notes on what it is not enough for, after the given ones."""
    added = list(notes)
    if len(evidence.requests):
        at = evidence.requests["scheduled_at"]
        for what, (start, end) in (("baseline", evidence.baseline), ("window", evidence.window)):
            count = int(at.between(start, end).sum())
            if count < FEW:
                added.append(f"only {count} requests in the {what}: small changes cannot be seen")
            known = at[at.between(start, end)]
            if len(known) and (known.max() - known.min()) < 0.6 * (end - start):
                added.append(
                    f"requests came in {known.max() - known.min():.0f} s of the {what}'s "
                    f"{end - start:.0f} s only"
                )
        if evidence.answers.empty:
            added.append("which answers are right is not known: no run of the lab's own covers it")
    return Evidence(**{**vars(evidence), "notes": tuple(added)})
