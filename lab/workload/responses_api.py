"""Llama Stack's Responses API: the body of a request, and what its stream said."""

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
    nested_too_deeply,
    told,
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
    item: msgspec.Raw = NOTHING
    response: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING


class _PromptDetails(msgspec.Struct):
    cached_tokens: TokenCount | None = None


class _Usage(msgspec.Struct):
    input_tokens: TokenCount = -1
    output_tokens: TokenCount = -1
    input_tokens_details: _PromptDetails | None = None


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
    """The request, streamed and stored (so that a follow-up can name it)."""
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
    """The MCP server as a tool of a request; only `allowed_tools` are offered to the model."""
    return {
        "type": "mcp",
        "server_label": server_label,
        "server_url": server_url,
        "require_approval": "never",
        "allowed_tools": allowed_tools,
    }


def file_search_tool(vector_store_id: str, max_results: int) -> dict[str, Any]:
    """Llama Stack's own search over a vector store, as a tool of a request."""
    return {
        "type": "file_search",
        "vector_store_ids": [vector_store_id],
        "max_num_results": max_results,
    }


def read(events: list[tuple[float, bytes]]) -> Outcome:
    """What a stream of response events said. A stream without a final event is an error in the outcome."""
    out = Outcome()
    items: list[dict[str, Any]] = []
    final: _Response | None = None
    for at, data in events:
        if data == b"[DONE]":
            break
        try:
            event = _decode_event(data)
            if event.type in _TOKEN_EVENTS:
                if event.delta:
                    out.add_tokens(at, of_answer=event.type in _ANSWER_EVENTS)
            elif event.type == "response.output_item.done" and told(event.item):
                items.append(_decode_item(event.item))
            elif event.type in _FINAL_EVENTS and told(event.response):
                final = _decode_response(event.response)
            elif event.type == "response.created" and told(event.response):
                out.response_id = _decode_response(event.response).id
        except UNREADABLE as e:
            out.fail("malformed_event", f"{e}: {data[:200]!r}")
            continue
        if told(event.error) or event.type == "error":
            out.fail("stream_error", message_in(data))
    if final is None:
        out.fail("stream_incomplete", "the stream ended without response.completed")
    else:
        _take_final(out, final)
        items = final.output or items
    _take_items(out, items)
    return out


def _take_final(out: Outcome, response: _Response) -> None:
    out.response_id = response.id
    out.finish_reason = response.status
    if response.usage is not None:
        out.prompt_tokens = response.usage.input_tokens
        out.completion_tokens = response.usage.output_tokens
        details = response.usage.input_tokens_details
        if details is not None and details.cached_tokens is not None:
            out.cached_tokens = details.cached_tokens
    if response.status == "failed":
        reason = response.error or _Reason()
        out.fail("response_failed", f"{reason.code or 'no code'}: {reason.message or 'no message'}")


def _take_items(out: Outcome, items: list[dict[str, Any]]) -> None:
    for item in items:
        kind = item.get("type")
        if kind == "message":
            parts = item.get("content") or []
            texts = (
                [parts]
                if isinstance(parts, str)
                else [p.get("text") or p.get("refusal") or "" for p in parts]
            )
            out.answer = "".join(texts)
        elif kind in ("mcp_call", "function_call"):
            out.tool_calls.append(
                {
                    "tool": item.get("name", ""),
                    "arguments": arguments_of(item.get("arguments") or ""),
                    "output": _bounded(item.get("output")),
                    "error": _bounded(item.get("error")),
                }
            )
        elif kind == "file_search_call":
            failed = item.get("status") == "failed"
            out.tool_calls.append(
                {
                    "tool": "file_search",
                    "arguments": {"query": " ".join(item.get("queries") or [])},
                    "output": [r.get("text", "") for r in item.get("results") or []],
                    "error": "the search failed" if failed else None,
                }
            )


def _bounded(value: Any) -> Any:
    """Return the value, or a note in its place if it is nested so deeply that readers of the record would fail."""
    return "(nested too deeply to be recorded)" if nested_too_deeply(value) else value
