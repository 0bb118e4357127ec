"""Frames become judgements. Pure functions; each says its formula, where it is from, and how far it can be trusted."""

from lab.measures.buckets import OTEL_DEFAULT, VLLM_ITL_S, VLLM_REQUEST_LATENCY_S, VLLM_TTFT_S, rebin, said_by_buckets
from lab.measures.capacity import Slo, concurrency, goodput, littles_law
from lab.measures.capacity_littles import gauge_check, in_flight_at, littles_books
from lab.measures.capacity_model import Service, fit_service, predict, seen_on_arrival
from lab.measures.capacity_replicas import replicas_for
from lab.measures.capacity_saturation import batch_mean, knee, saturation
from lab.measures.capacity_steps import level_row, prediction_errors, steady_window, step_row
from lab.measures.critical_path import critical_path
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
from lab.measures.slopes import Slope, slope
from lab.measures.streaming import longest_gaps, stream_gaps, token_latencies
from lab.measures.tokens import books, cost_by, machine_usd_per_mtok, token_totals

__all__ = [
    "OTEL_DEFAULT",
    "VLLM_ITL_S",
    "VLLM_REQUEST_LATENCY_S",
    "VLLM_TTFT_S",
    "BucketQuantile",
    "Quantile",
    "Service",
    "Slo",
    "Slope",
    "batch_mean",
    "books",
    "bucket_quantile",
    "concurrency",
    "cost_by",
    "critical_path",
    "fit_service",
    "gauge_check",
    "goodput",
    "in_flight_at",
    "knee",
    "level_row",
    "littles_books",
    "littles_law",
    "longest_gaps",
    "machine_usd_per_mtok",
    "mean_from_sum_and_count",
    "paired_difference",
    "predict",
    "prediction_errors",
    "quantile",
    "quantiles",
    "quantiles_by_source",
    "rebin",
    "replicas_for",
    "requests_to_see",
    "said_by_buckets",
    "saturation",
    "seen_on_arrival",
    "share_table",
    "slope",
    "steady_window",
    "step_row",
    "stream_gaps",
    "token_latencies",
    "token_totals",
    "tool_confusion",
    "tool_use",
    "wilson",
]
