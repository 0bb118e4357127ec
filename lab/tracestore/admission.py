"""Limits on what one request may cost, applied before it is decoded.

The number of messages decides, not the number of bytes: an empty message takes two bytes on the
wire and a few hundred in memory, so that a few kilobytes of gzip can become gigabytes. Messages are
counted on the wire, and bodies that are being received share one budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.tracestore.errors import StoreBroken, TooLarge

MAX_SPANS = 2**17  # of one body, its resources and scopes included
# Attributes, events, links and nested values of one body, or of one batch. Those that need the
# protobuf library (all but plain attributes of spans) count `_SLOW_WEIGHT` times.
MAX_MESSAGES = 2**20
_SLOW_WEIGHT = 2
MAX_KEYS = 2**16  # different names of attributes of the spans of one body
_UNCOUNTED_BYTES = 2**17  # of nested messages in one body: at most half as many messages
MAX_JSON_OBJECTS = 2**18  # of one body; JSON costs more per object
MAX_JSON_VALUES = 2**22
MAX_BODIES_BYTES = (
    128 * 2**20
)  # of all bodies that are being received or wait for their acknowledgement

# A message type: its fields that hold messages, by number. A type without such fields is a leaf.
Fields = dict[int, "Fields"]

_LEAF: Fields = {}
_ANY: Fields = {}
_KEY_VALUE: Fields = {2: _ANY}
_ANY.update({5: {1: _ANY}, 6: {1: _KEY_VALUE}})

REQUEST: Fields = {1: {2: {2: _LEAF}}}
KEY_VALUE = _KEY_VALUE
EVENT: Fields = {3: _KEY_VALUE}
LINK: Fields = {4: _KEY_VALUE}
RESOURCE: Fields = {1: _KEY_VALUE, 3: {3: _LEAF, 4: _LEAF}}
SCOPE: Fields = {3: _KEY_VALUE}

# Every element of a repeated field in these types begins with one of these bytes (0x80 is set in a
# tag that is padded to more bytes).
_TAGS = (b"\x0a", b"\x1a", b"\x22", b"\x8a", b"\x9a", b"\xa2")
_SPAN_TAGS = (b"\x0a", b"\x12", b"\x8a", b"\x92")  # the same of the types in `REQUEST`


def count_messages(data: bytes, fields: Fields, limit: int) -> int:
    """Count the messages inside a serialized message.

    Stops above `limit`, and at bytes that are not protobuf: the decoder refuses those.
    """
    count = 0
    position = 0
    end = len(data)
    outer: list[tuple[int, Fields]] = []
    try:
        while count <= limit:
            if position >= end:
                if not outer:
                    break
                end, fields = outer.pop()
                continue
            tag, position = _varint(data, position)
            if tag & 7 != 2:
                position = _after_scalar(data, position, tag & 7)
                continue
            length, position = _varint(data, position)
            inner = fields.get(tag >> 3)
            if inner is not None:
                count += 1
            if inner:
                outer.append((end, fields))
                end = min(position + length, end)
                fields = inner
            else:
                position += length
    except IndexError:  # the decoder refuses it
        pass
    return count


def _varint(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    position += 1
    if byte < 0x80:
        return byte, position
    number = byte & 0x7F
    shift = 7
    while byte >= 0x80:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
    return number, position


_SCALAR_BYTES = {1: 8, 3: 0, 4: 0, 5: 4}


def _after_scalar(data: bytes, position: int, wire_type: int) -> int:
    if wire_type == 0:
        return _varint(data, position)[1]
    if wire_type in _SCALAR_BYTES:
        return position + _SCALAR_BYTES[wire_type]
    raise IndexError


class Allowance:
    """Messages that may still be decoded for one body.

    Every method raises TooLarge where they are used up.
    """

    def __init__(self, limit: int = MAX_MESSAGES) -> None:
        """Allow `limit` messages."""
        self.left = limit
        self._uncounted_bytes = _UNCOUNTED_BYTES

    def spend(self, messages: int) -> None:
        """Take this many messages off."""
        self.left -= messages
        if self.left < 0:
            raise too_many("messages", MAX_MESSAGES)

    def check(self, messages: int) -> None:
        """Raise TooLarge where this many messages are more than what is left; take nothing off."""
        if messages > self.left:
            raise too_many("messages", MAX_MESSAGES)

    def spend_on(self, parts: list[bytes], fields: Fields) -> None:
        """Take off these serialized messages and the messages inside them, by their weight.

        The first bytes of a body are free: they cannot hold many. After that an upper bound is used
        where it is small, else the exact number.
        """
        self.spend(_SLOW_WEIGHT * len(parts))
        self._uncounted_bytes -= sum(map(len, parts))
        if self._uncounted_bytes >= 0:
            return
        messages = sum(part.count(tag) for part in parts for tag in _TAGS)
        if messages > self.left // 4:
            messages = 0
            for part in parts:
                messages += count_messages(part, fields, self.left)
                if messages > self.left:
                    break
        self.spend(_SLOW_WEIGHT * messages)


def check_spans(payload: bytes) -> None:
    """Raise TooLarge for a request with more than `MAX_SPANS` spans, scopes and resources.

    They are counted only if the payload is long enough for so many, and contains as many bytes that
    may be their tags.
    """
    if (
        len(payload) > 2 * MAX_SPANS
        and sum(map(payload.count, _SPAN_TAGS)) > MAX_SPANS
        and count_messages(payload, REQUEST, MAX_SPANS) > MAX_SPANS
    ):
        raise too_many("spans", MAX_SPANS)


def check_json(body: bytes) -> None:
    """Raise TooLarge where a JSON document may hold too many objects or values.

    Brackets and commas inside of strings count too.
    """
    if body.count(b"{") + body.count(b"[") > MAX_JSON_OBJECTS:
        raise too_many("objects", MAX_JSON_OBJECTS)
    if body.count(b",") > MAX_JSON_VALUES:
        raise too_many("values", MAX_JSON_VALUES)


def too_many(what: str, limit: int) -> TooLarge:
    """Build the error for a body that expands to too much."""
    return TooLarge(f"the body holds more than {limit} {what}", fix="send smaller batches")


class BodyBudget:
    """Bytes of all bodies in flight. For one event loop."""

    def __init__(self, limit: int | None = None) -> None:
        """Allow `limit` bytes in flight; `MAX_BODIES_BYTES` by default."""
        self.limit = MAX_BODIES_BYTES if limit is None else limit
        self.used = 0

    @contextmanager
    def body(self) -> Iterator[Body]:
        """Account for one body until its request has been answered."""
        body = Body(self)
        try:
            yield body
        finally:
            self.used -= body.size


class Body:
    """The part of a budget that one body takes."""

    def __init__(self, budget: BodyBudget) -> None:
        """Take nothing of the budget yet."""
        self._budget = budget
        self.size = 0

    def grow(self, size: int) -> None:
        """Take `size` bytes more.

        Raises StoreBroken (503, try again) where all bodies together would be too large.
        """
        if self._budget.used + size > self._budget.limit:
            raise StoreBroken(
                "too many bytes of other requests are in flight",
                got=f"{self._budget.used} bytes",
                fix="send it again later",
                retry_after_s=1,
            )
        self._budget.used += size
        self.size += size
