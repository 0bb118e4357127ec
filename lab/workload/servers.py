"""From the settings to the servers that a plan needs. What is not measured is asked with llama-stack-client."""

from __future__ import annotations

from typing import Any

from lab.errors import NotUp, WorkloadError
from lab.settings import Settings
from lab.workload.paths import ChatPath, Path, ResponsesPath
from lab.workload.plan import Plan
from lab.workload.wire import Pool, Target
from lab.world import catalogue

VECTOR_STORE = "help-desk"


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


def client(llama_stack_url: str, timeout_s: float = 30.0) -> Any:
    """A llama-stack-client of the server."""
    from llama_stack_client import (
        LlamaStackClient,
    )  # a second of imports, not needed by a plan of plain chat

    return LlamaStackClient(base_url=llama_stack_url, timeout=timeout_s, max_retries=0)


def find_models(llama_stack_url: str, names: set[str]) -> dict[str, str]:
    """Llama Stack's names of models, which begin with their provider's: {'lab-model': 'vllm/lab-model'}.

    Raises NotUp if Llama Stack does not answer, WorkloadError if it does not have one of the models.
    """
    if not names:
        return {}
    known = _ask(llama_stack_url, lambda c: [m.id for m in c.models.list()])
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
    stores = _ask(
        llama_stack_url, lambda c: [(s.name, s.id) for s in c.vector_stores.list(limit=100)]
    )
    return next((store_id for found, store_id in stores if found == name), "")


def _ask(url: str, question: Any) -> Any:
    from llama_stack_client import APIError

    try:
        return question(client(url))
    except APIError as e:
        raise NotUp(
            f"Llama Stack at {url} does not answer", got=str(e), fix="look at `lab status`"
        ) from e
