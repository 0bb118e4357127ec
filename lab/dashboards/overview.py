"""The overview dashboard: is it fast, is it busy, what does it cost, is it right."""

from __future__ import annotations

from lab.dashboards.cost import MACHINE_USD_PER_HOUR, usd_per_million_generated
from lab.dashboards.llama_stack import SERVER as LLAMA_STACK
from lab.dashboards.llama_stack import TOOL_SERVER, error_rate
from lab.dashboards.model import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row
from lab.dashboards.promql import TOKENS_PER_S, VLLM, R, mean, quantile, rate, ratio, total
from lab.dashboards.vllm import (
    KV_COLOURS,
    OBJECTIVE_COLOURS,
    SLO_VARIABLES,
    VARIABLES,
    attainment,
)
from lab.schema import Metric as M

FAST = Row(
    "Is it fast?",
    (
        Panel(
            "Objectives attained",
            "Share of model calls whose first token arrived within $ttft_slo s of reaching vLLM, "
            "and of pauses of at most $itl_slo s. The user of an agent waits for several calls and "
            "the tools between them: the notebook on traces shows that total.",
            (
                Query(attainment(M.TTFT, "$ttft_slo"), "TTFT"),
                Query(attainment(M.ITL, "$itl_slo"), "ITL"),
            ),
            unit="percentunit",
            thresholds=OBJECTIVE_COLOURS,
        ),
        Panel(
            "TTFT: median and p95",
            "Interpolated inside a bucket. At low load one slow call moves the p95 to the bound of "
            "its bucket; the mean on the vLLM dashboard is exact.",
            (Query(quantile(0.5, M.TTFT), "p50"), Query(quantile(0.95, M.TTFT), "p95")),
            unit="s",
        ),
        Panel(
            "Mean time of an agent request",
            "Mean time of requests to Llama Stack, by API. A mean hides slow requests; the "
            "quantiles are on the Llama Stack dashboard.",
            (
                Query(
                    mean("llama_stack_request_duration_seconds", LLAMA_STACK, "api"),
                    "{{api}}",
                ),
            ),
            unit="s",
        ),
    ),
)

BUSY = Row(
    "Is it busy?",
    (
        Panel(
            "Running and waiting model calls",
            "Model calls in the batch and in the queue at the time of the scrape. A queue that "
            "fills and drains between two scrapes is missed; queue time is not.",
            (Query(total(M.RUNNING), "running"), Query(total(M.WAITING), "waiting")),
        ),
        Panel(
            "KV cache usage (max)",
            "The most loaded engine. Above 0.9 the next long prompts wait; near 1 running requests "
            "are preempted.",
            (Query(f"max({M.KV_CACHE_USAGE}{{{VLLM}}})", "most loaded engine"),),
            unit="percentunit",
            thresholds=KV_COLOURS,
        ),
        Panel(
            "Token throughput",
            "Generated and prompt tokens per second, including cached prompt tokens. Cached tokens "
            "cost the hardware almost nothing, so this can exceed what it computes.",
            (Query(rate(M.GENERATION_TOKENS), "generated"), Query(rate(M.PROMPT_TOKENS), "prompt")),
            unit=TOKENS_PER_S,
        ),
    ),
)

COST = Row(
    "What does it cost?",
    (
        Panel(
            "USD per million generated tokens",
            "Price of the machines divided by the generated tokens. Generated tokens carry the "
            "whole cost and prompt tokens none; while the machine is idle the value grows without "
            "bound. The price of a machine is a variable of this dashboard.",
            (Query(usd_per_million_generated(), "per million"),),
            unit="currencyUSD",
        ),
        Panel(
            "Prompt tokens from the cache",
            "Share of prompt tokens that were read from the cache at almost no cost. A bill still "
            "counts them as input. The share is low after a start.",
            (Query(ratio(rate(M.CACHED_TOKENS), rate(M.PROMPT_TOKENS)), "cached"),),
            unit="percentunit",
        ),
        Panel(
            "Tokens per model call",
            "Mean prompt and answer. The prompt grows with the conversation, since each turn sends "
            "all earlier ones again. Divided by finished calls, so it is wrong for a moment while "
            "many calls begin or end.",
            (
                Query(ratio(rate(M.PROMPT_TOKENS), rate(M.REQUESTS)), "prompt"),
                Query(ratio(rate(M.GENERATION_TOKENS), rate(M.REQUESTS)), "generated"),
            ),
        ),
    ),
)

_FAILED_CALLS = f'sum by (outcome) (rate(lab_tool_calls_total{{{TOOL_SERVER},outcome!="ok"}}{R}))'
RIGHT = Row(
    "Is it right?",
    (
        Panel(
            "Failed tool calls",
            "Share of tool calls by outcome. error: reported by the tool. invalid: unknown tool or "
            "arguments that do not fit its schema. A call with wrong but valid arguments counts as "
            "ok; only the ground truth in the notebooks reveals it.",
            (
                Query(
                    f"{_FAILED_CALLS} / ignoring(outcome) group_left() "
                    f"({rate('lab_tool_calls_total', TOOL_SERVER)} > 0)",
                    "{{outcome}}",
                ),
            ),
            unit="percentunit",
            quiet="no tool call failed",
        ),
        Panel(
            "Answers cut off or broken",
            "Share of model calls that ended in length, abort or error. A wrong answer that ends "
            "in stop counts as good.",
            (
                Query(
                    ratio(
                        f'sum(rate({M.REQUESTS}{{{VLLM},finished_reason!="stop"}}{R}))',
                        rate(M.REQUESTS),
                    ),
                    "not stop",
                ),
            ),
            unit="percentunit",
            thresholds=((0, GREEN), (0.05, YELLOW), (0.2, RED)),
        ),
        Panel(
            "Failed agent requests",
            "Share of requests that Llama Stack answered with an error. An agent that politely "
            "gives up counts as a success.",
            (Query(error_rate(), "errors"),),
            unit="percentunit",
            thresholds=((0, GREEN), (0.01, YELLOW), (0.05, RED)),
        ),
    ),
)

DASHBOARD = Dashboard(
    "overview",
    "LLM lab: overview",
    "Four questions: is it fast, is it busy, what does it cost, is it right.",
    (FAST, BUSY, COST, RIGHT),
    (*VARIABLES, *SLO_VARIABLES, MACHINE_USD_PER_HOUR),
)
