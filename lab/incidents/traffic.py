"""Requests of one more tenant, sent until the incident ends."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor, as_completed
from http import HTTPStatus
from random import Random
from typing import Any

from msgspec.structs import replace

from lab.settings import Settings
from lab.stores.http import HttpClient
from lab.workload import Plan, Users, make_plan
from lab.workload.apis import ChatApi, apis_for
from lab.workload.driver import Driver, new_run_id
from lab.workload.plan import ApiName, PlannedRequest
from lab.workload.tracing import RootSpans
from lab.world import catalogue

REQUESTS = 400  # of one plan, which is driven again and again
TIMEOUT_S = 60.0
WORDS_PER_TOKEN = 0.4
EMBEDDINGS = "/v1/embeddings"
EMBED_MODEL = "all-minilm-l6-v2"
# By incident: whom it sends to, and more fields of each request's body.
APIS: dict[str, ApiName] = {"retry_storm": "responses", "agent_loop": "responses"}
EXTRA: dict[str, dict[str, Any]] = {"token_runaway": {"ignore_eos": True}}
Requests = tuple[PlannedRequest, ...]


def plan(name: str, parameters: dict[str, Any], seed: int, settings: Settings) -> Plan:
    """Return the requests of a traffic incident, in closed loop: they never pile up."""
    base = make_plan(
        arrivals=Users(parameters["users"], think_s=0.2, start_over_s=2.0),
        requests=REQUESTS,
        seed=seed,
        kinds=["single"],
        api=APIS.get(name, "chat"),
        settings=settings,
        max_tokens=parameters.get("max_tokens", 48),
        tenants=(parameters["tenant"],),
    )
    requests = base.requests
    if name in CHANGES:
        requests = CHANGES[name](requests, parameters)
    elif "prompt_tokens" in parameters:
        requests = _long(requests, parameters["prompt_tokens"], Random(seed), texts(settings))
    return Plan(requests, base.arrivals, seed, base.world)


def drive(plan: Plan, name: str, parameters: dict[str, Any], settings: Settings) -> None:
    """Drive the plan again and again; returns never."""
    spans = RootSpans(settings.endpoint("otlp"))
    while True:
        apis = apis_for(plan, settings)
        for api in apis.values():
            if isinstance(api, ChatApi):
                api.extra = EXTRA.get(name, {})
        driver = Driver(
            plan,
            apis,
            run_id=new_run_id(),
            timeout_s=parameters.get("timeout_s", TIMEOUT_S),
            spans=spans,
        )
        asyncio.run(driver.drive())


def texts(settings: Settings) -> list[str]:
    """Return the help desk's documents."""
    return [p.read_text() for p in sorted(settings.data_dir.glob("world/documents/*.md"))]


def embed(settings: Settings, users: int) -> None:
    """Send all documents to the embedding server, `users` at a time; returns never.

    Raises StoreError where it refuses or does not answer.
    """
    client = HttpClient("the embedding server", settings.endpoint("vllm_embed"), TIMEOUT_S)
    body = {"model": EMBED_MODEL, "input": texts(settings)}

    def send() -> None:
        while True:
            reply = client.request(EMBEDDINGS, json=body)
            if reply.status != HTTPStatus.OK:
                raise client.refusal(reply, EMBEDDINGS)
            if b'"embedding"' not in reply.content:
                raise client.not_its_api(reply, EMBEDDINGS, "no embedding")

    pool = ThreadPoolExecutor(users)  # never waited for: the others go on when one has failed
    next(as_completed([pool.submit(send) for _ in range(users)])).result()


def _long(requests: Requests, prompt_tokens: int, random: Random, texts: list[str]) -> Requests:
    """Return the requests with prompts of about `prompt_tokens`, none like another."""
    words = " ".join(texts).split()
    length = round(prompt_tokens * WORDS_PER_TOKEN)

    def text() -> str:
        return " ".join(random.choices(words, k=length))

    return tuple(replace(r, text=f"{text()} {r.text}", tools=[], max_tokens=8) for r in requests)


def _repeated(requests: Requests, parameters: dict[str, Any]) -> Requests:
    """Return each request several times, as a client that retries at once sends it."""
    return tuple(
        replace(
            r,
            request_id=f"{r.request_id}-{attempt}",
            session_id=f"{r.session_id}-{attempt}",
            offset_s=r.offset_s if attempt == 0 else None,
            think_s=r.think_s if attempt == 0 else 0.0,
        )
        for r in requests
        for attempt in range(parameters["attempts"])
    )


def _looping(requests: Requests, parameters: dict[str, Any]) -> Requests:
    """Return each request as a conversation that asks the same again, with every tool."""
    return tuple(
        replace(
            r,
            request_id=f"{r.request_id}-{turn}",
            turn_index=turn,
            offset_s=r.offset_s if turn == 0 else None,
            think_s=r.think_s if turn == 0 else 0.0,
            tools=list(catalogue.BY_NAME),
        )
        for r in requests
        for turn in range(parameters["turns"])
    )


CHANGES = {"retry_storm": _repeated, "agent_loop": _looping}
