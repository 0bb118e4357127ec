"""Llama Stack's Responses API: write the body of a request, read its stream."""

from __future__ import annotations

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

PATH = "/v1/responses"

# What the model generated, as it came: text, reasoning, and the arguments of tool calls.
_ANSWER_EVENTS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_TOKEN_EVENTS = _ANSWER_EVENTS | frozenset(
    {
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
        "response.mcp_call.arguments.delta",
    }
)
_FINAL_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})


class _Event(msgspec.Struct):
    type: str = ""
    delta: str = ""
    item: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


class _Usage(msgspec.Struct):
    input_tokens: TokenCount = -1
    output_tokens: TokenCount = -1
    input_tokens_details: PromptDetails | None = None


class _Reason(msgspec.Struct):
    code: str | None = None
    message: str | None = None
    reason: str | None = None


class _Response(msgspec.Struct):
    id: str = ""
    status: str = ""
    output: list[dict[str, Any]] = []
    usage: _Usage | None = None
    error: _Reason | None = None
    incomplete_details: _Reason | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_response = msgspec.json.Decoder(_Response).decode
_decode_item = msgspec.json.Decoder(dict[str, Any]).decode


def body(
    *,
    model: str,
    text: str,
    max_output_tokens: int,
    temperature: float,
    tools: list[dict[str, Any]],
    instructions: str = "",
    previous_response_id: str = "",
) -> bytes:
    """Return the request: streamed, and stored, so that a follow-up can name it."""
    request: dict[str, Any] = {
        "model": model,
        "input": text,
        "stream": True,
        "store": True,
        "max_output_tokens": max_output_tokens,
        "temperature": temperature,
    }
    optional = {
        "tools": tools,
        "instructions": instructions,
        "previous_response_id": previous_response_id,
    }
    return msgspec.json.encode(request | {k: v for k, v in optional.items() if v})


def mcp_tool(server_label: str, server_url: str, allowed_tools: list[str]) -> dict[str, Any]:
    """Return the MCP server as a tool of a request that offers `allowed_tools` to the model."""
    return {
        "type": "mcp",
        "server_label": server_label,
        "server_url": server_url,
        "require_approval": "never",
        "allowed_tools": allowed_tools,
    }


def file_search_tool(vector_store_id: str, max_results: int) -> dict[str, Any]:
    """Return Llama Stack's own search over a vector store as a tool of a request."""
    return {
        "type": "file_search",
        "vector_store_ids": [vector_store_id],
        "max_num_results": max_results,
    }


class ResponseStream(Stream):
    """The events of one answer as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._items: list[dict[str, Any]] = []  # finished ones, for an answer that is cut
        self._final: _Response | None = None

    def add(self, at: float, data: bytes) -> None:
        """Take one event. Raises one of UNREADABLE."""
        event = _decode_event(data)
        if event.type in _TOKEN_EVENTS:
            if event.delta:
                self.outcome.add_tokens(at, of_answer=event.type in _ANSWER_EVENTS)
        elif event.type == "response.output_item.done" and is_present(event.item):
            self._items.append(_decode_item(event.item))
        elif event.type in _FINAL_EVENTS and is_present(event.response):
            self._final = _decode_response(event.response)
        elif event.type == "response.created" and is_present(event.response):
            self.outcome.response_id = _decode_response(event.response).id
        if is_present(event.error) or event.type == "error":
            self.outcome.fail("stream_error", error_message(data))

    def finish(self) -> Outcome:
        """Take answer and tool calls from the final response, or from what came before a cut."""
        items = self._items
        if self._final is None:
            self.outcome.fail("stream_incomplete", "the stream ended without response.completed")
        else:
            self._take_final(self._final)
            items = self._final.output or items
        for item in items:
            self._take_item(item)
        return self.outcome

    def _take_final(self, response: _Response) -> None:
        outcome = self.outcome
        outcome.response_id = response.id
        outcome.finish_reason = response.status
        if response.usage is not None:
            usage = response.usage
            outcome.take_usage(usage.input_tokens, usage.output_tokens, usage.input_tokens_details)
        if response.status == "failed":
            reason = response.error or _Reason()
            message = f"{reason.code or 'no code'}: {reason.message or 'no message'}"
            outcome.fail("response_failed", message)

    def _take_item(self, item: dict[str, Any]) -> None:
        kind = item.get("type")
        if kind == "message":
            self.outcome.answer = _text(item.get("content") or [])
        elif kind in ("mcp_call", "function_call"):
            arguments = parse_arguments(item.get("arguments") or "")
            name = item.get("name", "")
            self.outcome.add_call(name, arguments, item.get("output"), item.get("error"))
        elif kind == "file_search_call":
            query = " ".join(item.get("queries") or [])
            texts = [result.get("text", "") for result in item.get("results") or []]
            error = "the search failed" if item.get("status") == "failed" else None
            self.outcome.add_call("file_search", {"query": query}, texts, error)


def _text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)
