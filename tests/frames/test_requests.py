"""In a request frame the phases add up, and incomplete traces are marked."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.frames import request_frame, spans_frame, trace_problems
from lab.schema import PHASES, REQUEST_FRAME, Service, Span
from tests.frames.telemetry import (
    CLIENT,
    INTERNAL,
    SERVER,
    Answer,
    agent_request,
    document,
    records,
    span,
)

KNOWN = {
    "lag_s": 0.010,
    "network_s": 0.040,
    "stack_s": 0.120,
    "tool_list_s": 0.030,
    "tool_s": 0.200,
    "model_http_s": 0.100,
    "queue_s": 0.050,
    "prefill_s": 0.150,
    "decode_s": 0.250,
    "engine_other_s": 0.050,
    "overlap_s": 0.0,
    "unexplained_s": 0.0,
    "turns": 2,
    "tool_runs": 1,
    "tool_failures": 0,
    "span_prompt_tokens": 300,
    "span_completion_tokens": 20,
    "span_cached_tokens": 80,
    "spans": 11,
}


def frame_of(*spans, **changes) -> pd.Series:
    """Return the only row of a request frame for these spans of trace 1."""
    return request_frame(records(1, **changes), spans_frame(Answer((document(*spans),)))).iloc[0]


def total(frame: pd.DataFrame) -> pd.Series:
    """Return the sum of the phases by the formula in lab.schema."""
    return (
        frame[list(PHASES)].fillna(0).sum(axis=1)
        - frame["overlap_s"].fillna(0)
        + frame["unexplained_s"]
    )


def test_an_agent_request_is_divided_into_its_phases() -> None:
    """Every phase of the constructed request has the duration that it was given."""
    row = frame_of(*agent_request())
    assert {name: row[name] for name in KNOWN} == pytest.approx(KNOWN, abs=1e-6)
    assert row.trace_complete and row.trace_problem == ""


def test_the_frame_has_the_columns_of_the_schema_in_the_order_of_the_records() -> None:
    """Rows follow the records and columns follow lab.schema, whatever the order of the spans."""
    spans = agent_request(7) + agent_request(3)
    random.Random(1).shuffle(spans)
    frame = request_frame(records(3, 9, 7), spans_frame(Answer((document(*spans),))))
    assert list(frame.columns) == [c.name for c in REQUEST_FRAME]
    assert frame.request_id.tolist() == ["r3", "r9", "r7"]
    assert frame.trace_complete.tolist() == [True, False, True]
    assert frame.turns.tolist() == [2, 0, 2]


def test_a_request_without_a_trace_is_unexplained_except_for_the_lag() -> None:
    """Phases are NA where no span arrived."""
    frame = request_frame(records(1, 2), spans_frame(Answer((document(*agent_request(2)),))))
    row = frame.iloc[0]
    assert (
        row.unexplained_s == pytest.approx(0.99)
        and np.isnan(row.queue_s)
        and np.isnan(row.network_s)
    )
    assert row.trace_problem == "no span of it has arrived" and not row.trace_complete
    assert total(frame).tolist() == pytest.approx([1.0, 1.0])


def test_no_spans_at_all_still_gives_a_frame() -> None:
    """A store that lost every span is reported request by request."""
    frame = request_frame(records(1, 2), spans_frame(Answer(())))
    assert not frame.trace_complete.any() and (frame.spans == 0).all()


@pytest.mark.parametrize(
    ("lost", "problem", "hidden_s"),
    [
        (Span.VLLM, "1 of its model calls lack vLLM's span", 0.300),
        (Span.CLIENT, "it has no root span", 0.0),
        (Span.LLAMA_STACK_RESPONSES, "spans name a parent that is not there", 0.240),
    ],
)
def test_a_lost_span_is_named_and_its_time_is_unexplained(
    lost: str, problem: str, hidden_s: float
) -> None:
    """The time of a lost span is in unexplained_s, and the row names what is missing."""
    spans = agent_request()
    missing = next(s for s in spans if s[1]["name"] == lost)
    row = frame_of(*(s for s in spans if s is not missing))
    assert problem in row.trace_problem
    assert row.unexplained_s == pytest.approx(hidden_s, abs=0.08)
    assert total(row.to_frame().T).iloc[0] == pytest.approx(1.0)


def test_concurrent_calls_are_counted_once() -> None:
    """Two concurrent tool calls add to tool_s, their overlap to overlap_s, and e2e_s is kept."""
    spans = [
        *agent_request(),
        span(150, 102, Service.LLAMA_STACK, "invoke_mcp_tool", 0.420, 0.600, INTERNAL),
    ]
    row = frame_of(*spans)
    assert (
        row.tool_runs == 2
        and row.tool_s == pytest.approx(0.380)
        and row.overlap_s == pytest.approx(0.180)
    )
    assert row.stack_s == pytest.approx(0.120) and row.unexplained_s == pytest.approx(0, abs=1e-9)


def test_a_search_inside_a_tool_call_is_one_tool_call() -> None:
    """Nested spans of the same call are one call."""
    row = frame_of(
        *agent_request(), span(151, 107, Service.LLAMA_STACK, "file_search", 0.430, 0.600, INTERNAL)
    )
    assert (
        row.tool_runs == 1
        and row.tool_s == pytest.approx(0.200)
        and row.overlap_s == pytest.approx(0)
    )


def test_an_embedding_call_is_part_of_its_search() -> None:
    """The llm_request of the embedding model is not a turn."""
    row = frame_of(
        *agent_request(), span(152, 107, Service.VLLM_EMBED, Span.VLLM, 0.430, 0.460, SERVER)
    )
    assert row.turns == 2 and row.engine_other_s == pytest.approx(0.050)


def test_a_child_that_outlasts_its_parent_shows_as_unexplained() -> None:
    """No phase becomes negative, and the contradiction is visible."""
    spans = [s for s in agent_request() if s[1]["name"] != Span.LLAMA_STACK_RESPONSES]
    row = frame_of(
        *spans, span(102, 101, Service.LLAMA_STACK, Span.LLAMA_STACK_RESPONSES, -0.1, 1.1, SERVER)
    )
    assert row.network_s == 0 and row.unexplained_s == pytest.approx(-0.21)


def test_plain_chat_has_no_stack() -> None:
    """For a request straight to vLLM, the time outside vLLM's span is network."""
    spans = [
        span(1, 0, Service.CLIENT, Span.CLIENT, 0, 1, CLIENT),
        span(2, 1, Service.VLLM, Span.VLLM, 0.1, 0.9, SERVER),
    ]
    row = frame_of(*spans, api="chat")
    assert (
        row.network_s == pytest.approx(0.19)
        and row.stack_s == 0
        and row.engine_other_s == pytest.approx(0.8)
    )
    assert row.trace_complete


def test_a_failed_model_call_needs_no_span_from_vllm() -> None:
    """When vLLM was down, the trace is complete without its span."""
    spans = [
        span(1, 0, Service.CLIENT, Span.CLIENT, 0, 1, CLIENT, error="http_500"),
        span(2, 1, Service.LLAMA_STACK, Span.LLAMA_STACK_RESPONSES, 0.1, 0.9, SERVER),
        span(
            3,
            2,
            Service.LLAMA_STACK,
            "chat lab-model",
            0.2,
            0.8,
            CLIENT,
            error="connection refused",
        ),
    ]
    row = frame_of(*spans, status="error")
    assert row.trace_complete and row.unexplained_s == pytest.approx(0.6) and row.turns == 0


def test_a_failed_tool_run_is_counted() -> None:
    """The tool server sets the error status that Llama Stack leaves unset."""
    spans = [s for s in agent_request() if not s[1]["name"].startswith("execute_tool")]
    failed = span(
        108, 107, Service.TOOLS, "execute_tool gpu_price", 0.45, 0.6, INTERNAL, error="timeout"
    )
    assert frame_of(*spans, failed).tool_failures == 1


def test_a_duplicate_span_counts_once() -> None:
    """Exporters repeat batches that were not acknowledged."""
    row = frame_of(*agent_request(), agent_request()[5])
    assert row.turns == 2 and row.spans == 11


def test_judgements_join_by_request() -> None:
    """Ground truth is joined by request_id, and two verdicts for one request are refused."""
    spans = spans_frame(Answer((document(*agent_request()),)))
    verdicts = pd.DataFrame({"request_id": ["r1"], "right_tool": [True]})
    assert request_frame(records(1), spans, verdicts).right_tool.tolist() == [True]
    with pytest.raises(FrameError, match="one row per request_id"):
        request_frame(records(1), spans, pd.concat([verdicts, verdicts]))


def test_another_table_is_refused() -> None:
    """The error names the missing column."""
    spans = spans_frame(Answer((document(*agent_request()),)))
    with pytest.raises(FrameError, match="scenario_id"):
        request_frame(records(1).drop(columns="scenario_id"), spans)
    with pytest.raises(FrameError, match="duration_s"):
        trace_problems(spans.drop(columns="duration_s"))


_SPAN = st.tuples(
    st.sampled_from(
        [
            "chat m",
            Span.VLLM,
            "invoke_mcp_tool",
            Span.LIST_TOOLS,
            "POST",
            Span.LLAMA_STACK_RESPONSES,
        ]
    ),
    st.integers(0, 20),
    st.integers(0, 1000),
    st.integers(0, 1000),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(_SPAN, max_size=12),
    st.sampled_from(["responses", "chat"]),
    st.sampled_from(["ok", "error"]),
)
def test_the_phases_always_add_up_and_are_never_negative(
    parts: list, api: str, status: str
) -> None:
    """For any spans, e2e_s is the sum of the phases, minus the overlap, plus unexplained_s."""
    spans = [
        span(i + 1, parent, Service.LLAMA_STACK, name, min(a, b) / 1000, max(a, b) / 1000)
        for i, (name, parent, a, b) in enumerate(parts)
    ]
    frame = request_frame(
        records(1, api=api, status=status), spans_frame(Answer((document(*spans),)))
    )
    assert total(frame).iloc[0] == pytest.approx(1.0)
    assert (frame[[*PHASES, "overlap_s"]].fillna(0) >= 0).all(axis=None)
