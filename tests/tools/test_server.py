"""The tool server through a real MCP client: results, errors, traces, metrics, faults, and many
calls at once.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult
from opentelemetry.trace import SpanKind, StatusCode

from lab.world import catalogue, facts
from tests.tools.conftest import ToolServer

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SLOW_S = 17.0  # a delay that nothing else has
HEADERS = {
    "traceparent": f"00-{TRACE}-{PARENT}-01",
    "baggage": "lab.tenant=acme,user.id=zo%C3%AB,secret=no",
}


@asynccontextmanager
async def session(server: ToolServer, **headers: str) -> AsyncIterator[ClientSession]:
    async with (
        httpx.AsyncClient(headers=headers, timeout=60) as http,
        streamable_http_client(f"{server.url}/mcp", http_client=http) as (read, write, _),
        ClientSession(read, write) as opened,
    ):
        await opened.initialize()
        yield opened


async def call(
    server: ToolServer, tool: str, arguments: dict[str, Any], **headers: str
) -> CallToolResult:
    async with session(server, **headers) as opened:
        return await opened.call_tool(tool, arguments)


def outcome_of(result: CallToolResult) -> tuple[bool, str]:
    return bool(result.isError), result.content[0].text  # type: ignore[union-attr]


def a_node(server: ToolServer) -> tuple[str, str, int]:
    with sqlite3.connect(server.db) as db:
        return db.execute("SELECT name, state, gpus_free FROM nodes ORDER BY name").fetchone()


async def test_the_catalogue_is_what_is_offered(tool_server: ToolServer) -> None:
    """Every MCP tool of the catalogue with its schema, and a hint which one writes."""
    async with session(tool_server) as opened:
        tools = {t.name: t for t in (await opened.list_tools()).tools}
    assert list(tools) == [t.name for t in catalogue.MCP_TOOLS]
    assert all(tools[t.name].inputSchema == t.input_schema() for t in catalogue.MCP_TOOLS)
    writing = {
        name for name, t in tools.items() if t.annotations and not t.annotations.readOnlyHint
    }
    assert writing == {t.name for t in catalogue.MCP_TOOLS if t.writes}


async def test_results_are_the_databases(tool_server: ToolServer) -> None:
    """A call answers with what the database holds, as one JSON text."""
    name, state, free = a_node(tool_server)
    failed, text = outcome_of(await call(tool_server, "get_node_status", {"node": name}))
    assert not failed and json.loads(text) == {"state": state, "gpus_free": free}


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("get_node_status", {"node": "nowhere-1"}, "unknown node nowhere-1"),
        ("get_node_status", {}, "missing argument node"),
        ("get_node_status", {"node": "a", "colour": "red"}, "unexpected argument colour"),
        ("quote_price", {"gpu": "H100", "hours": "two"}, "argument hours must be a integer"),
        (
            "get_node_status",
            {"node": "x'; DROP TABLE nodes; --"},
            "unknown node x'; DROP TABLE nodes; --",
        ),
        ("make_coffee", {}, "unknown tool make_coffee"),
        ("file_search", {"query": "x"}, "unknown tool file_search"),
    ],
)
async def test_errors_are_results(
    tool_server: ToolServer, tool: str, arguments: dict, expected: str
) -> None:
    """The model gets an error result for its mistakes; the server stays up."""
    assert outcome_of(await call(tool_server, tool, arguments)) == (True, expected)
    assert tool_server.calls.database.rows() > 0


async def test_tools_hang_below_the_request_that_asked(tool_server: ToolServer) -> None:
    """execute_tool is below the HTTP span, which is below the caller's span.

    Baggage of the lab becomes attributes.
    """
    name, *_ = a_node(tool_server)
    await call(tool_server, "get_node_status", {"node": name}, **HEADERS)
    spans = {s.name: s for s in tool_server.spans()}
    tool, query = spans["execute_tool get_node_status"], spans["sqlite query"]
    http = next(s for s in tool_server.spans() if s.context.span_id == tool.parent.span_id)
    assert http.kind is SpanKind.SERVER and http.name == "POST /mcp"
    assert f"{http.parent.span_id:016x}" == PARENT
    assert {f"{s.context.trace_id:032x}" for s in (tool, query, http)} == {TRACE}
    assert query.parent.span_id == tool.context.span_id
    assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
    assert tool.attributes["gen_ai.tool.name"] == "get_node_status"
    assert tool.resource.attributes["service.name"] == "lab-tools"
    for span in (tool, query, http):
        assert span.attributes["lab.tenant"] == "acme" and span.attributes["user.id"] == "zoë"
        assert "secret" not in span.attributes
    assert tool.status.status_code is StatusCode.UNSET


async def test_each_request_keeps_its_own_parent(tool_server: ToolServer) -> None:
    """Many callers at once: no tool ends up in another caller's trace."""
    tool_server.calls.faults.set("get_node_status", delay_s=0.05)
    name, *_ = a_node(tool_server)
    traces = [f"{i + 1:032x}" for i in range(20)]
    await asyncio.gather(
        *(
            call(tool_server, "get_node_status", {"node": name}, traceparent=f"00-{t}-{PARENT}-01")
            for t in traces
        )
    )
    tools = [s for s in tool_server.spans() if s.name.startswith("execute_tool")]
    assert sorted(f"{s.context.trace_id:032x}" for s in tools) == traces


async def test_errors_show_in_spans_and_metrics(tool_server: ToolServer) -> None:
    """A tool's failure is an error span with a type, and counts under its outcome.

    An invented name gets no label.
    """
    name, *_ = a_node(tool_server)
    await call(tool_server, "get_node_status", {"node": name})
    await call(tool_server, "get_node_status", {"node": "nowhere"})
    await call(tool_server, "get_node_status", {})
    await call(tool_server, "make_coffee", {})
    tool_server.calls.faults.set("get_node_status", error_ratio=1.0)
    await call(tool_server, "get_node_status", {"node": name})
    spans = [s for s in tool_server.spans() if s.name.startswith("execute_tool")]
    kinds = [s.attributes.get("error.type") for s in spans]
    assert kinds == [None, "tool_error", "invalid_arguments", "invalid_arguments", "timeout"]
    assert [s.status.status_code is StatusCode.ERROR for s in spans] == [
        False,
        True,
        True,
        True,
        True,
    ]
    text = httpx.get(f"{tool_server.url}/metrics", timeout=60).text
    assert 'lab_tool_calls_total{outcome="ok",tool="get_node_status"} 1.0' in text
    assert 'lab_tool_calls_total{outcome="error",tool="get_node_status"} 2.0' in text
    assert 'lab_tool_calls_total{outcome="invalid",tool="unknown"} 1.0' in text
    assert (
        "make_coffee" not in text
        and 'lab_tool_duration_seconds_count{tool="get_node_status"} 4.0' in text
    )


async def test_a_slow_tool_holds_up_no_other(
    tool_server: ToolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While ten calls wait, another tool answers. Their wait ends when the test says so."""
    wait = asyncio.sleep
    waiting: list[float] = []
    is_over = threading.Event()

    async def sleep(delay_s: float, *result: Any) -> None:
        if delay_s != SLOW_S:
            return await wait(delay_s, *result)
        waiting.append(delay_s)
        while not is_over.is_set():
            await wait(0.01)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    tool_server.calls.faults.set("run_diagnostics", delay_s=SLOW_S)
    name, *_ = a_node(tool_server)
    slow = [
        asyncio.create_task(call(tool_server, "run_diagnostics", {"node": name})) for _ in range(10)
    ]
    while len(waiting) < len(slow):
        await wait(0.01)
    await call(tool_server, "get_node_status", {"node": name})
    assert not any(task.done() for task in slow)
    is_over.set()
    assert all(not outcome_of(result)[0] for result in await asyncio.gather(*slow))


async def test_tickets_are_written_once_each(tool_server: ToolServer) -> None:
    """A dozen writers at once get a dozen different tickets, and the database holds just these."""
    name, *_ = a_node(tool_server)
    arguments = {"node": name, "severity": "high", "problem": "too hot"}
    results = await asyncio.gather(
        *(call(tool_server, "open_ticket", arguments) for _ in range(12))
    )
    numbers = {json.loads(outcome_of(r)[1])["ticket"] for r in results}
    assert len(numbers) == 12 and not any(outcome_of(r)[0] for r in results)
    with sqlite3.connect(tool_server.db) as db:
        assert {f"T-{n}" for (n,) in db.execute("SELECT number FROM tickets")} == numbers


def test_faults_can_be_set_while_it_runs(tool_server: ToolServer) -> None:
    """A share of errors and a delay, set over HTTP, are what calls then get.

    DELETE takes them back.
    """
    url, name = f"{tool_server.url}/admin/faults", a_node(tool_server)[0]
    assert (
        httpx.post(url, json={"tool": "get_quota", "error_ratio": 0.25}, timeout=60).status_code
        == 200
    )
    set_now = httpx.post(url, json={"tool": "get_node_status", "delay_s": 0.3}, timeout=60).json()
    assert (set_now["get_quota"]["error_ratio"], set_now["get_node_status"]["delay_s"]) == (
        0.25,
        0.3,
    )
    begun = time.perf_counter()
    asyncio.run(call(tool_server, "get_node_status", {"node": name}))
    assert time.perf_counter() - begun >= 0.3
    drawn = [tool_server.calls.faults.of("get_quota").fails for _ in range(4000)]
    assert sum(drawn) / 4000 == pytest.approx(0.25, abs=0.035)  # five standard deviations
    assert httpx.delete(url, timeout=60).json()["get_quota"]["error_ratio"] == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"tool": "make_coffee", "delay_s": 1},
        {"tool": "get_quota", "delay_s": -1},
        {"tool": "get_quota", "error_ratio": 1.5},
        {"tool": "get_quota", "error_ratio": "often"},
        {"tool": "get_quota", "colour": "red"},
        {"delay_s": 1},
        [1, 2],
    ],
)
def test_wrong_faults_are_refused(tool_server: ToolServer, wrong: Any) -> None:
    """A fault that makes no sense is reported, and nothing changes."""
    before = tool_server.calls.faults.as_dict()
    answer = httpx.post(f"{tool_server.url}/admin/faults", json=wrong, timeout=60)
    assert answer.status_code == 400 and answer.json()["error"]
    assert tool_server.calls.faults.as_dict() == before


def test_health_asks_the_database(tool_server: ToolServer) -> None:
    """Healthy means that the database answered; the probes leave no spans."""
    assert httpx.get(f"{tool_server.url}/healthz", timeout=60).json()["nodes"] > 0
    httpx.get(f"{tool_server.url}/metrics", timeout=60)
    assert tool_server.spans() == []


def test_facts_are_one_world(tool_server: ToolServer, tmp_path: Any) -> None:
    """The database that the server made for itself is the one that the scenarios ask about."""
    facts.build_database(tmp_path / "again.sqlite")
    tables = ("nodes", "jobs", "invoices", "quotas", "orders", "prices", "rates")
    with sqlite3.connect(tool_server.db) as one, sqlite3.connect(tmp_path / "again.sqlite") as two:
        for table in tables:
            sql = f"SELECT * FROM {table} ORDER BY 1, 2"
            assert one.execute(sql).fetchall() == two.execute(sql).fetchall()
