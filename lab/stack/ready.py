"""Probes for readiness. Each returns if the part is ready, and raises with the reason if not."""

import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from lab.schema import Metric

PROBE_TIMEOUT_S = 20.0  # of one request; a start as a whole has a longer limit
STALLED_S = 10.0
STALLED_CPU_SHARE = 0.1


class NotReady(Exception):
    """The part does not answer as it should yet; the message says what is missing."""


async def http(client: httpx.AsyncClient, url: str) -> None:
    """Expect a successful answer to GET."""
    await _get(client, url)


async def chat(client: httpx.AsyncClient, url: str, model: str) -> None:
    """Expect vLLM to generate one token."""
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
    """Expect vLLM to embed a word."""
    answer = await _post(client, f"{url}/v1/embeddings", {"model": model, "input": "hello"})
    if not answer["data"][0]["embedding"]:
        raise NotReady("an empty embedding")


async def models(client: httpx.AsyncClient, url: str, model: str) -> None:
    """Expect Llama Stack to list the chat model."""
    response = await _get(client, f"{url}/v1/models")
    names = [m["id"] for m in response.json()["data"]]
    if model not in names:
        raise NotReady(f"its models are {', '.join(names) or 'none'}; {model} is not among them")


async def mcp(client: httpx.AsyncClient, url: str) -> None:
    """Expect the tool server to open a session and list tools.

    The three JSON-RPC messages are written out here: importing the mcp package would cost the
    supervisor a second of CPU while all parts start.
    """
    params = {
        "protocolVersion": "2025-03-26",
        "capabilities": {},
        "clientInfo": {"name": "lab", "version": "0"},
    }
    headers = {"accept": "application/json, text/event-stream"}
    opened = await _rpc(client, url, headers, {"id": 1, "method": "initialize", "params": params})
    session = opened.headers.get("mcp-session-id")
    if session:
        headers["mcp-session-id"] = session

    await _rpc(client, url, headers, {"method": "notifications/initialized"})
    tools = await _rpc(client, url, headers, {"id": 2, "method": "tools/list", "params": {}})
    if not _rpc_result(tools).get("tools"):
        raise NotReady("it lists no tools")
    if session:
        await client.delete(url, headers=headers)


async def prometheus(client: httpx.AsyncClient, url: str, jobs: list[str]) -> None:
    """Expect Prometheus to be ready and to have scraped every job successfully."""
    await _get(client, f"{url}/-/ready")
    answer = (await _get(client, f"{url}/api/v1/query", query="up == 1")).json()
    up = {series["metric"]["job"] for series in answer["data"]["result"]}
    if missing := [job for job in jobs if job not in up]:
        raise NotReady(f"it has not scraped {', '.join(missing)} yet")


class EngineWatch:
    """Finds a vLLM engine that is deadlocked: /health of its server answers nevertheless.

    An engine is suspect where requests run, but for STALLED_S no step of it has ended and the
    processes used hardly any CPU. The number of running requests also stays after a cancelled
    request, so that only a suspect that does not answer a request either is deadlocked. No other
    check sends requests, which would be in the counters that notebooks compare.
    """

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._model = model
        self._steps = -1.0
        self._since = 0.0
        self._cpu_s = 0.0

    async def works(self, client: httpx.AsyncClient, cpu_s: float) -> bool:
        """Return whether the engine works; `cpu_s` is the CPU time of its processes so far."""
        page = (await _get(client, f"{self._url}/metrics")).text
        steps = _total(page, f"{Metric.STEP_TOKENS}_count")
        now = time.monotonic()
        stalled_s = now - self._since
        is_suspect = (
            steps == self._steps
            and _total(page, Metric.RUNNING) > 0
            and cpu_s - self._cpu_s < STALLED_CPU_SHARE * stalled_s
        )
        if is_suspect and stalled_s < STALLED_S:
            return True
        if is_suspect:
            await chat(client, self._url, self._model)
        self._steps = steps
        self._since = now
        self._cpu_s = cpu_s
        return True


def _total(page: str, name: str) -> float:
    """Return the sum of a metric's samples on a page of metrics."""
    pattern = rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)"
    return sum(float(value) for value in re.findall(pattern, page, re.MULTILINE))


PROBES: dict[str, Callable[..., Awaitable[None]]] = {
    f.__name__: f for f in (http, chat, embeddings, models, mcp, prometheus)
}


async def _get(client: httpx.AsyncClient, url: str, **params: str) -> httpx.Response:
    return _successful(await client.get(url, params=params), f"GET {url}")


async def _post(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> dict[str, Any]:
    return _successful(await client.post(url, json=body), f"POST {url}").json()


async def _rpc(
    client: httpx.AsyncClient, url: str, headers: dict[str, str], message: dict[str, Any]
) -> httpx.Response:
    response = await client.post(url, json={"jsonrpc": "2.0", **message}, headers=headers)
    return _successful(response, f"MCP {message['method']}")


def _successful(response: httpx.Response, request: str) -> httpx.Response:
    if not response.is_success:
        raise NotReady(f"{request} answered {response.status_code} {response.text[:200]}")
    return response


def _rpc_result(response: httpx.Response) -> dict[str, Any]:
    """Return the result of a JSON-RPC call, which may come as a server-sent event."""
    text = response.text
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        text = next((line[5:] for line in text.splitlines() if line.startswith("data:")), "{}")
    return json.loads(text).get("result", {})
