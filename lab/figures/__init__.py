"""Frames become axes: every function takes `ax` and returns it, and refuses to draw nothing."""

from lab.figures.capacity import (
    backlogs,
    engine_parts,
    gauge_against_truth,
    load_latency,
    service_line,
    throughput_goodput,
)
from lab.figures.cost import machine_costs, prices, tokens_cost
from lab.figures.latency import (
    bucketed_against_exact,
    critical_bars,
    ecdf,
    growth,
    phases,
    quantile_intervals,
    waterfall,
)
from lab.figures.quality import interval_bars, power_curves, share_rows, tool_confusion
from lab.figures.style import STYLE
from lab.figures.utilisation import busy_by, cpu_modes, signal_change, timeline

__all__ = [
    "STYLE",
    "backlogs",
    "bucketed_against_exact",
    "busy_by",
    "cpu_modes",
    "critical_bars",
    "ecdf",
    "engine_parts",
    "gauge_against_truth",
    "growth",
    "interval_bars",
    "load_latency",
    "machine_costs",
    "phases",
    "power_curves",
    "prices",
    "quantile_intervals",
    "service_line",
    "share_rows",
    "signal_change",
    "throughput_goodput",
    "timeline",
    "tokens_cost",
    "tool_confusion",
    "waterfall",
]
