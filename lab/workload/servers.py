"""From the settings to the servers that a plan needs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from lab.errors import NotUp, WorkloadError
from lab.settings import Settings
from lab.workload.apis import Api, ChatApi, ResponsesApi
from lab.workload.connection import Exchange, Pool, Server
from lab.workload.outcome import UNREADABLE, error_message
from lab.workload.plan import Plan
from lab.world import catalogue

VECTOR_STORE = "help-desk"
TIMEOUT_S = 30.0


class _List(msgspec.Struct):
    data: list[dict[str, Any]]


def apis_for(plan: Plan, settings: Settings, vector_store_id: str = "") -> dict[str, Api]:
    """Return each API that the plan uses.

    Raises NotUp where no address is known or Llama Stack does not answer, WorkloadError where it
    lacks the plan's model or a tool of the plan does not exist.
    """
    unknown = {name for r in plan.requests for name in r.tools} - set(catalogue.BY_NAME)
    if unknown:
        raise WorkloadError(
            "the plan offers tools that do not exist",
            got=", ".join(sorted(unknown)),
            fix=f"use tools of the catalogue: {', '.join(catalogue.BY_NAME)}",
        )
    names = {r.api for r in plan.requests}
    apis: dict[str, Api] = {}
    if "chat" in names:
        apis["chat"] = ChatApi(Pool(Server.at(settings.endpoint("vllm"))))
    if "responses" in names:
        apis["responses"] = _responses(plan, settings, vector_store_id)
    return apis


def _responses(plan: Plan, settings: Settings, vector_store_id: str) -> ResponsesApi:
    url = settings.endpoint("llama_stack")
    names = {r.model for r in plan.requests if r.api == "responses"}
    models = find_models(url, {name for name in names if "/" not in name})
    searches = any(not catalogue.BY_NAME[tool].mcp for r in plan.requests for tool in r.tools)
    if searches and not vector_store_id:
        vector_store_id = find_vector_store(url)
    mcp_url = f"{settings.endpoint('mcp')}/mcp"
    return ResponsesApi(Pool(Server.at(url)), mcp_url, vector_store_id, models)


def find_models(llama_stack_url: str, names: set[str]) -> dict[str, str]:
    """Return Llama Stack's names of models, with their provider: {'lab-model': 'vllm/lab-model'}.

    Raises NotUp if Llama Stack does not answer, WorkloadError if it does not have one of the
    models.
    """
    if not names:
        return {}
    known = [str(model.get("id")) for model in _list(llama_stack_url, "/v1/models")]
    full_names = {
        name: full for name in names for full in known if full == name or full.endswith(f"/{name}")
    }
    if missing := names - set(full_names):
        got = f"{', '.join(sorted(missing))}; it has {', '.join(known) or 'none'}"
        fix = "make the plan for one that it has"
        raise WorkloadError("Llama Stack does not have the plan's model", got=got, fix=fix)
    return full_names


def find_vector_store(llama_stack_url: str, name: str = VECTOR_STORE) -> str:
    """Return the id of the vector store with the documents; '' if there is none.

    Without one, no search is offered. Raises NotUp if Llama Stack does not answer.
    """
    stores = _list(llama_stack_url, "/v1/vector_stores?limit=100")
    return next((str(store["id"]) for store in stores if store.get("name") == name), "")


def _list(url: str, path: str) -> list[dict[str, Any]]:
    """Return the objects of one of Llama Stack's lists, within TIMEOUT_S in all. Raises NotUp."""
    exchange = _get(Server.at(url), path)
    answer = exchange.answer
    if exchange.error_type:
        raise _not_up(url, f"{exchange.error_type}: {exchange.error_message}")
    if answer.status != 200:
        raise _not_up(url, f"HTTP {answer.status} for {path}: {error_message(answer.body)}")
    try:
        return msgspec.json.decode(answer.body, type=_List).data
    except UNREADABLE as e:
        raise _not_up(url, f"no list for {path}: {e}: {answer.body[:100]!r}") from e


def _get(server: Server, path: str) -> Exchange:
    lines = [
        f"GET {server.path}{path} HTTP/1.1",
        f"Host: {server.host_header}",
        "Connection: close",
    ]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n"
    sending = Pool(server).send(request, timeout_s=TIMEOUT_S)
    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has a running loop already
        return thread.submit(asyncio.run, sending).result()


def _not_up(url: str, got: str) -> NotUp:
    return NotUp(f"Llama Stack at {url} does not answer", got=got, fix="look at `lab status`")
