"""No message of a client ends in a 500, in a result that is not JSON, or uncounted."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.tools.conftest import ToolServer

HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


def call(tool: str, arguments: str) -> bytes:
    start = '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "'
    return (start + tool + '", "arguments": ' + arguments + "}}").encode()


def quota(team: str) -> bytes:
    return call("get_quota", '{"team": ' + team + ', "region": "x"}')


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


HOSTILE = {
    "nothing": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"method": "\xff"}',
    "deep": nested(100_000).encode(),
    "deep arguments": quota(nested(100_000)),
    "rather deep arguments": quota(nested(2_000)),
    "brackets in a string": call("get_node_status", '{"node": "' + nested(500) + '"}'),
    "half a surrogate pair": call("get_invoice", '{"invoice": "\\ud800"}'),
    "half a surrogate pair as the tool": call("x\\ud800", '{"invoice": "x"}'),
    "400 digits": call("quote_price", '{"gpu": "H100", "hours": ' + "9" * 400 + "}"),
    "nearly infinite": call("convert_currency", '{"to": "JPY", "amount_usd": 1e308}'),
    "infinite": call("convert_currency", '{"to": "JPY", "amount_usd": 1e999}'),
    "not a number": call("convert_currency", '{"to": "JPY", "amount_usd": NaN}'),
    "a NUL": call("get_node_status", '{"node": "\\u0000"}'),
    "a long name": call("x" * 100_000, "{}"),
    "other parameters": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": [1]}',
    "another version": b'{"jsonrpc": "9", "id": 1, "method": "tools/list"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_message_is_a_server_error(tool_server: ToolServer, body: bytes) -> None:
    """Every message is answered with a result, a protocol error, or 400; the server stays."""
    answer = httpx.post(f"{tool_server.url}/mcp", content=body, headers=HEADERS, timeout=20)
    assert answer.status_code in (200, 400), answer.text[:200]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    value = json.loads(answer.text, parse_constant=refuse)
    for content in value.get("result", {}).get("content", ()):
        assert "Infinity" not in content["text"] and "codec" not in content["text"]
    assert httpx.get(f"{tool_server.url}/healthz", timeout=60).status_code == 200


def test_numbers_out_of_range_are_counted(tool_server: ToolServer) -> None:
    """They are invalid arguments, in words for the model, and in the metrics."""
    body = call("convert_currency", '{"to": "JPY", "amount_usd": 1e308}')
    answer = httpx.post(f"{tool_server.url}/mcp", content=body, headers=HEADERS, timeout=60).json()[
        "result"
    ]
    assert answer["isError"] and answer["content"][0]["text"].endswith("is out of range")
    metrics = httpx.get(f"{tool_server.url}/metrics", timeout=60).text
    assert 'lab_tool_calls_total{outcome="invalid",tool="convert_currency"} 1.0' in metrics


def test_a_message_has_a_bound(tool_server: ToolServer) -> None:
    """More than a mebibyte is refused, before it is parsed."""
    body = quota('"' + "x" * 2_000_000 + '"')
    answer = httpx.post(f"{tool_server.url}/mcp", content=body, headers=HEADERS, timeout=60)
    assert answer.status_code == 413
