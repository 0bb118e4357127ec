"""The overview: is it fast, is it busy, what does it cost, is it right."""

from __future__ import annotations

from lab.dashboards.cost import MACHINE_USD_PER_HOUR, usd_per_million_generated
from lab.dashboards.model import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row
from lab.dashboards.promql import VLLM, R, quantile, rate, ratio
from lab.dashboards.vllm import SLO_VARIABLES, VARIABLES, attained
from lab.schema import Metric as M

TOOLS = 'job="lab-tools"'

FAST = Row(
    "Is it fast?",
    (
        Panel(
            "First token within the objective",
            "Share of model calls whose first token came within $ttft_slo s of arriving at vLLM. An agent's user "
            "waits for "
            "several calls and the tools between them: see the notebook on traces for what he waits.",
            (
                Query(attained(M.TTFT, "$ttft_slo"), "TTFT"),
                Query(attained(M.ITL, "$itl_slo"), "ITL"),
            ),
            unit="percentunit",
            thresholds=((0, RED), (0.9, YELLOW), (0.99, GREEN)),
        ),
        Panel(
            "Time to first token",
            "Median and p95, interpolated inside a bucket. At low load one slow call moves p95 to its bucket's bound; "
            "the mean on vLLM's dashboard is exact.",
            (Query(quantile(0.5, M.TTFT), "p50"), Query(quantile(0.95, M.TTFT), "p95")),
            unit="s",
        ),
        Panel(
            "Agent requests, mean time",
            "Mean time of requests to Llama Stack, by API. A mean hides the slow ones; quantiles are on its own "
            "dashboard.",
            (
                Query(
                    ratio(
                        f'sum by (api) (rate(llama_stack_request_duration_seconds_sum{{job="llama-stack"}}{R}))',
                        f'sum by (api) (rate(llama_stack_request_duration_seconds_count{{job="llama-stack"}}{R}))',
                    ),
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
            "Running and waiting",
            "Model calls in the batch and in the queue at the moment of the scrape. A queue that fills and empties "
            "between two scrapes is not seen; the queue time is.",
            (
                Query(f"sum({M.RUNNING}{{{VLLM}}})", "running"),
                Query(f"sum({M.WAITING}{{{VLLM}}})", "waiting"),
            ),
        ),
        Panel(
            "KV cache in use",
            "The fullest replica. Above 0.9 the next long prompts wait; near 1 running requests are preempted.",
            (Query(f"max({M.KV_CACHE_USAGE}{{{VLLM}}})", "fullest replica"),),
            unit="percentunit",
            thresholds=((0, GREEN), (0.9, YELLOW), (0.98, RED)),
        ),
        Panel(
            "Tokens",
            "Generated and prompt tokens a second, cached prompt tokens included. Cached tokens cost the hardware "
            "next to nothing, so this can exceed what it computes.",
            (Query(rate(M.GENERATION_TOKENS), "generated"), Query(rate(M.PROMPT_TOKENS), "prompt")),
        ),
    ),
)

COST = Row(
    "What does it cost?",
    (
        Panel(
            "USD for a million generated tokens",
            "The machines' price by what they generate. All cost is laid on generated tokens, prompt tokens are free "
            "here; "
            "an idle machine makes it rise without bound. The price of a machine is the variable above.",
            (Query(usd_per_million_generated(), "per million"),),
            unit="currencyUSD",
        ),
        Panel(
            "Prompt tokens from the cache",
            "Prompt tokens that cost nearly nothing. They still count as input in a bill, and a first run is always "
            "low.",
            (Query(ratio(rate(M.CACHED_TOKENS), rate(M.PROMPT_TOKENS)), "cached"),),
            unit="percentunit",
        ),
        Panel(
            "Tokens for one model call",
            "Mean prompt and answer. Grows with the conversation: every turn sends all earlier ones again. Divides by "
            "finished calls: wrong for the moment in which many begin or end.",
            (
                Query(ratio(rate(M.PROMPT_TOKENS), rate(M.REQUESTS)), "prompt"),
                Query(ratio(rate(M.GENERATION_TOKENS), rate(M.REQUESTS)), "generated"),
            ),
        ),
    ),
)

RIGHT = Row(
    "Is it right?",
    (
        Panel(
            "Tool calls that failed",
            "Share of tool calls by outcome: error is what the tool said, invalid are arguments that did not fit or a "
            "tool "
            "that does not exist. A call with wrong but fitting arguments counts as ok: only the ground truth in the "
            "notebooks sees it.",
            (
                Query(
                    f'sum by (outcome) (rate(lab_tool_calls_total{{{TOOLS},outcome!="ok"}}{R})) / ignoring(outcome) '
                    f"group_left() (sum(rate(lab_tool_calls_total{{{TOOLS}}}{R})) > 0)",
                    "{{outcome}}",
                ),
            ),
            unit="percentunit",
            quiet="no tool call failed",
        ),
        Panel(
            "Answers that were cut off or broken",
            "Share of model calls that ended in length, abort or error. A wrong answer that ends in stop counts as "
            "good.",
            (
                Query(
                    f'(sum(rate({M.REQUESTS}{{{VLLM},finished_reason!="stop"}}{R}))) / ({rate(M.REQUESTS)} > 0)',
                    "not stop",
                ),
            ),
            unit="percentunit",
            thresholds=((0, GREEN), (0.05, YELLOW), (0.2, RED)),
        ),
        Panel(
            "Failed requests to Llama Stack",
            "Share of requests that Llama Stack answered with an error. An agent that gives up politely is a success "
            "here.",
            (
                Query(
                    '(sum(rate(llama_stack_requests_total{job="llama-stack",status="error"}'
                    f'{R})) or vector(0)) / (sum(rate(llama_stack_requests_total{{job="llama-stack"}}{R})) > 0)',
                    "errors",
                ),
            ),
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
    VARIABLES + SLO_VARIABLES + (MACHINE_USD_PER_HOUR,),
)
