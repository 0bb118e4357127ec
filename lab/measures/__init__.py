"""Frames become judgements. Pure functions; each says its formula, where it is from, and how far it can be trusted."""

from lab.measures.buckets import (
    OTEL_DEFAULT,
    VLLM_ITL_S,
    VLLM_REQUEST_LATENCY_S,
    VLLM_TTFT_S,
    quantiles_by_bucketing,
    rebin,
)
from lab.measures.capacity import Slo, concurrency, goodput
from lab.measures.capacity_littles import in_flight_at, littles_law
from lab.measures.capacity_model import (
    ServiceCurve,
    expected_on_arrival,
    fit_service_curve,
    predict,
)
from lab.measures.capacity_replicas import replicas_for
from lab.measures.capacity_saturation import batch_mean, knee, saturation, settle_verdicts
from lab.measures.capacity_steps import level_row, prediction_errors, steady_window, step_row
from lab.measures.cost_bill import bill_by, machine_bill, reconcile_money, scaled
from lab.measures.cost_energy import Energy
from lab.measures.cost_savings import Savings, cache_savings, classify_work, is_repeat
from lab.measures.cost_share import by_tokens, fair_shares, with_shares
from lab.measures.critical_path import critical_path
from lab.measures.latency import (
    BucketQuantile,
    Quantile,
    bucket_quantile,
    quantile,
    quantiles,
    quantiles_by_source,
)
from lab.measures.quality import (
    paired_difference,
    share_table,
    tool_confusion,
    wilson,
)
from lab.measures.quality_paired import (
    compare_paired,
    holm,
    pair_up,
    paired_shares,
    pairs_needed,
    pairs_to_see,
    power_curve,
)
from lab.measures.quality_signals import alert_quality, compare_signals, signals, ungrounded_values
from lab.measures.slopes import Slope, slope, slopes_by_half
from lab.measures.streaming import longest_gaps, stream_gaps, token_latencies
from lab.measures.tokens import cost_by, machine_usd_per_mtok, reconcile_totals, token_totals
from lab.measures.utilisation import (
    Work,
    busy_cores,
    cores_by_mode,
    rates,
    time_share_above,
    time_weighted_mean,
)
from lab.measures.utilisation_gpu import gpu_table

__all__ = [
    "OTEL_DEFAULT",
    "VLLM_ITL_S",
    "VLLM_REQUEST_LATENCY_S",
    "VLLM_TTFT_S",
    "BucketQuantile",
    "Energy",
    "Quantile",
    "Savings",
    "ServiceCurve",
    "Slo",
    "Slope",
    "Work",
    "alert_quality",
    "is_repeat",
    "batch_mean",
    "bill_by",
    "reconcile_totals",
    "bucket_quantile",
    "busy_cores",
    "by_tokens",
    "cache_savings",
    "compare_paired",
    "compare_signals",
    "concurrency",
    "cores_by_mode",
    "cost_by",
    "critical_path",
    "fair_shares",
    "fit_service_curve",
    "goodput",
    "gpu_table",
    "time_weighted_mean",
    "holm",
    "in_flight_at",
    "knee",
    "level_row",
    "littles_law",
    "longest_gaps",
    "machine_bill",
    "machine_usd_per_mtok",
    "reconcile_money",
    "pair_up",
    "paired_difference",
    "paired_shares",
    "pairs_needed",
    "pairs_to_see",
    "power_curve",
    "predict",
    "prediction_errors",
    "quantile",
    "quantiles",
    "quantiles_by_source",
    "rates",
    "rebin",
    "replicas_for",
    "quantiles_by_bucketing",
    "saturation",
    "scaled",
    "expected_on_arrival",
    "time_share_above",
    "settle_verdicts",
    "share_table",
    "signals",
    "slope",
    "slopes_by_half",
    "steady_window",
    "step_row",
    "stream_gaps",
    "token_latencies",
    "token_totals",
    "tool_confusion",
    "ungrounded_values",
    "wilson",
    "with_shares",
    "classify_work",
]
