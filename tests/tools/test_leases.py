"""Faults that an incident leases: they show in calls and spans, are not listed, and expire."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lab.errors import WorldError
from lab.tools.faults import Faults, Lease
from lab.tools.telemetry import _Disturbed, tracer_provider
from lab.world import facts
from tests.tools.conftest import ToolServer
from tests.tools.test_server import call


class Clock:
    """A clock that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_lease_ends_by_itself() -> None:
    """It applies to its tool until it expires, together with the tool's usual fault."""
    clock = Clock()
    faults = Faults(slow_s=1.5, failure_ratio=0.0, clock=clock)
    faults.set_lease(6.0, tool="run_diagnostics", delay_s=2.0)
    drawn = faults.of("run_diagnostics")
    assert (drawn.delay_s, drawn.shown_s) == (3.5, 1.5)
    assert faults.of("get_quota").delay_s == 0.0

    clock.now_s = 6.0
    assert faults.of("run_diagnostics").delay_s == 1.5
    assert faults.lease() == Lease()


@pytest.mark.parametrize("wrong", [{"tool": "make_coffee"}, {"delay_s": -1}, {"delay_s": 1e9}])
def test_a_lease_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    """As other faults are."""
    with pytest.raises(WorldError):
        Faults(slow_s=0.0, failure_ratio=0.0).set_lease(6.0, **wrong)


def test_a_leased_delay_is_neither_listed_nor_named(tool_server: ToolServer) -> None:
    """The call is slow, but neither the list of faults nor its span says that this is a fault."""
    url = f"{tool_server.url}/admin/faults"
    usual = httpx.get(url, timeout=60).json()
    fault = {"for_s": 30.0, "tool": "get_node_status", "delay_s": 0.2}
    assert httpx.post(url, json=fault, timeout=60).json() == usual
    asyncio.run(call(tool_server, "get_node_status", {"node": "nowhere"}))
    span = next(s for s in tool_server.spans() if s.name == "execute_tool get_node_status")
    assert span.end_time - span.start_time >= 0.2e9
    assert "lab.delay_s" not in span.attributes


def test_a_stale_answer_is_an_earlier_one(tool_server: ToolServer) -> None:
    """Another node's state is returned without an error, once there is a different one."""
    database = tool_server.calls.database
    rows = database._connection().execute("SELECT name, state, gpus_free FROM nodes").fetchall()
    first = rows[0]
    second = next(row for row in rows if row[1:] != first[1:])
    httpx.post(
        f"{tool_server.url}/admin/faults",
        json={"for_s": 30.0, "tool": "get_node_status", "stale_ratio": 0.0},
        timeout=60,
    )
    right = asyncio.run(call(tool_server, "get_node_status", {"node": first[0]}))
    tool_server.calls.faults.set_lease(30.0, tool="get_node_status", stale_ratio=1.0)
    wrong = asyncio.run(call(tool_server, "get_node_status", {"node": second[0]}))
    assert not wrong.isError and wrong.content == right.content

    tool_server.calls.faults.set_lease(0.0)
    assert asyncio.run(call(tool_server, "get_node_status", {"node": second[0]})) != wrong
    assert facts.node_status(facts.Node(*second, "none"))["gpus_free"] == second[2]


def _exported(lease: Lease, count: int = 400) -> list[Any]:
    exporter = InMemorySpanExporter()
    provider = tracer_provider(None)
    provider.add_span_processor(SimpleSpanProcessor(_Disturbed(exporter, lambda: lease)))
    tracer = provider.get_tracer("test")
    for _ in range(count):
        tracer.start_span("work", start_time=10**18).end(10**18 + 5)
    return list(exporter.get_finished_spans())


def test_a_share_of_spans_is_lost() -> None:
    """About that share, and none without a lease."""
    assert len(_exported(Lease())) == 400
    assert len(_exported(Lease(lost_spans_ratio=0.5))) == pytest.approx(200, abs=50)


def test_the_clock_of_spans_is_wrong_by_the_skew() -> None:
    """Both ends move, so durations stay."""
    (span,) = _exported(Lease(clock_skew_s=-3.0), count=1)
    assert span.start_time == 10**18 - 3 * 10**9 and span.end_time - span.start_time == 5
