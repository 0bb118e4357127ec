"""In the real stack every part answers, a request is one trace, and a killed part is reported."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from lab import stack
from lab.errors import PartFailed
from lab.schema import JOBS, Attr, Service, Span
from lab.settings import Settings
from lab.stack import processes
from lab.stack.llama_stack_config import model_id
from lab.world import make_scenarios

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
GIB = 1024**3


def wait_for(condition: Callable[[], bool], limit_s: float, message: str) -> None:
    """Poll until the condition holds; fail with the message after `limit_s` seconds."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, message
        time.sleep(0.3)


def ask_agent(settings: Settings, question: str, trace_id: str) -> dict | None:
    """Send one agent request with the MCP tools as part of a given trace.

    Return None if the request failed or called no tool. Small models do fail: Llama Stack answers
    500 when the arguments that the model writes are not JSON.
    """
    tool = {
        "type": "mcp",
        "server_label": "help-desk",
        "server_url": f"{settings.endpoint('mcp')}/mcp",
    }
    body = {"model": model_id(settings.model_name), "input": question, "temperature": 0}
    response = httpx.post(
        f"{settings.endpoint('llama_stack')}/v1/responses",
        json=body | {"tools": [tool | {"require_approval": "never"}]},
        headers={
            "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
            "baggage": f"{Attr.TENANT}=acme,secret=x",
        },
        timeout=120,
    )
    answer = response.json() if response.is_success else {"output": []}
    return answer if any(item["type"] == "mcp_call" for item in answer["output"]) else None


def spans_of(settings: Settings, trace_id: str) -> list[dict]:
    """Return a trace's spans from the store, each as {service, name, id, parent, attributes}."""
    answer = httpx.get(f"{settings.endpoint('tempo')}/api/v2/traces/{trace_id}", timeout=60)
    if not answer.is_success:
        return []
    spans = []
    for batch in answer.json().get("trace", {}).get("resourceSpans", []):
        service = attributes(batch["resource"]).get("service.name")
        for scope in batch["scopeSpans"]:
            for s in scope["spans"]:
                ids = {"id": s["spanId"], "parent": s.get("parentSpanId", "")}
                spans.append(
                    {"service": service, "name": s["name"], **ids, "attributes": attributes(s)}
                )
    return spans


def attributes(holder: dict) -> dict[str, str]:
    return {a["key"]: next(iter(a["value"].values()), "") for a in holder.get("attributes", [])}


@pytest.fixture(scope="module")
def one_request(live_lab: Settings) -> tuple[str, dict, list[dict]]:
    """Return (trace id, answer, spans) of an agent request that called a tool."""
    for scenario in make_scenarios(12, seed=5, kinds=("single",)):
        trace_id = secrets.token_hex(16)
        if answer := ask_agent(live_lab, scenario.turns[0].text, trace_id):
            break
    else:
        pytest.fail("the model called a tool for none of twelve questions")

    def arrived() -> bool:
        spans = spans_of(live_lab, trace_id)
        services = {s["service"] for s in spans}
        names = {s["name"] for s in spans}
        return {Service.VLLM, Service.TOOLS} <= services and Span.LLAMA_STACK_RESPONSES in names

    wait_for(arrived, 120, "the spans of Llama Stack, vLLM and the tools did not arrive")
    # Each exporter sends its spans in batches; on a busy machine the last one is seconds late.
    spans = spans_of(live_lab, trace_id)
    for _ in range(6):
        time.sleep(4)
        before = spans
        spans = spans_of(live_lab, trace_id)
        if len(spans) == len(before):
            break
    return trace_id, answer, spans


def test_every_part_is_ready(live_lab):
    """After `lab up` all parts of an agent request answer; embeddings and documents follow.

    Parts on demand are off until they are requested (tests/live/test_canary.py).
    """
    stack.require(live_lab)
    stack.require(live_lab, "vllm-embed", "documents", wait_s=300)
    always_on = [p for p in stack.status(live_lab) if not p.on_demand]
    assert all(p.ready for p in always_on), [(p.name, p.state) for p in always_on]


def test_one_request_is_one_trace_through_all_services(one_request):
    """The client's context reaches Llama Stack, vLLM and the tools; none starts a new trace."""
    _, _, spans = one_request
    assert {s["service"] for s in spans} == {Service.LLAMA_STACK, Service.VLLM, Service.TOOLS}
    ids = {s["id"] for s in spans}
    orphans = [s["name"] for s in spans if s["parent"] not in ids]
    assert orphans == [Span.LLAMA_STACK_RESPONSES], (
        "only the server's span has its parent in the client"
    )


def test_a_chat_span_arrives_for_every_model_call(one_request):
    """The pinned instrumentation works; with other versions of openai it silently makes no span."""
    _, _, spans = one_request
    chats = [s for s in spans if s["name"].startswith(Span.CHAT_PREFIX)]
    engine = [s for s in spans if s["name"] == Span.VLLM]
    assert chats and len(chats) == len(engine)
    assert all(int(s["attributes"][Attr.OUTPUT_TOKENS]) > 0 for s in chats)


def test_the_tokens_of_an_answer_are_those_of_its_model_calls(one_request):
    """The sums are equal, unlike when vLLM reports its usage in every chunk."""
    _, answer, spans = one_request
    engine = [s["attributes"] for s in spans if s["name"] == Span.VLLM]
    assert answer["usage"]["input_tokens"] == sum(int(a[Attr.VLLM_PROMPT_TOKENS]) for a in engine)
    assert answer["usage"]["output_tokens"] == sum(
        int(a[Attr.VLLM_COMPLETION_TOKENS]) for a in engine
    )


def test_the_user_is_an_attribute_of_llama_stacks_spans(one_request):
    """Baggage with known keys becomes attributes, and other baggage does not."""
    _, _, spans = one_request
    attributes_of_llama_stack = [
        s["attributes"] for s in spans if s["service"] == Service.LLAMA_STACK
    ]
    assert all(
        a.get(Attr.TENANT) == "acme" and "secret" not in a for a in attributes_of_llama_stack
    )


def test_there_is_no_span_per_streamed_chunk(one_request):
    """ASGI's send and receive spans, which would outnumber all others, are off."""
    _, _, spans = one_request
    assert not [s["name"] for s in spans if s["name"].endswith((" http send", " http receive"))]


def test_the_logs_of_a_trace_are_joined(live_lab, one_request):
    """`lab logs --trace` finds lines of Llama Stack and vLLM in order of time."""
    entries = list(stack.logs(live_lab, trace_id=one_request[0]))
    assert {"vllm", "llama-stack"} <= {e["part"] for e in entries}
    assert [e["ts"] for e in entries] == sorted(e["ts"] for e in entries)


def test_prometheus_scrapes_every_job(live_lab):
    """The jobs have the names of the schema."""

    def all_up() -> bool:
        answer = httpx.get(
            f"{live_lab.endpoint('prometheus')}/api/v1/query",
            params={"query": "up == 1"},
            timeout=60,
        ).json()
        return {r["metric"]["job"] for r in answer["data"]["result"]} == set(JOBS)

    stack.require(live_lab, "vllm-embed", wait_s=300)
    wait_for(all_up, 120, "not every job is up")


@pytest.mark.parametrize(
    "metric",
    [
        'vllm:e2e_request_latency_seconds_bucket{job="vllm"}',
        'llama_stack_inference_duration_seconds_bucket{job="llama-stack"}',
        'gen_ai_client_operation_duration_seconds_bucket{job="llama-stack"}',
    ],
)
def test_histograms_resolve_milliseconds(live_lab, one_request, metric):
    """At least ten bounds are below a third of a second, where the default has at most one."""
    url = f"{live_lab.endpoint('prometheus')}/api/v1/series"
    params = {"match[]": metric}

    def scraped() -> bool:
        return bool(httpx.get(url, params=params, timeout=60).json()["data"])

    wait_for(scraped, 120, f"{metric} was not scraped")
    bounds = {float(s["le"]) for s in httpx.get(url, params=params, timeout=60).json()["data"]}
    assert len([b for b in bounds if b < 0.3]) >= 10


def test_documents_are_found_by_meaning(live_lab):
    """The vector store answers a question with a document, using the embedding vLLM."""
    stack.require(live_lab, "documents", wait_s=300)
    result = json.loads((live_lab.state_dir / "run" / "documents.json").read_text())
    store = result["vector_store_id"]
    answer = httpx.post(
        f"{live_lab.endpoint('llama_stack')}/v1/vector_stores/{store}/search",
        json={"query": "how long are results kept", "max_num_results": 2},
        timeout=60,
    ).json()
    assert answer["data"] and answer["data"][0]["content"][0]["text"]


def test_everything_listens_on_loopback_only(live_lab):
    """Nothing is reachable from the network of a workshop."""
    listening = [
        c.laddr
        for p in members(live_lab)
        for c in p.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 8
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_the_whole_stack_fits_into_six_gib(live_lab):
    """Resident memory, with shared pages counted per process, is an upper bound."""
    stack.require(live_lab, "vllm-embed", wait_s=300)
    assert sum(p.rss_bytes for p in stack.status(live_lab)) <= 6 * GIB


def test_a_killed_vllm_is_reported_and_repaired(live_lab):
    """`status` and `require` report it within seconds, and its engine ends too.

    `lab up` restarts it at the same address.
    """
    url = live_lab.endpoint("vllm")
    pid = next(p.pid for p in stack.status(live_lab) if p.name == "vllm")
    below = processes.tree(pid)
    os.kill(pid, signal.SIGKILL)
    try:
        wait_for(
            lambda: "SIGKILL" in next(p.error for p in stack.status(live_lab) if p.name == "vllm"),
            120,
            "the kill was not reported",
        )
        with pytest.raises(PartFailed, match="vllm is dead") as e:
            stack.require(live_lab)
        assert e.value.part == "vllm"
        wait_for(
            lambda: all(processes.identity(p.pid) is None for p in below),
            120,
            "its engine is still running",
        )
    finally:
        stack.up(live_lab)
    assert httpx.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"] == live_lab.model_name


def members(settings: Settings) -> Iterator[psutil.Process]:
    """Yield every process of the running lab."""
    supervisor = next(p for p in stack.status(settings) if p.name == "supervisor")
    yield from processes.tree(supervisor.pid)
