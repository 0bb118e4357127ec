"""One agent request makes the same tables, whichever library wrote its spans (`agents.py`)."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from lab.frames import records_from_spans, request_frame, spans_frame, tool_frame, trace_sanity
from lab.frames.completeness import shapes_of, usage
from lab.frames.roles import Role
from tests.frames.agents import AGENTS, INVOKE, chat, execute_tool, request
from tests.frames.telemetry import CLIENT, SERVER, Answer, document, span

TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")


def frame_of(*spans: tuple) -> pd.DataFrame:
    return spans_frame(Answer((document(*spans),)))


@pytest.mark.parametrize("library", AGENTS)
def test_an_agents_request_makes_the_same_tables(library: str) -> None:
    """Two model calls with their tokens, two tools with their arguments, one failure."""
    spans = frame_of(*AGENTS[library]())
    shapes = shapes_of(spans)
    calls = np.stack([usage(spans, shapes, name)[shapes.turn] for name in TOKENS])
    assert np.nan_to_num(calls).tolist() == [[900, 1000], [60, 40], [640, 0]]

    tools = tool_frame(spans)
    given = [(tool, json.loads(text)) for tool, text in tools[["tool", "arguments"]].to_numpy()]
    assert given == [("get_order", {"id": 7}), ("cancel_order", {"id": 8})]
    assert tools["failed"].tolist() == [False, True] and not tools["status_error"].any()
    assert tools["error"].iloc[1] != ""

    (row,) = request_frame(records_from_spans(spans), spans).to_dict("records")
    assert (row["turns"], row["tool_runs"], row["tool_failures"]) == (2, 2, 1)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (1900, 100)
    assert row["cached_tokens"] == 640 and row["api"] == "responses"
    assert row["trace_complete"], row["trace_problem"]
    assert trace_sanity(spans).faults.empty


@pytest.mark.parametrize("library", ["langsmith", "spring ai 1.0"])
def test_retrievals_are_not_model_calls(library: str) -> None:
    """Whatever the name of their operation says."""
    roles = shapes_of(frame_of(*AGENTS[library]())).role.tolist()
    assert roles.count(Role.RETRIEVAL) == 1 and roles.count(Role.EMBEDDING) == 0


def test_calls_within_a_tool_within_a_call() -> None:
    """Google's ADK for Go runs tools inside of the model's span; a tool may be an agent."""
    spans = request(INVOKE, chat(), execute_tool)
    for _, tool in spans[3:]:
        tool["parentSpanId"] = spans[1][1]["spanId"]
    agent = span(40, 30, "app", *("invoke_agent b", 0.31, 0.37), **INVOKE[1])
    name, attributes = chat()(0, 50, 5, 0)
    inner = span(41, 40, "app", name, 0.32, 0.36, CLIENT, **attributes)
    frame = frame_of(*spans, agent, inner)
    shapes = shapes_of(frame)
    assert sorted(usage(frame, shapes, "prompt_tokens")[shapes.turn]) == [50, 900, 1000]
    assert (shapes.role == Role.SERVER).sum() == 1 and len(tool_frame(frame)) == 2


@pytest.mark.parametrize("tokens", [(900, 60), (901, 60)])
def test_two_libraries_in_one_process(tokens: tuple[int, int]) -> None:
    """Spans of two names with the same tokens at the same time are one call, else two."""
    name, attributes = chat()(0, 900, 60, 0)
    usages = {"llm.token_count.prompt": tokens[0], "llm.token_count.completion": tokens[1]}
    frame = frame_of(
        span(1, 0, "app", *("invoke_agent a", 0.0, 0.9), **INVOKE[1]),
        span(2, 1, "app", name, 0.1, 0.5, CLIENT, **attributes),
        span(3, 1, "app", "ChatCompletion", 0.11, 0.4, **usages),
    )
    assert shapes_of(frame).turn.sum() == (1 if tokens[0] == 900 else 2)


def test_a_call_through_gateways_is_one_call() -> None:
    """The application's library, Envoy's AI gateway, LiteLLM's proxy and vLLM write it."""
    name, attributes = chat()(0, 900, 60, 640)
    openinference = {"llm.token_count.prompt": 900, "llm.token_count.completion": 60}
    old = {"gen_ai.usage.prompt_tokens": 900, "gen_ai.usage.completion_tokens": 60}
    frame = frame_of(
        span(1, 0, "app", *("invoke_agent a", 0.0, 0.9), **INVOKE[1]),
        span(2, 1, "app", name, 0.01, 0.8, CLIENT, **attributes),
        span(3, 2, "app", "POST", 0.02, 0.79, CLIENT),
        span(4, 3, "gateway", "ChatCompletion", 0.03, 0.78,
             **{"openinference.span.kind": "LLM"}, **openinference),
        span(5, 4, "litellm", "Received Proxy Server Request", 0.04, 0.77, SERVER, **attributes),
        span(6, 5, "litellm", "litellm_request", 0.05, 0.76, **attributes),
        span(7, 6, "litellm", "raw_gen_ai_request", 0.06, 0.75, **old),
        span(8, 5, "vllm", "llm_request", 0.07, 0.74, SERVER, **old),
    )  # fmt: skip
    (row,) = request_frame(records_from_spans(frame), frame).to_dict("records")
    assert (row["turns"], row["prompt_tokens"], row["span_prompt_tokens"]) == (1, 900, 900)


@pytest.mark.parametrize(
    "arguments",
    ["{'kwargs': {1}}", "{'a': b'x'}", "{'a': 1j}", "{(1, 2): 3}", "{1: 2}", r"{'a': '\d'}", "{1"],
)
@pytest.mark.filterwarnings("error")
def test_arguments_that_json_does_not_have(arguments: str) -> None:
    """Sets, bytes and keys that are no texts, as Python prints them, become text."""
    made = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.arguments": arguments}
    made["gen_ai.output.messages"] = arguments
    frame = frame_of(span(1, 0, "app", "execute_tool a", 0.0, 0.9, **made))
    assert tool_frame(frame)["arguments"].notna().tolist() == [True]


@pytest.mark.parametrize(
    ("result", "failed"),
    [
        ('{"status": "error", "error_message": "no"}', True),  # ADK's convention
        ('{"rows": [], "error": "timeout"}', True),
        ("{'error': 'no such order'}", True),  # as Python prints it
        ('"{\\"error\\": \\"no\\"}"', True),  # JSON of JSON
        ('{"success": false, "message": "no"}', True),
        ('[{"type": "text", "text": "Error executing tool get_order: no"}]', True),
        ("Error: KeyError(7)\n Please fix your mistakes.", True),
        ("Encountered error: no", True),
        ("I encountered an error while trying to use the tool. This was the error: no", True),
        ("Unknown tool: get_ordr", True),
        ('{"status": "failed", "payment": "card"}', False),  # an order's
        ('{"success": true, "error": null}', False),
        ('{"rows": [{"error": "of a row"}]}', False),
        ("Errors: none", False),
        ("the docs say: Error: see below", False),
    ],
)
def test_results_in_fields_and_words(result: str, failed: bool) -> None:
    """A result fails by its own fields or first words, not by what it is about."""
    made = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.result": result}
    frame = frame_of(span(1, 0, "app", "execute_tool t", 0.0, 0.1, **made))
    assert tool_frame(frame)["failed"].tolist() == [failed]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, (True, True)),  # a guess
        ({"mcp.tool.result.is_error": False}, (False, False)),
        ({"gen_ai.tool.status": "success"}, (False, False)),
        ({"gen_ai.tool.status": "error"}, (True, False)),
        ({"error.type": "KeyError"}, (True, False)),
    ],
)
def test_the_words_of_a_result_count_where_nothing_states_the_outcome(
    attributes: dict[str, object], expected: tuple[bool, bool]
) -> None:
    """A search of logs may return a line that begins with 'Error:'."""
    result = "Error: connection reset, in 3 lines of the log"
    made = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.result": result}
    frame = frame_of(span(1, 0, "app", "execute_tool t", 0.0, 0.1, **made, **attributes))
    (tool,) = tool_frame(frame).to_dict("records")
    assert (tool["failed"], tool["by_words"]) == expected
    in_fields = {**made, "gen_ai.tool.call.result": '{"error": "no such order"}', **attributes}
    (tool,) = tool_frame(
        frame_of(span(1, 0, "app", "execute_tool t", 0.0, 0.1, **in_fields))
    ).to_dict("records")
    assert (tool["failed"], tool["by_words"]) == (True, False)


@pytest.mark.parametrize("tokens", [-1, 1e300, float("inf"), "many"])
def test_what_is_not_a_number_of_tokens_is_not_known(tokens: object) -> None:
    """It is not added up, nor a negative or enormous count."""
    usages = {"gen_ai.usage.input_tokens": tokens, "gen_ai.usage.output_tokens": 60}
    frame = frame_of(span(1, 0, "app", "chat m", 0.0, 0.1, CLIENT, **usages))
    (row,) = request_frame(records_from_spans(frame), frame).to_dict("records")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (-1, 60)
