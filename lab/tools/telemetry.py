"""Traces and log lines of the tool server."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.processor.baggage import BaggageSpanProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import format_span_id, format_trace_id, get_current_span
from pythonjsonlogger.json import JsonFormatter

from lab.schema import BAGGAGE, Attr, Service

EXPORT_EVERY_MS = 500


def tracer_provider(
    otlp_endpoint: str | None, exporter: SpanExporter | None = None
) -> TracerProvider:
    """Return a provider whose spans carry the request's baggage as attributes.

    They are sent to `otlp_endpoint`, a base URL, if there is one.
    """
    provider = TracerProvider(
        resource=Resource.create({Attr.SERVICE: Service.TOOLS}), shutdown_on_exit=False
    )
    provider.add_span_processor(BaggageSpanProcessor(lambda key: key in BAGGAGE))
    if otlp_endpoint:
        exporter = OTLPSpanExporter(f"{otlp_endpoint.rstrip('/')}/v1/traces", timeout=5)
    if exporter is not None:
        provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_EVERY_MS)
        )
    return provider


class _Formatter(JsonFormatter):
    """Writes `ts`, `level`, `logger`, `message`, the caller's extras and the current span's ids."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data["ts"] = datetime.fromtimestamp(record.created, UTC).isoformat(
            timespec="milliseconds"
        )
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        for noise in ("color_message", "taskName"):
            log_data.pop(noise, None)
        context = get_current_span().get_span_context()
        if context.is_valid:
            log_data["trace_id"] = format_trace_id(context.trace_id)
            log_data["span_id"] = format_span_id(context.span_id)


def log_json_lines(level: str) -> None:
    """Make every logger write one JSON object per line to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Its line per request says less than ours.
    logging.getLogger("mcp").setLevel(logging.WARNING)
