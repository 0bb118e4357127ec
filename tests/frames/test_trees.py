"""One trace is arranged as a tree."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.frames import spans_frame, trace_tree
from tests.frames.telemetry import CLIENT, SERVER, Answer, agent_request, document, span


def tree_of(*spans):
    return trace_tree(spans_frame(Answer((document(*spans),))))


def test_a_request_reads_from_the_root_to_the_leaves() -> None:
    """Parents precede children, siblings are sorted by start, self time excludes children."""
    tree = tree_of(*reversed(agent_request()))
    assert tree.name.tolist()[:4] == [
        "lab.request",
        "POST /v1/responses",
        "list_mcp_tools",
        "chat lab-model",
    ]
    assert tree.depth.tolist() == [0, 1, 2, 2, 3, 4, 2, 3, 2, 3, 4]
    by_name = tree.drop_duplicates("name").set_index("name")
    assert by_name.self_s["POST /v1/responses"] == pytest.approx(0.120)
    assert by_name.self_s["lab.request"] == pytest.approx(0.050)
    assert by_name.offset_s["invoke_mcp_tool"] == pytest.approx(0.420)
    assert by_name.children["POST /v1/responses"] == 4
    assert tree.critical_s.sum() == pytest.approx(1.0)


def test_the_critical_path_excludes_concurrent_spans() -> None:
    """Of concurrent children only the last to end counts, and what ended before it began."""
    tree = tree_of(
        span(1, 0, "a", "root", 0, 10),
        span(2, 1, "a", "long", 1, 9),
        span(3, 1, "a", "beside", 2, 5),
        span(4, 1, "a", "before", 0, 1),
    ).set_index("name")
    assert tree.critical_s.to_dict() == pytest.approx(
        {"root": 1, "before": 1, "long": 8, "beside": 0}
    )
    assert tree.self_s["root"] == pytest.approx(1)


def test_a_streamed_answer_belongs_to_the_server() -> None:
    """After the HTTP client's span ends with the headers, the time is the server's."""
    tree = tree_of(
        span(1, 0, "a", "root", 0, 10),
        span(2, 1, "a", "chat", 1, 9, CLIENT),
        span(3, 2, "a", "POST", 2, 3, CLIENT),
        span(4, 3, "b", "llm_request", 2, 8, SERVER),
    ).set_index("name")
    assert tree.self_s.to_dict() == pytest.approx(
        {"root": 2, "chat": 2, "POST": 0, "llm_request": 6}
    )
    assert tree.critical_s.to_dict() == pytest.approx(
        {"root": 2, "chat": 2, "POST": 0, "llm_request": 6}
    )
    assert tree.duration_s["POST"] == pytest.approx(1)


def test_orphans_are_marked_roots() -> None:
    """A span whose parent did not arrive is shown as a root and marked."""
    tree = tree_of(span(1, 0, "a", "root", 0, 1), span(3, 2, "a", "lost", 0, 1))
    assert tree.set_index("name").orphan.to_dict() == {"root": False, "lost": True}


def test_two_traces_or_a_cycle_are_refused() -> None:
    """A tree needs spans of one trace without cycles."""
    with pytest.raises(FrameError, match="one trace"):
        tree_of(span(1, 0, "a", "x", 0, 1), span(2, 0, "a", "y", 0, 1, trace=2))
    with pytest.raises(FrameError, match="not a tree"):
        tree_of(
            span(1, 0, "a", "root", 0, 1), span(2, 3, "a", "x", 0, 1), span(3, 2, "a", "y", 0, 1)
        )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1), st.floats(0, 1)), max_size=10))
def test_the_critical_path_is_as_long_as_the_root(parts: list[tuple[int, float, float]]) -> None:
    """With children inside their parents, critical times add up to the root's duration."""
    limits = [(0, 1000)]
    spans = [span(1, 0, "a", "root", 0, 1)]
    for i, (parent, a, b) in enumerate(parts):
        parent %= len(limits)
        low, high = limits[parent]
        start, end = sorted(round(low + x * (high - low)) for x in (a, b))
        limits.append((start, end))
        spans.append(span(i + 2, parent + 1, "a", f"s{i}", start / 1000, end / 1000))
    tree = tree_of(*spans)
    assert tree.critical_s.sum() == pytest.approx(1.0)
    assert (tree.self_s >= 0).all() and (tree.self_s <= tree.duration_s + 1e-9).all()
