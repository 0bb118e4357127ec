"""Tool calls carry the trace context of their own caller.

Llama Stack keeps one MCP session a request, opened when it lists the tools. The session's HTTP requests are sent by a
task that was started there, so their spans, and all that the tool server does, would hang under `list_mcp_tools` and
not under the `invoke_mcp_tool` that called. MCP has a place for the context of a message: `params._meta`, with the W3C
names (OpenTelemetry's semantic conventions for MCP say the same); the tool server takes it from there.
"""

from __future__ import annotations

from typing import Any


def send_context_with_tool_calls() -> None:
    """Make every MCP client session of this process put its caller's trace context into `params._meta`."""
    from mcp import ClientSession, types
    from opentelemetry import propagate

    send = ClientSession.send_request

    async def send_request(
        self: ClientSession, request: types.ClientRequest, *args: Any, **kwargs: Any
    ) -> Any:
        if isinstance(request.root, types.CallToolRequest):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            known = request.root.params.meta.model_dump() if request.root.params.meta else {}
            request.root.params.meta = types.RequestParams.Meta(**(known | carrier))
        return await send(self, request, *args, **kwargs)

    ClientSession.send_request = send_request  # type: ignore[method-assign]
