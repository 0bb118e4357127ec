"""Clients of Prometheus and Tempo. Their answers are raw, and know their query, store and time.

There is no pandas here: `lab.frames` turns answers into tables.
"""

from lab.stores.answers import (
    MetricAnswer,
    Provenance,
    SearchAnswer,
    Series,
    SpansAnswer,
    TraceSummary,
)
from lab.stores.otlp import read_otlp_json
from lab.stores.prometheus import Prometheus, Target
from lab.stores.tempo import Arrival, Tempo

__all__ = [
    "Arrival",
    "MetricAnswer",
    "Prometheus",
    "Provenance",
    "SearchAnswer",
    "Series",
    "SpansAnswer",
    "Target",
    "Tempo",
    "TraceSummary",
    "read_otlp_json",
]
