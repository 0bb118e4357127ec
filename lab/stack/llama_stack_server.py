"""Run Llama Stack's own server with the lab's telemetry: `python -m lab.stack.llama_stack_server`.

In an environment that has OGX 1.5, Llama Stack's newest name, it runs that instead.

It has the instrumentations of `opentelemetry-instrument llama stack run`, and what its environment
variables cannot express: baggage (tenant, session) becomes span attributes, there is no span per
streamed chunk, histograms get buckets that fit (the SDK's first bound above zero is 5 seconds), and
tool calls carry the trace context of their caller.

Environment: LLAMA_STACK_CONFIG, LAB_LLAMA_STACK_PORT, LAB_LLAMA_STACK_METRICS_PORT,
LAB_OTLP_ENDPOINT, OTEL_SERVICE_NAME; LAB_LISTEN_HOST where it must not listen on loopback (a pod).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging.config
import mimetypes
import os
from typing import TYPE_CHECKING, Any

from lab.json_logging import config as json_logging
from lab.schema import BAGGAGE
from lab.stack.mcp_sessions import own_sessions
from lab.stack.ports import HOST
from lab.stack.vllm_args import log_spaced

if TYPE_CHECKING:
    from fastapi import FastAPI

DURATION_BUCKETS_S = [*log_spaced(0.001, 60), 120.0]
RATE_BUCKETS = log_spaced(1, 10_000)  # tokens per second
LOGGERS = ("", "uvicorn", "uvicorn.access", "uvicorn.error")
# Requested by probes and by clients when they start, not by users.
QUIET_URLS = "/v1/health,/v1/version,/v1/models"


def main() -> None:
    """Serve until SIGTERM."""
    import uvicorn

    _set_up_logging()
    start_tracing(os.environ["LAB_OTLP_ENDPOINT"])
    start_metrics(int(os.environ["LAB_LLAMA_STACK_METRICS_PORT"]))
    instrument_clients()
    uvicorn.run(
        "lab.stack.llama_stack_server:create_app",
        factory=True,
        host=listen_host(),
        port=int(os.environ["LAB_LLAMA_STACK_PORT"]),
        log_config=None,
    )


def listen_host() -> str:
    """Return LAB_LISTEN_HOST; loopback by default."""
    return os.environ.get("LAB_LISTEN_HOST", HOST)


def create_app() -> FastAPI:
    """Return Llama Stack's application, with server spans and JSON logs."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    register_document_types()
    commit_each_statement()
    package = "llama_stack"
    if importlib.util.find_spec("ogx"):
        package = "ogx"
        os.environ["OGX_CONFIG"] = os.environ["LLAMA_STACK_CONFIG"]
    own_sessions(f"{package}.providers.utils.tools.mcp")
    app = importlib.import_module(f"{package}.core.server.server").create_app()
    _set_up_logging()  # creating it has installed handlers for a terminal
    FastAPIInstrumentor.instrument_app(
        app, excluded_urls=QUIET_URLS, exclude_spans=["send", "receive"]
    )
    return app


def _set_up_logging() -> None:
    """Log JSON lines, without the probes that ask every two seconds whether it is alive."""
    logging.config.dictConfig(json_logging(LOGGERS))
    access = logging.getLogger("uvicorn.access")
    if _is_request not in access.filters:
        access.addFilter(_is_request)


def _is_request(record: logging.LogRecord) -> bool:
    return "/v1/health " not in record.getMessage()


def register_document_types() -> None:
    """Register Markdown, by which Llama Stack decides whether a file has text to index.

    Python 3.12 takes it from /etc/mime.types, which slim images do not have.
    """
    mimetypes.add_type("text/markdown", ".md")


def commit_each_statement() -> None:
    """Let SQLite commit each statement as it ends, in all connections that SQLAlchemy opens.

    Llama Stack writes one statement per transaction, and commits it in a later step of its event
    loop. Meanwhile all other writers wait for the lock: at 3 agent requests per second on two
    cores, some waited for longer than the 5 s that it allows, and their responses were lost
    ("database is locked").
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def autocommit(connection: Any, _: object) -> None:
        if hasattr(connection, "isolation_level"):  # sqlite3's, also through aiosqlite
            connection.isolation_level = None


def start_tracing(otlp_url: str) -> None:
    """Send spans to `otlp_url`, each with the baggage of its request."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.processor.baggage import BaggageSpanProcessor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BaggageSpanProcessor(lambda key: key in BAGGAGE))
    exporter = OTLPSpanExporter(endpoint=f"{otlp_url}/v1/traces")
    provider.add_span_processor(
        BatchSpanProcessor(exporter, schedule_delay_millis=500, max_queue_size=20_000)
    )
    trace.set_tracer_provider(provider)


def start_metrics(port: int) -> None:
    """Serve the metrics of all instrumentations on `port`, for Prometheus."""
    from opentelemetry import metrics
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import Histogram, MeterProvider
    from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
    from prometheus_client import start_http_server

    def buckets(pattern: str, bounds: list[float]) -> View:
        return View(
            instrument_type=Histogram,
            instrument_name=pattern,
            aggregation=ExplicitBucketHistogramAggregation(bounds),
        )

    views = [
        *(buckets(f"{name}.*_seconds", DURATION_BUCKETS_S) for name in ("llama_stack", "ogx")),
        *(buckets(f"{name}.*tokens_per_second", RATE_BUCKETS) for name in ("llama_stack", "ogx")),
        buckets("gen_ai.client.operation.*", DURATION_BUCKETS_S),
    ]
    metrics.set_meter_provider(
        MeterProvider(metric_readers=[PrometheusMetricReader()], views=views)
    )
    start_http_server(port, listen_host())


def instrument_clients() -> None:
    """Trace outgoing calls: `chat` of the openai client, httpx to the tools, httpx2 to vLLM."""
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
    from opentelemetry.instrumentation.httpx import (
        HTTPX2ClientInstrumentor,
        HTTPXClientInstrumentor,
    )

    for instrumentor in (HTTPXClientInstrumentor, HTTPX2ClientInstrumentor, OpenAIInstrumentor):
        instrumentor().instrument()
    if importlib.metadata.version("mcp").startswith("1."):  # mcp 2 sends the context itself
        send_context_with_tool_calls()


def send_context_with_tool_calls() -> None:
    """Have every MCP session of this process put its caller's trace context into `params._meta`.

    Llama Stack keeps one MCP session per request, opened when it lists the tools. A task that was
    started there sends the session's HTTP requests, so their spans, and all that the tool server
    does, would be children of `list_mcp_tools`, not of the `invoke_mcp_tool` that called. MCP has
    a place for the context of a message, with the W3C names (as in OpenTelemetry's semantic
    conventions for MCP); the tool server reads it there.
    """
    from mcp import ClientSession, types
    from opentelemetry import propagate

    send = ClientSession.send_request

    async def send_request(
        self: ClientSession, request: types.ClientRequest, *args: Any, **kwargs: Any
    ) -> Any:
        if isinstance(request.root, types.CallToolRequest):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            meta = request.root.params.meta
            known = meta.model_dump() if meta else {}
            request.root.params.meta = types.RequestParams.Meta(**(known | carrier))
        return await send(self, request, *args, **kwargs)

    ClientSession.send_request = send_request  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
