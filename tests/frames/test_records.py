"""Records rebuilt from spans have what spans show, and NA for the rest."""

from __future__ import annotations

import pandas as pd
import pytest

from lab.frames import request_frame, spans_frame, trace_problems
from lab.frames.requests import records_from_spans, with_roots
from lab.schema import CLIENT_RECORD, PHASES, Attr, Service, Span
from tests.frames.telemetry import CLIENT, SERVER, T0, Answer, agent_request, document, span

HTTP = {"http.response.status_code": 200}


def frame(*spans) -> pd.DataFrame:
    return spans_frame(Answer((document(*spans),)))


def call(trace: int, start_s: float, *, parent: int = 0, error: str = "", **more):
    """Return a direct model call of 0.4 s with 90 prompt tokens and 7 generated tokens."""
    engine = {
        Attr.VLLM_QUEUE_S: 0.05,
        Attr.VLLM_PREFILL_S: 0.1,
        Attr.VLLM_DECODE_S: 0.2,
        Attr.VLLM_PROMPT_TOKENS: 90,
        Attr.VLLM_COMPLETION_TOKENS: 7,
    }
    return span(
        trace * 100 + 50,
        parent,
        Service.VLLM,
        Span.VLLM,
        start_s,
        start_s + 0.4,
        SERVER,
        trace=trace,
        error=error,
        **engine,
        **more,
    )


def without_client(trace: int = 1) -> list:
    """Return the agent request without the spans of its caller, which sends them elsewhere."""
    return [s for s in agent_request(trace) if s[0] != Service.CLIENT]


def phase_sum(row: pd.Series) -> float:
    return row[list(PHASES)].fillna(0).sum() - row.overlap_s + row.unexplained_s


def test_the_columns_are_those_of_client_records() -> None:
    """Names and types are the same, so every function that takes client records takes these."""
    dtypes = {c.name: "string" if c.dtype == "json" else c.dtype for c in CLIENT_RECORD}
    assert {
        name: str(dtype)
        for name, dtype in records_from_spans(frame(*agent_request())).dtypes.items()
    } == dtypes


def test_the_outermost_span_replaces_the_client() -> None:
    """The caller's span gives start and duration, and its time outside the server is network."""
    spans = frame(*agent_request())
    record = records_from_spans(spans).iloc[0]
    assert (record.scheduled_at, record.e2e_s, record.lag_s) == pytest.approx((T0, 1.0, 0.0))
    assert (record.api, record.status, record.http_status) == ("responses", "ok", -1)
    row = request_frame(records_from_spans(spans), spans).iloc[0]
    assert phase_sum(row) == pytest.approx(1.0) and row.network_s == pytest.approx(0.05)
    assert row.unexplained_s == pytest.approx(0, abs=1e-9) and row.trace_complete


def test_without_a_callers_span_the_servers_span_is_the_request() -> None:
    """No network time is seen, the phases still add up, and the trace counts as complete."""
    spans = with_roots(frame(*without_client()))
    row = request_frame(records_from_spans(spans), spans).iloc[0]
    assert (row.e2e_s, row.network_s, row.lag_s) == pytest.approx((0.95, 0.0, 0.0))
    assert phase_sum(row) == pytest.approx(0.95)
    assert row.unexplained_s == pytest.approx(0, abs=1e-9)
    assert row.trace_complete, row.trace_problem


def test_what_no_span_shows_is_unknown() -> None:
    """First token, chunks, texts and the user are NA, and whole numbers are -1."""
    record = records_from_spans(frame(call(1, 0.0))).iloc[0]
    unknown = [
        "ttft_s",
        "first_token_at",
        "chunk_offsets_s",
        "prompt",
        "answer",
        "tool_calls",
        "tenant",
        "scenario_id",
    ]
    assert record[unknown].isna().all()
    assert (record.turn_index, record.http_status, record.cached_tokens) == (-1, -1, -1)


def test_the_user_is_taken_from_any_span() -> None:
    """Attributes of any span of the trace name the user."""
    spans = frame(
        call(
            1,
            0.0,
            **{Attr.USER: "u7", Attr.TENANT: "acme", Attr.SESSION: "s1", Attr.REQUEST_MODEL: "m"},
        )
    )
    record = records_from_spans(spans).iloc[0]
    assert (record.user_id, record.tenant, record.session_id, record.model) == (
        "u7",
        "acme",
        "s1",
        "m",
    )


def test_tokens_are_the_callers_if_every_call_has_them() -> None:
    """The caller's tokens keep vLLM's as a second source; vLLM's are used if any is missing."""
    tokens = {Attr.INPUT_TOKENS: 90, Attr.OUTPUT_TOKENS: 7, Attr.CACHE_READ_TOKENS: 16}
    chat = span(2, 0, Service.LLAMA_STACK, "chat m", 0.0, 0.5, CLIENT, **tokens)
    full = records_from_spans(frame(chat, call(1, 0.05, parent=2))).iloc[0]
    assert (full.prompt_tokens, full.completion_tokens, full.cached_tokens) == (90, 7, 16)
    partial = records_from_spans(frame(*agent_request())).iloc[0]
    assert (partial.prompt_tokens, partial.completion_tokens, partial.cached_tokens) == (
        300,
        20,
        -1,
    )


@pytest.mark.parametrize(
    ("attributes", "error", "expected"),
    [
        (HTTP, "", ("ok", 200, "")),
        ({"http.response.status_code": 503}, "", ("error", 503, "http_503")),
        ({}, "broken", ("error", -1, "error")),
        ({Attr.ERROR_TYPE: "timeout"}, "too long", ("timeout", -1, "timeout")),
    ],
)
def test_the_outcome_of_a_request(attributes: dict, error: str, expected: tuple) -> None:
    """The span's status, its HTTP status and its error.type give the outcome."""
    record = records_from_spans(frame(call(1, 0.0, error=error, **attributes))).iloc[0]
    assert (record.status, record.http_status, record.error_type) == expected


def test_an_error_of_llama_stack_is_an_error_of_the_request() -> None:
    """The request failed although the caller's span does not show it."""
    outer = span(1, 0, "their-app", "POST /ask", 0.0, 1.0, SERVER)
    inner = span(
        2,
        1,
        Service.LLAMA_STACK,
        Span.LLAMA_STACK_RESPONSES,
        0.1,
        0.9,
        SERVER,
        **{"http.response.status_code": 500},
    )
    record = records_from_spans(frame(outer, inner)).iloc[0]
    assert (record.status, record.http_status, record.error_type) == ("error", 500, "http_500")


def test_traces_without_a_request_are_left_out() -> None:
    """The start of vLLM and calls to the embedding server are not rows."""
    other = span(1, 0, Service.VLLM, "Load model", 0.0, 9.0, trace=3)
    embed = span(2, 0, Service.VLLM_EMBED, Span.VLLM, 0.0, 0.1, SERVER, trace=4)
    assert records_from_spans(frame(other, embed, call(1, 5.0), call(2, 1.0)))[
        "trace_id"
    ].tolist() == [
        f"{2:032x}",
        f"{1:032x}",
    ]


def test_an_incomplete_trace_does_not_get_a_root() -> None:
    """An inner span with a missing parent is not a server's span: the trace stays incomplete."""
    inner = [s for s in without_client() if s[1]["name"] != Span.LLAMA_STACK_RESPONSES]
    spans = frame(*inner)
    assert with_roots(spans)["parent_id"].tolist() == spans["parent_id"].tolist()
    assert trace_problems(with_roots(spans)).iloc[0] != ""
