"""The trace store's own Prometheus metrics, on a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Telemetry:
    """Counters, gauges and histograms of one running store."""

    def __init__(self) -> None:
        """Register all metrics."""
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        GCCollector(registry=r)
        self.spans_accepted = Counter(
            "tracestore_spans_accepted", "Spans acknowledged.", registry=r
        )
        self.spans_rejected = Counter(
            "tracestore_spans_rejected", "Spans refused in a partial success.", registry=r
        )
        self.spans_duplicate = Counter(
            "tracestore_spans_duplicate", "Spans that were in the store already.", registry=r
        )
        self.requests_refused = Counter(
            "tracestore_requests_refused",
            "Ingest requests refused as a whole.",
            ["code"],
            registry=r,
        )
        self.flush_s = Histogram(
            "tracestore_flush_seconds",
            "Time of one batch into the database.",
            buckets=_SECONDS,
            registry=r,
        )
        self.query_s = Histogram(
            "tracestore_query_seconds",
            "Time of one query.",
            ["endpoint", "code"],
            buckets=_SECONDS,
            registry=r,
        )
        self.queue_bytes = Gauge(
            "tracestore_queue_bytes", "Bytes received and not yet in the log.", registry=r
        )
        self.pending_spans = Gauge(
            "tracestore_pending_spans", "Spans in the log and not yet in the database.", registry=r
        )
        self.wal_bytes = Gauge("tracestore_wal_bytes", "Bytes of the write-ahead log.", registry=r)
        self.damaged_records = Gauge(
            "tracestore_log_missing_records",
            "Acknowledged records that this start could not read from a damaged log.",
            registry=r,
        )
        self.damaged_bytes = Gauge(
            "tracestore_log_damaged_bytes",
            "Bytes of the log that this start could not read.",
            registry=r,
        )
        self.damaged_files = Gauge(
            "tracestore_damaged_files",
            "Damaged files that were set aside in the data folder.",
            registry=r,
        )
        self.faulty = Gauge(
            "tracestore_refusing_spans",
            "1 while no spans are accepted (the disk is full, the database fails); else 0.",
            registry=r,
        )
        self.database_bytes = Gauge(
            "tracestore_database_bytes", "Bytes of the database on disk.", registry=r
        )

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
