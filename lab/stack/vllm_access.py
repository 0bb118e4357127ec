"""vLLM's access log with the caller's trace id: `--middleware lab.stack.vllm_access.AccessLog`.

uvicorn's own access log has no trace ids, and vLLM makes its span only when a request is over.
"""

import logging
import re
import time
from typing import Any

log = logging.getLogger("vllm.access")
TRACEPARENT = re.compile(rb"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-")
QUIET = ("/metrics", "/health", "/ping")  # requested by the lab itself every few seconds


class AccessLog:
    """ASGI middleware that logs each request when its answer is complete."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self.app(scope, receive, send)
            return
        status = 0
        started = time.perf_counter()

        async def watch(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            fields = {
                "status": status,
                "duration_s": round(time.perf_counter() - started, 4),
                **trace_field(scope),
            }
            log.info(
                "%s %s %s", scope["method"], scope["path"], status or "no answer", extra=fields
            )


def trace_field(scope: dict[str, Any]) -> dict[str, str]:
    """Return {"trace_id": ...} from the W3C traceparent header; empty without a well-formed one."""
    for name, value in scope["headers"]:
        if name == b"traceparent" and (match := TRACEPARENT.match(value)):
            return {"trace_id": match[1].decode()}
    return {}
