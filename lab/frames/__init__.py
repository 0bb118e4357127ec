"""Answers of the stores become tidy tables. Pure: no question is asked here, and no argument is changed."""

from lab.frames.completeness import trace_problems
from lab.frames.counters import increase_exact
from lab.frames.histograms import histogram_frame
from lab.frames.large import request_frames, write_request_frames
from lab.frames.requests import PHASES, request_frame
from lab.frames.series import series_frame
from lab.frames.spans import spans_frame
from lab.frames.trees import trace_tree
from lab.frames.turns import turn_frame

__all__ = [
    "PHASES",
    "histogram_frame",
    "increase_exact",
    "request_frame",
    "request_frames",
    "series_frame",
    "spans_frame",
    "trace_problems",
    "trace_tree",
    "write_request_frames",
    "turn_frame",
]
