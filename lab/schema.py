"""The vocabulary: columns with their units, span and attribute names, metric names.

Every other module takes them from here. A *request* is one call of the user; a *turn* is one model
call inside it; a *tool call* is one tool run inside it; a *run* is a driven workload with its
window and seed. Columns end in their unit: `_s` seconds, `_tokens`, `_usd`, `_ratio`; `_at` columns
are absolute times, seconds since the epoch (float) in records and UTC timestamps in frames.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column: name, pandas dtype, meaning (with its unit)."""

    name: str
    dtype: str
    meaning: str


def _columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


# What the load driver writes, one row per request (Parquet). Lists and objects are JSON text where
# the dtype is "json".
CLIENT_RECORD = _columns(
    ("run_id", "string", "the run that this request belongs to"),
    ("request_id", "string", "unique within the run"),
    (
        "trace_id",
        "string",
        "32 hex digits; the thread that joins client, Llama Stack, vLLM and tool",
    ),
    ("scenario_id", "string", "the scenario with the ground truth"),
    ("kind", "string", "kind of scenario: single, chain, no_tool, ..."),
    ("intent", "string", "what the user wants"),
    ("turn_index", "int64", "0 for the first question of a session, 1 for its follow-up"),
    ("tenant", "string", "who pays"),
    ("user_id", "string", "who asks"),
    ("session_id", "string", "the conversation"),
    ("api", "string", "'responses' (agent through Llama Stack) or 'chat' (plain chat completions)"),
    ("model", "string", "the model that was requested"),
    (
        "scheduled_at",
        "float64",
        "when the plan wanted it sent (open loop) or when the user was ready (closed loop)",
    ),
    ("sent_at", "float64", "when the request was written to the socket"),
    ("first_token_at", "float64", "when the first generated token's chunk came; NaN if none did"),
    ("last_token_at", "float64", "when the last generated token's chunk came; NaN if none did"),
    (
        "first_answer_at",
        "float64",
        "when the first chunk with text of the answer (not reasoning or a tool call) came, or NaN",
    ),
    ("done_at", "float64", "when the answer was complete or had failed"),
    ("lag_s", "float64", "sent_at - scheduled_at: the driver's own delay"),
    ("ttft_s", "float64", "first_token_at - scheduled_at"),
    ("first_answer_s", "float64", "first_answer_at - scheduled_at"),
    ("e2e_s", "float64", "done_at - scheduled_at"),
    ("chunk_offsets_s", "json", "time of every token chunk, relative to sent_at"),
    ("status", "string", "'ok', 'error', 'cancelled' or 'timeout'"),
    ("http_status", "int64", "HTTP status code; 0 if there was no answer"),
    ("error_type", "string", "low-cardinality kind of error; empty if ok"),
    ("error_message", "string", "the message of the server or the socket"),
    ("prompt_tokens", "int64", "as the API reported; -1 if it did not"),
    (
        "cached_tokens",
        "int64",
        "part of prompt_tokens from the prefix cache; -1 if the API did not report it",
    ),
    ("completion_tokens", "int64", "as the API reported; -1 if it did not"),
    ("prompt", "string", "the user's question"),
    ("answer", "string", "the final text"),
    (
        "tool_calls",
        "json",
        "list of {tool, arguments (object or the raw text), output, error}, in order",
    ),
    ("finish_reason", "string", "of the last model call, or the Responses status"),
)

# The columns of every span in a store's bulk answer and in a table of OTLP, before its attributes.
SPAN_COLUMNS = (
    "trace_id",
    "span_id",
    "parent_span_id",
    "name",
    "kind",
    "service_name",
    "start_time_unix_nano",
    "end_time_unix_nano",
    "status",
    "status_message",
)

# One row per span (lab.frames.spans_frame); one column per attribute follows, under the attribute's
# name.
SPAN_FRAME = _columns(
    ("trace_id", "string", "32 hex digits"),
    ("span_id", "string", "16 hex digits"),
    ("parent_id", "string", "16 hex digits; empty for a root"),
    ("service", "category", "service.name of the resource"),
    ("name", "category", "span name"),
    ("kind", "category", "internal, server, client, producer, consumer or unspecified"),
    ("start_at", "datetime64[ns, UTC]", "when it began"),
    ("duration_s", "float64", "end - start; 0 where the end lies before the start"),
    ("status", "category", "unset, ok or error"),
    ("status_message", "string", "the span's error message; empty if there is none"),
)

# One row per request, joined from client, spans and ground truth. The phases add up, for every row:
# e2e_s = lag_s + network_s + stack_s + tool_list_s + tool_s + model_http_s + queue_s + prefill_s +
# decode_s + engine_other_s - overlap_s + unexplained_s A phase whose spans are missing is NaN, and
# its time is in unexplained_s.
REQUEST_FRAME = _columns(
    *(
        (c.name, c.dtype, c.meaning)
        for c in CLIENT_RECORD
        if c.name not in ("chunk_offsets_s", "error_message")
    ),
    (
        "turns",
        "int64",
        "model calls in the trace: the engine's spans, or the callers' where it writes none",
    ),
    ("tool_runs", "int64", "tool calls in the trace, as the caller (Llama Stack) made them"),
    (
        "tool_failures",
        "int64",
        "of these, calls that failed by any of their spans: the tool server's, or their result",
    ),
    (
        "network_s",
        "float64",
        "client's view less the server's span: connection, transfer, waiting to be accepted",
    ),
    (
        "stack_s",
        "float64",
        "Llama Stack's own time: its server span less model calls, tool calls and tool lists",
    ),
    (
        "tool_list_s",
        "float64",
        "sum over Llama Stack's queries of the tool server's list of tools",
    ),
    ("tool_s", "float64", "sum over tool calls, as the caller (Llama Stack) sees them"),
    (
        "model_http_s",
        "float64",
        "sum over turns: Llama Stack's model call less vLLM's span (HTTP, vLLM's API server)",
    ),
    ("queue_s", "float64", "sum over turns: arrival at vLLM until first scheduled"),
    ("prefill_s", "float64", "sum over turns: first scheduled until first token"),
    ("decode_s", "float64", "sum over turns: first token until last token"),
    ("engine_other_s", "float64", "rest of vLLM's request spans: tokenising, output handling"),
    (
        "overlap_s",
        "float64",
        "time that calls running at once have in common, counted twice above; to be subtracted",
    ),
    (
        "unexplained_s",
        "float64",
        "what no span accounts for; near 0 when the trace is whole and the clocks agree",
    ),
    ("span_prompt_tokens", "int64", "sum over turns, of the engine's spans where it writes any"),
    ("span_completion_tokens", "int64", "the same of the generated tokens"),
    (
        "span_cached_tokens",
        "int64",
        "sum over turns, as engine or caller reports it: prompt tokens from the prefix cache",
    ),
    ("spans", "int64", "spans in the trace"),
    (
        "trace_complete",
        "boolean",
        "every parent is there, every model call has its vLLM span, the root has ended",
    ),
    ("trace_problem", "string", "why the trace is not complete; empty if it is"),
)

# The phases of REQUEST_FRAME in the order in which a request first meets them.
PHASES = (
    "lag_s",
    "network_s",
    "stack_s",
    "tool_list_s",
    "model_http_s",
    "queue_s",
    "prefill_s",
    "decode_s",
    "engine_other_s",
    "tool_s",
)


class Span:
    """Span names, as the pinned versions write them."""

    CLIENT = "lab.request"  # the driver's root span of one request
    VLLM = "llm_request"
    LLAMA_STACK_RESPONSES = "POST /v1/responses"
    CHAT_PREFIX = "chat "  # genai-openai: "chat {model}"
    INVOKE_TOOL = (
        "invoke_mcp_tool",
        "invoke_tool",
        "file_search",
        "knowledge_search",
    )  # Llama Stack's own
    LIST_TOOLS = "list_mcp_tools"
    EXECUTE_TOOL_PREFIX = "execute_tool "  # the MCP server's own, with {gen_ai.tool.name}


class Attr:
    """Attribute names: OpenTelemetry GenAI conventions, vLLM's older names, and the lab's own."""

    SERVICE = "service.name"
    OPERATION = "gen_ai.operation.name"
    REQUEST_MODEL = "gen_ai.request.model"
    RESPONSE_ID = "gen_ai.response.id"
    INPUT_TOKENS = "gen_ai.usage.input_tokens"
    OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
    CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
    TOOL_NAME = "gen_ai.tool.name"
    LLAMA_STACK_TOOL_NAME = "tool_name"
    ERROR_TYPE = "error.type"
    # vLLM 0.32 keeps the older usage names on its llm_request span
    VLLM_PROMPT_TOKENS = "gen_ai.usage.prompt_tokens"
    VLLM_COMPLETION_TOKENS = "gen_ai.usage.completion_tokens"
    VLLM_TTFT_S = "gen_ai.latency.time_to_first_token"
    VLLM_E2E_S = "gen_ai.latency.e2e"
    VLLM_QUEUE_S = "gen_ai.latency.time_in_queue"
    VLLM_PREFILL_S = "gen_ai.latency.time_in_model_prefill"
    VLLM_DECODE_S = "gen_ai.latency.time_in_model_decode"
    VLLM_INFERENCE_S = "gen_ai.latency.time_in_model_inference"
    # who sent it: travels as W3C baggage from the driver, copied to spans by each of our own
    # processes
    TENANT = "lab.tenant"
    USER = "user.id"
    SESSION = "session.id"
    SCENARIO = "lab.scenario"
    RUN = "lab.run"
    REQUEST = "lab.request"


# Attributes that become columns of a span frame unless others are requested.
SPAN_ATTRIBUTES = (
    *(name for key, name in vars(Attr).items() if key.isupper() and name != Attr.SERVICE),
    "ai.response.id",
    "gen_ai.response.time_to_first_chunk",
    "http.request.method",
    "http.response.status_code",
    "http.route",
)

BAGGAGE = (Attr.TENANT, Attr.USER, Attr.SESSION, Attr.SCENARIO, Attr.RUN, Attr.REQUEST)


class Service:
    """`service.name` of every part of the lab that writes spans."""

    CLIENT = "lab-client"
    LLAMA_STACK = "llama-stack"
    VLLM = "vllm"
    VLLM_EMBED = "vllm-embed"
    VLLM_CANARY = "vllm-canary"
    TOOLS = "lab-tools"


class Metric:
    """Prometheus metric names, as vLLM 0.32 and 0.33 export them (counters carry `_total`)."""

    RUNNING = "vllm:num_requests_running"
    WAITING = "vllm:num_requests_waiting"
    KV_CACHE_USAGE = "vllm:kv_cache_usage_perc"
    PROMPT_TOKENS = "vllm:prompt_tokens_total"
    CACHED_TOKENS = "vllm:prompt_tokens_cached_total"
    GENERATION_TOKENS = "vllm:generation_tokens_total"
    REQUESTS = "vllm:request_success_total"
    PREEMPTIONS = "vllm:num_preemptions_total"
    TTFT = "vllm:time_to_first_token_seconds"
    ITL = "vllm:inter_token_latency_seconds"
    TPOT = "vllm:request_time_per_output_token_seconds"
    E2E = "vllm:e2e_request_latency_seconds"
    QUEUE = "vllm:request_queue_time_seconds"
    PREFILL = "vllm:request_prefill_time_seconds"
    DECODE = "vllm:request_decode_time_seconds"
    INFERENCE = "vllm:request_inference_time_seconds"
    STEP_TOKENS = "vllm:iteration_tokens_total"  # a histogram, despite its name: tokens per step
    FLOPS = "vllm:estimated_flops_per_gpu_total"  # these three with --enable-mfu-metrics only
    READ_BYTES = "vllm:estimated_read_bytes_per_gpu_total"
    WRITE_BYTES = "vllm:estimated_write_bytes_per_gpu_total"


# Prometheus scrape jobs, the same names locally and on a cluster.
JOBS = ("vllm", "vllm-embed", "llama-stack", "lab-tools", "tracestore", "node", "prometheus")

# Llama Stack's `llama_stack_` is `ogx_` from 0.8 on (some releases write the prefix twice). What
# model servers call their metrics is in lab/engines.
PREFIXES = ("llama_stack_", "ogx_", "llama_stack_llama_stack_", "ogx_ogx_")
_SUFFIXES = ("_bucket", "_sum", "_count")


def names_of(metric: str) -> tuple[str, ...]:
    """Return every name that versions of its exporter give a metric, ours first.

    Parts of histograms (`_bucket` and so on) keep their part.
    """
    suffix = next((s for s in _SUFFIXES if metric.endswith(s)), "")
    base = metric.removesuffix(suffix)
    names = [base]
    if base.startswith(PREFIXES[0]):
        bare = base.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[0])
        names += [prefix + bare for prefix in PREFIXES]
    return tuple(dict.fromkeys(name + suffix for name in names))
