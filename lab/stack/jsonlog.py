"""One JSON object a log line, with the trace id where there is one. For the Python parts, in both environments."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter


class TraceJsonFormatter(JsonFormatter):
    """`ts`, `level`, `logger`, `message`, what the caller passed as extra, and `trace_id` of the current span."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        if "event" in message_dict:  # structlog hands over a dictionary
            message_dict = {
                k: v
                for k, v in message_dict.items()
                if not k.startswith("_") and k not in _STRUCTLOG_OWN
            }
            message_dict["message"] = message_dict.pop("event")
            if message_dict.get("exc_info") is True:
                message_dict["exc_info"] = self.formatException(sys.exc_info())
        super().add_fields(log_data, record, message_dict)
        log_data.setdefault(
            "ts", datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        )
        log_data.setdefault("level", record.levelname.lower())
        log_data.setdefault("logger", record.name)
        for noise in _NOISE:
            log_data.pop(noise, None)
        if "trace_id" not in log_data and (ids := current_trace_ids()):
            log_data["trace_id"], log_data["span_id"] = ids


_STRUCTLOG_OWN = ("timestamp", "level", "logger")
_NOISE = (
    "color_message",
    "taskName",
    "vllm_process_name",
    "fileinfo",
    "_logger",
    "_name",
    "_record",
    "_from_structlog",
)


def current_trace_ids() -> tuple[str, str] | None:
    """(trace id, span id) of the span that is current in this context, as hex; None without one."""
    try:
        from opentelemetry.trace import format_span_id, format_trace_id, get_current_span
    except ImportError:
        return None
    context = get_current_span().get_span_context()
    return (
        (format_trace_id(context.trace_id), format_span_id(context.span_id))
        if context.is_valid
        else None
    )


def config(loggers: tuple[str, ...] = ("",), level: str = "INFO") -> dict[str, Any]:
    """A logging.config.dictConfig dictionary: the named loggers (default: the root) write JSON lines to stderr."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "lab.stack.jsonlog.TraceJsonFormatter"}},
        "handlers": {
            "json": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "stream": "ext://sys.stderr",
            }
        },
        "loggers": {
            name: {"handlers": ["json"], "level": level, "propagate": False} for name in loggers
        },
    }
