"""Streams as servers in the field send them: what is known of each of them, and what is not.

The streams (streams/*.sse: milliseconds after the request, then the line) follow reports to
guidellm#737, inference-perf#559, llama-benchy#18 and vllm#50600; each test states what is right for
its stream.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from lab.measures import token_latencies
from lab.workload.apis import ChatStream
from lab.workload.connection import Exchange
from lab.workload.http1 import Answer
from lab.workload.outcome import Clock, events, merge_errors, records_frame, row
from lab.workload.tracing import TraceIds
from tests.workload.plans import request

DUE = 100.0  # seconds; when the request is due and sent
FOLDER = Path(__file__).parent / "streams"
CONTENT = '{"choices": [{"index": 0, "delta": {"content": "42"}}]}'
TOOL = (
    '{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": '
    '{"name": "get_quota", "arguments": "{}"}}]}}]}'
)
REASONING = '{"choices": [{"index": 0, "delta": {"reasoning": "hm"}}]}'


def end(reason: str, tokens: int) -> list[tuple[int, str]]:
    finish = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": tokens}})
    return [(0, finish), (0, usage), (0, "[DONE]")]


def stored(name: str) -> list[tuple[int, str]]:
    lines = (
        line.partition(" data: ") for line in (FOLDER / f"{name}.sse").read_text().splitlines()
    )
    return [(0 if at == "@end" else int(at[1:]), data) for at, _, data in lines]


def played(stream: list[tuple[int, str]]) -> pd.Series:
    """Return the row of a request that was sent when due and answered with the stream's timing.

    The row has `tpot_s` too.
    """
    exchange = Exchange(Answer(), sent=DUE, done=DUE)
    exchange.answer.feed(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", DUE)
    for at_ms, data in stream:
        exchange.done = max(exchange.done, DUE + at_ms / 1000)
        exchange.answer.feed(f"data: {data}\n\n".encode(), exchange.done)
    assert exchange.answer.finish()

    read = ChatStream().read(events(exchange.answer.body, exchange.answer.marks))
    outcome = merge_errors(exchange, read)
    record = row("run", request(0), TraceIds.new(), Clock(0.0), DUE, exchange, outcome)
    records = records_frame([record])
    assert records.status.tolist() == ["ok"]
    return pd.concat([records.iloc[0], token_latencies(records)[["tpot_s"]].iloc[0]])


def test_reasoning_comes_before_the_answer() -> None:
    """The first token is the reasoning's; when the answer began is a time of its own."""
    row = played(stored("s29_reasoning_first"))
    assert row.ttft_s == pytest.approx(0.060)
    assert row.first_answer_s == pytest.approx(2.400)
    assert row.first_answer_at == pytest.approx(row.scheduled_at + row.first_answer_s, abs=1e-6)
    assert (row.completion_tokens, row.answer) == (160, "42.")


def test_reasoning_that_used_up_its_tokens() -> None:
    """No answer came: its time is missing, not that of the reasoning and not 0."""
    row = played([(55, REASONING), (70, REASONING), *end("length", 64)])
    assert row.ttft_s == pytest.approx(0.055) and math.isnan(row.first_answer_s)
    assert (row.completion_tokens, row.answer, row.finish_reason) == (64, "", "length")


def test_a_tool_call_is_not_an_answer() -> None:
    """A tool call has a first token, and no text of an answer."""
    row = played([(310, TOOL), *end("tool_calls", 14)])
    assert row.ttft_s == pytest.approx(0.310) and math.isnan(row.first_answer_s)
    assert row.completion_tokens == 14


def test_several_tokens_in_a_chunk() -> None:
    """Time per token counts tokens, and the gaps between chunks are not it."""
    row = played(stored("s29_many_tokens_a_chunk"))
    assert (row.completion_tokens, row.ttft_s) == (30, pytest.approx(0.050))
    assert row.tpot_s == pytest.approx(0.216 / 29)


def test_an_answer_in_one_chunk_has_no_time_per_token() -> None:
    """A server that buffers the whole answer tells nothing of the time between tokens: missing, not
    0.
    """
    row = played([(600, CONTENT), *end("stop", 90)])
    assert row.first_answer_s == pytest.approx(0.600) and math.isnan(row.tpot_s)


def test_chunks_are_not_tokens() -> None:
    """Where the server did not report usage, the count of tokens is not known.

    So it is with a usage without it.
    """
    row = played(stored("s29_no_usage"))
    assert (row.prompt_tokens, row.completion_tokens, row.answer) == (-1, -1, "So it is")
    assert math.isnan(row.tpot_s)
    half = '{"choices": [], "usage": {"prompt_tokens": 20}}'
    stream = [(0, CONTENT), *end("stop", 1)]
    stream[2] = (0, half)
    row = played(stream)
    assert (row.prompt_tokens, row.completion_tokens) == (20, -1)
