"""One JSON object per log line, with its trace id, for the Python parts in both environments."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter

_STRUCTLOG_FIELDS = ("timestamp", "level", "logger")
_NOISE = (
    *("color_message", "taskName", "vllm_process_name", "fileinfo"),
    *("_logger", "_name", "_record", "_from_structlog"),
)


class TraceJsonFormatter(JsonFormatter):
    """Write `ts`, `level`, `logger`, `message`, extra fields, and the current `trace_id`."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Fill the fields of one line."""
        if "event" in message_dict:  # structlog passes a dictionary
            message_dict = self._without_structlog(message_dict)
        super().add_fields(log_data, record, message_dict)

        moment = datetime.fromtimestamp(record.created, UTC)
        log_data.setdefault("ts", moment.isoformat(timespec="milliseconds"))
        log_data.setdefault("level", record.levelname.lower())
        log_data.setdefault("logger", record.name)
        for noise in _NOISE:
            log_data.pop(noise, None)
        if "trace_id" not in log_data and (ids := current_trace_ids()):
            log_data["trace_id"], log_data["span_id"] = ids

    def _without_structlog(self, event: dict[str, Any]) -> dict[str, Any]:
        fields = {
            name: value
            for name, value in event.items()
            if not name.startswith("_") and name not in _STRUCTLOG_FIELDS
        }
        fields["message"] = fields.pop("event")
        if fields.get("exc_info") is True:
            fields["exc_info"] = self.formatException(sys.exc_info())
        return fields


def current_trace_ids() -> tuple[str, str] | None:
    """Return (trace id, span id) of the current span as hexadecimal digits; None without one."""
    try:
        from opentelemetry.trace import format_span_id, format_trace_id, get_current_span
    except ImportError:
        return None
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return format_trace_id(context.trace_id), format_span_id(context.span_id)


def config(loggers: tuple[str, ...] = ("",), level: str = "INFO") -> dict[str, Any]:
    """Return a logging configuration in which these loggers write JSON lines to stderr.

    The default is the root logger.
    """
    handler = {
        "class": "logging.StreamHandler",
        "formatter": "json",
        "stream": "ext://sys.stderr",
    }
    logger = {"handlers": ["json"], "level": level, "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "lab.json_logging.TraceJsonFormatter"}},
        "handlers": {"json": handler},
        "loggers": {name: logger for name in loggers},
    }
