"""Plain chat completions: the body of a request, and what its stream said."""

from __future__ import annotations

from typing import Any

import msgspec

from lab.workload.outcome import (
    NOTHING,
    UNREADABLE,
    Outcome,
    TokenCount,
    arguments_of,
    message_in,
    told,
)

PATH = "/v1/chat/completions"


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: TokenCount | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: TokenCount = -1
    completion_tokens: TokenCount | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = NOTHING


_decode = msgspec.json.Decoder(_Chunk).decode


def body(
    *,
    model: str,
    messages: list[dict[str, Any]],
    max_tokens: int,
    temperature: float,
    tools: list[dict[str, Any]],
) -> bytes:
    """The request, streamed, with usage at the end. `tools` are OpenAI function definitions."""
    request: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    return msgspec.json.encode(request | {"tools": tools} if tools else request)


def read(events: list[tuple[float, bytes]]) -> Outcome:
    """What a stream of chat chunks said. A stream that does not end as it should is an error in the outcome."""
    out = Outcome()
    texts: list[str] = []
    calls: dict[int, tuple[list[str], list[str]]] = {}
    ended = False
    for at, data in events:
        if data == b"[DONE]":
            ended = True
            break
        try:
            chunk = _decode(data)
        except UNREADABLE as e:
            out.fail("malformed_event", f"{e}: {data[:200]!r}")
            continue
        if told(chunk.error):
            out.fail("stream_error", message_in(data))
        if chunk.usage is not None:
            _take_usage(out, chunk.usage)
        for choice in chunk.choices:
            if choice.finish_reason:
                out.finish_reason = choice.finish_reason
            if choice.delta is not None and _take_delta(choice.delta, texts, calls):
                out.add_tokens(at, of_answer=bool(choice.delta.content))
    out.answer = "".join(texts)
    out.tool_calls = [
        {
            "tool": "".join(names),
            "arguments": arguments_of("".join(arguments)),
            "output": None,
            "error": None,
        }
        for _, (names, arguments) in sorted(calls.items())
    ]
    if not ended or not out.finish_reason:
        out.fail("stream_incomplete", "the stream ended without a finish reason and [DONE]")
    return out


def _take_usage(out: Outcome, usage: _Usage) -> None:
    out.prompt_tokens = usage.prompt_tokens
    if usage.completion_tokens is not None:
        out.completion_tokens = usage.completion_tokens
    details = usage.prompt_tokens_details
    if details is not None and details.cached_tokens is not None:
        out.cached_tokens = details.cached_tokens


def _take_delta(
    delta: _Delta, texts: list[str], calls: dict[int, tuple[list[str], list[str]]]
) -> bool:
    """True if there is something that the model generated in it."""
    if delta.content:
        texts.append(delta.content)
    for call in delta.tool_calls or ():
        names, arguments = calls.setdefault(call.index, ([], []))
        if call.function is not None:
            names.append(call.function.name or "")
            arguments.append(call.function.arguments or "")
    return bool(delta.content or delta.tool_calls or delta.reasoning_content or delta.reasoning)
