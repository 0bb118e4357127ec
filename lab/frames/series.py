"""Prometheus' answers as tidy frames: one row per sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from lab.frames.samples import AnswerLike, Samples, samples_of

_RESERVED = ("time", "value", "metric")


def series_frame(answer: AnswerLike | Iterable[AnswerLike]) -> pd.DataFrame:
    """Return one row per sample, in order of series, then time.

    - `time`: datetime64[ms, UTC];
    - `metric`: the metric's name, where the answer keeps it (categorical);
    - one column per label (categorical; missing where a series lacks the label; `label_time`,
      `label_value` and `label_metric` for labels with the names of our columns);
    - `value`: float64. NaN, +Inf and -Inf are Prometheus' own; a gap in time is a series that was
      stale or absent.

    An empty answer gives an empty frame with `time` and `value`. Several answers
    (`Prometheus.stream`) are the parts of one range, in order of time: each is parsed and released
    as it arrives. Raises FrameError for samples that are not Prometheus' JSON.
    """
    answers = [answer] if hasattr(answer, "series") else answer
    labels, samples = _gather(answers)  # type: ignore[arg-type]
    columns: dict[str, object] = {
        "time": pd.DatetimeIndex(samples.time_ms.view("datetime64[ms]"), tz="UTC")
    }
    columns.update(label_columns(labels, samples.counts))
    columns["value"] = samples.values
    return pd.DataFrame(columns, copy=False)


def label_columns(
    labels: Sequence[Mapping[str, str]], counts: np.ndarray
) -> dict[str, pd.Categorical]:
    """Return one categorical per label, with label set i repeated counts[i] times."""
    names = {name for label_set in labels for name in label_set}
    columns = {}
    for name in sorted(names, key=lambda n: (n != "__name__", n)):
        values = np.array([label_set.get(name) for label_set in labels], dtype=object)
        codes, categories = pd.factorize(values, sort=True)
        small = codes.astype(np.int16 if len(categories) < 32_000 else np.int32)
        columns[_column_name(name)] = pd.Categorical.from_codes(
            np.repeat(small, counts), categories=categories, validate=False
        )
    return columns


def _column_name(label: str) -> str:
    if label == "__name__":
        return "metric"
    return f"label_{label}" if label in _RESERVED else label


def _gather(answers: Iterable[AnswerLike]) -> tuple[list[dict[str, str]], Samples]:
    """Return the distinct label sets, and their samples one series after another."""
    numbers: dict[frozenset[tuple[str, str]], int] = {}
    series_of_part = []
    parts = []
    for answer in answers:
        step_s = getattr(getattr(answer, "provenance", None), "step_s", 0.0)
        parts.append(samples_of(answer.series, step_s))
        keys = [frozenset(series.labels.items()) for series in answer.series]
        series_of_part.append([numbers.setdefault(key, len(numbers)) for key in keys])
        del answer
    labels = [dict(key) for key in numbers]
    if len(parts) == 1 and len(parts[0].counts) == len(labels):
        return labels, parts[0]
    counts = [part.counts for part in parts]
    totals = np.zeros(len(labels), dtype=np.int64)
    for numbers_of_part, count in zip(series_of_part, counts, strict=True):
        np.add.at(totals, numbers_of_part, count)
    times = [part.time_ms for part in parts]
    values = [part.values for part in parts]
    del parts
    time_ms = _in_order(series_of_part, counts, times, totals)
    return labels, Samples(totals, time_ms, _in_order(series_of_part, counts, values, totals))


def _in_order(
    series_of_part: list[list[int]],
    counts: list[np.ndarray],
    parts: list[np.ndarray],
    totals: np.ndarray,
) -> np.ndarray:
    """Return the samples of all parts, one series after another.

    Empties `parts` on the way, so that the samples are not in memory twice.
    """
    whole = np.empty(totals.sum(), dtype=parts[0].dtype if parts else np.int64)
    place = np.cumsum(totals) - totals
    for numbers, count in zip(series_of_part, counts, strict=True):
        part = parts.pop(0)
        begin = 0
        for series, size in zip(numbers, count.tolist(), strict=True):
            whole[place[series] : place[series] + size] = part[begin : begin + size]
            place[series] += size
            begin += size
    return whole
