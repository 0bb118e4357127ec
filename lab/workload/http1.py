"""Read one HTTP/1.1 answer from bytes in any pieces, without I/O or parsing the content.

It is small on purpose: in the hot path of a load driver every microsecond counts towards another
request's latency. It knows what streaming servers send: a status line, headers, and a body that is
chunked, of a known length, or ends with the connection (RFC 9112, sections 4 to 7). The time of
each piece of the body is kept, so that the events in it can be timed after the stream has ended.
"""

from __future__ import annotations

import math
from bisect import bisect_right

MAX_HEAD_BYTES = 64 * 1024
MAX_CHUNK_LINE_BYTES = 4 * 1024
MAX_INTERIM_ANSWERS = 32  # "100 Continue" and the like, before the real answer

# Bounds of one body. Its size counts with what keeping its pieces costs, because the server decides
# how small they are.
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_LINE_BYTES = 8 * 1024 * 1024
PIECE_BYTES = 160
KEPT_BYTES = 1024 * 1024  # of a body that is too large

# The line that comes next in a chunked body, where no bytes of a chunk are left.
_SIZE_LINE = 0
_TRAILERS = -1
_CHUNK_END = -2

_HEX = frozenset(b"0123456789abcdefABCDEF")


class MalformedAnswer(ValueError):
    """The bytes are not an HTTP/1.1 answer."""


class AnswerTooLarge(ValueError):
    """The body exceeds a bound. The answer keeps only the body's beginning."""


class Answer:
    """One answer, fed piece by piece.

    - `status` is 0 until the head is complete.
    - `parts` are the pieces of the body and `marks` their (bytes so far, time).
    - `done` is True once the body is complete.
    - `keep_alive` is whether the connection may be used again.
    """

    __slots__ = (
        "status",
        "headers",
        "parts",
        "marks",
        "size",
        "done",
        "keep_alive",
        "_feed",
        "_rest",
        "_left",
        "_line",
        "_interim",
    )

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []
        self.marks: list[tuple[int, float]] = []
        self.size = 0
        self.done = False
        self.keep_alive = False
        self._feed = self._head
        self._rest = b""  # received, but not used yet
        self._left = 0  # of the current chunk, or of a body of known length
        self._line = 0  # bytes since the last line end of the body
        self._interim = 0

    def feed(self, data: bytes, at: float) -> None:
        """Take the bytes that came at the time `at`.

        Raises MalformedAnswer where it cannot be HTTP/1.1, AnswerTooLarge where it exceeds a bound.
        """
        self._feed(data, at)

    def limit(self, size: int) -> None:
        """Raise AnswerTooLarge where the body has more than `size` bytes so far."""
        if self.size > size:
            self._refuse(f"{self.size:,} bytes, and all answers under way are too large together")

    def finish(self) -> bool:
        """Handle the end of the connection; return whether that completes the answer."""
        if not self.done and self._feed == self._until_close:
            self.done = True
        return self.done

    @property
    def body(self) -> bytes:
        """The body so far."""
        return b"".join(self.parts)

    def _take(self, piece: bytes, at: float) -> None:
        self.parts.append(piece)
        self.size += len(piece)
        self.marks.append((self.size, at))

        if piece.endswith(b"\n"):  # the usual end of an event
            self._line = 0
        else:
            line_end = piece.rfind(b"\n")
            self._line = self._line + len(piece) if line_end < 0 else len(piece) - line_end - 1
            if self._line > MAX_LINE_BYTES:
                self._refuse(f"a line of more than {MAX_LINE_BYTES:,} bytes")
        if self.size + PIECE_BYTES * len(self.parts) > MAX_BODY_BYTES:
            self._refuse(f"{self.size:,} bytes in {len(self.parts):,} pieces without an end")

    def _refuse(self, why: str) -> None:
        kept = bisect_right(self.marks, (KEPT_BYTES, math.inf))
        del self.parts[kept:]
        del self.marks[kept:]
        raise AnswerTooLarge(why)

    def _head(self, data: bytes, at: float) -> None:
        data = self._rest + data
        self._rest = b""
        while (end := data.find(b"\r\n\r\n")) >= 0:
            self._read_head(data[:end])
            data = data[end + 4 :]
            if self.status >= 200:
                self._choose_framing()
                if data and not self.done:
                    self._feed(data, at)
                return
            self.status = 0
            self._interim += 1
            if self._interim > MAX_INTERIM_ANSWERS:
                raise MalformedAnswer(f"more than {MAX_INTERIM_ANSWERS} interim answers")

        if len(data) > MAX_HEAD_BYTES:
            raise MalformedAnswer(f"no end of the headers in {len(data)} bytes")
        if not b"HTTP/1.".startswith(data[:7]):
            raise MalformedAnswer(f"an answer that starts with {data[:40]!r}")
        self._rest = data

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        version, _, rest = first.partition(b" ")
        code = rest[:3]
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not code.isdigit() or len(code) != 3:
            raise MalformedAnswer(f"a status line {first[:80]!r}")
        self.status = int(code)

        self.headers = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon:
                raise MalformedAnswer(f"a header {line[:80]!r}")
            self.headers[name.strip().lower()] = value.strip()

        connection = self.headers.get(b"connection", b"").lower()
        persistent = version == b"HTTP/1.1" or b"keep-alive" in connection
        self.keep_alive = persistent and b"close" not in connection

    def _choose_framing(self) -> None:
        length = self.headers.get(b"content-length")
        if self.status in (204, 304):
            self.done = True
        elif b"chunked" in self.headers.get(b"transfer-encoding", b"").lower():
            self._feed = self._chunked
        elif length is not None:
            if not length.isdigit():
                raise MalformedAnswer(f"a content length {length[:40]!r}")
            self._left = int(length)
            self.done = self._left == 0
            self._feed = self._of_length
        else:
            self.keep_alive = False
            self._feed = self._until_close

    def _of_length(self, data: bytes, at: float) -> None:
        if len(data) > self._left:  # more than announced: do not trust the connection's framing
            self.keep_alive = False
            data = data[: self._left]
        self._take(data, at)
        self._left -= len(data)
        self.done = self._left == 0

    def _until_close(self, data: bytes, at: float) -> None:
        self._take(data, at)

    def _chunked(self, data: bytes, at: float) -> None:
        """Take pieces of chunks: `_left` bytes of one, or the line for which `_left` stands."""
        data = self._rest + data
        self._rest = b""
        position = 0
        while position < len(data) and not self.done:
            if self._left > 0:
                stop = min(position + self._left, len(data))
                self._take(data[position:stop], at)
                self._left = self._left - (stop - position) or _CHUNK_END
                position = stop
            else:
                position = self._chunk_line(data, position)
        if self.done:
            self.keep_alive &= position == len(data)

    def _chunk_line(self, data: bytes, position: int) -> int:
        """Read a size line, the end of a chunk or a trailer; return the new position."""
        line_end = data.find(b"\r\n", position)
        if line_end < 0:
            if len(data) - position > MAX_CHUNK_LINE_BYTES:
                raise MalformedAnswer("a chunk's size line without an end")
            self._rest = data[position:]
            return len(data)

        line = data[position:line_end]
        if self._left == _SIZE_LINE:
            self._left = _chunk_size(line) or _TRAILERS
        elif self._left == _CHUNK_END:
            if line:
                raise MalformedAnswer(f"a chunk that is longer than its size: {line[:20]!r}")
            self._left = _SIZE_LINE
        elif not line:  # the empty line after the trailers
            self.done = True
        return line_end + 2


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip(b" \t")
    if not digits or len(digits) > 15 or not _HEX.issuperset(digits):
        raise MalformedAnswer(f"a chunk size {line[:40]!r}")
    return int(digits, 16)
