"""From the settings to the servers that a plan needs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from lab.errors import NotUp, WorkloadError
from lab.settings import Settings
from lab.workload.outcome import UNREADABLE, message_in
from lab.workload.paths import ChatPath, Path, ResponsesPath
from lab.workload.plan import Plan
from lab.workload.wire import Exchange, Pool, Target
from lab.world import catalogue

VECTOR_STORE = "help-desk"
TIMEOUT_S = 30.0


class _List(msgspec.Struct):
    data: list[dict[str, Any]]


def paths_for(plan: Plan, settings: Settings, vector_store_id: str = "") -> dict[str, Path]:
    """The way of each API that the plan uses.

    Raises NotUp where no address is known or Llama Stack does not answer, WorkloadError where it lacks the plan's model
    or a tool of the plan does not exist.
    """
    unknown = {name for r in plan.requests for name in r.tools} - set(catalogue.BY_NAME)
    if unknown:
        fix = f"use tools of the catalogue: {', '.join(catalogue.BY_NAME)}"
        raise WorkloadError(
            "the plan offers tools that do not exist", got=", ".join(sorted(unknown)), fix=fix
        )
    paths: dict[str, Path] = {}
    for api in sorted({r.api for r in plan.requests}):
        paths[api] = (
            _chat(settings) if api == "chat" else _responses(plan, settings, vector_store_id)
        )
    return paths


def _chat(settings: Settings) -> ChatPath:
    return ChatPath(Pool(Target.of(settings.endpoint("vllm"))))


def _responses(plan: Plan, settings: Settings, vector_store_id: str) -> ResponsesPath:
    url = settings.endpoint("llama_stack")
    names = {r.model for r in plan.requests if r.api == "responses"}
    models = find_models(url, {n for n in names if "/" not in n})
    searches = any(not catalogue.BY_NAME[t].mcp for r in plan.requests for t in r.tools)
    if searches and not vector_store_id:
        vector_store_id = find_vector_store(url)
    return ResponsesPath(
        Pool(Target.of(url)), f"{settings.endpoint('mcp')}/mcp", vector_store_id, models
    )


def find_models(llama_stack_url: str, names: set[str]) -> dict[str, str]:
    """Llama Stack's names of models, which begin with their provider's: {'lab-model': 'vllm/lab-model'}.

    Raises NotUp if Llama Stack does not answer, WorkloadError if it does not have one of the models.
    """
    if not names:
        return {}
    known = [str(model.get("id")) for model in _list(llama_stack_url, "/v1/models")]
    found = {name: k for name in names for k in known if k == name or k.endswith(f"/{name}")}
    if missing := names - set(found):
        got = f"{', '.join(sorted(missing))}; it has {', '.join(known) or 'none'}"
        fix = "make the plan for one that it has"
        raise WorkloadError("Llama Stack does not have the plan's model", got=got, fix=fix)
    return found


def find_vector_store(llama_stack_url: str, name: str = VECTOR_STORE) -> str:
    """The id of the vector store with the help desk's documents; '' if there is none (then no search is offered).

    Raises NotUp if Llama Stack does not answer.
    """
    stores = _list(llama_stack_url, "/v1/vector_stores?limit=100")
    return next((str(store["id"]) for store in stores if store.get("name") == name), "")


def _list(url: str, path: str) -> list[dict[str, Any]]:
    """Return the objects of one of Llama Stack's lists, within TIMEOUT_S in all. Raises NotUp."""
    exchange = _get(Target.of(url), path)
    answer = exchange.answer
    if exchange.error_type:
        raise _not_up(url, f"{exchange.error_type}: {exchange.error_message}")
    if answer.status != 200:
        raise _not_up(url, f"HTTP {answer.status} for {path}: {message_in(answer.body)}")
    try:
        return msgspec.json.decode(answer.body, type=_List).data
    except UNREADABLE as e:
        raise _not_up(url, f"no list for {path}: {e}: {answer.body[:100]!r}") from e


def _get(target: Target, path: str) -> Exchange:
    head = f"GET {target.path}{path} HTTP/1.1\r\nHost: {target.host_header}\r\nConnection: close\r\n\r\n"
    sending = Pool(target).send(head.encode(), timeout_s=TIMEOUT_S)
    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has a running loop already
        return thread.submit(asyncio.run, sending).result()


def _not_up(url: str, got: str) -> NotUp:
    return NotUp(f"Llama Stack at {url} does not answer", got=got, fix="look at `lab status`")
