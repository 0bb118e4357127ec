"""Prometheus' samples as arrays, whole answers at a time.

They are parsed as CSV by polars, as they are: in `[[t,"v"],[t,"v"]]` a line ends at `]` and a column at `"`. Decoding
them as JSON would make millions of Python objects only to throw them away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import polars as pl

from lab.errors import FrameError

BATCH_BYTES = 4 << 20  # of JSON text parsed at once: large enough for speed, small enough for memory
_CSV = {
    "has_header": False, "quote_char": None, "truncate_ragged_lines": True, "glob": False,
    "schema": {"before": pl.String, "value": pl.Float64, "after": pl.String},
}  # fmt: skip


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


def samples_of(series: Sequence[SeriesLike], step_s: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(samples per series, times in ms since the epoch, values), one after the other. Raises FrameError.

    `step_s` is that of a range query, 0 for samples at any time.
    """
    texts = [memoryview(piece) for one in series for piece in one.pieces]
    parsed = [_parse(batch, round(step_s * 1000)) for batch in _batches(texts)]
    sizes = iter(int(n) for part in parsed for n in part.counts)
    counts = np.array([sum(next(sizes) for _ in one.pieces) for one in series], dtype=np.int64)
    if not parsed:
        return counts, np.empty(0, dtype=np.int64), np.empty(0)
    return counts, np.concatenate([p.time_ms for p in parsed]), np.concatenate([p.values for p in parsed])


class _Parsed(NamedTuple):
    """The samples of some texts, one after another; `counts` says how many of each text."""

    counts: np.ndarray
    time_ms: np.ndarray
    values: np.ndarray


def _batches(texts: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    batch: list[memoryview] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parse(texts: list[memoryview], step_ms: int) -> _Parsed:
    found = _values_of(texts)
    if found is None:
        return _parse_json(texts)
    counts, values = found
    edges = np.concatenate(([0], np.cumsum(counts)))
    time_ms = np.empty(len(values), dtype=np.int64)
    others = []
    for i, text in enumerate(texts):
        times = _even_times(text, int(counts[i]), step_ms)
        if times is None:
            others.append(i)
        else:
            time_ms[edges[i] : edges[i + 1]] = times
    if others:
        seconds = _seconds_of([texts[i] for i in others])
        if len(seconds) != counts[others].sum():
            return _parse_json(texts)
        parts = np.split(np.rint(seconds * 1000).astype(np.int64), np.cumsum(counts[others])[:-1])
        for i, part in zip(others, parts, strict=True):
            time_ms[edges[i] : edges[i + 1]] = part
    return _Parsed(counts, time_ms, values)


def _values_of(texts: list[memoryview]) -> tuple[np.ndarray, np.ndarray] | None:
    """(samples of each text, values): the texts as a CSV whose lines end at `]` and whose second column, between
    quotes, is the value. Each text's closing bracket gives one line without a value, which tells the texts apart."""
    try:
        table = pl.read_csv(b"".join(texts), columns=[1], separator='"', eol_char="]", **_CSV)
    except pl.exceptions.PolarsError:
        return None  # another server's spelling
    values = table.to_series()
    ends = np.flatnonzero(values.is_null().to_numpy())
    if len(ends) != len(texts) or not len(values) or ends[-1] != len(values) - 1:
        return None
    return np.diff(ends, prepend=-1) - 1, values.drop_nulls().to_numpy()


def _even_times(text: memoryview, count: int, step_ms: int) -> np.ndarray | None:
    """The times of a text that has a sample at every step from its first to its last; None for any other.

    Prometheus puts the samples of a range on the steps, in order: the first, the last and the number leave no choice.
    """
    if not step_ms or not count:
        return None
    first, last = _ms_at(bytes(text[:64])), _ms_at(bytes(text[-64:]).rpartition(b"[")[2])
    if first is None or last is None or last - first != (count - 1) * step_ms:
        return None
    return np.arange(first, last + 1, step_ms, dtype=np.int64)


def _ms_at(text: bytes) -> int | None:
    """The time in front of the first comma."""
    try:
        return round(float(text.partition(b",")[0].strip(b"[ ")) * 1000)
    except ValueError:
        return None


def _seconds_of(texts: list[memoryview]) -> np.ndarray:
    """The times of all samples: what is left of the first column of the same CSV."""
    try:
        table = pl.read_csv(b"".join(texts), columns=[0], separator='"', eol_char="]", **_CSV)
        column = table.to_series().str.strip_chars("[, ")
        return column.filter(column != "").cast(pl.Float64).to_numpy()
    except pl.exceptions.PolarsError:
        return np.empty(0)


def _parse_json(texts: list[memoryview]) -> _Parsed:
    """As JSON: slow, and right for every spelling. Raises FrameError for what is no list of samples."""
    try:
        found = [msgspec.json.decode(text, type=list[tuple[float, str | float]]) for text in texts]
        seconds = np.array([t for samples in found for t, _ in samples])
        values = np.array([float(v) for samples in found for _, v in samples])
    except (msgspec.DecodeError, ValueError) as e:
        raise FrameError(
            "samples are not in Prometheus' format", had=f"{bytes(texts[0])[:120]!r}", do=f"ask a Prometheus ({e})"
        ) from e
    return _Parsed(np.array([len(s) for s in found]), np.rint(seconds * 1000).astype(np.int64), values)
