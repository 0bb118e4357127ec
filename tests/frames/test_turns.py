"""One row a model call: whose, what it read, its tokens, and when the engine worked on it."""

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


def turns(*documents: bytes, of: pd.DataFrame) -> pd.DataFrame:
    spans = spans_frame(Answer(documents))
    return turn_frame(request_frame(of, spans), spans)


def test_the_calls_of_an_agent_request_in_order() -> None:
    """The first reads the question, the second the tool's result; cached tokens are those of
    Llama Stack's spans."""
    found = turns(document(*agent_request(1)), of=records(1))
    assert found.turn.tolist() == [1, 2] and found.reads.tolist() == [QUESTION, "gpu_price"]
    assert found.prompt_tokens.tolist() == [100, 200] and found.cached_tokens.tolist() == [16, 64]
    assert found.completion_tokens.tolist() == [12, 8] and set(found.request_id) == {"r1"}
    assert set(found.model) == {"lab-model"}


def test_when_the_engine_worked_on_it() -> None:
    """Arrival at 0.120 s, queue 20 ms, prefill 80 ms, decode 120 ms."""
    found = turns(document(*agent_request(1)), of=records(1)).iloc[0]
    times = (found.scheduled_at - T0, found.first_token_at - T0, found.ended_at - T0)
    assert times == pytest.approx((0.140, 0.220, 0.340), abs=1e-6)


def test_calls_of_others_are_seen() -> None:
    """A trace that is none of the run's: its tokens count, as somebody else's."""
    found = turns(
        document(*agent_request(1)), document(*agent_request(2, shift_s=5.0)), of=records(1)
    )
    assert found.tenant.tolist()[2:] == [OTHERS, OTHERS] and found.model.tolist()[2:] == [
        OTHERS,
        OTHERS,
    ]
    assert found.prompt_tokens.sum() == 600


def test_tokens_over_tools_are_all_tokens() -> None:
    """Tools that ran beside each other are read together; a call without a tool before it reads
    on."""
    stack, vllm = Service.LLAMA_STACK, Service.VLLM

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
    found = turns(trace, of=records(1))
    assert found.reads.tolist() == [QUESTION, "b + a", "(again)", "file_search"]
    assert found.groupby("reads").prompt_tokens.sum().sum() == found.prompt_tokens.sum() == 1400
    assert set(found.model) == {"other-model"}


def test_a_direct_call_has_the_clients_cached_tokens() -> None:
    """Without Llama Stack nobody else has heard of them; -1 is nothing."""
    trace = document(
        span(1, 0, Service.CLIENT, Span.CLIENT, 0, 1, CLIENT),
        span(2, 1, Service.VLLM, Span.VLLM, 0.1, 0.9, SERVER, **{Attr.VLLM_PROMPT_TOKENS: 64}),
    )
    assert turns(trace, of=records(1, api="chat", cached_tokens=32)).cached_tokens.tolist() == [32]
    assert turns(trace, of=records(1, api="chat", cached_tokens=-1)).cached_tokens.tolist() == [0]


def test_no_model_call_is_said() -> None:
    """A bill of nothing would look like a cheap run."""
    with pytest.raises(FrameError, match="no model call"):
        turns(document(*agent_request(1)[:2]), of=records(1))
