"""Llama Stack and the tools: requests, turns, documents, tool calls, and what the spans say."""

from __future__ import annotations

from lab.dashboards.model import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row
from lab.dashboards.promql import R, distribution, mean, quantile, rate, ratio

LS = 'job="llama-stack"'
TOOLS = 'job="lab-tools"'
TOOL_SPANS = 'span_name=~"invoke_mcp_tool|invoke_tool|file_search|knowledge_search"'
REQUEST_S = "llama_stack_request_duration_seconds"
INFERENCE_S = "llama_stack_inference_duration_seconds"

REQUESTS = Row(
    "Requests",
    (
        Panel("Requests", "By API and outcome. One agent request is one here, whatever turns it takes inside. "
                          "Requests that never reached Llama Stack are in none of these.",
              (Query(rate("llama_stack_requests_total", LS, "api,status"), "{{api}} {{status}}"),), unit="reqps",
              stacked=True),
        Panel("Time of an agent request",
              "The Responses API, from request to answer: model calls, tools and Llama Stack's own time together. For "
              "a "
              "streamed answer it ends when the stream begins in some releases: compare with the traces.",
              distribution(REQUEST_S, f'{LS},api="responses"'), unit="s"),
        Panel("Under way", "Requests inside Llama Stack at the moment of the scrape, by API. A burst between two "
                           "scrapes is not seen.",
              (Query(f"sum by (api) (llama_stack_concurrent_requests{{{LS}}})", "{{api}}"),)),
        Panel("Failed requests",
              "Share of requests answered with an error. An agent that answers 'I could not do it' succeeded here.",
              (Query(f'(sum(rate(llama_stack_requests_total{{{LS},status="error"}}{R})) or vector(0)) / '
                     f"({rate('llama_stack_requests_total', LS)} > 0)", "errors"),),
              unit="percentunit", thresholds=((0, GREEN), (0.01, YELLOW), (0.05, RED))),
    ),
)  # fmt: skip

TURNS = Row(
    "Turns: the model calls inside",
    (
        Panel("Model calls for one agent request",
              "Model calls by agent requests: the length of the agent loop. Calls of the chat API are counted too if "
              "somebody uses it.",
              (Query(ratio(rate(f"{INFERENCE_S}_count", LS), rate(f"{REQUEST_S}_count", f'{LS},api="responses"')),
                     "turns"),)),
        Panel("Time of a model call", "As Llama Stack sees it: vLLM's end to end and the way there. Buckets are those "
                                      "that the lab's server sets; Llama Stack's own begin at 5 s.",
              (*distribution(INFERENCE_S, LS),), unit="s"),
        Panel("First token of a model call",
              "Counted only when text arrives: a turn that is nothing but a tool call has no entry, so this is the "
              "TTFT of "
              "the turns that talk.",
              distribution("llama_stack_inference_time_to_first_token_seconds", LS), unit="s"),
        Panel("First chunk, by the client library",
              "gen_ai conventions: the first chunk of any kind, tool calls included. Differs from the panel beside it "
              "by "
              "exactly the turns that do not talk.",
              distribution("gen_ai_client_operation_time_to_first_chunk_seconds", LS), unit="s"),
        Panel("Tokens of a model call",
              "Mean tokens, by type, as the API answered them. A stream whose trace was not recorded has no usage and "
              "is missing.",
              (Query(mean("gen_ai_client_token_usage", LS, "gen_ai_token_type"), "{{gen_ai_token_type}}"),)),
        Panel("Speed of a model call", "Generated tokens a second of one call, Llama Stack's view. Includes the wait "
                                       "for the first token, so short answers look slow.",
              distribution("llama_stack_inference_tokens_per_second", LS)),
    ),
)  # fmt: skip

TOOL_CALLS = Row(
    "Tools",
    (
        Panel("Tool calls", "In the tool server, by tool and outcome. Llama Stack's own tool metrics miss all calls "
                            "that "
              "come through the Responses API, so they are not used here.",
              (Query(rate("lab_tool_calls_total", TOOLS, "tool,outcome"), "{{tool}} {{outcome}}"),), unit="ops",
              stacked=True),
        Panel("Failed tool calls, by tool",
              "error: the tool said so. invalid: unknown tool or arguments that do not fit. The span in Llama Stack "
              "stays "
              "without an error, since the failure is a normal answer to the agent.",
              (Query(f'sum by (tool) (rate(lab_tool_calls_total{{{TOOLS},outcome!="ok"}}{R})) / '
                     f"(sum by (tool) (rate(lab_tool_calls_total{{{TOOLS}}}{R})) > 0)", "{{tool}}"),),
              unit="percentunit", quiet="no tool call failed"),
        Panel("Time of a tool call", "p95 inside the tool server, by tool; the network and Llama Stack's part are not "
                                     "in it. With few calls p95 is the slowest of them.",
              (Query(quantile(0.95, "lab_tool_duration_seconds", TOOLS, "tool"), "{{tool}}"),), unit="s"),
        Panel("Tool calls under way", "At the moment of the scrape; shows pile-ups of slow tools. Quick tools are "
                                      "between two scrapes nearly always.",
              (Query(f"sum(lab_tool_calls_running{{{TOOLS}}})", "under way"),)),
        Panel("Document searches", "Searches of the vector store a second, by outcome. Each question may search "
                                   "several times, and one that finds nothing is a success.",
              (Query(rate("llama_stack_vector_io_queries_total", LS, "status"), "{{status}}"),), unit="ops",
              quiet="the workload asks for no documents"),
        Panel("Time of a document search", "Embedding the question and finding its neighbours. The model's call that "
                                           "asked for it is not in it; searches are few, so p95 is a single one.",
              (Query(mean("llama_stack_vector_io_retrieval_duration_seconds", LS), "mean"),
               Query(quantile(0.95, "llama_stack_vector_io_retrieval_duration_seconds", LS), "p95")), unit="s",
              quiet="the workload asks for no documents"),
    ),
)  # fmt: skip

SPANS = Row(
    "From the spans (collector, before sampling)",
    (
        Panel("Spans a second, by service", "Every span that reached the collector; what it refused is not in it. "
                                            "Counted before sampling, so Tempo holds fewer.",
              (Query(f"sum by (service_name) (rate(traces_span_metrics_calls_total{R}))", "{{service_name}}"),),
              unit="ops", needs="cluster"),
        Panel("Tool calls as the agent sees them",
              "p95 of Llama Stack's tool spans, with exemplars: a point leads to its trace. Interpolated inside one "
              "of fifteen buckets; an exemplar's trace may have been sampled away.",
              (Query(f"histogram_quantile(0.95, sum by (le, tool_name) (rate("
                     f"traces_span_metrics_duration_seconds_bucket{{{TOOL_SPANS}}}{R})))", "{{tool_name}}"),),
              unit="s", needs="cluster", exemplars=True),
        Panel("Failed tool runs, by the tool server's spans",
              "Spans with an error, by tool and kind of error. Llama Stack's own span of the same call stays without "
              "an error.",
              (Query('sum by (gen_ai_tool_name, error_type) (rate(traces_span_metrics_calls_total{'
                     f'service_name="lab-tools",status_code="STATUS_CODE_ERROR"}}{R}))',
                     "{{gen_ai_tool_name}} {{error_type}}"),), unit="ops", needs="cluster"),
        Panel("Model calls, from vLLM's spans", "p95 of llm_request, with exemplars: vLLM's own metrics have none. "
                                                "Interpolated inside one of fifteen buckets.",
              (Query("histogram_quantile(0.95, sum by (le) (rate(traces_span_metrics_duration_seconds_bucket"
                     f'{{span_name="llm_request"}}{R})))', "llm_request"),), unit="s", needs="cluster", exemplars=True),
    ),
)  # fmt: skip

DASHBOARD = Dashboard(
    "llama-stack",
    "Llama Stack and tools",
    "The agent loop from outside: requests, turns, documents, tool calls and their errors.",
    (REQUESTS, TURNS, TOOL_CALLS, SPANS),
)
