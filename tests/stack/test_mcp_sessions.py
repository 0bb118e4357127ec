"""A session with a tool server ends with its request, whichever tasks opened and closed it."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from typing import Any

import anyio
import pytest
from llama_stack.providers.utils.tools import mcp
from llama_stack.providers.utils.tools.mcp import MCPSessionManager

from lab.stack.mcp_sessions import own_sessions
from tests.stores.servers import Reply, serving
from tests.tools.conftest import ToolServer, tool_server  # noqa: F401

LIMIT_S = 60
REQUESTS = 3
ORIGINAL = MCPSessionManager._create_session


@pytest.fixture(autouse=True)
def owned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch the class as Llama Stack's process does, until the test ends."""
    for name in ("_create_session", "__aexit__"):
        monkeypatch.setattr(MCPSessionManager, name, getattr(MCPSessionManager, name))
    own_sessions(mcp.__name__)


@pytest.fixture
def url(tool_server: ToolServer) -> str:  # noqa: F811
    """Return where the lab's tool server listens for MCP."""
    return f"{tool_server.url}/mcp"


async def objects_of_this_loop() -> set[Any]:
    """Return the event loop's tasks, finished ones too, and the cancel scopes that they entered."""
    await asyncio.sleep(0)  # the loop holds what has just ended
    gc.collect()
    loop = asyncio.get_running_loop()
    objects = gc.get_objects()
    tasks = {o for o in objects if isinstance(o, asyncio.Task) and o.get_loop() is loop}
    scopes = {o for o in objects if isinstance(o, anyio.CancelScope) and o._host_task in tasks}
    return tasks | scopes


async def test_a_session_that_another_task_closes_leaves_nothing(url: str) -> None:
    """Neither tasks nor cancel scopes: each event of a streamed response is a task of its own."""
    before = await objects_of_this_loop()
    for _ in range(REQUESTS):
        manager = MCPSessionManager()
        await asyncio.create_task(mcp.list_mcp_tools(url, session_manager=manager))
        call = mcp.invoke_mcp_tool(
            url, "get_node_status", {"node": "nowhere"}, session_manager=manager
        )
        result = await asyncio.create_task(call)
        assert result.content
        await asyncio.create_task(manager.__aexit__(None, None, None))
        del manager, call, result
    assert await objects_of_this_loop() - before == set()


async def test_two_calls_share_one_session(url: str) -> None:
    """The session that was handed over is the one that Llama Stack keeps for its request."""
    async with MCPSessionManager() as manager:
        opened = await asyncio.create_task(manager.get_session(url, {}))
        assert await manager.get_session(url, {}) is opened


@pytest.mark.parametrize("failure", ["nothing listens", "not found", "login required"])
async def test_a_session_that_cannot_be_opened_fails_as_without_an_owner(
    url: str, failure: str
) -> None:
    """Llama Stack answers its client by the type and the text of the error."""
    with serving(lambda *_: Reply(status=401)) as guarded:
        address = {
            "nothing listens": "http://127.0.0.1:1/mcp",
            "not found": f"{url}/nowhere",
            "login required": guarded.url,
        }[failure]
        before = await objects_of_this_loop()
        errors = []
        for create in (ORIGINAL, MCPSessionManager._create_session):
            with pytest.raises(Exception) as raised:  # noqa: PT011
                await create(MCPSessionManager(), address, {})
            errors.append(raised.value)
        original, error = errors
    assert (type(error), repr(error)) == (type(original), repr(original))
    del errors, original, error, raised
    assert await objects_of_this_loop() - before == set()


async def test_a_request_that_ends_while_its_session_opens_leaves_nothing() -> None:
    """A user who gives up cancels the task that waits for the session."""
    before = await objects_of_this_loop()
    manager = MCPSessionManager()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/mcp"
        request = asyncio.create_task(manager.get_session(url, {}))
        accepting = asyncio.get_running_loop().sock_accept(server)
        connection, _ = await asyncio.wait_for(accepting, LIMIT_S)
        with connection:  # which gets no answer
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await manager.__aexit__(None, None, None)
    del request, manager, accepting
    assert await objects_of_this_loop() - before == set()


async def test_a_call_whose_connection_breaks_fails(url: str) -> None:
    """It raises an error, of which Llama Stack tells the model, and does not wait forever."""
    refused: dict[str, Any] = json.loads('{"node":' * 100 + "1" + "}" * 100)  # HTTP status 400
    async with MCPSessionManager() as manager:
        await asyncio.create_task(manager.get_session(url, {}))
        call = mcp.invoke_mcp_tool(url, "get_node_status", refused, session_manager=manager)
        with pytest.raises(anyio.EndOfStream):
            await asyncio.wait_for(call, LIMIT_S)


def test_a_module_without_the_class_is_left_as_it_is() -> None:
    """Llama Stack's next version may have another class, or none."""
    own_sessions("no_such_package.providers.utils.tools.mcp")
    own_sessions("lab.errors")
