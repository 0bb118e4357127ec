"""A turn frame has one row per model call: its request, input, tokens and engine times."""

from __future__ import annotations

import pandas as pd
import pytest

from lab.errors import FrameError
from lab.frames import request_frame, spans_frame, turn_frame
from lab.frames.turns import OTHERS, QUESTION
from lab.schema import Attr, Service, Span
from tests.frames.telemetry import (
    CLIENT,
    SERVER,
    T0,
    Answer,
    agent_request,
    document,
    records,
    span,
)


def turns(*documents: bytes, client_records: pd.DataFrame) -> pd.DataFrame:
    spans = spans_frame(Answer(documents))
    return turn_frame(request_frame(client_records, spans), spans)


def test_the_calls_of_an_agent_request_are_in_order() -> None:
    """The first call reads the question and the second the tool's result."""
    frame = turns(document(*agent_request(1)), client_records=records(1))
    assert frame.turn.tolist() == [1, 2] and frame.reads.tolist() == [QUESTION, "gpu_price"]
    assert frame.prompt_tokens.tolist() == [100, 200] and frame.cached_tokens.tolist() == [16, 64]
    assert frame.completion_tokens.tolist() == [12, 8] and set(frame.request_id) == {"r1"}
    assert set(frame.model) == {"lab-model"}


def test_engine_times_of_a_call() -> None:
    """The call arrived at 0.120 s, with 20 ms of queue, 80 ms of prefill and 120 ms of decode."""
    call = turns(document(*agent_request(1)), client_records=records(1)).iloc[0]
    times = (call.scheduled_at - T0, call.first_token_at - T0, call.ended_at - T0)
    assert times == pytest.approx((0.140, 0.220, 0.340), abs=1e-6)


def test_calls_of_other_clients_are_included() -> None:
    """A trace outside the run counts, as traffic of other clients."""
    frame = turns(
        document(*agent_request(1)),
        document(*agent_request(2, shift_s=5.0)),
        client_records=records(1),
    )
    assert frame.tenant.tolist()[2:] == [OTHERS, OTHERS]
    assert frame.model.tolist()[2:] == [OTHERS, OTHERS]
    assert frame.prompt_tokens.sum() == 600


def test_tokens_by_tool_add_up_to_all_tokens() -> None:
    """Concurrent tools are read together, and a call without a tool before it reads again."""
    stack = Service.LLAMA_STACK
    vllm = Service.VLLM

    def call(n: int, a: float) -> list:
        engine = {Attr.VLLM_PROMPT_TOKENS: 10 * n, Attr.VLLM_COMPLETION_TOKENS: 1}
        return [
            span(
                n,
                2,
                stack,
                "chat lab-model",
                a,
                a + 0.2,
                CLIENT,
                **{Attr.REQUEST_MODEL: "other-model"},
            ),
            span(n + 1, n, vllm, Span.VLLM, a + 0.05, a + 0.15, SERVER, **engine),
        ]

    trace = document(
        span(1, 0, Service.CLIENT, Span.CLIENT, 0, 2, CLIENT),
        span(2, 1, stack, Span.LLAMA_STACK_RESPONSES, 0, 2, SERVER),
        *call(10, 0.1),
        span(20, 2, stack, "invoke_mcp_tool", 0.4, 0.5, **{Attr.LLAMA_STACK_TOOL_NAME: "b"}),
        span(21, 2, stack, "invoke_mcp_tool", 0.4, 0.6, **{Attr.LLAMA_STACK_TOOL_NAME: "a"}),
        span(22, 21, stack, "file_search", 0.45, 0.5),
        *call(30, 0.7),
        *call(40, 1.0),
        span(50, 2, stack, "file_search", 1.3, 1.4),
        *call(60, 1.5),
    )
    frame = turns(trace, client_records=records(1))
    assert frame.reads.tolist() == [QUESTION, "b + a", "(again)", "file_search"]
    assert frame.groupby("reads").prompt_tokens.sum().sum() == frame.prompt_tokens.sum() == 1400
    assert set(frame.model) == {"other-model"}


def test_a_direct_call_has_the_clients_cached_tokens() -> None:
    """Without Llama Stack, the client's record has the cached tokens, and -1 counts as zero."""
    trace = document(
        span(1, 0, Service.CLIENT, Span.CLIENT, 0, 1, CLIENT),
        span(2, 1, Service.VLLM, Span.VLLM, 0.1, 0.9, SERVER, **{Attr.VLLM_PROMPT_TOKENS: 64}),
    )
    cached = turns(trace, client_records=records(1, api="chat", cached_tokens=32))
    assert cached.cached_tokens.tolist() == [32]
    unknown = turns(trace, client_records=records(1, api="chat", cached_tokens=-1))
    assert unknown.cached_tokens.tolist() == [0]


def test_no_model_call_is_an_error() -> None:
    """An empty bill would look like a cheap run."""
    with pytest.raises(FrameError, match="no model call"):
        turns(document(*agent_request(1)[:2]), client_records=records(1))
