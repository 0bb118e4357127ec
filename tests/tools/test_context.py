"""A tool call is a child of its caller, also when the client's session was opened by someone
else.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from lab.stack.llama_stack_server import send_context_with_tool_calls
from tests.tools.conftest import ToolServer


@pytest.fixture
def patched() -> Iterator[None]:
    """The client as Llama Stack's process has it, and as it was again afterwards."""
    original = ClientSession.send_request
    send_context_with_tool_calls()
    yield
    ClientSession.send_request = original  # type: ignore[method-assign]


async def test_the_tool_span_is_a_child_of_its_caller(
    tool_server: ToolServer, patched: None
) -> None:
    """The session is opened inside one span and used inside another: the tool's parent is the
    second.
    """
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("lists the tools") as opened:
        async with (
            streamablehttp_client(f"{tool_server.url}/mcp") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            with tracer.start_as_current_span(
                "calls a tool", context=trace.set_span_in_context(opened)
            ) as caller:
                await session.call_tool("get_node_status", {"node": "nowhere"})
    tool = next(s for s in tool_server.spans() if s.name == "execute_tool get_node_status")
    assert tool.parent is not None
    assert tool.parent.span_id == caller.get_span_context().span_id
    assert tool.context.trace_id == opened.get_span_context().trace_id
