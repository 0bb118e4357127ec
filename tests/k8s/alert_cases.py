"""Provide promtool unit tests for every alert: a bad history and a good one.

The alert must fire on the bad history and stay silent on the good one. A series is written as
'start+step x times', with one value per minute (one per quarter of an hour where the window is
days).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LS = 'job="llama-stack",api="responses",method="create_openai_response",instance="a"'
VLLM = 'job="vllm",model_name="lab-model",instance="a",engine="0"'
TOOLS = 'job="lab-tools",instance="a",tool="reset_password"'


@dataclass(frozen=True)
class Case:
    """Two histories of an alert, each as {series: values}, evaluated at the time `at`."""

    bad: dict[str, str]
    good: dict[str, str]
    at: str
    interval: str = "1m"


def _requests(errors: int, successes: int, n: int) -> dict[str, str]:
    return {
        f'llama_stack_requests_total{{{LS},status="success"}}': f"0+{successes}x{n}",
        f'llama_stack_requests_total{{{LS},status="error"}}': f"0+{errors}x{n}",
    }


def _late(metric: str, bound: str, within: int, of: int, n: int) -> dict[str, str]:
    return {
        f'{metric}_bucket{{{VLLM},le="{bound}"}}': f"0+{within}x{n}",
        f'{metric}_bucket{{{VLLM},le="+Inf"}}': f"0+{of}x{n}",
        f"{metric}_count{{{VLLM}}}": f"0+{of}x{n}",
    }


def _tool_seconds(seconds: float) -> dict[str, str]:
    """Return ten calls per minute of a tool, which take `seconds` together."""
    return {
        f"lab_tool_duration_seconds_sum{{{TOOLS}}}": f"0+{seconds}x40",
        f"lab_tool_duration_seconds_count{{{TOOLS}}}": "0+10x40",
    }


def _queue_seconds(seconds: float) -> dict[str, str]:
    """Return a hundred calls per minute, which wait `seconds` together."""
    return {
        f"vllm:request_queue_time_seconds_sum{{{VLLM}}}": f"0+{seconds}x40",
        f"vllm:request_queue_time_seconds_count{{{VLLM}}}": "0+100x40",
    }


def _tokens(
    prompt: int = 0, cached: int = 0, generated: int = 0, finished: int = 0
) -> dict[str, str]:
    """Return vLLM's counters of tokens and finished requests, each growing by that per minute."""
    counters = {
        "vllm:prompt_tokens_total": prompt,
        "vllm:prompt_tokens_cached_total": cached,
        "vllm:generation_tokens_total": generated,
        "vllm:request_success_total": finished,
    }
    return {f"{name}{{{VLLM}}}": f"0+{by}x40" for name, by in counters.items() if by}


TTFT, ITL = "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"
UP = {'up{job="vllm",instance="a"}': "1x60"}

CASES = {
    # Bad: 20 % errors with a budget of 1 %, a burn rate of 20. Good: 0.5 % errors.
    "AvailabilityBudgetBurnsFast": Case(_requests(20, 80, 60), _requests(1, 199, 60), "2h", "2m"),
    # Bad: 4 % errors for more than a day, a burn rate of 4: too little to page. Good: 0.5 %.
    "AvailabilityBudgetBurnsSlow": Case(
        _requests(20, 480, 140), _requests(1, 199, 140), "30h", "15m"
    ),
    # Bad: 80 % late with a budget of 5 %, a burn rate of 16. Good: 3 % late.
    "TTFTBudgetBurnsFast": Case(
        _late(TTFT, "1.0", 20, 100, 60), _late(TTFT, "1.0", 97, 100, 60), "2h", "2m"
    ),
    "TTFTBudgetBurnsSlow": Case(
        _late(TTFT, "1.0", 80, 100, 140), _late(TTFT, "1.0", 97, 100, 140), "30h", "15m"
    ),
    "ITLBudgetBurnsFast": Case(
        _late(ITL, "0.05", 20, 100, 60), _late(ITL, "0.05", 97, 100, 60), "2h", "2m"
    ),
    "ITLBudgetBurnsSlow": Case(
        _late(ITL, "0.05", 80, 100, 140), _late(ITL, "0.05", 97, 100, 140), "30h", "15m"
    ),
    # A single sample below 90 % in the window is enough to keep the alert silent.
    "KVCacheNearlyFull": Case(
        {f"vllm:kv_cache_usage_perc{{{VLLM}}}": "0.95x30"},
        {f"vllm:kv_cache_usage_perc{{{VLLM}}}": " ".join(["0.95 0.95 0.5x1"] * 4)},
        "12m",
    ),
    # A queue that is long but steady does not grow.
    "QueueGrows": Case(
        {f"vllm:num_requests_waiting{{{VLLM}}}": "0+4x30"},
        {f"vllm:num_requests_waiting{{{VLLM}}}": "20x30"},
        "20m",
    ),
    # The 30 % of errors that the flaky tool makes by design must not raise an alarm.
    "ToolFailsOften": Case(
        {
            f'lab_tool_calls_total{{{TOOLS},outcome="ok"}}': "0+5x40",
            f'lab_tool_calls_total{{{TOOLS},outcome="error"}}': "0+5x40",
        },
        {
            f'lab_tool_calls_total{{{TOOLS},outcome="ok"}}': "0+7x40",
            f'lab_tool_calls_total{{{TOOLS},outcome="error"}}': "0+3x40",
        },
        "30m",
    ),
    "RequestsWait": Case(_queue_seconds(60), _queue_seconds(1), "30m"),
    "RequestsPreempted": Case(
        {f"vllm:num_preemptions_total{{{VLLM}}}": "0+2x40"},
        {f"vllm:num_preemptions_total{{{VLLM}}}": "7x40"},
        "30m",
    ),
    "ToolSlow": Case(_tool_seconds(8), _tool_seconds(0.05), "30m"),
    "PrefixCacheMisses": Case(
        _tokens(prompt=60_000, cached=6_000), _tokens(prompt=60_000, cached=50_000), "30m"
    ),
    "LongPrompts": Case(
        _tokens(prompt=60_000, finished=20), _tokens(prompt=4_000, finished=20), "30m"
    ),
    "LongAnswers": Case(
        _tokens(generated=12_000, finished=20), _tokens(generated=900, finished=20), "30m"
    ),
    "NoSpans": Case(
        {f'vllm:request_success_total{{{VLLM},finished_reason="stop"}}': "0+5x40"},
        {
            f'vllm:request_success_total{{{VLLM},finished_reason="stop"}}': "0+5x40",
            (
                'otelcol_receiver_accepted_spans_total{job="otel-collector",'
                'receiver="otlp",transport="http"}'
            ): "0+50x40",
        },
        "30m",
    ),
    "NoModelMetrics": Case({'up{job="prometheus",instance="a"}': "1x60"}, UP, "20m"),
    "TargetDown": Case({'up{job="lab-tools",instance="a"}': "1x5 0x20"}, UP, "15m"),
    "CollectorLosesSpans": Case(
        {
            (
                'otelcol_exporter_send_failed_spans_total{job="otel-collector",'
                'exporter="otlp_grpc/tempo"}'
            ): "0+3x40"
        },
        {
            (
                'otelcol_exporter_send_failed_spans_total{job="otel-collector",'
                'exporter="otlp_grpc/tempo"}'
            ): "7x40"
        },
        "30m",
    ),
}


def promtool_tests(alert: str, case: Case, fires_on: str = "bad") -> list[dict[str, Any]]:
    """Return two promtool tests: the alert fires on `fires_on`, not on the other history."""
    other = "good" if fires_on == "bad" else "bad"
    return [_test(alert, case, fires_on, True), _test(alert, case, other, False)]


def _test(alert: str, case: Case, history: str, fires: bool) -> dict[str, Any]:
    series = getattr(case, history)
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {
        "name": f"{alert} {'fires' if fires else 'is quiet'} on a {history} past",
        "interval": case.interval,
        "input_series": [{"series": s, "values": v} for s, v in series.items()],
        "promql_expr_test": [
            {
                "expr": firing,
                "eval_time": case.at,
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }
