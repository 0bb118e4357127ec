"""The vLLM dashboard: traffic, latency, caches, instances and models of one model server."""

from __future__ import annotations

from lab.dashboards.model import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row, Variable
from lab.dashboards.promql import (
    QUANTILES,
    TOKENS_PER_S,
    VLLM,
    R,
    distribution,
    heat,
    increase,
    mean,
    quantile,
    rate,
    ratio,
    share_of,
    total,
)
from lab.schema import Metric as M

# Metrics of the API server's process carry neither a model nor an engine label.
SERVER = 'job=~"$job",instance=~"$instance"'
ENGINES = f'{SERVER},engine=~"$engine"'  # of metrics without a model label
PARSER = 'job=~"$job",model_name=~"$model_name"'
RECENT = "[5m]"  # the window of the instances' table
ENGINE = "{{instance}} engine {{engine}}"
OBJECTIVE_COLOURS = ((0, RED), (0.9, YELLOW), (0.99, GREEN))
KV_COLOURS = ((0, GREEN), (0.9, YELLOW), (0.98, RED))

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
        "Instance",
        ".*",
        'label_values(vllm:num_requests_running{job=~"$job"}, instance)',
    ),
    Variable(
        "engine",
        "Engine (data-parallel rank)",
        ".*",
        'label_values(vllm:num_requests_running{job=~"$job"}, engine)',
    ),
)
SLO_VARIABLES = (
    Variable("ttft_slo", "TTFT objective in seconds (a bucket bound)", "1.0"),
    Variable("itl_slo", "ITL objective in seconds (a bucket bound)", "0.05"),
    Variable("tpot_slo", "TPOT objective in seconds (a bucket bound)", "0.05"),
)
PEAK = Variable("peak_tflops", "Peak TFLOP/s of one GPU or CPU", "1")

INTERPOLATED = (
    "Quantiles are interpolated inside one bucket: where a single bucket holds all observations, "
    "the value shows the width of that bucket and nothing else."
)
EXTRAPOLATED = "Prometheus extrapolates to the ends of the range, so short ranges are off by a few."


def attainment(metric: str, bound: str, selector: str = VLLM) -> str:
    """Return the share of observations at or below a bucket bound."""
    within = f'sum(rate({metric}_bucket{{{selector},le="{bound}"}}{R}))'
    return ratio(within, rate(f"{metric}_count", selector))


def _length_quantiles(metric: str, name: str) -> tuple[Query, ...]:
    return tuple(Query(quantile(q, metric), f"{name} p{q * 100:g}") for q in QUANTILES)


TRAFFIC = Row(
    "Traffic and saturation",
    (
        Panel(
            "Finished requests",
            "Requests that finished, per second, by reason. Despite the metric's name "
            "(request_success), aborted and failed requests are included. Running requests are "
            "not counted yet.",
            (Query(rate(M.REQUESTS, by="finished_reason"), "{{finished_reason}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Token throughput",
            "Prompt and generated tokens per second. Prompt tokens include those served from the "
            "prefix cache, so they can exceed what the hardware computes.",
            (
                Query(rate(M.PROMPT_TOKENS), "prompt"),
                Query(rate(M.CACHED_TOKENS), "prompt, from cache"),
                Query(rate(M.GENERATION_TOKENS), "generated"),
            ),
            unit=TOKENS_PER_S,
        ),
        Panel(
            "Prompt tokens received and computed",
            "Prompt tokens per second as requests carried them, and those that were computed "
            "because no cache held them. The gap is the work that caching saved.",
            (
                Query(rate(M.PROMPT_TOKENS), "received"),
                Query(f"{rate(M.PROMPT_TOKENS)} - {rate(M.CACHED_TOKENS)}", "computed"),
            ),
            unit=TOKENS_PER_S,
        ),
        Panel(
            "Running and waiting requests",
            "Requests in the running batch and in the queue at the time of the scrape. A queue "
            "that fills and drains between two scrapes is missed; queue time below shows it.",
            (Query(total(M.RUNNING), "running"), Query(total(M.WAITING), "waiting")),
        ),
        Panel(
            "Waiting requests by reason",
            "capacity: no room in the batch or in the KV cache. deferred: held back by a transient "
            "constraint, such as a pending KV transfer. Sampled at the time of the scrape.",
            (
                Query(
                    total("vllm:num_requests_waiting_by_reason", by="reason"),
                    "{{reason}}",
                ),
            ),
        ),
        Panel(
            "Rejected requests",
            "Requests that the server refused to queue, per second, by the limit they met. The "
            "limits are off by default, in which case the value stays at 0.",
            (Query(rate("vllm:admission_rejections_total", PARSER, "reason"), "{{reason}}"),),
            unit="reqps",
        ),
    ),
)

LATENCY = Row(
    "Latency",
    (
        Panel(
            "Time to first token (TTFT)",
            "From arrival at vLLM to the first token, including the queue. Time spent before vLLM "
            f"is not included. {INTERPOLATED}",
            distribution(M.TTFT),
            unit="s",
        ),
        Panel(
            "Inter-token latency (ITL)",
            "Time between two streamed outputs of a request: the pauses that a reader notices. "
            f"Every pause counts once, so long answers weigh more. {INTERPOLATED}",
            distribution(M.ITL),
            unit="s",
        ),
        Panel(
            "Time per output token (TPOT)",
            "Decode time divided by the tokens after the first, one value per request, so short "
            f"answers weigh as much as long ones. 0 for answers of one token. {INTERPOLATED}",
            distribution(M.TPOT),
            unit="s",
        ),
        Panel(
            "End-to-end latency",
            "From arrival at vLLM to the last token. An agent's request consists of several of "
            f"these in sequence. {INTERPOLATED}",
            distribution(M.E2E),
            unit="s",
        ),
        Panel(
            "Queue time",
            "From arrival to the first time the request was scheduled. Recorded when the request "
            f"ends, so a growing queue shows late. {INTERPOLATED}",
            distribution(M.QUEUE),
            unit="s",
        ),
        Panel(
            "Mean time by phase",
            "Mean time per request in each phase. Means are exact for any buckets, and they add up "
            "to the time inside the engine.",
            (
                Query(mean(M.QUEUE), "queue"),
                Query(mean(M.PREFILL), "prefill"),
                Query(mean(M.DECODE), "decode"),
            ),
            unit="s",
            stacked=True,
        ),
        Panel(
            "TTFT attainment",
            "Share of requests whose first token arrived within $ttft_slo s. Exact if the "
            "objective is a bucket bound, otherwise empty.",
            (Query(attainment(M.TTFT, "$ttft_slo"), "within the objective"),),
            unit="percentunit",
            thresholds=OBJECTIVE_COLOURS,
        ),
        Panel(
            "ITL attainment",
            "Share of pauses between outputs of at most $itl_slo s. Exact if the objective is a "
            "bucket bound, otherwise empty.",
            (Query(attainment(M.ITL, "$itl_slo"), "within the objective"),),
            unit="percentunit",
            thresholds=OBJECTIVE_COLOURS,
        ),
        Panel(
            "TPOT attainment",
            "Share of requests whose mean time per output token was at most $tpot_slo s. One long "
            "pause in a long answer does not show here; ITL shows it. Empty if the objective is "
            "not a bucket bound.",
            (Query(attainment(M.TPOT, "$tpot_slo"), "within the objective"),),
            unit="percentunit",
            thresholds=OBJECTIVE_COLOURS,
        ),
        Panel(
            "Output speed per request",
            "Generated tokens per second of decode time: how fast one answer grows. It falls as "
            "the batch grows, which is the price of throughput. Decode time is recorded when a "
            "request ends, so the value is off for a moment while many begin or end.",
            (
                Query(
                    ratio(rate(M.GENERATION_TOKENS), rate(f"{M.DECODE}_sum")),
                    "per request",
                ),
            ),
            unit=TOKENS_PER_S,
        ),
    ),
)

DISTRIBUTIONS = Row(
    "Distributions",
    (
        Panel(
            "TTFT distribution",
            "Requests per second in each bucket. Two bands mean two populations, for example "
            "requests with a warm and with a cold cache.",
            heat(M.TTFT),
            unit="s",
            kind="heatmap",
        ),
        Panel(
            "ITL distribution",
            "Pauses per second in each bucket. A second band far above the first usually comes "
            "from prefills of other requests.",
            heat(M.ITL),
            unit="s",
            kind="heatmap",
        ),
        Panel(
            "End-to-end distribution",
            "Requests per second in each bucket. The width of a bucket limits what can be read.",
            heat(M.E2E),
            unit="s",
            kind="heatmap",
        ),
        Panel(
            "Prompt length distribution",
            "Requests per second by tokens in the prompt. Buckets grow in steps of 1, 2, 5. A "
            "prompt is recorded when its request ends, so requests with long answers show late.",
            heat("vllm:request_prompt_tokens"),
            kind="heatmap",
        ),
        Panel(
            "Answer length distribution",
            "Requests per second by generated tokens. Buckets grow in steps of 1, 2, 5. Requests "
            "that are still generating are not included.",
            heat("vllm:request_generation_tokens"),
            kind="heatmap",
        ),
        Panel(
            "Prompt and answer length",
            "Quantiles of tokens per request, interpolated inside coarse buckets (1, 2, 5).",
            (
                *_length_quantiles("vllm:request_prompt_tokens", "prompt"),
                *_length_quantiles("vllm:request_generation_tokens", "answer"),
            ),
        ),
        Panel(
            "Requested answer limit",
            "Quantiles of max_tokens as clients set it, and of the limit that applied. A limit "
            "near the answer lengths above cuts answers off.",
            (
                *_length_quantiles("vllm:request_params_max_tokens", "max_tokens"),
                Query(quantile(0.95, "vllm:request_max_num_generation_tokens"), "applied p95"),
            ),
        ),
        Panel(
            "Prompt tokens computed per request",
            "Quantiles of the prompt tokens that were computed rather than read from a cache.",
            distribution("vllm:request_prefill_kv_computed_tokens"),
        ),
        Panel(
            "Tokens per engine step",
            "How full each step of the engine is, prompt and generated tokens together. The metric "
            "is a histogram although its name ends in _total.",
            distribution("vllm:iteration_tokens_total"),
        ),
    ),
)

CACHE = Row(
    "KV cache and preemptions",
    (
        Panel(
            "KV cache usage",
            "Share of KV cache blocks in use: least loaded, mean and most loaded engine. Blocks "
            "that the prefix cache keeps for reuse do not count as used. Near 1, running requests "
            "are preempted and their work is lost.",
            (
                Query(f"min({M.KV_CACHE_USAGE}{{{VLLM}}})", "min"),
                Query(f"avg({M.KV_CACHE_USAGE}{{{VLLM}}})", "mean"),
                Query(f"max({M.KV_CACHE_USAGE}{{{VLLM}}})", "max"),
            ),
            unit="percentunit",
            thresholds=KV_COLOURS,
        ),
        Panel(
            "KV cache usage by engine",
            "One line per engine. One full engine beside idle ones means that routing does not "
            "balance the load.",
            (
                Query(
                    f"max by (instance,engine) ({M.KV_CACHE_USAGE}{{{VLLM}}})",
                    ENGINE,
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            "Preemptions",
            "Requests per second that lost their KV cache to others and have to be computed "
            "again. A rate that stays above 0 means the cache is too small for the concurrency.",
            (Query(rate(M.PREEMPTIONS), "preemptions"),),
            unit="ops",
            thresholds=((0, GREEN), (0.001, YELLOW), (1, RED)),
        ),
        Panel(
            "Preemptions per request",
            "Mean and 99th percentile of how often a finished request was preempted.",
            (
                Query(mean("vllm:request_num_preemptions"), "mean"),
                Query(quantile(0.99, "vllm:request_num_preemptions"), "p99"),
            ),
        ),
        Panel(
            "Prefix cache hit rate",
            "Share of looked-up prompt tokens that the local prefix cache held. Counted in tokens, "
            "so long prompts weigh more. It is low after a start.",
            (
                Query(
                    ratio(
                        rate("vllm:prefix_cache_hits_total"),
                        rate("vllm:prefix_cache_queries_total"),
                    ),
                    "hit rate",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            "External and multimodal cache hit rate",
            "Hit rates of the KV connector's cache and of the cache for images, video and audio. "
            "Empty unless a KV connector or multimodal input is in use.",
            (
                Query(
                    ratio(
                        rate("vllm:external_prefix_cache_hits_total"),
                        rate("vllm:external_prefix_cache_queries_total"),
                    ),
                    "KV connector",
                ),
                Query(
                    ratio(rate("vllm:mm_cache_hits_total"), rate("vllm:mm_cache_queries_total")),
                    "multimodal",
                ),
            ),
            unit="percentunit",
            quiet="neither a KV connector nor multimodal input is in use",
        ),
        Panel(
            "Prompt tokens by source",
            "Computed locally, read from the local cache, or transferred through a KV connector "
            "(transferred is not the same as saved: another engine computed those). Counted when "
            "scheduled, so the prompt of a preempted request counts again.",
            (Query(rate("vllm:prompt_tokens_by_source_total", by="source"), "{{source}}"),),
            unit=TOKENS_PER_S,
            stacked=True,
        ),
        Panel(
            "Cached prompt tokens by tier",
            "Where cached prompt tokens were held: device memory, host memory, disk, or another "
            "engine (p2p). Tiers that are not configured stay at 0.",
            (Query(rate("vllm:prompt_tokens_cached_by_source_total", by="source"), "{{source}}"),),
            unit=TOKENS_PER_S,
            stacked=True,
        ),
        Panel(
            "Cache configuration",
            "The KV cache of each engine as vLLM reports it at start.",
            (
                Query(
                    "max by (instance,engine,block_size,num_gpu_blocks,cache_dtype,"
                    f"enable_prefix_caching) (vllm:cache_config_info{{{ENGINES}}})",
                    "Reported",
                ),
            ),
            kind="table",
            keys=(
                ("instance", "Instance"),
                ("engine", "Engine"),
                ("block_size", "Tokens per block"),
                ("num_gpu_blocks", "Blocks"),
                ("cache_dtype", "Type"),
                ("enable_prefix_caching", "Prefix caching"),
            ),
        ),
    ),
)

OUTCOMES = Row(
    "Outcomes",
    (
        Panel(
            "Finish reasons",
            "Share of each reason. Many 'length' means that answers are cut off; 'abort' are "
            "clients that disconnected.",
            (
                Query(
                    f"{rate(M.REQUESTS, by='finished_reason')} "
                    f"/ ignoring(finished_reason) group_left() ({rate(M.REQUESTS)} > 0)",
                    "{{finished_reason}}",
                ),
            ),
            unit="percentunit",
            stacked=True,
        ),
        Panel(
            "HTTP responses by status",
            "By status class. These metrics carry no model label, so a choice of model does not "
            "narrow them. Health checks are excluded.",
            (Query(rate("http_requests_total", SERVER, "status"), "{{status}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "HTTP responses by path",
            "Chat completions come from the agent, other paths from clients that call vLLM "
            "directly. vLLM excludes health checks and scrapes.",
            (Query(rate("http_requests_total", SERVER, "handler"), "{{handler}}"),),
            unit="reqps",
        ),
        Panel(
            "HTTP response time by path",
            "Mean time until the first byte of a streamed response, and until the last byte of "
            "other responses: compare a path with itself only.",
            (Query(mean("http_request_duration_seconds", SERVER, "handler"), "{{handler}}"),),
            unit="s",
        ),
        Panel(
            "HTTP error rate",
            "Share of 5xx responses. A stream that breaks after its first byte was a 200. Health "
            "checks and scrapes are excluded, so an idle server has no value.",
            (
                Query(
                    share_of(
                        f'sum(rate(http_requests_total{{{SERVER},status="5xx"}}{R}))',
                        rate("http_requests_total", SERVER),
                    ),
                    "5xx",
                ),
            ),
            unit="percentunit",
            thresholds=((0, GREEN), (0.001, YELLOW), (0.01, RED)),
        ),
        Panel(
            "Tool call parser",
            "Parser invocations per second by outcome. In streaming mode the parser runs once per "
            "delta, so one long call counts many times, and a call that could not be parsed counts "
            "as no_tool_call. Only shares of the non-streaming mode can be interpreted.",
            (
                Query(
                    rate("vllm:tool_call_parser_invocations_total", PARSER, "mode,outcome"),
                    "{{mode}} {{outcome}}",
                ),
            ),
            unit="ops",
        ),
    ),
)

_INSTANCE = "model_name,instance"
_UPTIME = (
    f"max by ({_INSTANCE}) ((time() - process_start_time_seconds{{{SERVER}}}) * on (job,instance) "
    f"group_left (model_name) group by (job,instance,model_name) ({M.RUNNING}{{{VLLM}}}))"
)
INSTANCES = Row(
    "Instances and engines",
    (
        Panel(
            "Instances",
            "Load and latency of every instance over the last five minutes. Select an instance to "
            "narrow the dashboard to it. Uptime comes from the API server's process.",
            (
                Query(f"count by ({_INSTANCE}) ({M.RUNNING}{{{VLLM}}})", "Engines"),
                Query(total(M.RUNNING, by=_INSTANCE), "Running"),
                Query(total(M.WAITING, by=_INSTANCE), "Waiting"),
                Query(
                    f"max by ({_INSTANCE}) ({M.KV_CACHE_USAGE}{{{VLLM}}})",
                    "KV cache (max)",
                    "percentunit",
                ),
                Query(rate(M.REQUESTS, by=_INSTANCE, window=RECENT), "Requests", "reqps"),
                Query(
                    rate(M.GENERATION_TOKENS, by=_INSTANCE, window=RECENT),
                    "Generated",
                    TOKENS_PER_S,
                ),
                Query(quantile(0.95, M.TTFT, by=_INSTANCE, window=RECENT), "TTFT p95", "s"),
                Query(quantile(0.95, M.ITL, by=_INSTANCE, window=RECENT), "ITL p95", "s"),
                Query(rate(M.PREEMPTIONS, by=_INSTANCE, window=RECENT), "Preemptions", "ops"),
                Query(_UPTIME, "Uptime", "s"),
            ),
            kind="table",
            keys=(("model_name", "Model"), ("instance", "Instance")),
            drill_down="instance",
            width=24,
        ),
        Panel(
            "Running requests by engine",
            "Requests in the running batch of each engine, sampled at the time of the scrape.",
            (Query(total(M.RUNNING, by="instance,engine"), ENGINE),),
        ),
        Panel(
            "Waiting requests by engine",
            "Requests queued at each engine, sampled at the time of the scrape.",
            (Query(total(M.WAITING, by="instance,engine"), ENGINE),),
        ),
        Panel(
            "Generated tokens by engine",
            "Unequal lines under load mean unequal balancing, or one client that keeps a single "
            "connection. Answers of unequal length look the same for a while.",
            (Query(rate(M.GENERATION_TOKENS, by="instance,engine"), ENGINE),),
            unit=TOKENS_PER_S,
        ),
        Panel(
            "TTFT p95 by instance",
            f"A single slow instance shows here and hardly in the total. {INTERPOLATED}",
            (Query(quantile(0.95, M.TTFT, by="instance"), "{{instance}}"),),
            unit="s",
        ),
        Panel(
            "ITL p95 by instance",
            f"A single slow instance shows here and hardly in the total. {INTERPOLATED}",
            (Query(quantile(0.95, M.ITL, by="instance"), "{{instance}}"),),
            unit="s",
        ),
        Panel(
            "Prefix cache hit rate by instance",
            "Routing that scatters requests with the same prefix lowers the rate on every "
            "instance; routing by prefix raises it and can unbalance the load.",
            (
                Query(
                    ratio(
                        rate("vllm:prefix_cache_hits_total", by="instance"),
                        rate("vllm:prefix_cache_queries_total", by="instance"),
                    ),
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            "API server CPU",
            "CPU cores that the API server's process uses. The engine runs in a process of its "
            "own, which this metric does not include.",
            (
                Query(
                    f"sum by (instance) (rate(process_cpu_seconds_total{{{SERVER}}}{R}))",
                    "{{instance}}",
                ),
            ),
            unit="none",
        ),
        Panel(
            "API server memory",
            "Resident memory of the API server's process, without the engine's process.",
            (
                Query(
                    f"sum by (instance) (process_resident_memory_bytes{{{SERVER}}})",
                    "{{instance}}",
                ),
            ),
            unit="bytes",
        ),
        Panel(
            "API server file descriptors",
            "Open file descriptors as a share of the limit. Each open connection takes one.",
            (
                Query(
                    f"max by (instance) (process_open_fds{{{SERVER}}} "
                    f"/ process_max_fds{{{SERVER}}})",
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            thresholds=((0, GREEN), (0.8, YELLOW), (0.95, RED)),
        ),
        Panel(
            "Unreachable instances",
            "Scrape targets of this job that do not answer. An instance that Kubernetes has "
            "removed is no longer a target and is not counted.",
            (Query('count(up{job=~"$job"} == 0) or vector(0)', "unreachable"),),
            kind="stat",
            thresholds=((0, GREEN), (1, RED)),
        ),
        Panel(
            "Sleeping engines",
            "Engines that were put to sleep: their weights are offloaded or discarded, and the "
            "next request waits until they wake.",
            (
                Query(
                    f'sum(vllm:engine_sleep_state{{{VLLM},sleep_state!="awake"}})',
                    "asleep",
                ),
            ),
            kind="stat",
            thresholds=((0, GREEN), (1, YELLOW)),
        ),
    ),
)

MODELS = Row(
    "Models",
    (
        Panel(
            "Models",
            "Each model over the dashboard's time range. A model that was stopped is included. "
            f"{EXTRAPOLATED} {INTERPOLATED}",
            (
                Query(
                    "count by (model_name) "
                    f"(group by (model_name,instance) ({M.RUNNING}{{{VLLM}}}))",
                    "Instances",
                ),
                Query(increase(M.REQUESTS, by="model_name"), "Requests"),
                Query(increase(M.PROMPT_TOKENS, by="model_name"), "Prompt tokens"),
                Query(increase(M.CACHED_TOKENS, by="model_name"), "Cached tokens"),
                Query(increase(M.GENERATION_TOKENS, by="model_name"), "Generated tokens"),
                Query(
                    quantile(0.95, M.TTFT, by="model_name", window="[$__range]"),
                    "TTFT p95",
                    "s",
                ),
                Query(
                    quantile(0.95, M.E2E, by="model_name", window="[$__range]"),
                    "End to end p95",
                    "s",
                ),
                Query(f"round({increase(M.PREEMPTIONS, by='model_name')})", "Preemptions"),
            ),
            kind="table",
            keys=(("model_name", "Model"),),
            drill_down="model_name",
            width=24,
        ),
        Panel(
            "Model FLOPs utilisation (MFU)",
            "Floating-point operations that vLLM estimates per second, divided by the peak that "
            "you enter above. An estimate from the model's shape; needs --enable-mfu-metrics.",
            (
                Query(
                    f"{rate(M.FLOPS)} / (count({M.FLOPS}{{{VLLM}}}) * $peak_tflops * 1e12)",
                    "MFU",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            "Estimated memory traffic",
            "Bytes per second that vLLM estimates it reads and writes, from the model's shape; "
            "needs --enable-mfu-metrics. Compare with the memory bandwidth of the device.",
            (Query(rate(M.READ_BYTES), "read"), Query(rate(M.WRITE_BYTES), "written")),
            unit="Bps",
        ),
    ),
)

DASHBOARD = Dashboard(
    "vllm",
    "vLLM",
    "One model server from the inside: traffic, latency by phase, KV cache, instances, objectives.",
    (TRAFFIC, LATENCY, DISTRIBUTIONS, CACHE, OUTCOMES, INSTANCES, MODELS),
    (*VARIABLES, *SLO_VARIABLES, PEAK),
)
