"""Server-sent events: from the bytes of a stream and the times of its pieces to timed events.

Follows the WHATWG definition of event streams as far as language model servers use it: events end
with an empty line, lines end with LF, CRLF or CR, `data` fields are joined with LF, comments and
other fields are ignored.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice

# Of one stream. Further events are dropped, so that the stream counts as incomplete.
MAX_EVENTS = 500_000
_END_OF_LINE = rb"(?:\r\n|\n|\r(?!\n))"
_END_OF_EVENT = re.compile(_END_OF_LINE + _END_OF_LINE)
_LINES = re.compile(_END_OF_LINE)
_FIRST = -1.0  # sorts before every time


def events(body: bytes, marks: list[tuple[int, float]]) -> list[tuple[float, bytes]]:
    """Return the (time, data) of every complete event; an event's time is that of its last byte.

    `marks` are the (bytes so far, time) of the pieces of `body`. Bytes after the last complete
    event are dropped, as the definition requires.
    """
    timed = []
    mark = 0
    for start, end, after in islice(_blocks(body), MAX_EVENTS):
        data = _data(body[start:end])
        if data is not None:
            mark = bisect_left(marks, (after, _FIRST), lo=mark)
            timed.append((marks[mark][1], data))
    return timed


def _blocks(body: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, end with the empty line) of every complete event."""
    start = 0
    if b"\r" not in body:  # the usual case, and much faster than the expression
        while (end := body.find(b"\n\n", start)) >= 0:
            yield start, end, end + 2
            start = end + 2
        return
    for match in _END_OF_EVENT.finditer(body):
        yield start, match.start(), match.end()
        start = match.end()


def _data(block: bytes) -> bytes | None:
    """Return the data of one event; None for a comment that keeps the connection alive."""
    if block.startswith(b"data: ") and b"\n" not in block and b"\r" not in block:
        return block[6:]

    values = []
    for line in _LINES.split(block):
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(values) if values else None
