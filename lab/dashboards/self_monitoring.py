"""The lab's own dashboard: whether the telemetry of the other dashboards is complete."""

from __future__ import annotations

from lab.dashboards.model import GREEN, RED, Dashboard, Panel, Query, Row
from lab.dashboards.promql import R, mean, rate

SCRAPES = Row(
    "Prometheus",
    (
        Panel(
            "Targets down",
            "Scrape targets that did not answer. A target that was never discovered is not "
            "counted: compare with the next panel.",
            (Query("count(up == 0) or vector(0)", "down"),),
            kind="stat",
            thresholds=((0, GREEN), (1, RED)),
        ),
        Panel(
            "Targets by job",
            "A job that is missing here is not scraped at all. Targets that are down are included.",
            (Query("count by (job) (up)", "{{job}}"),),
        ),
        Panel(
            "Scrape duration",
            "Slow pages cause gaps: beyond the scrape timeout the whole sample is lost. A busy "
            "machine slows Prometheus as well as the page.",
            (Query("max by (job) (scrape_duration_seconds)", "{{job}}"),),
            unit="s",
        ),
        Panel(
            "Samples ingested",
            "Samples per second that Prometheus stores. Grows with every new label value. Samples "
            "refused as out of order are not included.",
            (Query(rate("prometheus_tsdb_head_samples_appended_total", ""), "samples"),),
            unit="ops",
        ),
        Panel(
            "Series in memory",
            "Grows with each new label value: the name of a tool that a model invented must not "
            "become one.",
            (Query("sum(prometheus_tsdb_head_series)", "series"),),
        ),
        Panel(
            "Samples per scrape by job",
            "Shows which page is large. Histograms with many buckets are most of it.",
            (Query("sum by (job) (scrape_samples_scraped)", "{{job}}"),),
        ),
    ),
)

LOCAL = Row(
    "The embedded trace store (local place)",
    (
        Panel(
            "Spans received",
            "Accepted, rejected and duplicate spans per second. Spans that a sender dropped are "
            "not counted anywhere. Duplicates come from senders that retry and are not a fault.",
            (
                Query(rate("tracestore_spans_accepted_total", ""), "accepted"),
                Query(rate("tracestore_spans_rejected_total", ""), "rejected"),
                Query(rate("tracestore_spans_duplicate_total", ""), "duplicate"),
            ),
            unit="ops",
            needs="local",
        ),
        Panel(
            "Spans waiting to be written",
            "Spans that are in the log but not yet in the database; queries see them once they "
            "are. Sampled at the time of the scrape.",
            (Query("sum(tracestore_pending_spans)", "spans"),),
            needs="local",
        ),
        Panel(
            "Size on disk",
            "Database and write-ahead log. Shrinks only when old spans expire and the file is "
            "compacted.",
            (
                Query("sum(tracestore_database_bytes)", "database"),
                Query("sum(tracestore_wal_bytes)", "log"),
            ),
            unit="bytes",
            needs="local",
        ),
        Panel(
            "Query time",
            "Mean time in the store, by endpoint. One query over all data can hide twenty quick "
            "ones in the mean.",
            (Query(mean("tracestore_query_seconds", "", "endpoint"), "{{endpoint}}"),),
            unit="s",
            needs="local",
            quiet="the trace store was not queried",
        ),
        Panel(
            "CPU usage",
            "Share of the machine's processors in use. On a laptop the load generator, vLLM and "
            "the stores share them, and all latencies grow together.",
            (Query(f'1 - avg(rate(node_cpu_seconds_total{{mode="idle"}}{R}))', "busy"),),
            unit="percentunit",
            needs="local",
        ),
        Panel(
            "Available memory",
            "Memory of the whole machine that new processes can use. In a container its own limit "
            "applies first.",
            (Query("sum(node_memory_MemAvailable_bytes)", "available"),),
            unit="bytes",
            needs="local",
        ),
    ),
)

COLLECTOR = Row(
    "The collector (cluster)",
    (
        Panel(
            "Spans received and sent",
            "Accepted by the receiver and sent to Tempo. They differ by what tail sampling drops. "
            "Spans waiting in the queue are in neither.",
            (
                Query(rate("otelcol_receiver_accepted_spans_total", ""), "accepted"),
                Query(rate("otelcol_exporter_sent_spans_total", ""), "sent"),
            ),
            unit="ops",
            needs="cluster",
        ),
        Panel(
            "Spans lost",
            "refused: by the memory limiter; the sender retries. failed: the exporter gave up, and "
            "these spans are lost. queue full: dropped before sending.",
            (
                Query(rate("otelcol_receiver_refused_spans_total", ""), "refused"),
                Query(rate("otelcol_exporter_send_failed_spans_total", ""), "failed"),
                Query(rate("otelcol_exporter_enqueue_failed_spans_total", ""), "queue full"),
            ),
            unit="ops",
            needs="cluster",
            no_value="None",
        ),
        Panel(
            "Exporter queue",
            "Batches waiting, as a share of the queue's capacity; at 1 spans are lost. Sampled: "
            "the queue may have been full between two scrapes.",
            (
                Query(
                    "max by (exporter) "
                    "(otelcol_exporter_queue_size / otelcol_exporter_queue_capacity)",
                    "{{exporter}}",
                ),
            ),
            unit="percentunit",
            needs="cluster",
        ),
        Panel(
            "Memory of the collectors",
            "Resident memory of each collector; its limiter acts at 80 % of the pod's limit. "
            "Resident memory lags behind the heap, which is what the limiter measures.",
            (Query("max by (pod) (otelcol_process_memory_rss_bytes)", "{{pod}}"),),
            unit="bytes",
            needs="cluster",
        ),
    ),
)

TEMPO = Row(
    "Tempo (cluster)",
    (
        Panel(
            "Spans received by Tempo",
            "By Tempo's distributor. Spans that the collector sampled away are not included.",
            (Query(rate("tempo_distributor_spans_received_total", ""), "received"),),
            unit="ops",
            needs="cluster",
        ),
        Panel(
            "Spans discarded by Tempo",
            "By reason, for example a trace that is too large. Such traces look complete and are "
            "not.",
            (Query(rate("tempo_discarded_spans_total", "", "reason"), "{{reason}}"),),
            unit="ops",
            needs="cluster",
            no_value="None",
        ),
        Panel(
            "Bytes read for queries",
            "What searches cost: bytes inspected per second, without cached answers.",
            (Query(rate("tempo_query_frontend_bytes_inspected_total", "", "op"), "{{op}}"),),
            unit="Bps",
            needs="cluster",
        ),
        Panel(
            "Series of the metrics generator",
            "Active series made of spans; beyond its limit new ones are dropped.",
            (Query("sum(tempo_metrics_generator_registry_active_series)", "active"),),
            needs="cluster",
        ),
    ),
)

DASHBOARD = Dashboard(
    "lab",
    "The lab itself",
    "Whether the telemetry on the other dashboards is complete: scrapes, spans, queues, machine.",
    (SCRAPES, LOCAL, COLLECTOR, TEMPO),
)
