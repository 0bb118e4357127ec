"""The Llama Stack dashboard: agent requests, model calls, documents, tool calls, span metrics."""

from __future__ import annotations

from lab.dashboards.model import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row
from lab.dashboards.promql import (
    TOKENS_PER_S,
    R,
    distribution,
    mean,
    quantile,
    rate,
    ratio,
    share_of,
    total,
)

SERVER = 'job="llama-stack"'
TOOL_SERVER = 'job="lab-tools"'
RESPONSES = f'{SERVER},api="responses"'
REQUEST_S = "llama_stack_request_duration_seconds"
INFERENCE_S = "llama_stack_inference_duration_seconds"
RETRIEVAL_S = "llama_stack_vector_io_retrieval_duration_seconds"
SPAN_S = "traces_span_metrics_duration_seconds"
TOOL_SPANS = 'span_name=~"invoke_mcp_tool|invoke_tool|file_search|knowledge_search"'
FAILED_TOOL_SPANS = 'service_name="lab-tools",status_code="STATUS_CODE_ERROR"'
NO_DOCUMENTS = "the workload does not search documents"


def error_rate() -> str:
    """Return the share of requests that Llama Stack answered with an error."""
    errors = f'sum(rate(llama_stack_requests_total{{{SERVER},status="error"}}{R}))'
    return share_of(errors, rate("llama_stack_requests_total", SERVER))


REQUESTS = Row(
    "Requests",
    (
        Panel(
            "Requests",
            "By API and outcome. An agent request counts once, whatever model calls and tool calls "
            "it makes. Requests that never reached Llama Stack are not included.",
            (
                Query(
                    rate("llama_stack_requests_total", SERVER, "api,status"),
                    "{{api}} {{status}}",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Time of an agent request",
            "The Responses API from request to answer: model calls, tools and Llama Stack's own "
            "time together. In some releases a streamed answer ends this time when the stream "
            "begins: compare with the traces.",
            distribution(REQUEST_S, RESPONSES),
            unit="s",
        ),
        Panel(
            "Requests in progress",
            "Requests inside Llama Stack at the time of the scrape, by API. A burst between two "
            "scrapes is missed.",
            (Query(total("llama_stack_concurrent_requests", SERVER, "api"), "{{api}}"),),
        ),
        Panel(
            "Failed requests",
            "Share of requests answered with an error. An agent that answers 'I could not do it' "
            "succeeded by this measure.",
            (Query(error_rate(), "errors"),),
            unit="percentunit",
            thresholds=((0, GREEN), (0.01, YELLOW), (0.05, RED)),
        ),
    ),
)

TURNS = Row(
    "Model calls inside a request (turns)",
    (
        Panel(
            "Model calls per agent request",
            "Model calls divided by agent requests: the length of the agent loop. Direct calls of "
            "the chat API are counted as well if a client makes them.",
            (
                Query(
                    ratio(
                        rate(f"{INFERENCE_S}_count", SERVER),
                        rate(f"{REQUEST_S}_count", RESPONSES),
                    ),
                    "turns",
                ),
            ),
        ),
        Panel(
            "Time of a model call",
            "As Llama Stack sees it: vLLM's end-to-end latency and the way there. The lab's server "
            "sets these buckets; Llama Stack's own begin at 5 s.",
            distribution(INFERENCE_S, SERVER),
            unit="s",
        ),
        Panel(
            "Time to first token, as text",
            "Recorded only when text arrives. A turn that consists of a tool call has no entry, so "
            "this is the TTFT of turns that produce text.",
            distribution("llama_stack_inference_time_to_first_token_seconds", SERVER),
            unit="s",
        ),
        Panel(
            "Time to first chunk",
            "By the client library (GenAI conventions): the first chunk of any kind, including "
            "tool calls. Differs from the previous panel by the turns that produce no text.",
            distribution("gen_ai_client_operation_time_to_first_chunk_seconds", SERVER),
            unit="s",
        ),
        Panel(
            "Tokens per model call",
            "Mean tokens by type, as the API reported them. Streams whose trace was not recorded "
            "report no usage and are missing.",
            (
                Query(
                    mean("gen_ai_client_token_usage", SERVER, "gen_ai_token_type"),
                    "{{gen_ai_token_type}}",
                ),
            ),
        ),
        Panel(
            "Speed of a model call",
            "Generated tokens per second of one call, as Llama Stack sees it. Includes the wait "
            "for the first token, so short answers look slow.",
            distribution("llama_stack_inference_tokens_per_second", SERVER),
            unit=TOKENS_PER_S,
        ),
    ),
)

_FAILED_CALLS = f'sum by (tool) (rate(lab_tool_calls_total{{{TOOL_SERVER},outcome!="ok"}}{R}))'
TOOL_CALLS = Row(
    "Tools and documents",
    (
        Panel(
            "Tool calls",
            "As the tool server counts them, by tool and outcome. Llama Stack's own tool metrics "
            "miss every call made through the Responses API, so they are not used here.",
            (
                Query(
                    rate("lab_tool_calls_total", TOOL_SERVER, "tool,outcome"),
                    "{{tool}} {{outcome}}",
                ),
            ),
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Failed tool calls by tool",
            "error: reported by the tool. invalid: unknown tool or arguments that do not fit its "
            "schema. Llama Stack's span of the call has no error status, since the failure is an "
            "ordinary result for the agent.",
            (
                Query(
                    ratio(_FAILED_CALLS, rate("lab_tool_calls_total", TOOL_SERVER, "tool")),
                    "{{tool}}",
                ),
            ),
            unit="percentunit",
            quiet="no tool call failed",
        ),
        Panel(
            "Time of a tool call",
            "p95 inside the tool server, by tool, without the network and Llama Stack's part. With "
            "few calls the p95 is the slowest of them.",
            (Query(quantile(0.95, "lab_tool_duration_seconds", TOOL_SERVER, "tool"), "{{tool}}"),),
            unit="s",
        ),
        Panel(
            "Tool calls in progress",
            "Sampled at the time of the scrape; shows slow tools piling up. Quick calls almost "
            "always fall between two scrapes.",
            (Query(total("lab_tool_calls_running", TOOL_SERVER), "in progress"),),
        ),
        Panel(
            "Document searches",
            "Searches of the vector store per second, by outcome. A question can search several "
            "times, and a search that finds nothing counts as a success.",
            (Query(rate("llama_stack_vector_io_queries_total", SERVER, "status"), "{{status}}"),),
            unit="ops",
            quiet=NO_DOCUMENTS,
        ),
        Panel(
            "Time of a document search",
            "Embedding the question and finding its neighbours, without the model call that "
            "requested it. Searches are rare, so the p95 is often a single one.",
            (
                Query(mean(RETRIEVAL_S, SERVER), "mean"),
                Query(quantile(0.95, RETRIEVAL_S, SERVER), "p95"),
            ),
            unit="s",
            quiet=NO_DOCUMENTS,
        ),
    ),
)

SPANS = Row(
    "Span metrics (collector, before sampling)",
    (
        Panel(
            "Spans by service",
            "Spans per second that reached the collector, without those it refused. Counted before "
            "sampling, so Tempo holds fewer.",
            (
                Query(
                    rate("traces_span_metrics_calls_total", "", "service_name"), "{{service_name}}"
                ),
            ),
            unit="ops",
            needs="cluster",
        ),
        Panel(
            "Tool calls as the agent sees them",
            "p95 of Llama Stack's tool spans, with exemplars: a point leads to its trace, unless "
            "sampling dropped it. Interpolated inside one of fifteen buckets.",
            (Query(quantile(0.95, SPAN_S, TOOL_SPANS, "tool_name"), "{{tool_name}}"),),
            unit="s",
            needs="cluster",
            exemplars=True,
        ),
        Panel(
            "Failed tool calls by the tool server's spans",
            "Spans with an error per second, by tool and type of error. Llama Stack's span of the "
            "same call has no error status.",
            (
                Query(
                    rate(
                        "traces_span_metrics_calls_total",
                        FAILED_TOOL_SPANS,
                        "gen_ai_tool_name,error_type",
                    ),
                    "{{gen_ai_tool_name}} {{error_type}}",
                ),
            ),
            unit="ops",
            needs="cluster",
        ),
        Panel(
            "Model calls by vLLM's spans",
            "p95 of llm_request, with exemplars, which vLLM's own metrics do not have. "
            "Interpolated inside one of fifteen buckets.",
            (Query(quantile(0.95, SPAN_S, 'span_name="llm_request"'), "llm_request"),),
            unit="s",
            needs="cluster",
            exemplars=True,
        ),
    ),
)

DASHBOARD = Dashboard(
    "llama-stack",
    "Llama Stack and tools",
    "The agent loop from outside: requests, model calls, documents, tool calls and their errors.",
    (REQUESTS, TURNS, TOOL_CALLS, SPANS),
)
