"""The root span of every request, and the headers that carry its context into the servers.

Spans are built when they have ended, with the record: the SDK's own span objects cost more than the
rest of the driver. They leave through the SDK's batch processor and OTLP exporter, in a thread of
their own; those that did not arrive are counted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from lab.schema import Attr, Service, Span

QUEUE_SPANS = 200_000
BATCH_SPANS = 256
EXPORT_EVERY_MS = 1000
FLUSH_MS = 10_000


@dataclass(frozen=True, slots=True)
class TraceIds:
    """Ids of one trace and of its root span."""

    trace_id: int
    span_id: int

    @classmethod
    def new(cls) -> TraceIds:
        """Draw new ids."""
        drawn = int.from_bytes(os.urandom(24)) | (1 << 64 | 1)  # neither id may be all zeros
        return cls(drawn >> 64, drawn & 0xFFFFFFFFFFFFFFFF)

    @property
    def trace_hex(self) -> str:
        """The trace id as 32 hexadecimal digits."""
        return f"{self.trace_id:032x}"


def context_headers(ids: TraceIds, baggage: Mapping[str, str]) -> bytes:
    """Return the header lines `traceparent` (sampled) and `baggage`, as W3C defines them."""
    members = ",".join(f"{key}={quote(value, safe='')}" for key, value in baggage.items())
    traceparent = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-01"
    return f"traceparent: {traceparent}\r\nbaggage: {members}\r\n".encode()


class _Counting(SpanExporter):
    """Counts what the exporter behind it delivered."""

    def __init__(self, behind: SpanExporter) -> None:
        self.behind = behind
        self.stored = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self.behind.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.stored += len(spans)
        return result

    def shutdown(self) -> None:
        self.behind.shutdown()


class RootSpans:
    """Sends finished root spans to an OTLP/HTTP receiver (`endpoint` is its base URL)."""

    def __init__(self, endpoint: str, *, exporter: SpanExporter | None = None) -> None:
        self._exporter = _Counting(exporter or OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=5))
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=QUEUE_SPANS,
            schedule_delay_millis=EXPORT_EVERY_MS,
            max_export_batch_size=BATCH_SPANS,
        )
        self._resource = Resource({Attr.SERVICE: Service.CLIENT})
        self._scope = InstrumentationScope("lab.workload")
        self._made = 0

    def add(
        self, ids: TraceIds, start_s: float, end_s: float, attributes: dict[str, Any], error: str
    ) -> None:
        """Add a request's root span; times are seconds since the epoch, `error` is '' for none."""
        self._made += 1
        self._processor.on_end(
            ReadableSpan(
                name=Span.CLIENT,
                context=SpanContext(
                    ids.trace_id,
                    ids.span_id,
                    is_remote=False,
                    trace_flags=TraceFlags(TraceFlags.SAMPLED),
                ),
                resource=self._resource,
                attributes=attributes,
                kind=SpanKind.CLIENT,
                status=Status(StatusCode.ERROR, error) if error else Status(StatusCode.UNSET),
                start_time=int(start_s * 1e9),
                end_time=int(end_s * 1e9),
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> tuple[int, int]:
        """Send what is left, for FLUSH_MS at most; return how many were made, and how many lost."""
        ender = threading.Thread(target=self._processor.shutdown, daemon=True)
        ender.start()
        ender.join(FLUSH_MS / 1000)
        return self._made, self._made - self._exporter.stored
