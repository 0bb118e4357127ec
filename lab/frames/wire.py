"""Protobuf's wire format, read from many messages at once: the first field of each, then the second of each, and so on.

A field is a varint (number and wire type), then its value: a varint, 8 bytes, 4 bytes, or a length and as many bytes.
Reading is a few numpy operations a step for all messages, instead of a Python object for every field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_FEW = 32  # messages that are read sooner one by one
_AHEAD = bytes(32)  # so that looking ahead never leaves the data


@dataclass(frozen=True)
class Places:
    """Values in the order of their place: the bytes from `start` to `stop`, each of the message `owner` (a number)."""

    owner: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def take(self, which: np.ndarray | slice) -> Places:
        return Places(self.owner[which], self.start[which], self.stop[which])


class Wire:
    """Messages one after another. Every method may raise ValueError for what is no protobuf."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.bytes = b"".join([*messages, _AHEAD])
        self.raw = np.frombuffer(self.bytes, dtype=np.uint8)
        self.eights = np.ndarray(
            len(self.raw) - 7, "<u8", self.bytes, strides=(1,)
        )  # from each byte the next eight
        stop = np.cumsum([len(m) for m in messages], dtype=np.int64)
        self.messages = Places(np.arange(len(stop)), stop - [len(m) for m in messages], stop)

    def fields(self, messages: Places) -> Fields:
        """Every field of these messages; their owners are the rows of `messages`."""
        found = Fields(messages)
        owner, at, end = np.arange(len(messages.start)), messages.start, messages.stop
        some = np.flatnonzero(at < end)
        while len(some) > _FEW:
            if len(some) < len(at):
                owner, at, end = owner[some], at[some], end[some]
            tag, start = self.varints(at)
            number, wire = tag >> 3, tag & 7
            value, after = self.varints(start)
            stop = after + value
            if not (lengths := wire == _LENGTH).all():
                sized = start + _SIZE[wire]
                stop = np.where(lengths, stop, np.where(wire == _VARINT, after, sized))
                after = np.where(lengths, after, start)
            if ((stop < after) | (stop > end)).any():
                raise ValueError("a field is cut, or of an unknown kind")
            found.add(number, owner, after, stop)
            at = stop
            some = np.flatnonzero(at < end)
        few = zip(owner[some].tolist(), at[some].tolist(), end[some].tolist(), strict=True)
        if rest := [
            (number, o, *place) for o, a, e in few for number, *place in self._one_by_one(a, e)
        ]:
            found.add(*np.array(rest).T)
        return found

    def _one_by_one(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        while at < end:
            tag, at = self._varint(at)
            wire = tag & 7
            stop = at + int(_SIZE[wire])
            if wire == _VARINT:
                _, stop = self._varint(at)
            elif wire == _LENGTH:
                length, at = self._varint(at)
                stop = at + length
            if not at <= stop <= end:
                raise ValueError("a field is cut, or of an unknown kind")
            yield tag >> 3, at, stop
            at = stop

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while self.bytes[at] > 127:
            value, at, shift = value | (self.bytes[at] & 127) << shift, at + 1, shift + 7
            if shift > 63:
                raise ValueError("a number is too long")
        return value | self.bytes[at] << shift, at + 1

    def varints(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the numbers that begin at these places, where they end); int64, or uint8 where all are below 128."""
        octet, stop = self.raw[at], at + 1
        long, shift = np.flatnonzero(octet > 127), 7
        if not len(long):
            return octet, stop
        value = (octet & 127).astype(np.int64)
        while len(long):
            if shift > 63:
                raise ValueError("a number is too long")
            octet = self.raw[stop[long]]
            value[long] |= (octet & 127).astype(np.int64) << shift
            stop[long] += 1
            long, shift = long[octet > 127], shift + 7
        return value, stop

    def texts(self, places: Places, there: np.ndarray | None = None) -> pa.LargeBinaryArray:
        """The bytes at places that are in order and do not overlap; null where they are not `there`."""
        edges = np.empty(2 * len(places.start) + 1, dtype=np.int64)
        edges[:-1:2], edges[1::2], edges[-1] = places.start, places.stop, len(self.bytes)
        buffers = [None, pa.py_buffer(edges), pa.py_buffer(self.bytes)]
        with_gaps = pa.Array.from_buffers(pa.large_binary(), len(edges) - 1, buffers)
        return with_gaps.take(
            pa.array(np.arange(0, len(edges) - 1, 2), mask=None if there is None else ~there)
        )


_SIZE = np.full(
    8, -1
)  # by wire type; -1 for what there is not, so that a field ends before it begins
_SIZE[_EIGHT], _SIZE[_FOUR] = 8, 4


class Fields:
    """The fields of `messages` by their number."""

    def __init__(self, messages: Places) -> None:
        self.messages = messages
        self.found: dict[int, list[Places]] = {}  # of each message the first before the second

    def add(
        self, number: np.ndarray, owner: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> None:
        while len(number):
            same = number == number[0]
            part = (
                Places(owner, start, stop)
                if same.all()
                else Places(owner[same], start[same], stop[same])
            )
            self.found.setdefault(int(number[0]), []).append(part)
            number, owner, start, stop = number[~same], owner[~same], start[~same], stop[~same]

    def of(self, number: int) -> Places:
        """All with this number, in the order of their place."""
        parts = self.found.get(number, []) or [Places(*[np.empty(0, dtype=np.int64)] * 3)]
        every = Places(
            *(np.concatenate([getattr(p, c) for p in parts]) for c in ("owner", "start", "stop"))
        )
        return every if len(parts) == 1 else every.take(np.argsort(every.start, kind="stable"))

    def last(self, number: int) -> Places:
        """The last with this number of every message; where it lacks, the empty place at the message's beginning."""
        start, stop = self.messages.start.copy(), self.messages.start.copy()
        for part in self.found.get(number, ()):
            start[part.owner], stop[part.owner] = part.start, part.stop
        return Places(np.arange(len(start)), start, stop)
