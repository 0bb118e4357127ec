"""Prometheus' answers as tidy frames: one row a sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lab.frames.samples import AnswerLike, samples_of

RESERVED = ("time", "value")


def series_frame(answer: AnswerLike | Iterable[AnswerLike]) -> pd.DataFrame:
    """One row a sample, with the columns

    - `time`: datetime64[ms, UTC];
    - `metric`: the metric's name, where the answer keeps it (categorical);
    - one column a label (categorical; missing where a series lacks the label; `label_time` and `label_value` for labels
      that have our columns' names);
    - `value`: float64. NaN, +Inf and -Inf are what Prometheus said; a gap in time is a series that was stale or absent.

    Rows are in order of series, then time. An empty answer gives an empty frame with `time` and `value`. Several
    answers (`Prometheus.stream`) are the parts of one range, in order of time: each is parsed and let go as it comes.
    Raises FrameError for samples that are not Prometheus' JSON.
    """
    labels, counts, time_ms, values = _gathered([answer] if hasattr(answer, "series") else answer)
    columns: dict[str, object] = {
        "time": pd.DatetimeIndex(time_ms.view("datetime64[ms]"), tz="UTC")
    }
    columns.update(label_columns(labels, counts))
    columns["value"] = values
    return pd.DataFrame(columns, copy=False)


class _Gathered(NamedTuple):
    """Label sets, how many samples each has, and the samples, one series after another."""

    labels: Sequence[Mapping[str, str]]
    counts: np.ndarray
    time_ms: np.ndarray
    values: np.ndarray


def _gathered(answers: Iterable[AnswerLike]) -> _Gathered:
    number: dict[frozenset[tuple[str, str]], int] = {}
    of_part, counts, times, values = [], [], [], []
    for answer in answers:
        step_s = getattr(getattr(answer, "provenance", None), "step_s", 0.0)
        count, time_ms, value = samples_of(answer.series, step_s)
        keys = [frozenset(one.labels.items()) for one in answer.series]
        of_part.append([number.setdefault(key, len(number)) for key in keys])
        counts.append(count)
        times.append(time_ms)
        values.append(value)
        del answer
    labels = [dict(key) for key in number]
    if len(values) == 1 and len(counts[0]) == len(labels):
        return _Gathered(labels, counts[0], times[0], values[0])
    totals = np.zeros(len(labels), dtype=np.int64)
    for where, count in zip(of_part, counts, strict=True):
        np.add.at(totals, where, count)
    in_order = [_in_order(of_part, counts, parts, totals) for parts in (times, values)]
    return _Gathered(labels, totals, *in_order)


def _in_order(
    of_part: list[list[int]], counts: list[np.ndarray], parts: list[np.ndarray], totals: np.ndarray
) -> np.ndarray:
    """The parts' samples, one series after another. Empties `parts`, so that not everything is there twice."""
    whole = np.empty(totals.sum(), dtype=parts[0].dtype if parts else np.int64)
    at = np.cumsum(totals) - totals
    for where, count in zip(of_part, counts, strict=True):
        part, begin = parts.pop(0), 0
        for series, size in zip(where, count.tolist(), strict=True):
            whole[at[series] : at[series] + size] = part[begin : begin + size]
            at[series] += size
            begin += size
    return whole


def label_columns(
    labels: Sequence[Mapping[str, str]], counts: np.ndarray
) -> dict[str, pd.Categorical]:
    """One categorical a label, the label set i repeated counts[i] times."""
    names = sorted({name for one in labels for name in one}, key=lambda n: (n != "__name__", n))
    columns = {}
    for name in names:
        codes, categories = pd.factorize(
            np.array([one.get(name) for one in labels], dtype=object), sort=True
        )
        small = codes.astype(np.int16 if len(categories) < 32_000 else np.int32)
        repeated = np.repeat(small, counts)
        columns[_column_name(name)] = pd.Categorical.from_codes(
            repeated, categories=categories, validate=False
        )
    return columns


def _column_name(label: str) -> str:
    if label == "__name__":
        return "metric"
    return f"label_{label}" if label in (*RESERVED, "metric") else label
