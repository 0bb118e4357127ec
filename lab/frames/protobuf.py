"""Protobuf's wire format, read from many messages at once: each one's first field, then the second.

A field is a varint (number and wire type), then its value: a varint, 8 bytes, 4 bytes, or a length
and as many bytes. A step is a few numpy operations for all messages, instead of a Python object for
every field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_FEW = 32  # messages; so few are read faster one by one
_AHEAD = bytes(32)  # so that looking ahead never leaves the data
_SIZE = np.full(8, -1)  # by wire type; an unknown one makes a field end before it begins
_SIZE[_EIGHT] = 8
_SIZE[_FOUR] = 4


@dataclass(frozen=True)
class Places:
    """Values in order: bytes from `start` to `stop`, each of the message with number `owner`."""

    owner: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def take(self, rows: np.ndarray | slice) -> Places:
        """Return the places at these rows."""
        return Places(self.owner[rows], self.start[rows], self.stop[rows])


class Messages:
    """Messages one after another. Methods may raise ValueError for bytes that are not protobuf."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.bytes = b"".join([*messages, _AHEAD])
        self.octets = np.frombuffer(self.bytes, dtype=np.uint8)
        # From each byte the next eight.
        self.eights = np.ndarray(len(self.octets) - 7, "<u8", self.bytes, strides=(1,))
        length = np.array([len(m) for m in messages], dtype=np.int64)
        stop = np.cumsum(length)
        self.places = Places(np.arange(len(stop)), stop - length, stop)

    def fields(self, messages: Places) -> Fields:
        """Return every field of these messages; their owners are the rows of `messages`."""
        fields = Fields(messages)
        owner = np.arange(len(messages.start))
        place = messages.start
        end = messages.stop
        rest = np.flatnonzero(place < end)
        while len(rest) > _FEW:
            if len(rest) < len(place):
                owner = owner[rest]
                place = place[rest]
                end = end[rest]
            number, start, stop = self._next_fields(place)
            if ((stop < start) | (stop > end)).any():
                raise ValueError("a field is cut, or of an unknown kind")
            fields.add(number, owner, start, stop)
            place = stop
            rest = np.flatnonzero(place < end)
        single = []
        for row in rest.tolist():
            for field in self._fields_of_one(int(place[row]), int(end[row])):
                single.append((field[0], owner[row], *field[1:]))
        if single:
            fields.add(*np.array(single).T)
        return fields

    def varints(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (the numbers at these places, their ends); uint8 where all are below 128."""
        octet = self.octets[place]
        stop = place + 1
        more = np.flatnonzero(octet > 127)
        if not len(more):
            return octet, stop
        value = (octet & 127).astype(np.int64)
        shift = 7
        while len(more):
            if shift > 63:
                raise ValueError("a number is too long")
            octet = self.octets[stop[more]]
            value[more] |= (octet & 127).astype(np.int64) << shift
            stop[more] += 1
            more = more[octet > 127]
            shift += 7
        return value, stop

    def texts(self, places: Places, present: np.ndarray | None = None) -> pa.LargeBinaryArray:
        """Return the bytes at places in order that do not overlap, null if not `present`."""
        edges = np.empty(2 * len(places.start) + 1, dtype=np.int64)
        edges[:-1:2] = places.start
        edges[1::2] = places.stop
        edges[-1] = len(self.bytes)
        buffers = [None, pa.py_buffer(edges), pa.py_buffer(self.bytes)]
        with_gaps = pa.Array.from_buffers(pa.large_binary(), len(edges) - 1, buffers)
        mask = None if present is None else ~present
        return with_gaps.take(pa.array(np.arange(0, len(edges) - 1, 2), mask=mask))

    def _next_fields(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (number, start and stop of the value) of the fields at these places."""
        tag, start = self.varints(place)
        wire_type = tag & 7
        value, after = self.varints(start)
        stop = after + value
        is_length = wire_type == _LENGTH
        if not is_length.all():
            sized = np.where(wire_type == _VARINT, after, start + _SIZE[wire_type])
            stop = np.where(is_length, stop, sized)
            after = np.where(is_length, after, start)
        return tag >> 3, after, stop

    def _fields_of_one(self, place: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (number, start and stop of the value) of the fields of one message."""
        while place < end:
            tag, place = self._varint(place)
            wire_type = tag & 7
            stop = place + int(_SIZE[wire_type])
            if wire_type == _VARINT:
                stop = self._varint(place)[1]
            elif wire_type == _LENGTH:
                length, place = self._varint(place)
                stop = place + length
            if not place <= stop <= end:
                raise ValueError("a field is cut, or of an unknown kind")
            yield tag >> 3, place, stop
            place = stop

    def _varint(self, place: int) -> tuple[int, int]:
        value = shift = 0
        while self.bytes[place] > 127:
            value |= (self.bytes[place] & 127) << shift
            place += 1
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")
        return value | self.bytes[place] << shift, place + 1


class Fields:
    """The fields of `messages` by their number."""

    def __init__(self, messages: Places) -> None:
        self.messages = messages
        self.parts: dict[int, list[Places]] = {}  # of each message the first before the second

    def add(
        self, number: np.ndarray, owner: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> None:
        """Add one field of each of these messages."""
        fields = Places(owner, start, stop)
        while len(number):
            same = number == number[0]
            part = fields if same.all() else fields.take(same)
            self.parts.setdefault(int(number[0]), []).append(part)
            number = number[~same]
            fields = fields.take(~same)

    def of(self, number: int) -> Places:
        """Return all fields with this number, in the order of their place."""
        parts = self.parts.get(number) or [Places(*[np.empty(0, dtype=np.int64)] * 3)]
        if len(parts) == 1:
            return parts[0]
        columns = (
            np.concatenate([getattr(p, c) for p in parts]) for c in ("owner", "start", "stop")
        )
        places = Places(*columns)
        return places.take(np.argsort(places.start, kind="stable"))

    def last(self, number: int) -> Places:
        """Return the last field with this number of every message; an empty place for none."""
        start = self.messages.start.copy()
        stop = self.messages.start.copy()
        for part in self.parts.get(number, ()):
            start[part.owner] = part.start
            stop[part.owner] = part.stop
        return Places(np.arange(len(start)), start, stop)
