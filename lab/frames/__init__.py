"""Answers of the stores become tidy tables.

The functions are pure: they query nothing, and change no argument.
"""

from lab.frames.completeness import join_split_traces, trace_problems, trace_sanity
from lab.frames.counters import histogram_frame, increase_exact
from lab.frames.evaluations import evaluation_frame
from lab.frames.requests import PHASES, records_from_spans, request_frame
from lab.frames.retrievals import retrieval_frame
from lab.frames.series import series_frame
from lab.frames.spans import spans_frame
from lab.frames.tools import tool_frame
from lab.frames.trees import trace_tree
from lab.frames.turns import turn_frame

__all__ = [
    "PHASES",
    "evaluation_frame",
    "histogram_frame",
    "increase_exact",
    "join_split_traces",
    "records_from_spans",
    "request_frame",
    "retrieval_frame",
    "series_frame",
    "spans_frame",
    "tool_frame",
    "trace_problems",
    "trace_sanity",
    "trace_tree",
    "turn_frame",
]
