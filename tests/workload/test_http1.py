"""An answer is read the same however the network cuts it; other bytes are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.workload.http1 import (
    KEPT_BYTES,
    MAX_BODY_BYTES,
    MAX_LINE_BYTES,
    Answer,
    AnswerTooLarge,
    MalformedAnswer,
)


def fed(pieces: list[bytes]) -> Answer:
    answer = Answer()
    for at, piece in enumerate(pieces):
        answer.feed(piece, float(at))
    return answer


def cut(message: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({p % (len(message) + 1) for p in places}), len(message)]
    return [message[a:b] for a, b in zip(edges, edges[1:], strict=False) if a < b]


def chunked(chunks: list[bytes], extension: bytes = b"", trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(c), extension, c) for c in chunks if c)
    return (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + body
        + b"0\r\n"
        + trailer
        + b"\r\n"
    )


@given(
    st.lists(st.binary(max_size=60), max_size=6),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.sampled_from([b"", b";name=value"]),
    st.sampled_from([b"", b"Expires: never\r\n"]),
)
def test_chunked_anywhere(
    chunks: list[bytes], places: list[int], extension: bytes, trailer: bytes
) -> None:
    """A chunked body is the same bytes, and complete at the same byte, wherever the pieces begin
    and end.
    """
    message = chunked(chunks, extension, trailer)
    pieces = cut(message, places)
    answer = Answer()
    for at, piece in enumerate(pieces):
        assert not answer.done
        answer.feed(piece, float(at))
    assert (answer.status, answer.done, answer.keep_alive, answer.body) == (
        200,
        True,
        True,
        b"".join(chunks),
    )


@given(st.binary(max_size=80), st.lists(st.integers(0, 1000), max_size=8))
def test_known_length_anywhere(body: bytes, places: list[int]) -> None:
    """So is a body of known length."""
    message = b"HTTP/1.1 500 Oops\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    answer = fed(cut(message, places))
    assert (answer.status, answer.done, answer.body) == (500, True, body)


@given(
    st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5),
    st.lists(st.integers(0, 1000), max_size=8),
)
def test_marks_tell_when_each_byte_came(chunks: list[bytes], places: list[int]) -> None:
    """The marks grow with the body, and each byte's time is that of the piece that it came in."""
    message = chunked(chunks)
    pieces = cut(message, places)
    answer = fed(pieces)
    came = [at for at, piece in enumerate(pieces) for _ in piece]
    body_at = []
    position = message.index(b"\r\n\r\n") + 4
    for chunk in chunks:
        position = message.index(b"\r\n", position) + 2
        body_at += came[position : position + len(chunk)]
        position += len(chunk) + 2
    times = []
    for size, at in answer.marks:
        times += [at] * (size - len(times))
    assert times == body_at


def test_body_until_close_is_complete_at_the_close() -> None:
    """Without a length the body ends with the connection, and only then."""
    answer = fed([b"HTTP/1.0 200 OK\r\n\r\nabc", b"def"])
    assert not answer.done
    assert answer.finish() and answer.body == b"abcdef" and not answer.keep_alive


def test_a_cut_body_is_never_complete() -> None:
    """A chunked body that the connection's end cut off is not taken for a whole one."""
    answer = fed([chunked([b"abc"])[:-3]])
    assert not answer.finish()


def test_interim_answers_are_passed_over() -> None:
    """100 Continue is not the answer."""
    answer = fed([b"HTTP/1.1 100 Continue\r\n\r\n", chunked([b"x"])])
    assert (answer.status, answer.body, answer.done) == (200, b"x", True)


def test_close_is_obeyed() -> None:
    """A connection that the server wants closed is not used again."""
    assert not fed(
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"]
    ).keep_alive


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc Oops\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 5000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    ],
)
def test_garbage_is_refused(garbage: bytes) -> None:
    """What is not HTTP/1.1 raises, at once, and does not grow without end."""
    with pytest.raises(MalformedAnswer):
        fed([garbage])


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8))
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    """No bytes raise anything but MalformedAnswer."""
    try:
        fed([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces])
    except MalformedAnswer:
        return


def test_a_body_has_a_bound() -> None:
    """A body that does not end is refused at its bound, and only its beginning is kept."""
    answer = fed([b"HTTP/1.1 200 OK\r\n\r\n"])
    with pytest.raises(AnswerTooLarge):
        for at in range(100_000):
            answer.feed(b"data: x\n\n" * 1000, float(at))
    assert MAX_BODY_BYTES * 0.8 < answer.size < MAX_BODY_BYTES
    assert KEPT_BYTES * 0.9 < len(answer.body) <= KEPT_BYTES
    assert answer.marks[-1][0] == len(answer.body)


def test_a_line_of_a_body_has_a_bound() -> None:
    """So is a line without an end, in however small pieces it comes."""
    answer = fed([b"HTTP/1.1 200 OK\r\n\r\n", b"data: \n"])
    with pytest.raises(AnswerTooLarge, match="a line"):
        for at in range(100_000):
            answer.feed(b"x" * 5000, float(at))
    assert answer.size < MAX_LINE_BYTES + 20_000


def test_small_pieces_count_with_what_they_cost() -> None:
    """Chunks of one byte cost a hundred times their size in memory: the bound is on the memory."""
    answer = fed([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
    with pytest.raises(AnswerTooLarge):
        for at in range(1000):
            answer.feed(b"1\r\n\n\r\n" * 1000, float(at))
    assert answer.size < MAX_BODY_BYTES / 100


def test_interim_answers_are_passed_over_up_to_a_bound() -> None:
    """A few come before the real answer.

    Thousands in one piece are refused at once, without recursion.
    """
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    answer = fed([interim * 3 + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"])
    assert (answer.status, answer.body, answer.done) == (200, b"ok", True)
    with pytest.raises(MalformedAnswer, match="interim"):
        fed([interim * 5000])
    with pytest.raises(MalformedAnswer, match="interim"):
        fed([interim] * 5000)
