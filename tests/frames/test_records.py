"""Requests of which only spans tell: what can be known is known, and the rest is not made up."""

from __future__ import annotations

import pandas as pd
import pytest

from lab.frames import request_frame, spans_frame, trace_problems
from lab.frames.records import records_from_spans, with_roots
from lab.schema import CLIENT_RECORD, PHASES, Attr, Service, Span
from tests.frames.telemetry import CLIENT, SERVER, T0, Answer, agent_request, document, span

HTTP = {"http.response.status_code": 200}


def frame(*spans) -> pd.DataFrame:
    return spans_frame(Answer((document(*spans),)))


def call(trace: int, at: float, *, parent: int = 0, error: str = "", **more):
    """A model call straight to vLLM, 0.4 s long: 90 prompt and 7 generated tokens."""
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
        at,
        at + 0.4,
        SERVER,
        trace=trace,
        error=error,
        **engine,
        **more,
    )


def without_client(trace: int = 1) -> list:
    """The agent request whose caller sends its spans elsewhere."""
    return [one for one in agent_request(trace) if one[0] != Service.CLIENT]


def adds_up(row: pd.Series) -> float:
    return row[list(PHASES)].fillna(0).sum() - row.overlap_s + row.unexplained_s


def test_the_columns_are_the_clients() -> None:
    """Same names, same types, so that everything that takes a record takes these."""
    dtypes = {c.name: "string" if c.dtype == "json" else c.dtype for c in CLIENT_RECORD}
    assert {
        name: str(dtype)
        for name, dtype in records_from_spans(frame(*agent_request())).dtypes.items()
    } == dtypes


def test_the_outermost_span_stands_for_the_client() -> None:
    """With the caller's span: its start, its duration; what it did outside of the server is
    network."""
    spans = frame(*agent_request())
    record = records_from_spans(spans).iloc[0]
    assert (record.scheduled_at, record.e2e_s, record.lag_s) == pytest.approx((T0, 1.0, 0.0))
    assert (record.api, record.status, record.http_status) == ("responses", "ok", -1)
    row = request_frame(records_from_spans(spans), spans).iloc[0]
    assert adds_up(row) == pytest.approx(1.0) and row.network_s == pytest.approx(0.05)
    assert row.unexplained_s == pytest.approx(0, abs=1e-9) and row.trace_complete


def test_without_a_callers_span_the_servers_own_is_the_whole() -> None:
    """No network is seen then, the phases still add up, and the trace counts as whole."""
    spans = with_roots(frame(*without_client()))
    row = request_frame(records_from_spans(spans), spans).iloc[0]
    assert (row.e2e_s, row.network_s, row.lag_s) == pytest.approx((0.95, 0.0, 0.0))
    assert adds_up(row) == pytest.approx(0.95) and row.unexplained_s == pytest.approx(0, abs=1e-9)
    assert row.trace_complete, row.trace_problem


def test_what_no_span_tells_is_not_known() -> None:
    """First token, chunks, words and whose it is: NA; whole numbers: -1."""
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


def test_whoever_names_the_user_is_believed() -> None:
    """Attributes of any span of the trace."""
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


def test_tokens_are_the_callers_where_all_say_them() -> None:
    """So that vLLM's spans remain a second source; where one does not, vLLM's own."""
    told = {Attr.INPUT_TOKENS: 90, Attr.OUTPUT_TOKENS: 7, Attr.CACHE_READ_TOKENS: 16}
    chat = span(2, 0, Service.LLAMA_STACK, "chat m", 0.0, 0.5, CLIENT, **told)
    full = records_from_spans(frame(chat, call(1, 0.05, parent=2))).iloc[0]
    assert (full.prompt_tokens, full.completion_tokens, full.cached_tokens) == (90, 7, 16)
    silent = records_from_spans(frame(*agent_request())).iloc[0]
    assert (silent.prompt_tokens, silent.completion_tokens, silent.cached_tokens) == (300, 20, -1)


@pytest.mark.parametrize(
    ("attributes", "error", "expected"),
    [
        (HTTP, "", ("ok", 200, "")),
        ({"http.response.status_code": 503}, "", ("error", 503, "http_503")),
        ({}, "broken", ("error", -1, "error")),
        ({Attr.ERROR_TYPE: "timeout"}, "too long", ("timeout", -1, "timeout")),
    ],
)
def test_how_it_ended(attributes: dict, error: str, expected: tuple) -> None:
    """By the span's status, its HTTP status and its error.type."""
    record = records_from_spans(frame(call(1, 0.0, error=error, **attributes))).iloc[0]
    assert (record.status, record.http_status, record.error_type) == expected


def test_an_error_of_llama_stack_is_the_requests() -> None:
    """Also where the caller's span says nothing."""
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


def test_traces_of_other_things_are_no_requests() -> None:
    """A start of vLLM, or the embedding server's work: no row."""
    other = span(1, 0, Service.VLLM, "Load model", 0.0, 9.0, trace=3)
    embed = span(2, 0, Service.VLLM_EMBED, Span.VLLM, 0.0, 0.1, SERVER, trace=4)
    assert records_from_spans(frame(other, embed, call(1, 5.0), call(2, 1.0)))[
        "trace_id"
    ].tolist() == [
        f"{2:032x}",
        f"{1:032x}",
    ]


def test_a_hole_is_not_taken_for_a_root() -> None:
    """A span inside whose parent is not there is no server of a caller elsewhere: the trace
    stays incomplete."""
    inside = [one for one in without_client() if one[1]["name"] != Span.LLAMA_STACK_RESPONSES]
    spans = frame(*inside)
    assert with_roots(spans)["parent_id"].tolist() == spans["parent_id"].tolist()
    assert trace_problems(with_roots(spans)).iloc[0] != ""
