"""Frames become judgements. Pure functions; each says its formula, where it is from, and how far it can be trusted."""

from lab.measures.capacity import Goodput, LittlesLaw, Slo, concurrency, goodput, littles_law
from lab.measures.latency import (
    HistogramQuantile,
    SampleQuantile,
    histogram_mean,
    histogram_quantile,
    quantile_table,
    quantiles_by_source,
    sample_quantile,
)
from lab.measures.quality import (
    PairedDifference,
    paired_difference,
    rates,
    requests_to_see,
    tool_confusion,
    tool_use,
    wilson,
)
from lab.measures.tokens import books, cost_by, cost_table, machine_usd_per_mtok, token_totals

__all__ = [
    "Goodput",
    "HistogramQuantile",
    "LittlesLaw",
    "PairedDifference",
    "SampleQuantile",
    "Slo",
    "books",
    "concurrency",
    "cost_by",
    "cost_table",
    "goodput",
    "histogram_mean",
    "histogram_quantile",
    "littles_law",
    "machine_usd_per_mtok",
    "paired_difference",
    "quantile_table",
    "quantiles_by_source",
    "rates",
    "requests_to_see",
    "sample_quantile",
    "token_totals",
    "tool_confusion",
    "tool_use",
    "wilson",
]
