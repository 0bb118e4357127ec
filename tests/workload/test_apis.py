"""Reading a stream returns its text, tokens, tool calls, usage and errors."""

from __future__ import annotations

import json
from typing import Any

from lab.workload.apis import ChatStream, ResponseStream
from lab.workload.outcome import error_message


def timed(*values: Any) -> list[tuple[float, bytes]]:
    return [
        (float(i), value if isinstance(value, bytes) else json.dumps(value).encode())
        for i, value in enumerate(values)
    ]


def choice(delta: dict | None = None, finish: str | None = None) -> dict:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}]}


USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}


def test_chat_text_and_usage() -> None:
    """Text is joined; a chunk without generated text (the role) does not count as a token.

    Usage and its cached part are taken.
    """
    out = ChatStream().read(
        timed(
            choice({"role": "assistant", "content": ""}),
            choice({"content": "Hel"}),
            choice({"content": "lo"}),
            choice(finish="stop"),
            {"choices": [], "usage": USAGE},
            b"[DONE]",
        )
    )
    assert (out.answer, out.token_times, out.finish_reason, out.error_type) == (
        "Hello",
        [1.0, 2.0],
        "stop",
        "",
    )
    assert (out.prompt_tokens, out.cached_tokens, out.completion_tokens) == (9, 4, 2)


def test_chat_tool_calls_are_put_together() -> None:
    """A call's arguments come in pieces; two calls at once are kept apart.

    The pieces count as tokens.
    """
    call = [
        choice(
            {
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "a",
                        "function": {"name": "get_node_status", "arguments": ""},
                    }
                ]
            }
        ),
        choice({"tool_calls": [{"index": 0, "function": {"arguments": '{"node": '}}]}),
        choice({"tool_calls": [{"index": 0, "function": {"arguments": '"kra-1"}'}}]}),
        choice(
            {
                "tool_calls": [
                    {
                        "index": 1,
                        "id": "b",
                        "function": {"name": "get_invoice", "arguments": "{bad"},
                    }
                ]
            }
        ),
    ]
    out = ChatStream().read(timed(*call, choice(finish="tool_calls"), b"[DONE]"))
    assert out.tool_calls == [
        {"tool": "get_node_status", "arguments": {"node": "kra-1"}, "output": None, "error": None},
        {"tool": "get_invoice", "arguments": "{bad", "output": None, "error": None},
    ]
    assert len(out.token_times) == 4


def test_chat_failures() -> None:
    """An error inside the stream, broken JSON, and a stream without its end each have a name."""
    assert (
        ChatStream().read(timed({"error": {"message": "no memory"}}, b"[DONE]")).error_type
        == "stream_error"
    )
    assert ChatStream().read(timed(b"{nonsense", b"[DONE]")).error_type == "malformed_event"
    cut = ChatStream().read(timed(choice({"content": "Hel"})))
    assert (cut.error_type, cut.answer, cut.token_times) == ("stream_incomplete", "Hel", [0.0])


def response(status: str, **more: Any) -> dict:
    return {
        "type": f"response.{status}",
        "response": {"id": "resp_1", "status": status, "output": [], **more},
    }


def test_responses_agent_loop() -> None:
    """Arguments and text are tokens.

    The answer, every tool call with its output or error, and usage come out.
    """
    items = [
        {"type": "mcp_list_tools", "server_label": "x", "tools": []},
        {
            "type": "mcp_call",
            "name": "get_quota",
            "arguments": '{"team": "a"}',
            "output": "7",
            "error": None,
        },
        {
            "type": "mcp_call",
            "name": "get_invoice",
            "arguments": "",
            "output": None,
            "error": "Error (code 1): no",
        },
        {
            "type": "file_search_call",
            "queries": ["rent"],
            "status": "completed",
            "results": [{"text": "42"}],
        },
        {"type": "message", "content": [{"type": "output_text", "text": "It is 7."}]},
    ]
    usage = {"input_tokens": 50, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 16}}
    out = ResponseStream().read(
        timed(
            response("created") | {"type": "response.created"},
            {"type": "response.mcp_list_tools.completed"},
            {"type": "response.mcp_call.arguments.delta", "delta": '{"team"'},
            {"type": "response.output_text.delta", "delta": ""},
            {"type": "response.output_text.delta", "delta": "It is 7."},
            response("completed", output=items, usage=usage),
        )
    )
    assert (out.answer, out.token_times, out.finish_reason) == ("It is 7.", [2.0, 4.0], "completed")
    assert out.first_answer == 4.0
    assert (out.response_id, out.error_type) == ("resp_1", "")
    assert (out.prompt_tokens, out.cached_tokens, out.completion_tokens) == (50, 16, 9)
    assert out.tool_calls == [
        {"tool": "get_quota", "arguments": {"team": "a"}, "output": "7", "error": None},
        {"tool": "get_invoice", "arguments": "", "output": None, "error": "Error (code 1): no"},
        {"tool": "file_search", "arguments": {"query": "rent"}, "output": ["42"], "error": None},
    ]


def test_responses_failed_and_incomplete() -> None:
    """A failed response is an error with the server's words; one that ran out of tokens is not."""
    failed = ResponseStream().read(
        timed(response("failed", error={"code": "server_error", "message": "boom"}))
    )
    assert (failed.error_type, failed.error_message) == ("response_failed", "server_error: boom")
    short = ResponseStream().read(
        timed(response("incomplete", incomplete_details={"reason": "max_output_tokens"}))
    )
    assert (short.error_type, short.finish_reason) == ("", "incomplete")


def test_responses_cut_keeps_finished_items() -> None:
    """Of a stream that was cut, finished tool calls are kept, and so is the id that was sent at
    the start.
    """
    item = {"type": "mcp_call", "name": "get_quota", "arguments": "{}", "output": "7"}
    out = ResponseStream().read(
        timed(
            response("created") | {"type": "response.created"},
            {"type": "response.output_item.done", "item": item},
        )
    )
    assert (out.error_type, out.response_id) == ("stream_incomplete", "resp_1")
    assert [c["tool"] for c in out.tool_calls] == ["get_quota"]


def test_error_bodies() -> None:
    """The server's words are found in OpenAI's shape, FastAPI's, and in plain text."""
    assert error_message(b'{"error": {"message": "no such model"}}') == "no such model"
    assert error_message(b'{"detail": "Not Found"}') == "Not Found"
    assert error_message(b"<h1>Bad gateway</h1>") == "<h1>Bad gateway</h1>"
    assert error_message(b"[1, 2]") == "[1, 2]"
