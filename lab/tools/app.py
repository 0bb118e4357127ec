"""The tool server as an ASGI application: MCP, health, metrics, and faults on purpose."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp.types import CallToolResult, TextContent, Tool, ToolAnnotations
from opentelemetry import context as otel_context
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lab.errors import WorldError
from lab.tools.calls import Calls
from lab.tools.origin import AllowedHosts, RefuseForeignPages
from lab.world import catalogue

NAME = "lab-tools"
MAX_MESSAGE_BYTES = 1024 * 1024
MAX_NESTING = 64
PARSE_ERROR = -32700  # of JSON-RPC
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
JSON = "application/json"
_CONTEXT = "lab.otel_context"
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def tool_definitions() -> list[Tool]:
    """Return the catalogue's tools in MCP's form."""
    return [
        Tool(
            name=t.name,
            description=t.description,
            inputSchema=t.input_schema(),
            annotations=ToolAnnotations(
                readOnlyHint=not t.writes, destructiveHint=False, openWorldHint=False
            ),
        )
        for t in catalogue.MCP_TOOLS
    ]


def mcp_server(calls: Calls) -> Server:
    """Return the MCP side: list the tools, call one."""
    server: Server = Server(NAME)

    @server.list_tools()
    async def list_tools() -> list[Tool]:
        _name_method(_request_context(server), "tools/list")
        return tool_definitions()

    # Input is validated by Calls, whose messages are those that the model was trained on.
    @server.call_tool(validate_input=False)
    async def call_tool(name: str, arguments: dict[str, Any]) -> CallToolResult:
        _name_method(_request_context(server), "tools/call")
        call_id = str(server.request_context.request_id)
        result = await calls.run(name, arguments, _caller_context(server), call_id)
        content = TextContent(type="text", text=result.text)
        return CallToolResult(content=[content], isError=result.failed)

    return server


def _request_context(server: Server) -> Context | None:
    """Return the trace context of the message's HTTP request.

    MCP's own tasks may have begun in the context of another request.
    """
    request = server.request_context.request
    return request.scope.get(_CONTEXT) if isinstance(request, Request) else None


def _caller_context(server: Server) -> Context | None:
    """Return the context of the tool's caller: the message's own, else that of its HTTP request.

    A client may send all messages of a session from a task that was started for another one; see
    `lab.stack.llama_stack_server`.
    """
    meta = server.request_context.meta
    carried = (meta.model_extra or {}) if meta else {}
    if "traceparent" not in carried:
        return _request_context(server)
    return propagate.extract({k: v for k, v in carried.items() if isinstance(v, str)})


def _name_method(context: Context | None, method: str) -> None:
    get_current_span(context).set_attribute("mcp.method.name", method)


def make_app(
    calls: Calls, provider: TracerProvider, allowed: AllowedHosts | None = None
) -> ASGIApp:
    """Return the whole application.

    MCP is stateless: every message stands alone, in the trace of its own request. `allowed` are the
    names that requests may use for this server; by default those of this machine.
    """
    manager = StreamableHTTPSessionManager(mcp_server(calls), json_response=True, stateless=True)

    mcp = RequestBodyLimitMiddleware(_Mcp(manager), MAX_MESSAGE_BYTES)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    def health(request: Request) -> Response:
        tools = len(catalogue.MCP_TOOLS)
        return JSONResponse({"status": "ok", "nodes": calls.database.rows(), "tools": tools})

    def metrics(request: Request) -> Response:
        return Response(generate_latest(calls.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app = Starlette(
        routes=[
            Route("/healthz", health, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/admin/faults", partial(_faults, calls), methods=["GET", "POST", "DELETE"]),
            Route("/mcp", mcp),
        ],
        lifespan=lifespan,
    )
    traced = OpenTelemetryMiddleware(
        app,
        excluded_urls="healthz,metrics,admin",
        tracer_provider=provider,
        exclude_spans=["receive", "send"],
    )
    return RefuseForeignPages(traced, allowed or AllowedHosts())


class _Mcp:
    """Passes a request on to MCP with its trace context, unless its message cannot be read."""

    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_CONTEXT] = otel_context.get_current()
        if scope["method"] == "POST":
            message = await receive()  # the whole body, because of the limit around this
            problem = _unreadable(message.get("body", b""))
            if problem:
                error = {"code": PARSE_ERROR, "message": problem}
                refusal = {"jsonrpc": "2.0", "id": None, "error": error}
                await JSONResponse(refusal, status_code=400)(scope, receive, send)
                return
            receive = _replaying(message, receive)
        await self._manager.handle_request(scope, receive, send)


def _unreadable(body: bytes) -> str:
    """Return why a message is not one; empty if it can be read.

    MCP answers 500 to text that is not UTF-8, to nesting that exceeds Python's stack, and to half a
    surrogate pair.
    """
    try:
        if _nesting(body) > MAX_NESTING:
            return f"nested more than {MAX_NESTING} levels deep"
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        return f"not JSON: {e}"
    return ""


def _nesting(body: bytes) -> int:
    """Return how deep lists and objects are nested in JSON text, strings left out."""
    depth = 0
    deepest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _replaying(message: Message, receive: Receive) -> Receive:
    """Return a receive function that first returns a message that was already taken."""
    messages = [message]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _faults(calls: Calls, request: Request) -> Response:
    if request.client is None or request.client.host not in LOOPBACK:
        return _refuse(403, "faults are set from this machine only")
    if request.method == "DELETE":
        calls.faults.reset()
    elif request.method == "POST":
        # A page cannot send this content type without a preflight, which is not answered.
        if request.headers.get("content-type", "").partition(";")[0].strip() != JSON:
            return _refuse(415, f"send the fault as {JSON}")
        try:
            fault = json.loads(await request.body())
            if "for_s" in fault:
                calls.faults.set_lease(**fault)
            else:
                calls.faults.set(fault.pop("tool"), **fault)
        except WorldError as e:
            return _refuse(400, str(e))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            expected = "expected {tool, delay_s, error_ratio} as JSON"
            return _refuse(400, f"{expected}: {type(e).__name__} {e}")
    return JSONResponse(calls.faults.as_dict())


def _refuse(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status_code=status)
