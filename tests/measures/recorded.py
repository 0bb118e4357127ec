"""Samples and client records of the recorded runs, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from lab.runs import Conditions, runs_in
from lab.schema import Attr
from lab.settings import Settings
from lab.workload import Run

RECORDED = Path(__file__).parents[2] / "data" / "recorded"


def recorded_samples(metric: str, recording: str = "workshop", **labels: str) -> pd.DataFrame:
    """Return every recorded sample of a metric,
    as `lab.frames.series_frame` does: time, labels, value.
    """
    folder = RECORDED / recording
    series = pd.read_parquet(folder / "series.parquet")
    table = pd.DataFrame([json.loads(text) for text in series["labels"]])
    table = table.assign(series=series["series"]).query("__name__ == @metric")

    for name, value in labels.items():
        table = table[table[name] == value]

    samples = pd.read_parquet(folder / "samples.parquet").merge(table, on="series")
    samples["time"] = pd.to_datetime(samples["time_ms"], unit="ms", utc=True)
    samples = samples.rename(columns={"__name__": "metric"}).drop(columns=["series", "time_ms"])
    return samples.dropna(axis=1, how="all").sort_values("time", ignore_index=True)


def recorded_calls(run_id: str, recording: str = "workshop") -> pd.DataFrame:
    """Return one row per model call of the chat model in a recorded run, in order of time.

    Columns: `trace_id`, `prompt_tokens`, `completion_tokens`, `prefill_s` and `decode_s` (vLLM's
    span), `cached_tokens` (Llama Stack's span of the same call; in a direct call the client's
    record).
    """
    records = recorded_records(run_id, recording)
    traces = pd.read_parquet(RECORDED / recording / "traces.parquet").set_index("trace_id")
    rows = []

    for record in records.itertuples():
        spans = _spans(traces.loc[record.trace_id, "document"])
        engine = [s for s in spans if (s["service"], s["name"]) == ("vllm", "llm_request")]
        chats = [s for s in spans if str(s["name"]).startswith("chat ")]
        for number, span in enumerate(engine):
            cached = chats[number].get(Attr.CACHE_READ_TOKENS, 0) if chats else record.cached_tokens
            rows.append(
                {
                    "trace_id": record.trace_id,
                    "prompt_tokens": span[Attr.VLLM_PROMPT_TOKENS],
                    "cached_tokens": cached,
                    "completion_tokens": span[Attr.VLLM_COMPLETION_TOKENS],
                    "prefill_s": span[Attr.VLLM_PREFILL_S],
                    "decode_s": span[Attr.VLLM_DECODE_S],
                }
            )
    return pd.DataFrame(rows)


def recorded_run(settings: Settings, **conditions: object) -> tuple[Conditions, Run]:
    """Return the recording's run whose conditions have these values, and all its conditions."""
    for known, run in runs_in(settings.recording_dir / "runs"):
        if all(getattr(known, name) == value for name, value in conditions.items()):
            return known, run
    raise LookupError(f"the recording has no run with {conditions}")


def recorded_requests(run_id: str, recording: str = "workshop") -> pd.DataFrame:
    """Return the client's records of a recorded run,
    with the token sums of its model calls (`span_*_tokens`).
    """
    kinds = ["prompt_tokens", "cached_tokens", "completion_tokens"]
    sums = recorded_calls(run_id, recording).groupby("trace_id")[kinds].sum().add_prefix("span_")
    return recorded_records(run_id, recording).join(sums, on="trace_id")


def recorded_records(run_id: str, recording: str = "workshop") -> pd.DataFrame:
    """Return the client's records of a recorded run."""
    return pd.read_parquet(RECORDED / recording / "runs" / run_id / "records.parquet")


def _spans(document: str) -> list[dict[str, Any]]:
    """Return the spans of an OTLP JSON document in order of their start:
    attributes, `name`, `service`, `start`.
    """
    spans = []
    for resource in json.loads(document)["resourceSpans"]:
        service = _attributes(resource["resource"])["service.name"]
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                about = {"name": span["name"], "service": service}
                start = int(span["startTimeUnixNano"])
                spans.append(_attributes(span) | about | {"start": start})
    return sorted(spans, key=lambda span: span["start"])


def _attributes(owner: dict[str, Any]) -> dict[str, Any]:
    types = {"stringValue": str, "intValue": int, "doubleValue": float, "boolValue": bool}
    values = {}
    for attribute in owner.get("attributes", []):
        ((kind, value),) = attribute["value"].items()
        values[attribute["key"]] = types.get(kind, lambda other: other)(value)
    return values
