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

    A span's role is that of its name in `names`, else of the value of an attribute in `kinds`
    (`*Generator`: of every value with this end), else of the beginning of its name in `prefixes`,
    else of an attribute in `marks` that it has, whatever its value. Names in `with_usage` are of
    model calls only where the span also has tokens. `fields` are the attributes with a field's
    value, best first; `attribute#path` is a number in an attribute that is an object, and
    `attribute#path+path` a sum of which all but the first may be missing.
    """

    name: str
    names: Mapping[str, Role] = field(default_factory=dict)
    prefixes: Mapping[str, Role] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, Role]] = field(default_factory=dict)
    marks: Mapping[str, Role] = field(default_factory=dict)
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
    "response_id",  # the model server's name for its answer
    "calls",  # the model's answer in one text, with the tools that it calls
    "messages",  # what the model reads, with results of tools
    "user_id",
    "session_id",
    "source",  # of a retrieval: the index or the database
    "query",
    "top_k",
    "documents",
)

# A span's events, of which older conventions make messages: a frame of spans has those that begin
# with "gen_ai." in one text, as JSON: [{"event.name": ..., attribute: ...}].
EVENTS = "gen_ai.events"

LAB = Dialect("the lab", names={Span.CLIENT: Role.CLIENT}, fields={"user_id": (Attr.USER,)})

VLLM = Dialect(
    "vLLM",
    prefixes={f"{Span.VLLM} ": Role.ENGINE},  # a name that LiveKit's model calls have, too
    marks=dict.fromkeys((Attr.VLLM_E2E_S, Attr.VLLM_INFERENCE_S, Attr.VLLM_PREFILL_S), Role.ENGINE),
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

# LangSmith's names of operations are those of other things: a prompt's is "chat".
LANGSMITH = Dialect(
    "LangSmith",
    kinds={
        "langsmith.span.kind": {
            "llm": Role.MODEL_CALL,
            "tool": Role.TOOL_CALL,
            "chain": Role.AGENT,
            "embedding": Role.EMBEDDING,
            "retriever": Role.RETRIEVAL,
            **dict.fromkeys(("prompt", "parser"), Role.OTHER),
        }
    },
    fields={
        "cached_tokens": ("gen_ai.usage.input_token_details#cache_read",),
        "cache_write_tokens": ("gen_ai.usage.input_token_details#cache_creation",),
        "reasoning_tokens": ("gen_ai.usage.output_token_details#reasoning",),
        "arguments": ("gen_ai.prompt",),
        "result": ("gen_ai.completion",),
        "user_id": ("langsmith.metadata.user_id",),
        "session_id": ("langsmith.metadata.session_id", "langsmith.metadata.thread_id"),
    },
)

_OPERATIONS = {
    **dict.fromkeys(("chat", "text_completion", "generate_content"), Role.MODEL_CALL),
    # Semantic Kernel's names
    **dict.fromkeys(("chat.completions", "text.completions"), Role.MODEL_CALL),
    **dict.fromkeys(("invoke_agent", "create_agent", "invoke_workflow", "plan"), Role.AGENT),
    # those of Vercel, .NET and Strands
    **dict.fromkeys(("agent_step", "orchestrate_tools", "execute_event_loop_cycle"), Role.AGENT),
    **dict.fromkeys(("invoke_swarm", "invoke_graph"), Role.AGENT),
    **dict.fromkeys(("embeddings", "embedding"), Role.EMBEDDING),
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
    marks={"gen_ai.tool.call.id": Role.TOOL_CALL},
    fields={
        "model": (Attr.REQUEST_MODEL, "gen_ai.response.model"),
        "prompt_tokens": (Attr.INPUT_TOKENS,),
        "completion_tokens": (Attr.OUTPUT_TOKENS,),
        "cached_tokens": (
            Attr.CACHE_READ_TOKENS,
            "gen_ai.usage.cache_read_input_tokens",
            "gen_ai.usage.input_cached_tokens",
        ),
        "cache_write_tokens": (
            "gen_ai.usage.cache_creation.input_tokens",
            "gen_ai.usage.cache_write.input_tokens",
            "gen_ai.usage.cache_creation_input_tokens",
            "gen_ai.usage.cache_write_input_tokens",
        ),
        "reasoning_tokens": (
            "gen_ai.usage.reasoning.output_tokens",
            "gen_ai.usage.reasoning_tokens",
            "gen_ai.usage.experimental.reasoning_tokens",
        ),
        "ttft_s": ("gen_ai.response.time_to_first_chunk",),
        "tool": (Attr.TOOL_NAME, "mcp.tool.name"),
        "call_id": ("gen_ai.tool.call.id",),
        "arguments": ("gen_ai.tool.call.arguments", "mcp.request.argument"),
        "result": ("gen_ai.tool.call.result", "mcp.response.value"),
        "error": (Attr.ERROR_TYPE,),
        "is_error": ("mcp.result.is_error", "mcp.tool.result.is_error"),
        "response_id": (Attr.RESPONSE_ID,),
        "calls": ("gen_ai.output.messages", EVENTS),
        "messages": ("gen_ai.input.messages",),
        "user_id": ("enduser.id",),
        "session_id": ("gen_ai.conversation.id",),
        "source": (
            "gen_ai.data_source.id",
            "db.collection.name",
            "db.namespace",
            "db.system.name",
            "db.system",
        ),
        "query": ("gen_ai.retrieval.query.text", "db.vector.query.content"),
        "top_k": ("gen_ai.retrieval.top_k", "gen_ai.request.top_k", "db.vector.query.top_k"),
        "documents": ("gen_ai.retrieval.documents",),
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
        "model": ("llm.model_name", "llm.request.model_name", "embedding.model_name"),
        "prompt_tokens": ("llm.token_count.prompt",),
        "completion_tokens": ("llm.token_count.completion",),
        "cached_tokens": (
            "llm.token_count.prompt_details.cache_read",
            "llm.token_count.prompt_details.cache_input",
        ),
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
        "documents": ("retrieval.documents",),
    },
)

_REQUEST_TYPES = dict.fromkeys(
    ("chat", "completion", "acompletion", "text_completion", "responses", "aresponses"),
    Role.MODEL_CALL,
)
# What a search in a vector database is limited by, with some databases' own names.
_TOP_K = (
    "db.vector.query.top_k",
    "db.chroma.query.n_results",
    "db.milvus.search.limit",
    "pinecone.query.top_k",
)
OPENLLMETRY = Dialect(
    "OpenLLMetry",
    marks=dict.fromkeys((*_TOP_K, "qdrant.search.collection_name"), Role.RETRIEVAL),
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
        "source": ("qdrant.search.collection_name",),
        "top_k": _TOP_K,
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
        "response_id": ("ai.response.id",),
        "calls": ("ai.response.toolCalls",),
        "messages": ("ai.prompt.messages",),
        "user_id": ("ai.telemetry.metadata.userId",),
        "session_id": ("ai.telemetry.metadata.sessionId",),
    },
)

# Version 3 and newer of its spans are OpenTelemetry's; these are the names of 1 and 2. Logfire's
# own integrations write messages as version 1 does.
PYDANTIC_AI = Dialect(
    "Pydantic AI",
    names={
        "agent run": Role.AGENT,
        "running tool": Role.TOOL_CALL,
        "running tools": Role.OTHER,
        "running 1 tool": Role.OTHER,
    },
    fields={
        "cached_tokens": ("gen_ai.usage.details.cache_read_tokens",),
        "cache_write_tokens": ("gen_ai.usage.details.cache_write_tokens",),
        "reasoning_tokens": ("gen_ai.usage.details.reasoning_tokens",),
        "ttft_s": ("gen_ai.client.operation.time_to_first_chunk",),
        "arguments": ("tool_arguments",),
        "result": ("tool_response",),
        "calls": ("response_data",),
        "messages": ("events", "request_data"),
    },
)

GOOGLE_ADK = Dialect(
    "Google's Agent Development Kit",
    names={
        "call_llm": Role.MODEL_CALL,
        "invocation": Role.AGENT,
        "execute_tool (merged)": Role.OTHER,  # repeats calls that were made at the same time
    },
    prefixes={"agent_run ": Role.AGENT},
    fields={
        "prompt_tokens": ("gcp.vertex.agent.llm_response#usage_metadata.prompt_token_count",),
        "completion_tokens": (
            "gcp.vertex.agent.llm_response#usage_metadata.candidates_token_count",
        ),
        "cached_tokens": (
            "gcp.vertex.agent.llm_response#usage_metadata.cached_content_token_count",
        ),
        "reasoning_tokens": ("gcp.vertex.agent.llm_response#usage_metadata.thoughts_token_count",),
        "arguments": ("gcp.vertex.agent.tool_call_args",),
        "result": ("gcp.vertex.agent.tool_response",),
        "calls": ("gcp.vertex.agent.llm_response",),
        "messages": ("gcp.vertex.agent.llm_request",),
        "session_id": ("gcp.vertex.agent.session_id",),
    },
)

LANGFUSE = Dialect(
    "Langfuse",
    kinds={
        "langfuse.observation.type": {
            "generation": Role.MODEL_CALL,
            "tool": Role.TOOL_CALL,
            "agent": Role.AGENT,
            "chain": Role.AGENT,
            "embedding": Role.EMBEDDING,
            "retriever": Role.RETRIEVAL,
        }
    },
    fields={
        "model": ("langfuse.observation.model.name",),
        # Its own numbers leave out the details, OpenAI's have them inside.
        "prompt_tokens": (
            "langfuse.observation.usage_details#prompt_tokens",
            "langfuse.observation.usage_details#input+input_cached_tokens+input_cache_read"
            "+input_cache_creation",
        ),
        "completion_tokens": (
            "langfuse.observation.usage_details#completion_tokens",
            "langfuse.observation.usage_details#output+output_reasoning_tokens+output_reasoning",
        ),
        "cached_tokens": (
            "langfuse.observation.usage_details#prompt_tokens_details.cached_tokens",
            "langfuse.observation.usage_details#input_cached_tokens",
            "langfuse.observation.usage_details#input_cache_read",
        ),
        "reasoning_tokens": (
            "langfuse.observation.usage_details#completion_tokens_details.reasoning_tokens",
            "langfuse.observation.usage_details#output_reasoning_tokens",
            "langfuse.observation.usage_details#output_reasoning",
        ),
        "arguments": ("langfuse.observation.input",),
        "result": ("langfuse.observation.output",),
        "calls": ("langfuse.observation.output",),
        "messages": ("langfuse.observation.input",),
    },
)

SPRING_AI = Dialect(
    "Spring AI",
    kinds={
        # of its vector stores: these search for nothing
        "db.operation.name": dict.fromkeys(("add", "delete"), Role.OTHER),
        "spring.ai.kind": {
            "tool_call": Role.TOOL_CALL,
            "vector_store": Role.RETRIEVAL,
            **dict.fromkeys(("chat_client", "advisor"), Role.AGENT),
        },
    },
    fields={
        "tool": ("spring.ai.tool.definition.name",),
        "call_id": ("spring.ai.tool.call.id",),
        "arguments": ("spring.ai.tool.call.arguments",),
        "result": ("spring.ai.tool.call.result",),
        "session_id": ("spring.ai.chat.client.conversation.id",),
        "documents": ("db.vector.query.response.documents",),
    },
)

QUARKUS = Dialect("Quarkus LangChain4j", prefixes={"langchain4j.aiservices.": Role.AGENT})

STRANDS = Dialect("Strands Agents", fields={"is_error": ("gen_ai.tool.status",)})

_HAYSTACK_REPLIES = ("haystack.agent.step.llm.output", "haystack.component.output")
_HAYSTACK_USAGE = [f"{name}#replies.0.meta.usage" for name in _HAYSTACK_REPLIES]
HAYSTACK = Dialect(
    "Haystack",
    names={
        "haystack.agent.step.llm": Role.MODEL_CALL,
        "haystack.chat_generator.run": Role.MODEL_CALL,
        "haystack.agent.step.tool": Role.TOOL_CALL,
        **dict.fromkeys(("haystack.agent.run", "haystack.agent.step"), Role.AGENT),
        **dict.fromkeys(("haystack.pipeline.run", "haystack.async_pipeline.run"), Role.AGENT),
    },
    kinds={
        "haystack.component.type": {
            "*Generator": Role.MODEL_CALL,
            "*Retriever": Role.RETRIEVAL,
            "*Embedder": Role.EMBEDDING,
            "*Agent": Role.AGENT,
        }
    },
    fields={
        "prompt_tokens": tuple(f"{usage}.prompt_tokens" for usage in _HAYSTACK_USAGE),
        "completion_tokens": tuple(f"{usage}.completion_tokens" for usage in _HAYSTACK_USAGE),
        "cached_tokens": tuple(
            f"{usage}.prompt_tokens_details.cached_tokens" for usage in _HAYSTACK_USAGE
        ),
        "reasoning_tokens": tuple(
            f"{usage}.completion_tokens_details.reasoning_tokens" for usage in _HAYSTACK_USAGE
        ),
        "tool": ("haystack.tool.name",),
        "arguments": ("haystack.agent.step.tool.input",),
        "result": ("haystack.agent.step.tool.output",),
        "calls": _HAYSTACK_REPLIES,
        "messages": ("haystack.agent.step.llm.input", "haystack.component.input"),
    },
)

# Its values are JSON, texts too.
MLFLOW = Dialect(
    "MLflow",
    kinds={
        "mlflow.spanType": {
            **dict.fromkeys(('"CHAT_MODEL"', '"LLM"'), Role.MODEL_CALL),
            **dict.fromkeys(('"AGENT"', '"CHAIN"', '"WORKFLOW"', '"TASK"'), Role.AGENT),
            '"TOOL"': Role.TOOL_CALL,
            '"EMBEDDING"': Role.EMBEDDING,
            '"RETRIEVER"': Role.RETRIEVAL,
        }
    },
    fields={
        "model": ("mlflow.llm.model",),
        "prompt_tokens": ("mlflow.chat.tokenUsage#input_tokens",),
        "completion_tokens": ("mlflow.chat.tokenUsage#output_tokens",),
        "cached_tokens": ("mlflow.chat.tokenUsage#cache_read_input_tokens",),
        "cache_write_tokens": ("mlflow.chat.tokenUsage#cache_creation_input_tokens",),
        "arguments": ("mlflow.spanInputs",),
        "result": ("mlflow.spanOutputs",),
        "calls": ("mlflow.spanOutputs",),
        "messages": ("mlflow.spanInputs",),
    },
)

LIVEKIT = Dialect(
    "LiveKit Agents",
    names={
        "function_tool": Role.TOOL_CALL,
        **dict.fromkeys(("agent_turn", "llm_node"), Role.AGENT),
    },
    fields={
        "ttft_s": ("lk.response.ttft",),
        "tool": ("lk.function_tool.name",),
        "call_id": ("lk.function_tool.id",),
        "arguments": ("lk.pii.function_tool.arguments", "lk.function_tool.arguments"),
        "result": ("lk.pii.function_tool.output", "lk.function_tool.output"),
        "is_error": ("lk.function_tool.is_error",),
    },
)

DIALECTS = (
    LAB,
    VLLM,
    SGLANG,
    OGX,
    LANGSMITH,
    SEMCONV,
    OPENINFERENCE,
    OPENLLMETRY,
    LITELLM,
    VERCEL,
    PYDANTIC_AI,
    GOOGLE_ADK,
    LANGFUSE,
    SPRING_AI,
    QUARKUS,
    STRANDS,
    HAYSTACK,
    MLFLOW,
    LIVEKIT,
)
MARKS = {name: role for dialect in DIALECTS for name, role in dialect.marks.items()}

# Families of attributes that flatten messages or documents, one attribute per leaf value
# (`llm.input_messages.0.message.role`). A span frame holds each family as one JSON text.
FLATTENED = (
    "llm.input_messages",
    "llm.output_messages",
    "gen_ai.prompt",
    "gen_ai.completion",
    "retrieval.documents",
)

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


# Every attribute that some dialect's table names, once.
ATTRIBUTES = tuple(
    dict.fromkeys(
        (
            *(path.partition("#")[0] for name in FIELDS for path in attributes_of(name)),
            *(attribute for dialect in DIALECTS for attribute in dialect.kinds),
            *MARKS,
        )
    )
)


def traceql() -> str:
    """Return a TraceQL condition for the spans that some dialect knows as part of a request."""
    wanted = (Role.SERVER, Role.MODEL_CALL, Role.ENGINE, Role.AGENT)
    conditions = []
    for dialect in DIALECTS:
        names = [name for name, role in dialect.names.items() if role in wanted]
        conditions += [f'name = "{name}"' for name in names]

        for attribute, values in dialect.kinds.items():
            matching = "|".join(value for value, role in values.items() if role in wanted)
            matching = matching.replace("*", ".*").replace('"', '\\"')
            conditions += [f'span.{attribute} =~ "{matching}"'] if matching else []

    conditions.append(f"span.{Attr.VLLM_E2E_S} != nil")
    tokens = [name for name in attributes_of("prompt_tokens") if "#" not in name]
    conditions += [f"span.{name} != nil" for name in tokens]
    return " || ".join(dict.fromkeys(conditions))
