"""Prometheus' answers as tidy frames: one row per sample.

Samples are read as arrays, whole answers at a time. In `[[t,"v"],[t,"v"]]` every number stands
between two marks: the places of all marks are found at once, and Arrow reads all numbers between
them at once. Decoding the JSON would make millions of Python objects only to throw them away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from lab.errors import FrameError

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


MAX_MS = 253_402_300_799_999  # the end of the year 9999
_BATCH_BYTES = 4 << 20
Text = TypeVar("Text", bytes, memoryview)


class SeriesLike(Protocol):
    """One series of an answer; `pieces` are JSON texts `[[seconds,"value"],...]` in time order."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Return the labels, `__name__` included."""

    @property
    def pieces(self) -> Sequence[bytes]:
        """Return the samples as JSON."""


class AnswerLike(Protocol):
    """An answer of `lab.stores.Prometheus`, or any object like it."""

    @property
    def series(self) -> Sequence[SeriesLike]:
        """Return the series."""


class Samples(NamedTuple):
    """Samples of several texts or series, one after another; `counts` is the number of each."""

    counts: np.ndarray
    time_ms: np.ndarray
    values: np.ndarray


def samples_of(series: Sequence[SeriesLike], step_s: float = 0.0) -> Samples:
    """Return the samples of all series, times in milliseconds since the epoch.

    `step_s` is that of a range query, 0 for samples at any time. Raises FrameError for samples that
    are not in Prometheus' format.
    """
    texts = [memoryview(piece) for one in series for piece in one.pieces]
    parsed = [_parse(batch, round(step_s * 1000)) for batch in batches(texts, _BATCH_BYTES)]
    if not parsed:
        return Samples(np.zeros(len(series), np.int64), np.empty(0, np.int64), np.empty(0))
    counts, time_ms, values = (np.concatenate(arrays) for arrays in zip(*parsed, strict=True))
    if len(time_ms) and np.abs(time_ms).max() > MAX_MS:
        raise FrameError("samples have times after the year 9999", fix="query a Prometheus")
    owner = np.repeat(np.arange(len(series)), [len(one.pieces) for one in series])
    totals = np.bincount(owner, weights=counts, minlength=len(series)).astype(np.int64)
    return Samples(totals, time_ms, values)


def batches(texts: Sequence[Text], size: int) -> Iterator[Sequence[Text]]:
    """Yield the texts in order, as lists of about `size` bytes each, at least one text."""
    total = sum(map(len, texts))
    count = max(1, size * len(texts) // max(total, 1))
    for first in range(0, len(texts), count):
        yield texts[first : first + count]


def _parse(texts: Sequence[memoryview], step_ms: int) -> Samples:
    """Read texts by quotes and brackets; as JSON where these are not where Prometheus puts them."""
    if any(bytes(text[:2]) + bytes(text[-2:]) not in (b"[[]]", b"[][]") for text in texts):
        return _parse_json(texts)
    data = b"".join(texts)
    edges = np.cumsum([0, *map(len, texts)])
    quotes = _places(data, '"')
    counts = np.diff(np.searchsorted(quotes, edges)) // 2
    values = _floats(data, quotes[0::2] + 1, quotes[1::2])
    if values is None and b'"+Inf"' in data:  # Arrow reads Inf and -Inf only
        plain = [memoryview(bytes(text).replace(b'"+Inf"', b'"Inf"')) for text in texts]
        return _parse(plain, step_ms)
    if values is None or len(values) != counts.sum():
        return _parse_json(texts)
    time_ms = _even_times(texts, counts, step_ms)
    if time_ms is None:
        brackets = _places(data, "[")
        # But for the first bracket of each text.
        brackets = np.delete(brackets, np.searchsorted(brackets, edges[:-1]))
        seconds = _floats(data, brackets + 1, quotes[0::2] - 1)
        if seconds is None:
            return _parse_json(texts)
        time_ms = _to_ms(seconds)
    return Samples(counts, time_ms, values)


def _places(data: bytes, mark: str) -> np.ndarray:
    return np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord(mark)).astype(np.int32)


def _floats(data: bytes, starts: np.ndarray, stops: np.ndarray) -> np.ndarray | None:
    """Return the numbers between these places; None if one of them is not a number."""
    if len(starts) != len(stops):
        return None
    offsets = np.column_stack((starts, stops)).ravel()
    if not len(offsets) or (np.diff(offsets) < 0).any():
        return np.empty(0) if not len(offsets) else None
    texts = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
    try:
        return texts.take(pa.array(np.arange(0, len(texts), 2))).cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None


def _to_ms(seconds: np.ndarray) -> np.ndarray:
    """Return milliseconds; beyond MAX_MS for times that are not finite, or too large for int64."""
    return np.rint(np.nan_to_num(np.clip(seconds * 1000, -1e15, 1e15), nan=1e15)).astype(np.int64)


def _even_times(texts: Sequence[memoryview], counts: np.ndarray, step_ms: int) -> np.ndarray | None:
    """Return the times of texts that all have a sample at every step; None otherwise.

    Prometheus puts the samples of a range on the steps, in order: the first time, the last one and
    the count leave no other possibility.
    """
    parts = []
    for text, count in zip(texts, counts.tolist(), strict=True):
        if not count and len(text) == 2:
            continue
        first = _first_ms(bytes(text[:64]))
        last = _first_ms(bytes(text[-64:]).rpartition(b"[")[2])
        if not step_ms or not count or first is None or last is None:
            return None
        if last - first != (count - 1) * step_ms:
            return None
        parts.append(np.arange(first, last + 1, step_ms, dtype=np.int64))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _first_ms(text: bytes) -> int | None:
    """Return the time before the first comma; None for anything that is not one."""
    try:
        time_ms = round(float(text.partition(b",")[0].strip(b"[ ")) * 1000)
    except (ValueError, OverflowError):
        return None
    return time_ms if abs(time_ms) <= MAX_MS else None


def _parse_json(texts: Sequence[memoryview]) -> Samples:
    """Read texts as JSON: slow, and right for every spelling. Raises FrameError."""
    try:
        lists = [msgspec.json.decode(text, type=list[tuple[float, str | float]]) for text in texts]
        seconds = np.array([time for samples in lists for time, _ in samples], dtype=np.float64)
        values = np.array([float(v) for samples in lists for _, v in samples], dtype=np.float64)
    except (msgspec.DecodeError, ValueError, RecursionError) as e:
        raise FrameError(
            "samples are not in Prometheus' format",
            got=f"{bytes(texts[0])[:120]!r}",
            fix=f"query a Prometheus ({e})",
        ) from e
    return Samples(np.array([len(samples) for samples in lists]), _to_ms(seconds), values)
