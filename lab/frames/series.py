"""Prometheus' answers as tidy frames: one row a sample.

The samples of a large answer are parsed as CSV by polars: `[[t,"v"],[t,"v"]]` is two replacements away from it.
Decoding them as JSON would make millions of Python objects only to throw them away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
import pandas as pd
import polars as pl

from lab.errors import FrameError

BATCH_BYTES = 4 << 20  # of JSON text parsed at once: large enough for speed, small enough for memory
RESERVED = ("time", "value")
_CSV = {"t": pl.Float64, "v": pl.Float64}


class SeriesLike(Protocol):
    """One series of an answer; `pieces` are JSON texts `[[seconds,"value"],...]`, in order of time."""

    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def pieces(self) -> Sequence[bytes]: ...


class AnswerLike(Protocol):
    """An answer of `lab.stores.Prometheus`, or anything of its shape."""

    @property
    def series(self) -> Sequence[SeriesLike]: ...


def series_frame(answer: AnswerLike) -> pd.DataFrame:
    """One row a sample, with the columns

    - `time`: datetime64[ms, UTC];
    - `metric`: the metric's name, where the answer keeps it (categorical);
    - one column a label (categorical; missing where a series lacks the label; `label_time` and `label_value` for labels
      that have our columns' names);
    - `value`: float64. NaN, +Inf and -Inf are what Prometheus said; a gap in time is a series that was stale or absent.

    Rows are in order of series, then time. An empty answer gives an empty frame with `time` and `value`.
    Raises FrameError for samples that are not Prometheus' JSON.
    """
    counts, time_ms, values = samples_of(answer.series)
    columns: dict[str, object] = {"time": _utc(time_ms)}
    columns.update(label_columns([s.labels for s in answer.series], counts))
    columns["value"] = values
    return pd.DataFrame(columns, copy=False)


def label_columns(labels: Sequence[Mapping[str, str]], counts: np.ndarray) -> dict[str, pd.Categorical]:
    """One categorical a label, the label set i repeated counts[i] times."""
    names = sorted({name for one in labels for name in one}, key=lambda n: (n != "__name__", n))
    columns = {}
    for name in names:
        codes, categories = pd.factorize(np.array([one.get(name) for one in labels], dtype=object), sort=True)
        small = codes.astype(np.int16 if len(categories) < 32_000 else np.int32)
        repeated = np.repeat(small, counts)
        columns[_column_name(name)] = pd.Categorical.from_codes(repeated, categories=categories, validate=False)
    return columns


def samples_of(series: Sequence[SeriesLike]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(samples per series, times in ms since the epoch, values), one after the other. Raises FrameError."""
    texts = [piece for one in series for piece in one.pieces]
    of_text = [_rows_in(text) for text in texts]
    sizes = iter(of_text)
    counts = np.array([sum(next(sizes) for _ in one.pieces) for one in series], dtype=np.int64)
    time_ms = np.empty(sum(of_text), dtype=np.int64)
    values = np.empty(len(time_ms), dtype=np.float64)
    at = 0
    for batch, rows in _batches(texts, of_text):
        seconds, found = _parse(batch, rows)
        np.rint(seconds * 1000, out=seconds)
        time_ms[at : at + rows], values[at : at + rows] = seconds, found
        at += rows
    return counts, time_ms, values


def _rows_in(text: bytes) -> int:
    view = bytes(text)
    return view.count(b"[") - 1


def _batches(texts: Iterable[bytes], rows: Iterable[int]) -> Iterator[tuple[list[bytes], int]]:
    batch: list[bytes] = []
    size = total = 0
    for text, count in zip(texts, rows, strict=True):
        if count:
            batch.append(text)
            size, total = size + len(memoryview(text)), total + count
        if size >= BATCH_BYTES:
            yield batch, total
            batch, size, total = [], 0, 0
    if batch:
        yield batch, total


def _parse(texts: list[bytes], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, values) of `[[t,"v"],...]` texts that hold so many rows together."""
    csv = b"\n".join([memoryview(text)[2:-2] for text in texts]).replace(b"],[", b"\n").replace(b'"', b"")
    try:
        table = pl.read_csv(csv, has_header=False, schema=_CSV, quote_char=None)
    except pl.exceptions.PolarsError:
        return _parse_json(texts)  # another server's spelling, with blanks for example
    if table.height != rows or table["v"].null_count() or table["t"].null_count():
        return _parse_json(texts)
    return table["t"].to_numpy(writable=True), table["v"].to_numpy()


def _parse_json(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    try:
        samples = [s for text in texts for s in msgspec.json.decode(text, type=list[tuple[float, str | float]])]
        return np.array([s[0] for s in samples]), np.array([float(s[1]) for s in samples])
    except (msgspec.DecodeError, ValueError) as e:
        raise FrameError(
            "samples are not in Prometheus' format", had=f"{bytes(texts[0])[:120]!r}", do=f"ask a Prometheus ({e})"
        ) from e


def _utc(time_ms: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(time_ms.view("datetime64[ms]"), tz="UTC")


def _column_name(label: str) -> str:
    if label == "__name__":
        return "metric"
    return f"label_{label}" if label in (*RESERVED, "metric") else label
