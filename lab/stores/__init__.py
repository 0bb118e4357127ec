"""Asks Prometheus and Tempo, and answers with raw answer objects that know what was asked, of whom and when.

No pandas here: `lab.frames` turns answers into tables.
"""

from lab.stores.answers import (
    MetricAnswer,
    Provenance,
    SearchAnswer,
    Series,
    SpansAnswer,
    TraceSummary,
)
from lab.stores.prometheus import Prometheus, Target
from lab.stores.tempo import Tempo
from lab.stores.waiting import Arrival

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
]
