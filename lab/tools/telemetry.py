"""Traces, metrics and log lines of the tool server."""

import logging.config
import random
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.processor.baggage import BaggageSpanProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from lab.json_logging import config as json_logging
from lab.schema import BAGGAGE, Attr, Service
from lab.tools.faults import Lease

EXPORT_EVERY_MS = 500


def tracer_provider(
    otlp_endpoint: str | None,
    exporter: SpanExporter | None = None,
    lease: Callable[[], Lease] = Lease,
) -> TracerProvider:
    """Return a provider whose spans carry the request's baggage as attributes.

    They are sent to `otlp_endpoint`, a base URL, if there is one. `lease` returns what an incident
    changes about them.
    """
    provider = TracerProvider(
        resource=Resource.create({Attr.SERVICE: Service.TOOLS}), shutdown_on_exit=False
    )
    provider.add_span_processor(BaggageSpanProcessor(lambda key: key in BAGGAGE))
    if otlp_endpoint:
        exporter = OTLPSpanExporter(f"{otlp_endpoint.rstrip('/')}/v1/traces", timeout=5)
    if exporter is not None:
        provider.add_span_processor(
            BatchSpanProcessor(_Disturbed(exporter, lease), schedule_delay_millis=EXPORT_EVERY_MS)
        )
    return provider


class _Disturbed(SpanExporter):
    """Exports spans as they are, or with the losses and the wrong clock of an incident."""

    def __init__(self, exporter: SpanExporter, lease: Callable[[], Lease]) -> None:
        self._exporter = exporter
        self._lease = lease
        self._random = random.Random(0)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send what is not lost."""
        lease = self._lease()
        if lease.lost_spans_ratio:
            spans = [s for s in spans if self._random.random() >= lease.lost_spans_ratio]
        if lease.clock_skew_s:
            spans = [_skewed(span, int(lease.clock_skew_s * 1e9)) for span in spans]
        return self._exporter.export(spans) if spans else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what the exporter holds."""
        return self._exporter.force_flush(timeout_millis)


def _skewed(span: ReadableSpan, by_ns: int) -> ReadableSpan:
    """Return a copy of a span whose times are later by `by_ns`."""
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time + by_ns if span.start_time else None,
        end_time=span.end_time + by_ns if span.end_time else None,
        instrumentation_scope=span.instrumentation_scope,
    )


def log_json_lines(level: str) -> None:
    """Make every logger write one JSON object per line to stderr."""
    logging.config.dictConfig(json_logging(level=level.upper()))
    # Its line per request says less than ours.
    logging.getLogger("mcp").setLevel(logging.WARNING)


# From a SQLite look-up (below a millisecond) to the slow tool with an injected delay.
BUCKETS_S = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


class Metrics:
    """The metrics. `outcome` is ok, error (from the tool) or invalid (wrong tool or arguments)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.calls = Counter(
            "lab_tool_calls",
            "Tool calls, by tool and outcome",
            ["tool", "outcome"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "lab_tool_duration_seconds",
            "Time of a tool call inside the server, by tool",
            ["tool"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.running = Gauge(
            "lab_tool_calls_running", "Tool calls under way", registry=self.registry
        )
