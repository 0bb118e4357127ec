"""Plain chat completions: write the body of a request, read its stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from lab.workload.outcome import (
    ABSENT,
    Outcome,
    PromptDetails,
    Stream,
    TokenCount,
    error_message,
    is_present,
    parse_arguments,
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


class _Usage(msgspec.Struct):
    prompt_tokens: TokenCount = -1
    completion_tokens: TokenCount | None = None
    prompt_tokens_details: PromptDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(_Chunk).decode


def body(
    *,
    model: str,
    messages: list[dict[str, Any]],
    max_tokens: int,
    temperature: float,
    tools: list[dict[str, Any]],
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the request: streamed, with usage at the end.

    `tools` are OpenAI function definitions, `extra` further fields of the body.
    """
    request: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "temperature": temperature,
        **(extra or {}),
    }
    return msgspec.json.encode(request | {"tools": tools} if tools else request)


class ChatStream(Stream):
    """The pieces of one answer as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []
        self._calls: dict[int, tuple[list[str], list[str]]] = {}  # pieces of (name, arguments)

    def add(self, at: float, data: bytes) -> None:
        """Take one event. Raises one of UNREADABLE."""
        chunk = _decode(data)
        if is_present(chunk.error):
            self.outcome.fail("stream_error", error_message(data))
        if chunk.usage is not None:
            usage = chunk.usage
            self.outcome.take_usage(
                usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details
            )
        for choice in chunk.choices:
            if choice.finish_reason:
                self.outcome.finish_reason = choice.finish_reason
            if choice.delta is not None:
                self._take_delta(at, choice.delta)

    def _take_delta(self, at: float, delta: _Delta) -> None:
        if delta.content:
            self._texts.append(delta.content)
        for call in delta.tool_calls or ():
            names, arguments = self._calls.setdefault(call.index, ([], []))
            if call.function is not None:
                names.append(call.function.name or "")
                arguments.append(call.function.arguments or "")
        if delta.content or delta.tool_calls or delta.reasoning_content or delta.reasoning:
            self.outcome.add_tokens(at, of_answer=bool(delta.content))

    def finish(self) -> Outcome:
        """Put the pieces together."""
        self.outcome.answer = "".join(self._texts)
        for _, (names, arguments) in sorted(self._calls.items()):
            self.outcome.add_call("".join(names), parse_arguments("".join(arguments)))
        if not self.ended or not self.outcome.finish_reason:
            message = "the stream ended without a finish reason and [DONE]"
            self.outcome.fail("stream_incomplete", message)
        return self.outcome
