"""Frames become axes: every function takes `ax` and returns it, and refuses to draw nothing."""

from lab.figures.bills import machine_costs, prices
from lab.figures.capacity import (
    backlogs,
    engine_parts,
    gauge_against_truth,
    load_latency,
    service_line,
    throughput_goodput,
)
from lab.figures.dashboard import dashboard
from lab.figures.dashboard import draw as dashboard_panel
from lab.figures.intervals import interval_bars
from lab.figures.latency import ecdf, phases
from lab.figures.lengths import bucketed_against_exact, critical_bars, growth
from lab.figures.quality import power_curves, share_rows
from lab.figures.quantiles import quantile_intervals
from lab.figures.style import STYLE
from lab.figures.timeline import timeline
from lab.figures.tokens import tokens_cost
from lab.figures.tools import tool_confusion
from lab.figures.utilisation import busy_by, cpu_modes
from lab.figures.waterfall import waterfall

__all__ = [
    "STYLE",
    "backlogs",
    "busy_by",
    "cpu_modes",
    "critical_bars",
    "dashboard",
    "dashboard_panel",
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
    "bucketed_against_exact",
    "service_line",
    "share_rows",
    "throughput_goodput",
    "timeline",
    "tokens_cost",
    "tool_confusion",
    "waterfall",
]
