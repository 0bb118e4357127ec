"""How the libraries and servers that write GenAI spans say what each span is.

One table per dialect maps its span names and attributes to the lab's vocabulary: a `Role` per span,
and the fields of `FIELDS`. `lab.frames` reads all of them at once, since one trace often mixes
several: a proxy in one dialect calls an engine in another. To read another library, add a table.

Names are those of the sources: OpenTelemetry's GenAI and MCP conventions
(semantic-conventions-genai 0.1.0), OpenInference's specification,
opentelemetry-semantic-conventions-ai 0.5 (OpenLLMetry), LiteLLM's integrations/opentelemetry.py,
SGLang's srt/observability, vLLM 0.33, OGX 1.5, Llama Stack 0.7, Vercel's AI SDK 4 to 6, Pydantic
AI's pydantic_ai_slim/pydantic_ai/_instrumentation.py and Google ADK's telemetry/tracing.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from lab.schema import Attr, Span


class Role(IntEnum):
    """The part that a span plays in a request."""

    OTHER = 0
    CLIENT = 1  # the driver's root span
    SERVER = 2  # the agent's span of the whole request
    MODEL_CALL = 3  # the caller's view of one model call, the outermost where several repeat it
    ENGINE = 4  # the engine's view of it
    TOOL_CALL = 5  # the caller's view of one tool call, searches included
    TOOL_LIST = 6  # the agent lists the tools of a tool server
    TOOL_RUN = 7  # the tool server's view of one tool call
    AGENT = 8  # an agent, a chain or a workflow: what it reports of tokens is a sum
    EMBEDDING = 9
    RETRIEVAL = 10
    REPEAT = 11  # a call that an outer span reports already
    STRANGER = 12  # belongs to another request, although it is in this trace


@dataclass(frozen=True)
class Dialect:
    """The span names and attributes of one library or server.

    A span's role is that of its name in `names`, else of the value of an attribute in `kinds`, else
    of the beginning of its name in `prefixes`. Names in `with_usage` are of model calls only where
    the span also has tokens. `fields` are the attributes with a field's value, best first.
    """

    name: str
    names: Mapping[str, Role] = field(default_factory=dict)
    prefixes: Mapping[str, Role] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, Role]] = field(default_factory=dict)
    with_usage: tuple[str, ...] = ()
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


FIELDS = (
    "model",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "ttft_s",
    "tool",
    "call_id",
    "arguments",
    "result",
    "error",
    "is_error",
    "calls",  # the model's answer in one text, with the tools that it calls
    "messages",  # what the model reads, with results of tools
    "user_id",
    "session_id",
)

LAB = Dialect("the lab", names={Span.CLIENT: Role.CLIENT}, fields={"user_id": (Attr.USER,)})

VLLM = Dialect(
    "vLLM",
    names={Span.VLLM: Role.ENGINE},
    fields={
        "prompt_tokens": (Attr.VLLM_PROMPT_TOKENS,),
        "completion_tokens": (Attr.VLLM_COMPLETION_TOKENS,),
        "ttft_s": (Attr.VLLM_TTFT_S,),
    },
)

SGLANG = Dialect(
    "SGLang",
    # With prefill and decode apart, the span of the decoding engine has the usage.
    prefixes={
        "prefill Req ": Role.OTHER,
        "decode Req ": Role.ENGINE,
        "unified Req ": Role.ENGINE,
        " Req ": Role.ENGINE,
        "Req ": Role.ENGINE,
    },
    kinds={"module": {"sglang::request": Role.ENGINE}},
    fields={"cached_tokens": ("gen_ai.usage.cached_tokens",)},
)

# Llama Stack's name from 0.8 on.
OGX = Dialect(
    "OGX and Llama Stack",
    names={
        Span.LLAMA_STACK_RESPONSES: Role.SERVER,
        "POST /v1/openai/v1/responses": Role.SERVER,
        Span.LIST_TOOLS: Role.TOOL_LIST,
        **dict.fromkeys(Span.INVOKE_TOOL, Role.TOOL_CALL),
    },
    fields={"tool": (Attr.LLAMA_STACK_TOOL_NAME,)},
)

_OPERATIONS = {
    **dict.fromkeys(("chat", "text_completion", "generate_content"), Role.MODEL_CALL),
    # Semantic Kernel's names
    **dict.fromkeys(("chat.completions", "text.completions"), Role.MODEL_CALL),
    **dict.fromkeys(("invoke_agent", "create_agent", "invoke_workflow", "plan"), Role.AGENT),
    "embeddings": Role.EMBEDDING,
    "retrieval": Role.RETRIEVAL,
    "execute_tool": Role.TOOL_CALL,
}
SEMCONV = Dialect(
    "OpenTelemetry GenAI",
    names={"mcp.protocol.call_tool": Role.TOOL_CALL, "tools/list": Role.TOOL_LIST},
    prefixes={
        **{f"{name} ": role for name, role in _OPERATIONS.items()},
        "tools/call ": Role.TOOL_CALL,
        "tools/list ": Role.TOOL_LIST,
    },
    kinds={
        Attr.OPERATION: _OPERATIONS,
        "mcp.method.name": {"tools/call": Role.TOOL_CALL, "tools/list": Role.TOOL_LIST},
    },
    fields={
        "model": (Attr.REQUEST_MODEL, "gen_ai.response.model"),
        "prompt_tokens": (Attr.INPUT_TOKENS,),
        "completion_tokens": (Attr.OUTPUT_TOKENS,),
        "cached_tokens": (Attr.CACHE_READ_TOKENS, "gen_ai.usage.cache_read_input_tokens"),
        "cache_write_tokens": (
            "gen_ai.usage.cache_creation.input_tokens",
            "gen_ai.usage.cache_creation_input_tokens",
        ),
        "reasoning_tokens": (
            "gen_ai.usage.reasoning.output_tokens",
            "gen_ai.usage.reasoning_tokens",
        ),
        "ttft_s": ("gen_ai.response.time_to_first_chunk",),
        "tool": (Attr.TOOL_NAME, "mcp.tool.name"),
        "call_id": ("gen_ai.tool.call.id",),
        "arguments": ("gen_ai.tool.call.arguments", "mcp.request.argument"),
        "result": ("gen_ai.tool.call.result", "mcp.response.value"),
        "error": (Attr.ERROR_TYPE,),
        "is_error": ("mcp.result.is_error", "mcp.tool.result.is_error"),
        "calls": ("gen_ai.output.messages",),
        "messages": ("gen_ai.input.messages",),
        "user_id": ("enduser.id",),
        "session_id": ("gen_ai.conversation.id",),
    },
)

OPENINFERENCE = Dialect(
    "OpenInference",
    kinds={
        "openinference.span.kind": {
            "LLM": Role.MODEL_CALL,
            "TOOL": Role.TOOL_CALL,
            "AGENT": Role.AGENT,
            "CHAIN": Role.AGENT,
            "EMBEDDING": Role.EMBEDDING,
            "RETRIEVER": Role.RETRIEVAL,
            **dict.fromkeys(("RERANKER", "GUARDRAIL", "EVALUATOR", "PROMPT"), Role.OTHER),
        }
    },
    fields={
        "model": ("llm.model_name",),
        "prompt_tokens": ("llm.token_count.prompt",),
        "completion_tokens": ("llm.token_count.completion",),
        "cached_tokens": ("llm.token_count.prompt_details.cache_read",),
        "cache_write_tokens": ("llm.token_count.prompt_details.cache_write",),
        "reasoning_tokens": ("llm.token_count.completion_details.reasoning",),
        "tool": ("tool.name", "tool_call.function.name"),
        "call_id": ("tool_call.id", "tool.id"),
        "arguments": ("tool_call.function.arguments", "input.value"),
        "result": ("output.value",),
        "calls": ("llm.output_messages", "output.value"),
        "messages": ("llm.input_messages", "input.value"),
        "session_id": (Attr.SESSION,),
        "user_id": (Attr.USER,),
    },
)

_REQUEST_TYPES = dict.fromkeys(
    ("chat", "completion", "acompletion", "text_completion", "responses", "aresponses"),
    Role.MODEL_CALL,
)
OPENLLMETRY = Dialect(
    "OpenLLMetry",
    kinds={
        "traceloop.span.kind": {
            "workflow": Role.AGENT,
            "agent": Role.AGENT,
            "task": Role.AGENT,
            "tool": Role.TOOL_CALL,
        },
        "llm.request.type": {
            **_REQUEST_TYPES,
            "embedding": Role.EMBEDDING,
            "embeddings": Role.EMBEDDING,
            "rerank": Role.OTHER,
        },
    },
    fields={
        "prompt_tokens": ("llm.usage.prompt_tokens",),
        "completion_tokens": ("llm.usage.completion_tokens",),
        "reasoning_tokens": ("llm.usage.reasoning_tokens",),
        "tool": ("traceloop.entity.name",),
        "arguments": ("traceloop.entity.input",),
        "result": ("traceloop.entity.output",),
        "calls": ("gen_ai.completion",),
        "messages": ("gen_ai.prompt",),
        "user_id": ("traceloop.association.properties.user_id", "gen_ai.user", "llm.user"),
        "session_id": (
            "traceloop.association.properties.session_id",
            "traceloop.association.properties.chat_id",
        ),
    },
)

# Its spans of caches and databases have the request's attributes, too.
_LITELLM_SERVICES = (
    "redis",
    "postgres",
    "self",
    "auth",
    "router",
    "proxy_pre_call",
    "batch_write_to_db",
    "reset_budget_job",
    "pod_lock_manager",
)
LITELLM = Dialect(
    "LiteLLM",
    names={
        "litellm_request": Role.MODEL_CALL,
        "raw_gen_ai_request": Role.MODEL_CALL,
        "Received Proxy Server Request": Role.MODEL_CALL,
        **dict.fromkeys(_LITELLM_SERVICES, Role.OTHER),
    },
    with_usage=("Received Proxy Server Request",),
    kinds={Attr.OPERATION: _REQUEST_TYPES},
    fields={
        "user_id": ("metadata.user_api_key_user_id", "metadata.user_api_key_end_user_id"),
        "session_id": ("metadata.session_id",),
    },
)

# Its outer span of a call repeats the tokens of the steps below it, which are the model's calls.
VERCEL = Dialect(
    "Vercel AI SDK",
    kinds={
        "ai.operationId": {
            **dict.fromkeys(
                ("ai.generateText", "ai.streamText", "ai.generateObject", "ai.streamObject"),
                Role.AGENT,
            ),
            **dict.fromkeys(
                (
                    "ai.generateText.doGenerate",
                    "ai.streamText.doStream",
                    "ai.generateObject.doGenerate",
                    "ai.streamObject.doStream",
                ),
                Role.MODEL_CALL,
            ),
            "ai.toolCall": Role.TOOL_CALL,
            **dict.fromkeys(("ai.embed", "ai.embedMany"), Role.OTHER),
            **dict.fromkeys(("ai.embed.doEmbed", "ai.embedMany.doEmbed"), Role.EMBEDDING),
        }
    },
    fields={
        "model": ("ai.model.id",),
        "prompt_tokens": ("ai.usage.inputTokens", "ai.usage.promptTokens"),
        "completion_tokens": ("ai.usage.outputTokens", "ai.usage.completionTokens"),
        "cached_tokens": (
            "ai.usage.cachedInputTokens",
            "ai.usage.inputTokenDetails.cacheReadTokens",
        ),
        "cache_write_tokens": ("ai.usage.inputTokenDetails.cacheWriteTokens",),
        "reasoning_tokens": (
            "ai.usage.reasoningTokens",
            "ai.usage.outputTokenDetails.reasoningTokens",
        ),
        "tool": ("ai.toolCall.name",),
        "call_id": ("ai.toolCall.id",),
        "arguments": ("ai.toolCall.args",),
        "result": ("ai.toolCall.result", "ai.toolCall.output"),
        "calls": ("ai.response.toolCalls",),
        "messages": ("ai.prompt.messages",),
        "user_id": ("ai.telemetry.metadata.userId",),
        "session_id": ("ai.telemetry.metadata.sessionId",),
    },
)

# Version 3 and newer of its spans are OpenTelemetry's; these are the names of 1 and 2.
PYDANTIC_AI = Dialect(
    "Pydantic AI",
    names={
        "agent run": Role.AGENT,
        "running tool": Role.TOOL_CALL,
        "running tools": Role.OTHER,
        "running 1 tool": Role.OTHER,
    },
    fields={
        "ttft_s": ("gen_ai.client.operation.time_to_first_chunk",),
        "arguments": ("tool_arguments",),
        "result": ("tool_response",),
    },
)

GOOGLE_ADK = Dialect(
    "Google's Agent Development Kit",
    names={"call_llm": Role.MODEL_CALL, "invocation": Role.AGENT},
    prefixes={"agent_run ": Role.AGENT},
    fields={
        "arguments": ("gcp.vertex.agent.tool_call_args",),
        "result": ("gcp.vertex.agent.tool_response",),
        "session_id": ("gcp.vertex.agent.session_id",),
    },
)

DIALECTS = (
    LAB,
    VLLM,
    SGLANG,
    OGX,
    SEMCONV,
    OPENINFERENCE,
    OPENLLMETRY,
    LITELLM,
    VERCEL,
    PYDANTIC_AI,
    GOOGLE_ADK,
)

# A span that is none of these, but has one of these attributes, is an engine's.
ENGINE_ATTRIBUTES = (Attr.VLLM_E2E_S, Attr.VLLM_INFERENCE_S, Attr.VLLM_PREFILL_S)

# Messages of which every leaf is an attribute (`llm.input_messages.0.message.role`): a frame of
# spans has all leaves of one of these in one text, as JSON.
FLATTENED = ("llm.input_messages", "llm.output_messages", "gen_ai.prompt", "gen_ai.completion")

# Attributes of a resource that name its machine; the first that there is counts.
HOST_ATTRIBUTES = ("host.name", "k8s.node.name", "k8s.pod.name")


def attributes_of(name: str) -> tuple[str, ...]:
    """Return the attributes with a field's value in all dialects, in the order of DIALECTS."""
    each = (dialect.fields.get(name, ()) for dialect in DIALECTS)
    return tuple(dict.fromkeys(attribute for attributes in each for attribute in attributes))


def flattened(leaves: Iterable[tuple[str, Any]]) -> Any:
    """Return messages from (the path of a leaf below its attribute's family, its value)."""
    root: dict[str, Any] = {}
    for path, value in leaves:
        *above, last = path.split(".")
        node = root
        for step in above:
            below = node.setdefault(step, {})
            node = below if isinstance(below, dict) else {}
        node[last] = value
    return root


def all_attributes() -> tuple[str, ...]:
    """Return every attribute that some dialect's table names."""
    names = [attribute for name in FIELDS for attribute in attributes_of(name)]
    names += [attribute for dialect in DIALECTS for attribute in dialect.kinds]
    return tuple(dict.fromkeys((*names, *ENGINE_ATTRIBUTES)))


ATTRIBUTES = all_attributes()


def traceql() -> str:
    """Return a TraceQL condition for the spans that some dialect knows as part of a request."""
    wanted = (Role.SERVER, Role.MODEL_CALL, Role.ENGINE, Role.AGENT)
    conditions = []
    for dialect in DIALECTS:
        names = [name for name, role in dialect.names.items() if role in wanted]
        conditions += [f'name = "{name}"' for name in names if name != Span.VLLM]

        for attribute, values in dialect.kinds.items():
            matching = "|".join(value for value, role in values.items() if role in wanted)
            conditions += [f'span.{attribute} =~ "{matching}"'] if matching else []

    conditions += [f"span.{name} != nil" for name in ENGINE_ATTRIBUTES[:1]]
    conditions += [f"span.{name} != nil" for name in attributes_of("prompt_tokens")]
    return " || ".join(dict.fromkeys(conditions))
