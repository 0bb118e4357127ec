"""Events are the same, and timed by their last byte, however the stream was cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lab.workload.outcome import MAX_EVENTS, events

TEXT = st.text(
    st.characters(blacklist_characters="\r\n", blacklist_categories=("Cs",)), max_size=20
)


def marks_of(body: bytes, places: list[int]) -> list[tuple[int, float]]:
    edges = sorted({p % (len(body) + 1) for p in places} | {len(body)}) if body else []
    return [(edge, float(at)) for at, edge in enumerate(e for e in edges if e)]


@given(
    st.lists(TEXT, max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 10_000), max_size=10),
)
def test_events_anywhere(texts: list[str], eol: str, places: list[int]) -> None:
    """Every event comes out, with the time of the piece that completed it."""
    blocks = [f"data: {text}{eol}{eol}".encode() for text in texts]
    body = b"".join(blocks)
    marks = marks_of(body, places)
    expected, end = [], 0
    for text, block in zip(texts, blocks, strict=True):
        end += len(block)
        expected.append((next(at for size, at in marks if size >= end), text.encode()))
    assert events(body, marks) == expected


def test_fields_and_comments() -> None:
    """Comments and other fields are passed over, data lines are joined, the space after the colon
    is optional.
    """
    body = b": ping\n\nevent: message\nid: 1\ndata:one\ndata: two\n\nretry: 5\n\n"
    assert events(body, [(len(body), 1.0)]) == [(1.0, b"one\ntwo")]


def test_an_event_without_its_end_is_dropped() -> None:
    """A stream that was cut within an event does not give half an event."""
    body = b"data: whole\n\ndata: hal"
    assert events(body, [(len(body), 1.0)]) == [(1.0, b"whole")]


@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    """Any bytes are read without an exception."""
    events(body, [(len(body), 1.0)] if body else [])


def test_events_have_a_bound() -> None:
    """A stream of nothing but tiny events does not cost a hundred times its size."""
    body = b"data:\n\n" * (MAX_EVENTS + 10)
    assert len(events(body, [(len(body), 1.0)])) == MAX_EVENTS
