"""Prometheus metrics of the tool server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

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
