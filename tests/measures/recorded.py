"""Samples and client records of the recorded runs, without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

RECORDED = Path(__file__).parents[2] / "data" / "recorded"


def recorded_samples(metric: str, recording: str = "workshop", **labels: str) -> pd.DataFrame:
    """Return every recorded sample of a metric, as `lab.frames.series_frame` does: time, labels, value."""
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
