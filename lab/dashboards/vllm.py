"""The vLLM dashboard: everything that vLLM's own overview has, with the phases apart and the buckets told."""

from __future__ import annotations

from lab.dashboards.model import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row, Variable
from lab.dashboards.promql import VLLM, R, distribution, heat, mean, rate, ratio
from lab.schema import Metric as M

HTTP = 'job=~"$job",instance=~"$instance"'
VARIABLES = (
    Variable("job", "Job", "vllm", "label_values(vllm:num_requests_running, job)"),
    Variable(
        "model_name",
        "Model",
        ".*",
        'label_values(vllm:num_requests_running{job=~"$job"}, model_name)',
    ),
    Variable(
        "instance",
        "Replica",
        ".*",
        'label_values(vllm:num_requests_running{job=~"$job"}, instance)',
    ),
)
SLO_VARIABLES = (
    Variable("ttft_slo", "TTFT objective, s (a bucket bound)", "1.0"),
    Variable("itl_slo", "ITL objective, s (a bucket bound)", "0.05"),
)
BUCKETS = "A quantile is interpolated inside one bucket; where a bucket holds everything, it tells the bucket's width."


def attained(metric: str, bound: str) -> str:
    """Share of observations at or below a bucket bound."""
    within = f'sum(rate({metric}_bucket{{{VLLM},le="{bound}"}}{R}))'
    return ratio(within, rate(f"{metric}_count"))


TRAFFIC = Row(
    "Is it busy",
    (
        Panel(
            "Requests finished",
            "Finished requests a second, by reason. 'Success' in the metric's name is not success: abort and error are "
            "counted too. A request that is still running is in none of them.",
            (Query(rate(M.REQUESTS, by="finished_reason"), "{{finished_reason}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Tokens",
            "Prompt and generated tokens a second. Prompt tokens include those that the prefix cache answered, so they "
            "can exceed what the hardware computes.",
            (
                Query(rate(M.PROMPT_TOKENS), "prompt"),
                Query(rate(M.CACHED_TOKENS), "prompt, from cache"),
                Query(rate(M.GENERATION_TOKENS), "generated"),
            ),
            unit="short",
        ),
        Panel(
            "Running and waiting",
            "Requests in the batch and in the queue, at the moment of the scrape. A queue that fills and empties "
            "between "
            "two scrapes is not seen; the queue time below sees it.",
            (
                Query(f"sum({M.RUNNING}{{{VLLM}}})", "running"),
                Query(f"sum({M.WAITING}{{{VLLM}}})", "waiting"),
            ),
        ),
        Panel(
            "Waiting, by reason",
            "capacity: no room in the batch or the KV cache. deferred: waits for something else, for instance a KV "
            "transfer. A sample at the moment of the scrape.",
            (
                Query(
                    f"sum by (reason) (vllm:num_requests_waiting_by_reason{{{VLLM}}})", "{{reason}}"
                ),
            ),
        ),
        Panel(
            "KV cache in use",
            "Share of KV cache blocks in use, the fullest replica. Blocks that the prefix cache keeps for reuse do not "
            "count. Near 1 requests are preempted and their work is lost.",
            (Query(f"max({M.KV_CACHE_USAGE}{{{VLLM}}})", "fullest replica"),),
            unit="percentunit",
            thresholds=((0, GREEN), (0.9, YELLOW), (0.98, RED)),
        ),
        Panel(
            "Preemptions",
            "Requests a second that lost their KV cache to others and must be computed again. Anything above zero for "
            "long says that the cache is too small for the concurrency.",
            (Query(rate(M.PREEMPTIONS), "preemptions"),),
            unit="ops",
        ),
    ),
)

LATENCY = Row(
    "Is it fast",
    (
        Panel(
            "Time to first token",
            f"From arrival at vLLM to the first token, queue included; what is before vLLM is not in it. {BUCKETS}",
            distribution(M.TTFT),
            unit="s",
        ),
        Panel(
            "Inter-token latency",
            "Time between two streamed outputs of a request: the pauses that a reader feels. Long requests weigh more, "
            f"since each token counts. {BUCKETS}",
            distribution(M.ITL),
            unit="s",
        ),
        Panel(
            "Time per output token",
            "A request's decode time by its tokens: one value a request, so short ones weigh as much as long ones. "
            f"0 for requests of one token. {BUCKETS}",
            distribution(M.TPOT),
            unit="s",
        ),
        Panel(
            "End to end",
            f"From arrival at vLLM to the last token. An agent's request has several of these in a row. {BUCKETS}",
            distribution(M.E2E),
            unit="s",
        ),
        Panel(
            "Queue time",
            f"From arrival to first scheduled. Counted when the request ends, so a growing queue shows late. {BUCKETS}",
            distribution(M.QUEUE),
            unit="s",
        ),
        Panel(
            "Mean time by phase",
            "Where a request's time goes. Means, so exact; they add up to the time inside the engine. It is not the "
            "rate "
            "of the sums (busy-seconds a second), which other dashboards show under this name.",
            (
                Query(mean(M.QUEUE), "queue"),
                Query(mean(M.PREFILL), "prefill"),
                Query(mean(M.DECODE), "decode"),
            ),
            unit="s",
            stacked=True,
        ),
        Panel(
            "TTFT within the objective",
            "Share of requests whose first token came within $ttft_slo s. Exact if the objective is a bucket bound, "
            "empty if it is not.",
            (Query(attained(M.TTFT, "$ttft_slo"), "within"),),
            unit="percentunit",
            thresholds=((0, RED), (0.9, YELLOW), (0.99, GREEN)),
        ),
        Panel(
            "ITL within the objective",
            "Share of inter-token pauses of at most $itl_slo s. Exact if the objective is a bucket bound, empty if "
            "not.",
            (Query(attained(M.ITL, "$itl_slo"), "within"),),
            unit="percentunit",
            thresholds=((0, RED), (0.9, YELLOW), (0.99, GREEN)),
        ),
        Panel(
            "TPOT within the objective",
            "Share of requests whose mean pause between tokens was at most $itl_slo s. One long pause in a long answer "
            "does not show here: see ITL. Empty if the objective is no bucket bound.",
            (Query(attained(M.TPOT, "$itl_slo"), "within"),),
            unit="percentunit",
            thresholds=((0, RED), (0.9, YELLOW), (0.99, GREEN)),
        ),
        Panel(
            "Output speed for one reader",
            "Generated tokens a second by running requests: how fast one answer grows. Falls as the batch grows; that "
            "is "
            "the price of throughput.",
            (
                Query(
                    ratio(
                        rate(M.GENERATION_TOKENS), f"sum(avg_over_time({M.RUNNING}{{{VLLM}}}{R}))"
                    ),
                    "tokens/s",
                ),
            ),
        ),
    ),
)

DISTRIBUTIONS = Row(
    "How it is spread",
    (
        Panel("TTFT, all of it", f"Requests a second in each bucket: two bands are two populations. {BUCKETS}",
              heat(M.TTFT), unit="s", kind="heatmap"),
        Panel("ITL, all of it", f"Pauses a second in each bucket. {BUCKETS}", heat(M.ITL), unit="s", kind="heatmap"),
        Panel("End to end, all of it", f"Requests a second in each bucket. {BUCKETS}",
              heat(M.E2E), unit="s", kind="heatmap"),
        Panel("Prompt length", "Requests a second by tokens of their prompt. Buckets go 1, 2, 5: coarse. A prompt "
                               "counts when its request ends, so long answers show late.",
              heat("vllm:request_prompt_tokens"), kind="heatmap"),
        Panel("Answer length", "Requests a second by generated tokens. Buckets go 1, 2, 5: coarse. A request that is "
                               "still generating is not there yet.",
              heat("vllm:request_generation_tokens"), kind="heatmap"),
        Panel(
            "Tokens in one engine step",
            "How full each step is: prompt and generated tokens together. A histogram, though its name ends in _total.",
            distribution("vllm:iteration_tokens_total"),
        ),
    ),
)  # fmt: skip

CACHE = Row(
    "What is spared, what is lost",
    (
        Panel(
            "Prefix cache hits",
            "Share of prompt tokens that were in the prefix cache. Counted in tokens, so long prompts weigh more. "
            "A first run is always low.",
            (
                Query(
                    ratio(
                        rate("vllm:prefix_cache_hits_total"),
                        rate("vllm:prefix_cache_queries_total"),
                    ),
                    "hit ratio",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            "Prompt tokens by source",
            "Computed here, from the local cache, or fetched from elsewhere. Counted at scheduling; a preempted "
            "request's prompt is counted again.",
            (Query(rate("vllm:prompt_tokens_by_source_total", by="source"), "{{source}}"),),
            stacked=True,
        ),
        Panel(
            "Finish reasons",
            "Share of each reason. Many 'length' means answers are cut off; 'abort' are clients that went away.",
            (
                Query(
                    f"{rate(M.REQUESTS, by='finished_reason')} / ignoring(finished_reason) group_left() "
                    f"({rate(M.REQUESTS)} > 0)",
                    "{{finished_reason}}",
                ),
            ),
            unit="percentunit",
            stacked=True,
        ),
        Panel(
            "HTTP answers",
            "By status class. Has no model label, so a choice of model does not narrow it; health checks are left out.",
            (Query(rate("http_requests_total", HTTP, "status"), "{{status}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "HTTP answers, by path",
            "Chat completions come from the agent, other paths from whoever asks vLLM itself. vLLM leaves out health "
            "checks and scrapes.",
            (Query(rate("http_requests_total", HTTP, "handler"), "{{handler}}"),),
            unit="reqps",
        ),
        Panel(
            "Time of an HTTP answer, by path",
            "Mean until the answer's first byte for streams (their body comes later), until the last for the rest: "
            "compare paths with themselves only.",
            (Query(mean("http_request_duration_seconds", HTTP, "handler"), "{{handler}}"),),
            unit="s",
        ),
        Panel(
            "HTTP errors",
            "Share of 5xx answers. A stream that breaks after its first byte was a 200. Health checks and scrapes are "
            "left out, so an idle server has no value at all.",
            (
                Query(
                    f'(sum(rate(http_requests_total{{{HTTP},status="5xx"}}{R})) or vector(0)) / '
                    f"({rate('http_requests_total', HTTP)} > 0)",
                    "5xx",
                ),
            ),
            unit="percentunit",
            thresholds=((0, GREEN), (0.001, YELLOW), (0.01, RED)),
        ),
        Panel(
            "Tool calls parsed",
            "How often the parser looked, and what it found. Streaming counts once a delta, so a long call counts many "
            "times; a call that could not be parsed counts as no_tool_call. Shares of the non-streaming mode can be "
            "read.",
            (
                Query(
                    'sum by (mode, outcome) (rate(vllm:tool_call_parser_invocations_total{job=~"$job",'
                    f'model_name=~"$model_name"}}{R}))',
                    "{{mode}} {{outcome}}",
                ),
            ),
            unit="ops",
        ),
    ),
)

MODELS = Row(
    "By model and replica",
    (
        Panel(
            "Replicas",
            "Replicas of each model whose last scrape came through. One that is too busy to answer a scrape is missing "
            "here and may still serve.",
            (
                Query(
                    f"count by (model_name) (group by (model_name, instance) ({M.RUNNING}{{{VLLM}}}))",
                    "{{model_name}}",
                ),
            ),
            kind="stat",
        ),
        Panel(
            "Replicas that do not answer",
            "Scrape targets of this job that are down. A replica that Kubernetes has removed is no target and is not "
            "here.",
            (Query('count(up{job=~"$job"} == 0) or vector(0)', "down"),),
            kind="stat",
            thresholds=((0, GREEN), (1, RED)),
        ),
        Panel(
            "Requests by model",
            "Over the whole time range, of any outcome. A model that was stopped is still counted. Grafana "
            "extrapolates to the ends of the range: short ranges are off by a few.",
            (
                Query(
                    f"sum by (model_name) (increase({M.REQUESTS}{{{VLLM}}}[$__range]))",
                    "{{model_name}}",
                ),
            ),
            kind="stat",
        ),
        Panel(
            "Tokens by model",
            "Prompt and generated together, over the whole time range. Extrapolated to the ends of the range, and "
            "with what the prefix cache answered.",
            (
                Query(
                    f"sum by (model_name) (increase({M.PROMPT_TOKENS}{{{VLLM}}}[$__range])) + "
                    f"sum by (model_name) (increase({M.GENERATION_TOKENS}{{{VLLM}}}[$__range]))",
                    "{{model_name}}",
                ),
            ),
            kind="stat",
        ),
        Panel(
            "TTFT by model, p95",
            f"Over the whole time range: one number for a run, which hides when it was slow. {BUCKETS}",
            (
                Query(
                    f"histogram_quantile(0.95, sum by (le, model_name) (rate({M.TTFT}_bucket{{{VLLM}}}[$__range])))",
                    "{{model_name}}",
                ),
            ),
            unit="s",
            kind="stat",
        ),
        Panel(
            "Preemptions by model",
            "Over the whole time range. Each is a request that was computed twice. Few in a long range can all have "
            "come in one bad minute.",
            (
                Query(
                    f"round(sum by (model_name) (increase({M.PREEMPTIONS}{{{VLLM}}}[$__range])))",
                    "{{model_name}}",
                ),
            ),
            kind="stat",
            thresholds=((0, GREEN), (1, YELLOW)),
        ),
        Panel(
            "Generated tokens by replica",
            "Unequal lines under load: the balancing is unequal (or one client keeps one connection). Unequal answers "
            "look the same for a while.",
            (Query(rate(M.GENERATION_TOKENS, by="instance"), "{{instance}}"),),
        ),
    ),
)

DASHBOARD = Dashboard(
    "vllm",
    "vLLM",
    "One model server from the inside: latency by phase, queue, KV cache, prefix cache, tokens, objectives.",
    (TRAFFIC, LATENCY, DISTRIBUTIONS, CACHE, MODELS),
    VARIABLES + SLO_VARIABLES,
)
