"""Evidence of real incidents (tests/data/incidents), without a server."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pandas as pd

from lab.frames import request_frame
from lab.frames.requests import records_from_spans, with_roots
from lab.investigation import Evidence, Truth
from lab.investigation.change import Span
from lab.investigation.evidence import note_limits, tables_of_spans

DATA = Path(__file__).parents[1] / "data" / "incidents"
CALM = (1795898218.744, 1795898279.760)
STILL = CALM[0] + 28  # from then on, other work on the machine makes each token slower
WINDOWS = {
    "slow_tool": (1795898332.080, 1795898387.040),
    "noisy_neighbour": (1795898436.880, 1795898527.045),
    "spans_lost": (1795898778.185, 1795898832.468),
}
TRUTHS = {
    "slow_tool": Truth("slow_tool", "get_node_status", 1795898350.158, 1.67, "s"),
    "noisy_neighbour": Truth("noisy_neighbour", "vandelay", 1795898454.548, 5, "users"),
    "spans_lost": Truth("spans_lost", "tools", 1795898795.939, 0.82, "share"),
}


@functools.cache
def _spans() -> tuple[pd.DataFrame, pd.DataFrame]:
    spans = with_roots(pd.read_parquet(DATA / "spans.parquet"))
    return spans, records_from_spans(spans)


def evidence(
    window: Span, baseline: Span = CALM, *, traces: bool = True, metrics: bool = True
) -> Evidence:
    """Return what was recorded of a window and a baseline."""
    spans, records = _spans()
    tables: dict[str, pd.DataFrame] = {}
    if traces:
        begun = records["scheduled_at"]
        chosen = records[begun.between(*window) | begun.between(*baseline)].reset_index(drop=True)
        of_them = spans["trace_id"].astype(str).isin(set(chosen["trace_id"]))
        kept = spans[of_them].reset_index(drop=True)
        tables = tables_of_spans(request_frame(chosen, kept), kept)

    samples = pd.DataFrame()
    if metrics:
        samples = pd.read_parquet(DATA / "samples.parquet")
        texts = samples.columns.drop(["time", "value"])
        samples[texts] = samples[texts].astype(object)
        time = samples["time"]
        samples = samples[time.between(*window) | time.between(*baseline)]
    known = Evidence(window, baseline, samples=samples.reset_index(drop=True), **tables)
    return note_limits(known)


def openmetrics() -> str:
    """Return the recorded samples as OpenMetrics text, for a real Prometheus."""
    samples = pd.read_parquet(DATA / "samples.parquet").drop_duplicates(["series", "time"])
    lines = []
    for series, rows in samples.groupby("series", observed=True):
        labels = dict(part.split("=", 1) for part in str(series).split("|"))
        name = labels.pop("__name__")
        text = ",".join(f"{label}={json.dumps(value)}" for label, value in labels.items())
        lines += [
            f"{name}{{{text}}} {row.value} {row.time:.3f}"
            for row in rows.sort_values("time").itertuples()
        ]
    return "\n".join([*lines, "# EOF\n"])
