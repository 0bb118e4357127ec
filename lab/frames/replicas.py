"""From the series of many engines to one row per engine.

A server exports one series per label set. Some labels tell engines apart, some divide a metric into
parts, and some repeat one value (the ranks of a tensor-parallel engine, two Prometheus servers that
scrape the same target). Adding everything up is wrong for all but the second kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lab.engines import LABELS
from lab.frames.series import AnswerLike, samples_of

HELD_S = 300.0  # how long a value holds without a newer one: Prometheus' own look-back
NUMBERS = ("increase", "total", "mean", "max", "first", "last")
AMBIGUOUS = ("replica", "rank")  # labels of copies, or of engines
_NO_GAUGE = dict.fromkeys(("mean", "max", "first", "last"), float("nan"))
_TARGET = ("job", "instance", "pod", "exported_instance", "exported_pod", "server", "worker_addr")


def series_summary(
    answer: AnswerLike, start: float, end: float, *, gauges: bool = True
) -> pd.DataFrame:
    """Return one row per series of raw samples.

    Columns: its labels as text, and

    - `metric`: its name;
    - `increase`: its exact growth as a counter from `start` to `end` (epoch seconds). A series that
      began within the window counts from 0 if its target was scraped before, otherwise from its
      first sample;
    - `mean` (time-weighted: each value holds until the next sample), `max`, `first` and `last`, as
      a gauge; NaN without `gauges`;
    - `total`: its last value, as a counter since the target started.

    Samples that are not finite are left out; `attrs["not_finite"]` is their number. So are series
    without a sample up to `end`.
    """
    counts, time_ms, values = samples_of(answer.series)
    edges = np.concatenate(([0], np.cumsum(counts)))
    series = []
    for i, each in enumerate(answer.series):
        part = slice(edges[i], edges[i + 1])
        known = np.isfinite(values[part]) & (time_ms[part] <= round(end * 1000))
        if known.any():
            series.append((each.labels, time_ms[part][known] / 1000, values[part][known]))

    began: dict[tuple[str, ...], float] = {}
    for labels, at, _ in series:
        target = _target(labels)
        began[target] = min(began.get(target, np.inf), at[0])

    rows = []
    for labels, at, value in series:
        row: dict[str, Any] = {name: text for name, text in labels.items() if name != "__name__"}
        row["metric"] = labels.get("__name__", "")
        row |= _as_counter(at, value, start, scraped_before=began[_target(labels)] < at[0])
        row |= _as_gauge(at, value, start, end) if gauges else _NO_GAUGE
        rows.append(row)
    table = pd.DataFrame(rows, columns=None if rows else ["metric", *NUMBERS])
    texts = [name for name in table.columns if name not in NUMBERS]
    table[texts] = table[texts].astype(object).fillna("")
    table.attrs["not_finite"] = int((~np.isfinite(values)).sum())
    return table


def per_engine(
    summary: pd.DataFrame, identity: Sequence[str], kind: str, by: Sequence[str] = ()
) -> pd.DataFrame:
    """Return one row per engine (combination of `identity` labels) and label in `by`.

    `kind` is that of the question (lab.engines.questions): a share is never added up, its largest
    series counts. Series that differ only in a label that repeats values are taken once. Gauges of
    several processes that contradict each other, of which none can be told to be stale, are NaN.
    """
    table = without_copies(summary, kind)
    keys = [*identity, *by]
    for name in keys:
        if name not in table:
            table[name] = ""
    groups = table.groupby(keys, sort=True)[list(NUMBERS)]
    result = groups.max() if kind == "share" else groups.sum(min_count=1)
    if not isinstance(result.index, pd.MultiIndex):
        result.index = pd.MultiIndex.from_arrays([result.index], names=keys)
    return result


def without_copies(summary: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the series without those that repeat another one's value (see LABELS)."""
    table = _living_processes(summary) if kind in ("gauge", "share") else summary
    return merge_copies(_without_parts(table), NUMBERS).copy()


def _without_parts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the series without the parts of a total that is a series itself (see LABELS)."""
    for name in LABELS["parts"]:
        if name not in table:
            continue
        labels = [other for other in table.columns if other not in (*NUMBERS, name)]
        keys = pd.MultiIndex.from_frame(table[labels])
        is_total = (table[name] == "").to_numpy()
        table = table[is_total | ~keys.isin(keys[is_total])]
    return table


def merge_copies(table: pd.DataFrame, numbers: Sequence[str]) -> pd.DataFrame:
    """Return a frame without rows that only repeat another one's numbers (see LABELS).

    Of rows that differ in nothing but a rank or the Prometheus that scraped them, the largest
    `numbers` are kept. Frames without such labels are returned as they are.
    """
    copies = copies_in(table)
    if not copies:
        return table
    labels = [name for name in table.columns if name not in (*numbers, *copies)]
    groups = table.groupby(labels, observed=True, dropna=False, sort=False, as_index=False)
    return groups[list(numbers)].max()


def copies_in(table: pd.DataFrame) -> list[str]:
    """Return the labels by which rows of a frame repeat values.

    `replica` and `rank` alone may as well tell engines apart: they count where a target's address
    or pod does that already.
    """
    named = any(name in table for name in ("instance", "pod"))
    return [name for name in LABELS["copies"] if name in table and (named or name not in AMBIGUOUS)]


def _living_processes(table: pd.DataFrame) -> pd.DataFrame:
    """Return gauges without those of dead processes, whose last value stays in the exporter.

    Where some processes' values change, the others' are dropped. Where none does and they differ,
    it is not known which is right: NaN.
    """
    pids = [name for name in LABELS["process"] if name in table and (table[name] != "").any()]
    if not pids:
        return table
    labels = [name for name in table.columns if name not in (*NUMBERS, *pids)]
    kept = []
    for _, group in table.groupby(labels, sort=False):
        changing = group[(group["max"] != group["mean"]) | (group["first"] != group["last"])]
        chosen = changing if len(changing) else group
        one = chosen.iloc[[0]].copy()
        if chosen["mean"].nunique() > 1:
            one[list(NUMBERS)] = np.nan
        kept.append(one.drop(columns=pids))
    return pd.concat(kept, ignore_index=True)


def _target(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels.get(name, "") for name in _TARGET)


def _as_counter(
    at: np.ndarray, value: np.ndarray, start: float, *, scraped_before: bool
) -> dict[str, float]:
    """Return the growth of a counter, and its last value."""
    first = int(np.searchsorted(at, start, side="right")) - 1
    path = value[max(first, 0) :]
    if first < 0 and scraped_before:
        path = np.concatenate(([0.0], path))
    steps = np.diff(path)
    growth = np.where(steps < 0, path[1:], steps).sum()
    return {"increase": float(growth), "total": float(value[-1])}


def _as_gauge(at: np.ndarray, value: np.ndarray, start: float, end: float) -> dict[str, float]:
    """Return the time-weighted mean of a gauge, its maximum, first and last value."""
    until = np.minimum(np.append(at[1:], end), at + HELD_S)
    held = np.clip(until - np.maximum(at, start), 0, None)
    inside = held > 0
    if not inside.any():
        return _NO_GAUGE
    return {
        "mean": float(np.average(value[inside], weights=held[inside])),
        "max": float(value[inside].max()),
        "first": float(value[inside][0]),
        "last": float(value[inside][-1]),
    }
