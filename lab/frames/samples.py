"""Prometheus' samples as arrays, whole answers at a time.

In `[[t,"v"],[t,"v"]]` every number stands between two marks: the places of all marks are found at once, and Arrow reads
all numbers between them at once. Decoding JSON would make millions of Python objects only to throw them away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from lab.errors import FrameError
from lab.frames.pieces import batches


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


def samples_of(
    series: Sequence[SeriesLike], step_s: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(samples per series, times in ms since the epoch, values), one after the other. Raises FrameError.

    `step_s` is that of a range query, 0 for samples at any time.
    """
    texts = [memoryview(piece) for one in series for piece in one.pieces]
    parsed = [_parse(batch, round(step_s * 1000)) for batch in batches(texts)]
    sizes = iter(int(n) for part in parsed for n in part.counts)
    counts = np.array([sum(next(sizes) for _ in one.pieces) for one in series], dtype=np.int64)
    if not parsed:
        return counts, np.empty(0, dtype=np.int64), np.empty(0)
    return (
        counts,
        np.concatenate([p.time_ms for p in parsed]),
        np.concatenate([p.values for p in parsed]),
    )


class _Parsed(NamedTuple):
    """The samples of some texts, one after another; `counts` says how many of each text."""

    counts: np.ndarray
    time_ms: np.ndarray
    values: np.ndarray


def _parse(texts: list[memoryview], step_ms: int) -> _Parsed:
    """By quotes and brackets, or as JSON where they are not where Prometheus puts them."""
    if any(bytes(text[:2]) + bytes(text[-2:]) not in (b"[[]]", b"[][]") for text in texts):
        return _parse_json(texts)
    data = b"".join(texts)
    edges = np.cumsum([0, *map(len, texts)])
    quotes = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord('"')).astype(np.int32)
    counts = np.diff(np.searchsorted(quotes, edges)) // 2
    values = _floats(data, quotes[0::2] + 1, quotes[1::2])
    if values is None and b'"+Inf"' in data:  # Arrow knows Inf and -Inf
        return _parse(
            [memoryview(bytes(text).replace(b'"+Inf"', b'"Inf"')) for text in texts], step_ms
        )
    if values is None or len(values) != counts.sum():
        return _parse_json(texts)
    time_ms = _times(texts, counts, step_ms)
    if time_ms is None:
        brackets = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("[")).astype(np.int32)
        brackets = np.delete(
            brackets, np.searchsorted(brackets, edges[:-1])
        )  # but for each text's own first one
        seconds = _floats(data, brackets + 1, quotes[0::2] - 1)
        if seconds is None:
            return _parse_json(texts)
        time_ms = np.rint(seconds * 1000).astype(np.int64)
    return _Parsed(counts, time_ms, values)


def _floats(data: bytes, begins: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """The numbers that stand in the data between these places, whole columns at a time; None if one is no number."""
    if len(begins) != len(ends):
        return None
    offsets = np.empty(2 * len(begins), dtype=np.int32)
    offsets[0::2], offsets[1::2] = begins, ends
    if len(offsets) == 0 or (np.diff(offsets) < 0).any():
        return np.empty(0) if len(offsets) == 0 else None
    texts = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
    try:
        return texts.take(pa.array(np.arange(0, len(texts), 2))).cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None


def _times(texts: list[memoryview], counts: np.ndarray, step_ms: int) -> np.ndarray | None:
    """The times of texts that all have a sample at every step from their first to their last; None otherwise."""
    found = [
        _even_times(text, int(count), step_ms) for text, count in zip(texts, counts, strict=True)
    ]
    return None if any(times is None for times in found) else np.concatenate(found)


def _even_times(text: memoryview, count: int, step_ms: int) -> np.ndarray | None:
    """The times of a text that has a sample at every step from its first to its last; None for any other.

    Prometheus puts the samples of a range on the steps, in order: the first, the last and the number leave no choice.
    """
    if not count and len(text) == 2:
        return np.empty(0, dtype=np.int64)
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


def _parse_json(texts: list[memoryview]) -> _Parsed:
    """As JSON: slow, and right for every spelling. Raises FrameError for what is no list of samples."""
    try:
        found = [msgspec.json.decode(text, type=list[tuple[float, str | float]]) for text in texts]
        seconds = np.array([t for samples in found for t, _ in samples])
        values = np.array([float(v) for samples in found for _, v in samples])
    except (msgspec.DecodeError, ValueError) as e:
        raise FrameError(
            "samples are not in Prometheus' format",
            got=f"{bytes(texts[0])[:120]!r}",
            fix=f"ask a Prometheus ({e})",
        ) from e
    return _Parsed(
        np.array([len(s) for s in found]), np.rint(seconds * 1000).astype(np.int64), values
    )
