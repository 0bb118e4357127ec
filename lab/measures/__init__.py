"""Frames become judgements. Pure functions; each says its formula, where it is from, and how far it can be trusted."""

from lab.measures.capacity import Slo, concurrency, goodput, littles_law
from lab.measures.latency import (
    BucketQuantile,
    Quantile,
    bucket_quantile,
    mean_from_sum_and_count,
    quantile,
    quantiles,
    quantiles_by_source,
)
from lab.measures.quality import paired_difference, requests_to_see, share_table, tool_confusion, tool_use, wilson
from lab.measures.tokens import books, cost_by, machine_usd_per_mtok, token_totals

__all__ = [
    "BucketQuantile",
    "Quantile",
    "Slo",
    "books",
    "bucket_quantile",
    "concurrency",
    "cost_by",
    "goodput",
    "littles_law",
    "machine_usd_per_mtok",
    "mean_from_sum_and_count",
    "paired_difference",
    "quantile",
    "quantiles",
    "quantiles_by_source",
    "requests_to_see",
    "share_table",
    "token_totals",
    "tool_confusion",
    "tool_use",
    "wilson",
]
