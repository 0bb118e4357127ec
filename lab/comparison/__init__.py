"""Compare two systems by their requests: `compare(a, b)`, with intervals, power and blocks.

found = lab.compare(before, after)      # Observations, request frames, or lists of them
found.verdict, found.phase, found.table
Sample.load("baseline.parquet")         # a baseline that a repository keeps
"""

from lab.comparison.comparing import (
    BETTER,
    EQUAL,
    UNCLEAR,
    WORSE,
    Comparison,
    Phase,
    compare,
)
from lab.comparison.fitting import MEASURES, PHASE_NAMES
from lab.comparison.sample import Sample, sample_of

__all__ = [
    "BETTER",
    "EQUAL",
    "MEASURES",
    "PHASE_NAMES",
    "UNCLEAR",
    "WORSE",
    "Comparison",
    "Phase",
    "Sample",
    "compare",
    "sample_of",
]
