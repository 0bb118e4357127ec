"""vLLM's access log has the caller's trace id."""

from __future__ import annotations

import asyncio
import logging

import pytest

from lab.stack.vllm_access import AccessLog, trace_field

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def _answer(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 201})
    await send({"type": "http.response.body", "body": b""})


async def _fail(scope, receive, send) -> None:
    raise RuntimeError("no")


def _call(app, path: str, header: bytes | None = None) -> None:
    async def nothing(*_) -> None: ...

    headers = [(b"traceparent", header)] if header else []
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(AccessLog(app)(scope, nothing, nothing))


def test_a_request_is_logged_with_status_and_trace(caplog):
    """The line of a trace can be found in vLLM's log."""
    with caplog.at_level(logging.INFO, "vllm.access"):
        _call(_answer, "/v1/chat/completions", f"00-{TRACE}-00f067aa0ba902b7-01".encode())
    (record,) = caplog.records
    assert record.getMessage() == "POST /v1/chat/completions 201"
    assert record.trace_id == TRACE and record.duration_s >= 0


def test_a_request_that_fails_is_logged_too(caplog):
    """The exception reaches vLLM's handling."""
    with caplog.at_level(logging.INFO, "vllm.access"), pytest.raises(RuntimeError):
        _call(_fail, "/v1/embeddings")
    assert caplog.records[0].getMessage() == "POST /v1/embeddings no answer"


def test_scrapes_and_health_checks_are_not_logged(caplog):
    """They arrive every second."""
    with caplog.at_level(logging.INFO, "vllm.access"):
        _call(_answer, "/metrics")
    assert not caplog.records


@pytest.mark.parametrize("header", [b"", b"00-xyz-1-01", TRACE.encode()])
def test_a_malformed_traceparent_is_ignored(header):
    """The W3C specification requires this."""
    assert trace_field({"headers": [(b"traceparent", header)]}) == {}
