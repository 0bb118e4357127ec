"""Traces of every dialect that `lab.dialects` knows become the same tables."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lab import measures
from lab.dialects import DIALECTS, FIELDS
from lab.errors import FrameError
from lab.frames import (
    evaluation_frame,
    join_split_traces,
    records_from_spans,
    request_frame,
    spans_frame,
    tool_frame,
    trace_problems,
    trace_sanity,
    turn_frame,
)
from lab.frames.completeness import shapes_of, usage
from lab.frames.requests import with_roots
from lab.frames.roles import Role
from lab.stores import read_otlp_json
from tests.frames.telemetry import CLIENT, SERVER, Answer, agent_request, document, span

DATA = Path(__file__).resolve().parent.parent / "data" / "field_traces"
SEMCONV_USAGE = {
    "gen_ai.usage.input_tokens": 900,
    "gen_ai.usage.output_tokens": 60,
    "gen_ai.usage.cache_read.input_tokens": 640,
}
OLD_USAGE = {"gen_ai.usage.prompt_tokens": 900, "gen_ai.usage.completion_tokens": 60}
ENGINE = {
    **OLD_USAGE,
    "gen_ai.latency.e2e": 0.58,
    "gen_ai.latency.time_in_queue": 0.01,
    "gen_ai.latency.time_in_model_prefill": 0.19,
    "gen_ai.latency.time_in_model_decode": 0.38,
}
MODEL = {"gen_ai.request.model": "acme/small-8b"}


def read(name: str) -> pd.DataFrame:
    return spans_frame(read_otlp_json((DATA / name).read_bytes()))


def made(*spans: tuple[str, dict[str, Any]]) -> pd.DataFrame:
    return spans_frame(Answer((document(*spans),)))


def requests(spans: pd.DataFrame) -> pd.DataFrame:
    return request_frame(records_from_spans(spans), spans)


def openllmetry() -> pd.DataFrame:
    usage = {**OLD_USAGE, "gen_ai.usage.cache_read_input_tokens": 640, "llm.request.type": "chat"}
    tool = {
        "traceloop.span.kind": "tool",
        "traceloop.entity.name": "get_order",
        "traceloop.entity.input": '{"args": [7]}',
        "traceloop.entity.output": '{"state": "sent"}',
    }
    return made(
        span(1, 0, "app", "desk.workflow", 0.0, 0.9, **{"traceloop.span.kind": "workflow"}),
        span(4, 1, "app", "desk.task", 0.005, 0.605, **{"traceloop.span.kind": "task"}),
        span(2, 4, "app", "openai.chat", 0.01, 0.6, CLIENT, **MODEL, **usage),
        span(3, 1, "app", "get_order.tool", 0.61, 0.88, **tool),
    )


def litellm() -> pd.DataFrame:
    usage = {**MODEL, **SEMCONV_USAGE, "gen_ai.operation.name": "acompletion"}
    return made(
        span(1, 0, "litellm", "Received Proxy Server Request", 0.0, 0.65, SERVER),
        span(2, 1, "litellm", "litellm_request", 0.01, 0.6, **usage),
        span(3, 2, "litellm", "raw_gen_ai_request", 0.02, 0.6, **OLD_USAGE),
        span(4, 2, "litellm", "redis", 0.02, 0.03, **MODEL),
        span(5, 1, "litellm", "postgres", 0.61, 0.62, **MODEL, **SEMCONV_USAGE),
        span(6, 1, "litellm", "self", 0.0, 0.01, **MODEL),
    )


def litellm_without_request_span() -> pd.DataFrame:
    """Since 1.81 the usage is on the proxy's own span."""
    return made(
        span(
            1, 0, "p", "Received Proxy Server Request", 0.0, 0.6, SERVER, **MODEL, **SEMCONV_USAGE
        ),
        span(3, 1, "p", "raw_gen_ai_request", 0.02, 0.6, **{"llm.openai.model": "small"}),
    )


def sglang() -> pd.DataFrame:
    usage = {**OLD_USAGE, "gen_ai.usage.cached_tokens": 640, "gen_ai.latency.e2e": 0.58}
    usage |= {"gen_ai.response.model": "acme/small-8b"}
    about = {"module": "sglang::request", "rid": "6b9cc6f8"}
    return made(
        span(1, 0, "sglang", " Req 6b9cc6f8", 0.0, 0.6, **about, **usage),
        span(2, 1, "sglang", "Tokenizer (host:1 | pid:7)", 0.0, 0.6, thread_label="Tokenizer"),
        span(3, 1, "sglang", "Scheduler [TP 0] (host:1 | pid:8)", 0.0, 0.6, tp_rank=0),
        span(4, 3, "sglang", "prefill_forward", 0.01, 0.2),
        span(5, 3, "sglang", "decode_loop", 0.2, 0.6),
    )


TURNS = {
    "openinference": (lambda: read("t25_openinference.json"), 1),
    "semconv": (lambda: read("t25_semconv010.json"), 1),
    "ogx": (lambda: read("t25_ogx.json"), 1),
    "openllmetry": (openllmetry, 1),
    "litellm": (litellm, 0),
    "litellm 1.81": (litellm_without_request_span, 0),
    "sglang": (sglang, 0),
}


@pytest.mark.parametrize("dialect", TURNS)
def test_one_turn_is_the_same_in_every_dialect(dialect: str) -> None:
    """One model call with its tokens, however many spans repeat it, and its tool call."""
    make, tools = TURNS[dialect]
    spans = make()
    row = requests(spans).iloc[0]
    assert (row["turns"], row["tool_runs"], row["tool_failures"]) == (1, tools, 0)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (900, 60)
    assert (row["span_prompt_tokens"], row["span_completion_tokens"]) == (900, 60)
    assert row["trace_complete"], row["trace_problem"]

    turn = turn_frame(requests(spans), spans)
    assert turn[["prompt_tokens", "completion_tokens"]].to_numpy().tolist() == [[900, 60]]
    assert turn["model"].item().endswith("acme/small-8b")
    # OGX's span has no tokens of the cache: unknown in the record.
    cached = -1 if dialect == "ogx" else 640
    assert row["cached_tokens"] == cached


def test_identity_and_tool_of_openinference() -> None:
    """Who sent it, and what the tool got and gave."""
    spans = read("t25_openinference.json")
    record = records_from_spans(spans).iloc[0]
    assert (record["user_id"], record["session_id"]) == ("u-1", "s-1")
    tool = tool_frame(spans).iloc[0]
    assert (tool["tool"], tool["arguments"], tool["result"]) == (
        "get_order",
        '{"id": 7}',
        '{"state": "sent"}',
    )
    assert not tool["failed"]


def test_usage_that_is_written_as_text() -> None:
    """Some exporters write every attribute as text; reasoning tokens that are not said are NA."""
    usage = {"llm.token_count.prompt": "900", "llm.token_count.completion": "60"}
    usage |= {
        "llm.token_count.completion_details.reasoning": "25",
        "openinference.span.kind": "LLM",
    }
    spans = made(span(1, 0, "app", "ChatOpenAI", 0.0, 0.6, **usage))
    turn = turn_frame(requests(spans), spans).iloc[0]
    assert (turn["prompt_tokens"], turn["reasoning_tokens"]) == (900, 25)
    silent = litellm()
    assert turn_frame(requests(silent), silent)["reasoning_tokens"].isna().all()


@pytest.mark.parametrize("kind", ["AGENT", "LLM"])
def test_sums_on_wrappers_are_not_added(kind: str) -> None:
    """Two calls of 900 and 1000 tokens; two wrappers repeat their sum (even as a model call)."""

    def llm(number: int, parent: int, start: float, prompt: int, what: str = "LLM"):
        usage = {"llm.token_count.prompt": prompt, "llm.token_count.completion": 10}
        named = {"openinference.span.kind": what, "llm.model_name": "m", **usage}
        return span(number, parent, "app", f"step {number}", start, start + 0.4, **named)

    outer = {"openinference.span.kind": kind, "llm.token_count.prompt": 1900}
    spans = made(
        span(1, 0, "app", "run", 0.0, 1.0, **outer),
        span(2, 1, "app", "crew", 0.0, 1.0, **outer),
        llm(3, 2, 0.0, 900),
        llm(4, 2, 0.5, 1000),
    )
    row = requests(spans).iloc[0]
    assert (row["turns"], row["prompt_tokens"], row["span_prompt_tokens"]) == (2, 1900, 1900)


def test_an_agent_that_alone_reports_tokens_is_counted() -> None:
    """Where a library has no span of the model call, its agent's span stands for it."""
    usage = {"gen_ai.operation.name": "invoke_agent", **SEMCONV_USAGE}
    spans = made(span(1, 0, "app", "invoke_agent desk", 0.0, 0.9, **usage))
    assert requests(spans)["span_prompt_tokens"].tolist() == [900]


def test_brothers_are_one_call() -> None:
    """A proxy that hands on its caller's context: its span and the engine's have one parent."""
    chat = {"gen_ai.operation.name": "chat", **MODEL}
    for parent in (0, 1):
        spans = made(
            span(1, 0, "app", "chat acme/small-8b", 0.0, 0.7, CLIENT, **(chat if parent else {})),
            span(2, 1, "litellm", "litellm_request", 0.01, 0.6, **MODEL, **SEMCONV_USAGE),
            span(3, 1, "vllm", "llm_request", 0.02, 0.59, SERVER, **ENGINE),
        )
        row = requests(spans).iloc[0]
        assert (row["turns"], row["prompt_tokens"], row["span_prompt_tokens"]) == (1, 900, 900)
        assert row["queue_s"] == pytest.approx(0.01)


def test_brothers_whose_parent_is_elsewhere_are_one_call() -> None:
    """The caller exports its spans to another store."""
    spans = made(
        span(2, 77, "litellm", "litellm_request", 0.01, 0.6, **MODEL, **SEMCONV_USAGE),
        span(3, 77, "vllm", "llm_request", 0.02, 0.59, SERVER, **ENGINE),
    )
    assert requests(with_roots(spans))["turns"].tolist() == [1]


def test_parallel_calls_are_not_brothers() -> None:
    """Two calls at once by one service are two, also if one lies within the other."""
    chat = {"gen_ai.operation.name": "chat", **SEMCONV_USAGE}
    spans = made(
        span(1, 0, "app", "invoke_agent a", 0.0, 0.9, **{"gen_ai.operation.name": "invoke_agent"}),
        span(2, 1, "app", "chat m", 0.0, 0.8, CLIENT, **chat),
        span(3, 1, "app", "chat m", 0.1, 0.5, CLIENT, **chat),
    )
    row = requests(spans).iloc[0]
    assert (row["turns"], row["prompt_tokens"]) == (2, 1800)


def test_strangers_are_excluded_and_counted() -> None:
    """Spans that began long after their parent's end; one has its parent's own id."""
    spans = read("t26_contaminated.json")
    row = requests(spans).iloc[0]
    assert (row["turns"], row["prompt_tokens"], row["span_prompt_tokens"]) == (1, 900, 900)
    assert not row["trace_complete"] and "2 of its spans belong to other" in row["trace_problem"]
    sanity = trace_sanity(spans)
    assert sanity.faults["strangers"].tolist() == [2]
    assert list(sanity.excluded) == [row["trace_id"]]
    assert "1 traces checked, 1 excluded" in str(sanity)

    # Whichever of two spans with one id comes first, the one that is its own parent is dropped.
    trace = json.loads((DATA / "t26_contaminated.json").read_bytes())
    owners = trace.get("resourceSpans") or trace["trace"]["resourceSpans"]
    backwards = {"resourceSpans": owners[::-1]}
    again = spans_frame(read_otlp_json(json.dumps(backwards)))
    assert requests(again)["span_prompt_tokens"].tolist() == [900]


def split() -> pd.DataFrame:
    chat = {"gen_ai.operation.name": "chat", **MODEL, **SEMCONV_USAGE}
    return spans_frame(
        Answer(
            (
                document(span(1, 0, "app", "chat acme/small-8b", 0.0, 0.7, CLIENT, **chat)),
                document(span(2, 0, "vllm", "llm_request", 0.02, 0.6, SERVER, trace=2, **ENGINE)),
            )
        )
    )


def test_split_traces_are_joined_as_a_guess() -> None:
    """Two traces of one request count once, and the guess is reported."""
    spans = join_split_traces(split())
    frame = requests(spans)
    assert frame["turns"].tolist() == [1] and frame["span_prompt_tokens"].tolist() == [900]
    assert frame["queue_s"].tolist() == [0.01]
    assert not frame["trace_complete"].item() and "guess" in frame["trace_problem"].item()
    assert "1 joined from split traces, by tokens and time: a guess" in str(trace_sanity(spans))


def test_other_engines_are_not_joined() -> None:
    """Other tokens, another time, or two that fit."""
    chat = {"gen_ai.operation.name": "chat", **SEMCONV_USAGE}
    call = span(1, 0, "app", "chat m", 0.0, 0.7, CLIENT, **chat)
    fewer = {**ENGINE, "gen_ai.usage.prompt_tokens": 7}
    others = {
        "tokens": [span(2, 0, "vllm", "llm_request", 0.1, 0.6, SERVER, trace=2, **fewer)],
        "time": [span(2, 0, "vllm", "llm_request", 5.0, 5.5, SERVER, trace=2, **ENGINE)],
        "two": [
            span(n, 0, "vllm", "llm_request", 0.1, 0.6, SERVER, trace=n, **ENGINE) for n in (2, 3)
        ],
    }
    for engines in others.values():
        spans = spans_frame(Answer((document(call), *(document(one) for one in engines))))
        assert join_split_traces(spans)["trace_id"].nunique() == 1 + len(engines)


def test_skewed_clocks_are_reported_and_harm_nothing() -> None:
    """The child begins 250 ms before its parent: no phase is negative or cut."""
    moved = [
        span(1, 0, "node-a", "POST /v1/responses", 0.0, 0.9, SERVER),
        span(2, 1, "node-a", "chat m", 0.01, 0.6, CLIENT, **SEMCONV_USAGE),
        span(3, 2, "node-b", "llm_request", -0.24, 0.34, SERVER, **ENGINE),
    ]
    spans = made(*moved)
    sanity = trace_sanity(spans)
    assert sanity.skew["where"].tolist() == ["node-b"] and not sanity.excluded
    assert sanity.skew["behind_s"].item() == pytest.approx(0.25)
    row = requests(spans).iloc[0]
    assert row["network_s"] == 0 and row["model_http_s"] == pytest.approx(0.01)
    assert row["unexplained_s"] == pytest.approx(0.0, abs=1e-6) and row["trace_complete"]


def test_the_skewed_clock_is_named_by_its_machine() -> None:
    """Where resources name machines, not the service."""
    chat = span(2, 0, "app", "chat m", 0.01, 0.6, CLIENT, **SEMCONV_USAGE)
    engine = span(3, 2, "vllm", "llm_request", -0.24, 0.34, SERVER, **ENGINE)
    body = json.loads(document(chat, engine))
    for owner, host in zip(body["resourceSpans"], ("node-a", "node-b"), strict=True):
        pair = {"key": "host.name", "value": {"stringValue": host}}
        owner["resource"]["attributes"].append(pair)
    spans = spans_frame(Answer((json.dumps(body).encode(),)))
    assert trace_sanity(spans).skew["where"].tolist() == ["node-b"]


def chat_with(
    number: int, parent: int, trace: int, response: str, start_s: float, service: str = "app"
) -> tuple:
    usage = {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 7}
    of_call = {"gen_ai.operation.name": "chat", "gen_ai.response.id": response, **usage}
    end_s = start_s + 0.3
    return span(number, parent, service, "chat m", start_s, end_s, CLIENT, trace=trace, **of_call)


def repeated_calls(cached_at_s: float) -> pd.DataFrame:
    """Return an agent's trace, what a library without its context wrote of it, and another call."""
    agent = {"gen_ai.operation.name": "invoke_agent"}
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t"}
    e2e = {"gen_ai.latency.e2e": 0.2, "gen_ai.usage.prompt_tokens": 100}
    return made(
        span(1, 0, "app", "invoke_agent a", 0.0, 1.0, **agent),
        chat_with(2, 1, 1, "r1", 0.1),
        span(3, 1, "app", "execute_tool t", 0.45, 0.5, **tool),
        chat_with(4, 1, 1, "r2", 0.6),
        span(5, 0, "app", "workflow", 0.1, 0.4, trace=2, **{"traceloop.span.kind": "workflow"}),
        chat_with(6, 5, 2, "r1", 0.1),
        span(7, 6, "vllm", "llm_request", 0.15, 0.35, SERVER, trace=2, **e2e),
        chat_with(8, 0, 3, "r2", 0.6),
        span(11, 8, "vllm", "llm_request", 0.65, 0.85, SERVER, trace=3, **e2e),
        chat_with(9, 0, 4, "r3", cached_at_s, "web"),
        chat_with(10, 0, 5, "r3", 0.2, "web"),
    )


def test_calls_that_two_libraries_write_in_two_traces_are_counted_once() -> None:
    """Their response ids show it; what is below one of them is below the other now."""
    spans = join_split_traces(repeated_calls(cached_at_s=0.2))
    shapes = shapes_of(spans)
    assert shapes.turn.sum() == 3 and spans["trace_id"].nunique() == 2
    assert (shapes.role == Role.ENGINE).sum() == shapes.answered.sum() == 2
    assert len(records_from_spans(spans)) == 2
    sanity = trace_sanity(spans)
    assert sanity.faults["repeated"].tolist() == [2, 1] and not sanity.excluded
    assert "2 whose calls another trace repeats, by response id (counted once)" in str(sanity)


def test_an_old_answer_from_a_cache_is_another_call() -> None:
    """It has the same response id, at another time."""
    spans = join_split_traces(repeated_calls(cached_at_s=40.0))
    assert shapes_of(spans).turn.sum() == 4 and spans["trace_id"].nunique() == 3


def test_spans_that_come_twice_are_counted_once_and_reported() -> None:
    """An exporter repeats what was not acknowledged."""
    spans = spans_frame(Answer((document(*agent_request()), document(*agent_request()))))
    assert requests(spans)["turns"].tolist() == [2]
    sanity = trace_sanity(spans)
    assert sanity.faults["duplicates"].tolist() == [11] and not sanity.excluded


def test_parts_longer_than_the_whole_exclude_a_trace() -> None:
    """The engine's phases add up to ten seconds in a span of half a second."""
    phases = {**ENGINE, "gen_ai.latency.time_in_model_decode": 10.0}
    spans = made(span(1, 0, "vllm", "llm_request", 0.0, 0.5, SERVER, **phases))
    assert trace_sanity(spans).faults["remainder_s"].item() == pytest.approx(9.7)
    row = requests(spans).iloc[0]
    assert not row["trace_complete"] and "more than the whole" in row["trace_problem"]


def test_good_traces_have_no_fault() -> None:
    """No false alarm on the lab's own traces, and none of the other dialects' good ones."""
    frames = [spans_frame(Answer((document(*agent_request()),)))]
    frames += [make() for make, _ in TURNS.values()]
    for spans in frames:
        sanity = trace_sanity(spans)
        assert sanity.faults.empty and sanity.skew.empty, str(sanity)


def test_tool_failures_that_the_status_hides() -> None:
    """All six calls failed: by a server's span, error.type, a flag, or only in the result."""
    spans = read("t27_mcp_is_error.json")
    tools = tool_frame(spans)
    assert len(tools) == 6 and tools["failed"].all() and (tools["error"] != "").all()
    assert tools["status_error"].sum() == 2
    assert requests(spans)[["tool_runs", "tool_failures"]].to_numpy().tolist() == [[6, 6]]


def test_a_servers_span_elsewhere_in_the_trace_is_the_call_that_holds_it() -> None:
    """An MCP session passes on its own context: the server's spans are not below the call."""
    mcp = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "get_invoice"}
    spans = made(
        span(1, 0, "agent", "POST /v1/responses", 0.0, 1.0, SERVER),
        span(2, 1, "agent", "list_mcp_tools", 0.0, 0.1),
        span(3, 2, "tools", "POST /mcp", 0.02, 0.05, SERVER, **{"mcp.method.name": "tools/list"}),
        span(4, 1, "agent", "invoke_mcp_tool", 0.2, 0.4, tool_name="get_invoice"),
        span(5, 2, "tools", "POST /mcp", 0.22, 0.38, SERVER, **mcp),
        span(6, 2, "tools", "execute_tool get_invoice", 0.23, 0.37, SERVER, error="no invoice"),
    )
    tools = tool_frame(spans)
    assert tools[["tool", "failed"]].to_numpy().tolist() == [["get_invoice", True]]
    row = requests(spans).iloc[0]
    assert (row["tool_runs"], row["tool_failures"]) == (1, 1)
    assert row["tool_list_s"] == pytest.approx(0.1)
    assert row["overlap_s"] == pytest.approx(0.0, abs=1e-9)


def test_failures_by_type_and_by_status_together() -> None:
    """One call has an error.type, another only a status, a third succeeded."""
    spans = made(
        span(1, 0, "app", "execute_tool a", 0.0, 0.1, **{"error.type": "timeout"}),
        span(2, 1, "app", "invoke_agent b", 0.0, 0.1),
        span(3, 2, "app", "execute_tool b", 0.2, 0.3, error="no such order"),
        span(4, 2, "app", "execute_tool c", 0.4, 0.5, error=""),
    )
    assert tool_frame(spans)["error"].tolist() == ["timeout", "no such order", ""]
    assert tool_frame(spans)["failed"].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("result", "failed"),
    [
        ('{"isError": true, "content": []}', True),
        ('{"is_error": true}', True),
        ("content=[] isError=True", True),
        ('{"error": "no such order"}', True),
        ('{"error_code": 1, "content": "x"}', True),
        ('{"isError": false, "content": []}', False),
        ('{"error": null, "rows": []}', False),
        ('{"error": "", "rows": []}', False),
        ('{"error_code": 0}', False),
        ('{"text": "an error message is true"}', False),
        ("no error", False),
    ],
)
def test_results_that_report_an_error(result: str, failed: bool) -> None:
    """Only a result that says so, not one that mentions errors."""
    named = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.result": result}
    spans = made(span(1, 0, "app", "execute_tool t", 0.0, 0.1, **named))
    assert tool_frame(spans)["failed"].tolist() == [failed]


def test_a_tool_that_is_an_agent_has_tools_of_its_own() -> None:
    """They are other calls; a search inside a tool is the same call."""
    tool = {"openinference.span.kind": "TOOL"}
    agent = {"openinference.span.kind": "AGENT"}
    spans = made(
        span(1, 0, "app", "researcher", 0.0, 0.9, **tool),
        span(2, 1, "app", "sub-agent", 0.1, 0.8, **agent),
        span(3, 2, "app", "look_up", 0.2, 0.3, **tool),
        span(4, 3, "app", "cache", 0.2, 0.3, **tool),
    )
    assert tool_frame(spans)["tool"].tolist() == ["researcher", "look_up"]


MESSAGES = {
    "semconv": {
        "gen_ai.output.messages": json.dumps(
            [{"role": "assistant", "parts": [
                {"type": "tool_call", "id": "c1", "name": "get_order", "arguments": {"id": 7}}]}]
        )
    },
    "openai": {
        "gen_ai.output.messages": json.dumps(
            [{"role": "assistant", "tool_calls": [
                {"id": "c1", "function": {"name": "get_order", "arguments": '{"id": 7}'}}]}]
        )
    },
    "openllmetry": {
        "gen_ai.completion.0.tool_calls.0.id": "c1",
        "gen_ai.completion.0.tool_calls.0.name": "get_order",
        "gen_ai.completion.0.tool_calls.0.arguments": '{"id": 7}',
    },
    "openinference": {
        "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c1",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "get_order",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"id": 7}',
    },
    "openai responses": {
        "output.value": json.dumps(
            {"id": "resp_1", "output": [
                {"type": "function_call", "call_id": "c1", "name": "get_order",
                 "arguments": '{"id": 7}'}]}
        )
    },
    "anthropic": {
        "gen_ai.completion": json.dumps(
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "c1", "name": "get_order", "input": {"id": 7}}]}
        )
    },
    "langchain": {
        "output.value": json.dumps(
            {"generations": [[{"text": "", "message": {"lc": 1, "kwargs": {"tool_calls": [
                {"name": "get_order", "args": {"id": 7}, "id": "c1", "type": "tool_call"}]}}}]]}
        )
    },
    "vercel": {
        "ai.response.toolCalls": json.dumps(
            [{"toolCallType": "function", "toolCallId": "c1", "toolName": "get_order",
              "args": '{"id": 7}'}]
        )
    },
    "litellm": {
        "gen_ai.output.messages": '[{"role": "assistant", "parts": []}]',
        "gen_ai.completion.0.function_call.name": "get_order",
        "gen_ai.completion.0.function_call.arguments": '{"id": 7}',
    },
}  # fmt: skip


@pytest.mark.parametrize("with_id", [True, False])
@pytest.mark.parametrize("form", MESSAGES)
def test_arguments_come_from_the_messages(form: str, with_id: bool) -> None:
    """Where the tool's span has none: by the call's id, else by the tool's name."""
    chat = {"gen_ai.operation.name": "chat", **MODEL, **SEMCONV_USAGE, **MESSAGES[form]}
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "get_order"}
    tool |= {"gen_ai.tool.call.id": "c1"} if with_id and form != "litellm" else {}
    spans = made(
        span(1, 0, "app", "invoke_agent a", 0.0, 0.9, **{"gen_ai.operation.name": "invoke_agent"}),
        span(2, 1, "app", "chat m", 0.0, 0.4, CLIENT, **chat),
        span(3, 1, "app", "execute_tool get_order", 0.5, 0.6, **tool),
    )
    assert json.loads(tool_frame(spans)["arguments"].item()) == {"id": 7}


RESULTS = {
    "semconv": [{"role": "tool", "parts": [
        {"type": "tool_call_response", "id": "c1", "response": {"isError": True}}]}],
    "chat": [{"role": "tool", "tool_call_id": "c1", "content": '{"error": "no such order"}'}],
    "responses": [
        {"type": "function_call_output", "call_id": "c1", "output": '{"error": "no such order"}'}],
    "anthropic": [{"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "c1", "is_error": True, "content": "no"}]}],
    "langchain": [{"lc": 1, "kwargs": {
        "type": "tool", "tool_call_id": "c1", "content": "no", "status": "error"}}],
    "vercel": [{"role": "tool", "content": [
        {"type": "tool-result", "toolCallId": "c1", "toolName": "t",
         "output": {"type": "error-text", "value": "no"}}]}],
}  # fmt: skip


@pytest.mark.parametrize("form", RESULTS)
def test_a_failure_that_only_the_next_call_reads(form: str) -> None:
    """The tool's result is only in the messages of the model call that follows."""
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": "c1"}
    chat = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": json.dumps(RESULTS[form])}
    spans = made(
        span(1, 0, "app", "invoke_agent a", 0.0, 0.9, **{"gen_ai.operation.name": "invoke_agent"}),
        span(2, 1, "app", "execute_tool t", 0.1, 0.2, **tool),
        span(3, 1, "app", "chat m", 0.3, 0.4, CLIENT, **chat),
    )
    assert tool_frame(spans)["failed"].tolist() == [True]
    assert requests(spans)["tool_failures"].item() == 1


def vercel() -> pd.DataFrame:
    """Return a turn as the AI SDK 5 writes it (packages/ai, generate-text)."""
    usage_of_all = {"ai.usage.inputTokens": 900, "ai.usage.outputTokens": 60}
    step = {
        "ai.operationId": "ai.generateText.doGenerate",
        "ai.usage.inputTokens": 900,
        "ai.usage.outputTokens": 60,
        "ai.usage.cachedInputTokens": 640,
        "gen_ai.usage.input_tokens": 900,
        "gen_ai.usage.output_tokens": 60,
        **MODEL,
    }
    tool = {
        "ai.operationId": "ai.toolCall",
        "ai.toolCall.name": "get_order",
        "ai.toolCall.id": "c1",
        "ai.toolCall.args": '{"id": 7}',
        "ai.toolCall.result": '{"error": "no such order"}',
    }
    outer = {"ai.operationId": "ai.generateText", **usage_of_all}
    return made(
        span(1, 0, "app", "ai.generateText", 0.0, 0.9, **outer),
        span(2, 1, "app", "ai.generateText.doGenerate", 0.0, 0.4, **step),
        span(3, 1, "app", "ai.toolCall", 0.5, 0.6, **tool),
    )


def pydantic_ai() -> pd.DataFrame:
    """Return a turn as Pydantic AI's instrumentation of version 2 writes it."""
    tool = {
        "gen_ai.tool.name": "get_order",
        "gen_ai.tool.call.id": "c1",
        "tool_arguments": '{"id": 7}',
        "tool_response": '{"error": "no such order"}',
    }
    sums = {"gen_ai.usage.input_tokens": 900, "gen_ai.usage.output_tokens": 60}
    return made(
        span(1, 0, "app", "agent run", 0.0, 0.9, **sums),
        span(2, 1, "app", "chat m", 0.0, 0.4, CLIENT, **_CHAT),
        span(3, 1, "app", "running 1 tool", 0.5, 0.6),
        span(4, 3, "app", "running tool", 0.5, 0.6, **tool),
    )


def google_adk() -> pd.DataFrame:
    """Return a turn as Google's ADK writes it (google/adk/telemetry/tracing.py)."""
    tool = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "get_order",
        "gcp.vertex.agent.tool_call_args": '{"id": 7}',
        "gcp.vertex.agent.tool_response": '{"error": "no such order"}',
    }
    return made(
        span(1, 0, "app", "invocation", 0.0, 0.9),
        span(2, 1, "app", "agent_run [helper]", 0.0, 0.9),
        span(3, 2, "app", "call_llm", 0.0, 0.4, **MODEL, **SEMCONV_USAGE),
        span(4, 3, "app", "generate_content m", 0.0, 0.4, **{
            "gen_ai.operation.name": "generate_content"}, **SEMCONV_USAGE),
        span(5, 2, "app", "execute_tool get_order", 0.5, 0.6, **tool),
    )  # fmt: skip


def semantic_kernel() -> pd.DataFrame:
    """Return a turn as Semantic Kernel writes it (ModelDiagnostics.cs)."""
    chat = {"gen_ai.operation.name": "chat.completions", **MODEL, **SEMCONV_USAGE}
    tool = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "get_order",
        "gen_ai.tool.call.arguments": '{"id": 7}',
        "gen_ai.tool.call.result": '{"error": "no such order"}',
    }
    return made(
        span(1, 0, "app", "invoke_agent a", 0.0, 0.9, **{"gen_ai.operation.name": "invoke_agent"}),
        span(2, 1, "app", "chat.completions m", 0.0, 0.4, CLIENT, **chat),
        span(3, 1, "app", "execute_tool get_order", 0.5, 0.6, **tool),
    )


def test_langfuses_tokens_are_in_a_json_object() -> None:
    """Its SDK writes `usage_details`; tokens that it does not report are not known."""
    usage_details = '{"input": 900, "output": 60, "total": 960}'
    call = {
        "langfuse.observation.type": "generation",
        "langfuse.observation.usage_details": usage_details,
    }
    tool = {
        "langfuse.observation.type": "tool",
        "langfuse.observation.input": '{"id": 7}',
        "langfuse.observation.output": '{"error": "no such order"}',
    }
    spans = made(
        span(1, 0, "app", "agent", 0.0, 0.9, **{"langfuse.observation.type": "agent"}),
        span(2, 1, "app", "completion", 0.0, 0.4, **call),
        span(3, 1, "app", "get_order", 0.5, 0.6, **tool),
    )
    shapes = shapes_of(spans)
    assert usage(spans, shapes, "prompt_tokens")[shapes.turn].tolist() == [900]
    assert usage(spans, shapes, "completion_tokens")[shapes.turn].tolist() == [60]
    assert np.isnan(usage(spans, shapes, "cached_tokens")[shapes.turn]).all()
    assert tool_frame(spans)[["tool", "failed"]].values.tolist() == [["get_order", True]]


_CHAT = {"gen_ai.operation.name": "chat", **MODEL, **SEMCONV_USAGE}


@pytest.mark.parametrize("dialect", [vercel, pydantic_ai, google_adk, semantic_kernel])
def test_agent_frameworks_make_the_same_tables(dialect: Any) -> None:
    """One model call, although agents repeat its tokens, and one tool call, which failed."""
    spans = dialect()
    shapes = shapes_of(spans)
    assert shapes.turn.sum() == 1
    assert usage(spans, shapes, "prompt_tokens")[shapes.turn].tolist() == [900]
    assert usage(spans, shapes, "cached_tokens")[shapes.turn].tolist() == [640]

    (tool,) = tool_frame(spans).to_dict("records")
    assert tool["tool"] == "get_order" and json.loads(tool["arguments"]) == {"id": 7}
    assert tool["failed"] and not tool["status_error"]

    (request,) = requests(spans).to_dict("records")
    assert request["turns"] == 1 and request["tool_failures"] == 1


def test_evaluations_are_read_from_logs() -> None:
    """With the ids of the model call that was judged; anything else is refused by name."""
    frame = evaluation_frame((DATA / "t25_semconv010_eval_logs.json").read_bytes())
    assert frame[["name", "score", "label"]].to_numpy().tolist() == [["tool_choice", 1.0, "pass"]]
    spans = read("t25_semconv010.json")
    assert frame["trace_id"].item() in set(spans["trace_id"])
    for text in ("", "[]", "{}", '{"resourceLogs": [{"scopeLogs": 3}]}'):
        with pytest.raises(FrameError, match="not logs in OTLP JSON"):
            evaluation_frame(text)


def test_forms_of_one_trace_are_the_same_spans() -> None:
    """Tempo's first API and its second; a partial answer says that it lacks its root."""
    full = [read("t24_tempo_v1_batches_base64.json"), read("t24_tempo_v2.json")]
    pd.testing.assert_frame_equal(*full)
    assert full[0]["trace_id"].unique().tolist() == ["00000000abcdef0123456789abcdef01"]
    partial = read_otlp_json((DATA / "t24_tempo_v2_partial.json").read_bytes())
    assert partial.partial and trace_problems(spans_frame(partial)).item() == "it has no root span"


def test_the_prefill_that_holds_up_others_is_named() -> None:
    """118,000 tokens are read while nine calls wait for the next step."""
    spans = read("t28_head_of_line.json")
    turns = turn_frame(requests(spans), spans)
    table = measures.blocking_prefills(turns)
    assert table["trace_id"].tolist() == ["00000000000000000000000000002800"]
    assert table[["prompt_tokens", "victims"]].to_numpy().tolist() == [[118_000, 9]]


def test_queues_for_lack_of_room_blame_no_prefill() -> None:
    """Calls that are scheduled one after another wait for room, not for one prefill."""
    ends = np.arange(1, 11, dtype="float64")
    turns = pd.DataFrame(
        {
            "trace_id": [str(n) for n in range(10)],
            "prompt_tokens": 100,
            "queue_s": ends,
            "prefill_s": 0.02,
            "scheduled_at": ends,
            "first_token_at": ends + 0.02,
        }
    )
    assert measures.blocking_prefills(turns).empty


def test_traces_of_an_unknown_kind_are_described() -> None:
    """They never count as zero requests in silence."""
    spans = made(span(1, 0, "shop", "GET /cart", 0.0, 0.1, SERVER))
    with pytest.raises(
        FrameError, match=r"no trace here has a request(.|\n)*1 traces with 1 x 'shop: GET /cart'"
    ):
        records_from_spans(spans)


def test_spans_in_a_circle_end() -> None:
    """Spans that are their own ancestors are no call of anything, and nothing hangs."""
    chat = {"gen_ai.operation.name": "chat", **SEMCONV_USAGE}
    spans = made(
        span(1, 2, "app", "chat m", 0.0, 0.5, CLIENT, **chat),
        span(2, 1, "app", "chat m", 0.0, 0.5, CLIENT, **chat),
        span(3, 3, "app", "execute_tool t", 0.0, 0.5),
    )
    roles = shapes_of(spans).role
    assert roles[2] == Role.STRANGER and trace_problems(spans).item() != ""


def test_every_table_uses_the_vocabulary() -> None:
    """A field with a name that no frame reads would be lost."""
    for dialect in DIALECTS:
        assert set(dialect.fields) <= set(FIELDS), dialect.name
        assert set(dialect.with_usage) <= set(dialect.names), dialect.name


def test_evaluations_are_read_from_span_events() -> None:
    """A judge inside of the process writes an event of the call's own span."""
    logs = json.loads((DATA / "t25_semconv010_eval_logs.json").read_text())
    (record,) = logs["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    event = {"name": record["eventName"], "attributes": record["attributes"]}
    span = {
        "traceId": record["traceId"],
        "spanId": record["spanId"],
        "events": [event, {"name": "x"}],
    }
    expected = evaluation_frame(json.dumps(logs))
    owners = [{"scopeSpans": [{"spans": [span]}]}]
    pd.testing.assert_frame_equal(evaluation_frame(json.dumps({"resourceSpans": owners})), expected)

    # Tempo's JSON, in both of its forms, has ids in base64.
    for name in ("traceId", "spanId"):
        span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    for body in ({"batches": owners}, {"trace": {"resourceSpans": owners}}):
        pd.testing.assert_frame_equal(evaluation_frame(json.dumps(body)), expected)


@pytest.mark.parametrize(("reported", "total"), [(120, 120 + 2000 + 300), (2420, 2420)])
def test_anthropics_cached_tokens_are_part_of_the_prompt(reported: int, total: int) -> None:
    """Its own input_tokens leaves them out, as a number below that of cached tokens shows."""
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": reported,
        "gen_ai.usage.output_tokens": 60,
        "gen_ai.usage.cache_read_input_tokens": 2000,
        "gen_ai.usage.cache_creation_input_tokens": 300,
    }
    span = {
        "traceId": "0" * 31 + "1",
        "spanId": "0" * 15 + "1",
        "name": "chat claude",
        "kind": 3,
        "startTimeUnixNano": "1764300000000000000",
        "endTimeUnixNano": "1764300001000000000",
        "attributes": [
            {"key": name, "value": {"stringValue" if isinstance(v, str) else "intValue": str(v)}}
            for name, v in attributes.items()
        ],
    }
    document = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    frame = spans_frame(read_otlp_json(document))
    shapes = shapes_of(frame)
    assert usage(frame, shapes, "prompt_tokens").tolist() == [total]
    assert usage(frame, shapes, "cached_tokens").tolist() == [2000]
