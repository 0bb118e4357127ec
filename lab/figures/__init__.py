"""Frames become axes: every function takes `ax` and returns it, and refuses to draw nothing."""

from lab.figures.intervals import interval_bars
from lab.figures.latency import ecdf, phases
from lab.figures.timeline import timeline
from lab.figures.waterfall import waterfall

__all__ = ["ecdf", "interval_bars", "phases", "timeline", "waterfall"]
