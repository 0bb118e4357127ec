"""Does a part really answer? One coroutine a kind of probe: returns nothing if it does, else raises with the reason."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

PROBE_TIMEOUT_S = 20.0  # of one question; the whole start-up has its own, longer limit


class NotReady(Exception):
    """The part does not answer as it should yet; the message says what is missing."""


async def http(client: httpx.AsyncClient, url: str) -> None:
    """GET answers with success."""
    await _get(client, url)


async def chat(client: httpx.AsyncClient, url: str, model: str) -> None:
    """vLLM generates a token."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 1,
        "temperature": 0,
    }
    answer = await _post(client, f"{url}/v1/chat/completions", body)
    if answer["usage"]["completion_tokens"] != 1:
        raise NotReady(f"a chat completion answered {answer}")


async def embeddings(client: httpx.AsyncClient, url: str, model: str) -> None:
    """vLLM embeds a word."""
    answer = await _post(client, f"{url}/v1/embeddings", {"model": model, "input": "hello"})
    if not answer["data"][0]["embedding"]:
        raise NotReady("an empty embedding")


async def models(client: httpx.AsyncClient, url: str, model: str) -> None:
    """Llama Stack lists the chat model."""
    found = [m["id"] for m in (await _get(client, f"{url}/v1/models")).json()["data"]]
    if model not in found:
        raise NotReady(f"its models are {', '.join(found) or 'none'}; {model} is not among them")


async def mcp(client: httpx.AsyncClient, url: str) -> None:
    """The tool server takes a session and lists tools.

    Three JSON-RPC messages by hand: the mcp package would cost the supervisor a second of CPU just when all start.
    """
    params = {
        "protocolVersion": "2025-03-26",
        "capabilities": {},
        "clientInfo": {"name": "lab", "version": "0"},
    }
    headers = {"accept": "application/json, text/event-stream"}
    first = await _rpc(client, url, headers, {"id": 1, "method": "initialize", "params": params})
    if session := first.headers.get("mcp-session-id"):
        headers["mcp-session-id"] = session
    await _rpc(client, url, headers, {"method": "notifications/initialized"})
    listed = await _rpc(client, url, headers, {"id": 2, "method": "tools/list", "params": {}})
    if not _rpc_result(listed).get("tools"):
        raise NotReady("it lists no tools")
    if session:
        await client.delete(url, headers=headers)


async def prometheus(client: httpx.AsyncClient, url: str, jobs: list[str]) -> None:
    """Prometheus is ready and has scraped every job with success."""
    await _get(client, f"{url}/-/ready")
    answer = (await _get(client, f"{url}/api/v1/query", query="up == 1")).json()
    up = {series["metric"]["job"] for series in answer["data"]["result"]}
    if missing := [job for job in jobs if job not in up]:
        raise NotReady(f"it has not scraped {', '.join(missing)} yet")


PROBES: dict[str, Callable[..., Awaitable[None]]] = {
    f.__name__: f for f in (http, chat, embeddings, models, mcp, prometheus)
}


async def _get(client: httpx.AsyncClient, url: str, **params: str) -> httpx.Response:
    response = await client.get(url, params=params)
    if not response.is_success:
        raise NotReady(f"GET {url} answered {response.status_code} {response.text[:200]}")
    return response


async def _post(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], **headers: str
) -> dict[str, Any]:
    response = await client.post(url, json=body, headers=headers)
    if not response.is_success:
        raise NotReady(f"POST {url} answered {response.status_code} {response.text[:200]}")
    return response.json()


async def _rpc(
    client: httpx.AsyncClient, url: str, headers: dict[str, str], message: dict[str, Any]
) -> httpx.Response:
    response = await client.post(url, json={"jsonrpc": "2.0", **message}, headers=headers)
    if not response.is_success:
        raise NotReady(
            f"MCP {message['method']} answered {response.status_code} {response.text[:200]}"
        )
    return response


def _rpc_result(response: httpx.Response) -> dict[str, Any]:
    text = response.text
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        text = next((line[5:] for line in text.splitlines() if line.startswith("data:")), "{}")
    return json.loads(text).get("result", {})
