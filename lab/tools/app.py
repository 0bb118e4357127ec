"""The tool server as an ASGI application: MCP, health, metrics, and faults on purpose."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
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
from starlette.types import ASGIApp, Receive, Scope, Send

from lab.errors import WorldError
from lab.tools.calls import Calls
from lab.tools.origin import AllowedHosts, RefuseForeignPages
from lab.world import catalogue

NAME = "lab-tools"
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
JSON = "application/json"
_CONTEXT = "lab.otel_context"


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

    async def mcp(scope: Scope, receive: Receive, send: Send) -> None:
        scope[_CONTEXT] = otel_context.get_current()
        await manager.handle_request(scope, receive, send)

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
            Route("/admin/faults", _faults(calls), methods=["GET", "POST", "DELETE"]),
            Route("/mcp", _Asgi(mcp)),
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


class _Asgi:
    """Marks a plain ASGI function: Starlette passes the raw scope to objects, not functions."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _faults(calls: Calls) -> Callable[[Request], Any]:
    async def faults(request: Request) -> Response:
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
                calls.faults.set(fault.pop("tool"), **fault)
            except WorldError as e:
                return _refuse(400, str(e))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
                expected = "expected {tool, delay_s, error_ratio} as JSON"
                return _refuse(400, f"{expected}: {type(e).__name__} {e}")
        return JSONResponse(calls.faults.as_dict())

    return faults


def _refuse(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status_code=status)
