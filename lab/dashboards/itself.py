"""The lab itself: is what we see complete? Collector, trace store, Prometheus, and the machine."""

from __future__ import annotations

from lab.dashboards.model import GREEN, RED, Dashboard, Panel, Query, Row
from lab.dashboards.promql import R, ratio

SCRAPES = Row(
    "Prometheus",
    (
        Panel("Targets down", "Scrape targets that did not answer. A target that was never discovered is not here: "
                              "compare "
              "with the next panel.", (Query("count(up == 0) or vector(0)", "down"),), kind="stat",
              thresholds=((0, GREEN), (1, RED))),
        Panel("Targets, by job", "A job that is missing here is not scraped at all. Those that are down count too: "
                                 "see the panel before.",
              (Query("count by (job) (up)", "{{job}}"),)),
        Panel("Time of a scrape", "Slow pages make gaps: past the scrape's timeout the whole sample is lost. A busy "
                                  "machine slows the scraper as well as the page.",
              (Query("max by (job) (scrape_duration_seconds)", "{{job}}"),), unit="s"),
        Panel("Samples a second", "What Prometheus takes in. Grows with every new label value. What it refuses as out "
                                  "of order is not in it, nor anywhere here.",
              (Query(f"sum(rate(prometheus_tsdb_head_samples_appended_total{R}))", "samples"),)),
        Panel("Series", "In memory. Steps up with each new label value: a model's invented tool name must not become "
                        "one.",
              (Query("sum(prometheus_tsdb_head_series)", "series"),)),
        Panel("Samples by job", "Which part's page is the large one. Histograms of many buckets are most of it.",
              (Query("sum by (job) (scrape_samples_scraped)", "{{job}}"),)),
    ),
)  # fmt: skip

LOCAL = Row(
    "The embedded trace store (local place)",
    (
        Panel("Spans", "Accepted, refused, and sent twice, a second. What a sender dropped before sending is nowhere. "
                       "A sender that tries again shows as duplicate, which is no fault.",
              (Query(f"sum(rate(tracestore_spans_accepted_total{R}))", "accepted"),
               Query(f"sum(rate(tracestore_spans_rejected_total{R}))", "rejected"),
               Query(f"sum(rate(tracestore_spans_duplicate_total{R}))", "duplicate")), unit="ops", needs="local"),
        Panel("Not in the database yet", "Spans in the log only; queries see them when they are in the database. A "
                                         "sample at the scrape: the saw teeth between are not seen.",
              (Query("sum(tracestore_pending_spans)", "spans"),), needs="local"),
        Panel("Size", "Database and write-ahead log. Falls only when old spans are forgotten and the file is "
                      "compacted.",
              (Query("sum(tracestore_database_bytes)", "database"), Query("sum(tracestore_wal_bytes)", "log")),
              unit="bytes", needs="local"),
        Panel("Time of a query", "Mean of the store's own time, by endpoint. A mean over few queries: one over all "
                                 "the data hides twenty quick ones.",
              (Query(ratio(f"sum by (endpoint) (rate(tracestore_query_seconds_sum{R}))",
                           f"sum by (endpoint) (rate(tracestore_query_seconds_count{R}))"), "{{endpoint}}"),),
              unit="s", needs="local", quiet="nobody asked the trace store"),
        Panel("Processor", "Share of the machine's processors in use: on a laptop the load generator, vLLM and the "
                           "stores "
              "share them, and all latencies grow together.",
              (Query(f'1 - avg(rate(node_cpu_seconds_total{{mode="idle"}}{R}))', "busy"),), unit="percentunit",
              needs="local"),
        Panel("Memory", "Available to new processes. Of the whole machine; in a container its own limit comes "
                        "first.", (Query("sum(node_memory_MemAvailable_bytes)", "available"),),
              unit="bytes", needs="local"),
    ),
)  # fmt: skip

COLLECTOR = Row(
    "The collector (cluster)",
    (
        Panel("Spans in and out", "Accepted by the receiver, sent to Tempo. They differ by what tail sampling drops. "
                                  "Spans that wait in the queue are in neither for a moment.",
              (Query(f"sum(rate(otelcol_receiver_accepted_spans_total{R}))", "accepted"),
               Query(f"sum(rate(otelcol_exporter_sent_spans_total{R}))", "sent")), unit="ops", needs="cluster"),
        Panel("Spans lost", "Refused: the memory limiter; the sender tries again. Failed: the exporter gave up; these "
                            "are "
              "gone.",
              (Query(f"sum(rate(otelcol_receiver_refused_spans_total{R}))", "refused"),
               Query(f"sum(rate(otelcol_exporter_send_failed_spans_total{R}))", "failed"),
               Query(f"sum(rate(otelcol_exporter_enqueue_failed_spans_total{R}))", "queue full")), unit="ops",
              needs="cluster"),
        Panel("Exporter queue", "Batches waiting by the queue's capacity; full means lost. A sample: between two "
                                "scrapes it may have been full.",
              (Query("max by (exporter) (otelcol_exporter_queue_size / otelcol_exporter_queue_capacity)",
                     "{{exporter}}"),), unit="percentunit", needs="cluster"),
        Panel("Memory of the collectors", "Of each one, against its limiter at 80 % of the pod's limit. Resident "
                                          "memory lags behind what the limiter sees, which is the heap.",
              (Query("max by (pod) (otelcol_process_memory_rss_bytes)", "{{pod}}"),), unit="bytes", needs="cluster"),
    ),
)  # fmt: skip

TEMPO = Row(
    "Tempo (cluster)",
    (
        Panel("Spans received", "By Tempo's distributor. What the collector sampled away never comes here.",
              (Query(f"sum(rate(tempo_distributor_spans_received_total{R}))", "received"),), unit="ops",
              needs="cluster"),
        Panel("Spans discarded", "By reason, for instance a trace that is too large. Such traces look complete and "
                                 "are not.",
              (Query(f"sum by (reason) (rate(tempo_discarded_spans_total{R}))", "{{reason}}"),), unit="ops",
              needs="cluster"),
        Panel("Bytes read for queries", "What searches cost: bytes that queries looked at, cached answers left out.",
              (Query(f"sum by (op) (rate(tempo_query_frontend_bytes_inspected_total{R}))", "{{op}}"),), unit="Bps",
              needs="cluster"),
        Panel("Series made of spans", "Active series of the metrics generator; past its limit new ones are dropped. "
                                      "Counts series, not their cost in Prometheus.",
              (Query("sum(tempo_metrics_generator_registry_active_series)", "active"),), needs="cluster"),
    ),
)  # fmt: skip

DASHBOARD = Dashboard(
    "lab",
    "The lab itself",
    "Whether what the other dashboards show is complete: scrapes, spans, queues, the machine.",
    (SCRAPES, LOCAL, COLLECTOR, TEMPO),
)
