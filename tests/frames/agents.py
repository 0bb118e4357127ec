"""One agent request as each library writes it: two model calls, a tool that works, one that fails.

The names and shapes are those of the sources that the functions name, read at their newest of
August 2026 where they name no version; the numbers are invented. Each has calls of 900 and 1000
prompt tokens (640 of the first cached), 60 and 40 completion tokens, the tool get_order with
{"id": 7}, and cancel_order with {"id": 8}, whose failure is only in its result.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.frames.telemetry import CLIENT, span

Traced = tuple[str, dict[str, Any]]
USAGES = ((900, 60, 640), (1000, 40, 0))
TOOLS = (("get_order", {"id": 7}, "c1"), ("cancel_order", {"id": 8}, "c2"))
SENT = {"state": "sent"}
FAILED = {"error": "it is on its way"}
MODEL = "acme/small-8b"


def request(
    agent: Traced,
    call: Callable[[int, int, int, int], Traced],
    tool: Callable[[str, dict[str, Any], str, bool], Traced],
    *wrappers: Traced,
) -> list[Traced]:
    """Return the spans: (name, attributes) of the agent, of each call and of each tool.

    `span_events` among the attributes are the span's events. `wrappers` are around calls and tools.
    """
    spans = [_span(1, 0, 0.0, 1.0, agent)]
    spans += [_span(2 + n, 1 + n, 0.0, 0.99, wrapper) for n, wrapper in enumerate(wrappers)]
    parent = len(spans)
    times = ((0.01, 0.3), (0.5, 0.9))
    for n, (usage, (start, end)) in enumerate(zip(USAGES, times, strict=True)):
        spans.append(_span(20 + n, parent, start, end, call(n, *usage)))
    for n, (name, arguments, call_id) in enumerate(TOOLS):
        made = tool(name, arguments, call_id, n == 1)
        spans.append(_span(30 + n, parent, 0.31 + 0.08 * n, 0.38 + 0.08 * n, made))
    return spans


def _span(number: int, parent: int, start: float, end: float, made: Traced) -> Traced:
    name, attributes = made
    kind = CLIENT if number >= 20 and number < 30 else "SPAN_KIND_INTERNAL"
    return span(number, parent, "app", name, start, end, kind, **attributes)


def chat(**more: Any) -> Callable[..., Traced]:
    """Return the span of a model call by OpenTelemetry's conventions, with more attributes."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        usage = {"gen_ai.usage.input_tokens": prompt, "gen_ai.usage.output_tokens": completion}
        usage |= {"gen_ai.usage.cache_read.input_tokens": cached} if cached else {}
        named = {"gen_ai.operation.name": "chat", "gen_ai.request.model": MODEL}
        return f"chat {MODEL}", {**named, **usage, **more}

    return call


def result(failed: bool) -> str:
    return json.dumps(FAILED if failed else SENT)


def requested(call_id: str = "id") -> list[dict[str, Any]]:
    """Return the calls as OpenAI's chat API has them."""
    return [
        {
            call_id: identifier,
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for name, arguments, identifier in TOOLS
    ]


def execute_tool(name: str, _: dict[str, Any], call_id: str, __: bool) -> Traced:
    """Return a tool's span by the conventions, without content."""
    about = {"gen_ai.tool.name": name, "gen_ai.tool.call.id": call_id}
    return f"execute_tool {name}", {"gen_ai.operation.name": "execute_tool", **about}


INVOKE = ("invoke_agent desk", {"gen_ai.operation.name": "invoke_agent"})


def pydantic_ai_1() -> list[Traced]:
    """Pydantic AI before 2.0, version 1: messages as events in one attribute, in JSON.

    The events' shape is also Logfire's (_internal/integrations/llm_providers/openai.py).
    """
    user = {"event.name": "gen_ai.user.message", "role": "user", "content": "?"}
    asked = {"role": "assistant", "tool_calls": requested()}
    told = [
        {"event.name": "gen_ai.tool.message", "role": "tool", "id": call_id, "name": name,
         "content": result(name == "cancel_order")}
        for name, _, call_id in TOOLS
    ]  # fmt: skip
    first = [user, {"event.name": "gen_ai.choice", "index": 0, "message": asked}]
    second = [user, {"event.name": "gen_ai.assistant.message", **asked}, *told]

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        return chat(events=json.dumps((first, second)[n]))(n, prompt, completion, cached)

    def tool(name: str, _: dict[str, Any], call_id: str, __: bool) -> Traced:
        return "running tool", {"gen_ai.tool.name": name, "gen_ai.tool.call.id": call_id}

    sums = {"gen_ai.usage.input_tokens": 1900, "gen_ai.usage.output_tokens": 100}
    return request(("agent run", sums), call, tool)


def pydantic_ai_5() -> list[Traced]:
    """Pydantic AI 2, version 5 (capabilities/instrumentation.py, _otel_messages.py)."""
    parts = [
        {"type": "tool_call", "id": call_id, "name": name, "arguments": arguments}
        for name, arguments, call_id in TOOLS
    ]
    told = [
        {"type": "tool_call_response", "id": call_id, "name": name,
         "result": FAILED if name == "cancel_order" else SENT}
        for name, _, call_id in TOOLS
    ]  # fmt: skip
    asked = [{"role": "assistant", "parts": parts}]

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        name, attributes = chat()(n, prompt, completion, 0)
        attributes["gen_ai.usage.details.cache_read_tokens"] = cached
        if n == 0:
            return name, {**attributes, "gen_ai.output.messages": json.dumps(asked)}
        read = [*asked, {"role": "user", "parts": told}]
        return name, {**attributes, "gen_ai.input.messages": json.dumps(read)}

    sums = {"gen_ai.aggregated_usage.input_tokens": 1900, "gen_ai.operation.name": "invoke_agent"}
    return request(("invoke_agent desk", sums), call, execute_tool, ("running 2 tools", {}))


def strands(latest: bool) -> list[Traced]:
    """Strands Agents (telemetry/tracer.py): messages as span events, in Bedrock's blocks."""
    asked = [{"toolUse": {"toolUseId": i, "name": n, "input": a}} for n, a, i in TOOLS]
    parts = [{"type": "tool_call", "name": n, "id": i, "arguments": a} for n, a, i in TOOLS]
    details = "gen_ai.client.inference.operation.details"

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        if latest:
            output = json.dumps([{"role": "assistant", "parts": parts if n == 0 else []}])
            events = [(details, {"gen_ai.output.messages": output})]
        else:
            blocks = asked if n == 0 else [{"text": "done"}]
            events = [
                ("gen_ai.user.message", {"content": '[{"text": "?"}]'}),
                ("gen_ai.choice", {"finish_reason": "tool_use", "message": json.dumps(blocks)}),
            ]
        name, attributes = chat()(n, prompt, completion, 0)
        usage = {"gen_ai.usage.prompt_tokens": prompt, "gen_ai.server.time_to_first_token": 120}
        usage |= {"gen_ai.usage.cache_read_input_tokens": cached}
        return "chat", {**attributes, **usage, "span_events": events}

    def tool(name: str, arguments: dict[str, Any], call_id: str, failed: bool) -> Traced:
        content = [{"text": "it is on its way" if failed else "sent"}]
        if latest:
            answer = [{"role": "tool", "parts": [
                {"type": "tool_call_response", "id": call_id, "response": content}]}]  # fmt: skip
            events = [(details, {"gen_ai.output.messages": json.dumps(answer)})]
        else:
            events = [
                ("gen_ai.tool.message", {"role": "tool", "content": json.dumps(arguments),
                                         "id": call_id}),
                ("gen_ai.choice", {"message": json.dumps(content), "id": call_id}),
            ]  # fmt: skip
        status = {"gen_ai.tool.status": "error" if failed else "success", "span_events": events}
        name, attributes = execute_tool(name, {}, call_id, failed)
        return name, {**attributes, **status}

    cycle = {"gen_ai.operation.name": "execute_event_loop_cycle"}
    sums = {"gen_ai.usage.input_tokens": 1900, "gen_ai.usage.output_tokens": 100}
    return request(
        (INVOKE[0], {**INVOKE[1], **sums}), call, tool, ("execute_event_loop_cycle", cycle)
    )


def azure_inference() -> list[Traced]:
    """Azure AI Inference and Semantic Kernel for .NET: bodies in gen_ai.event.content."""
    choice = {"index": 0, "finish_reason": "tool_calls", "message": {"tool_calls": requested()}}

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        if n == 0:
            bodies = [("gen_ai.choice", choice)]
        else:
            bodies = [
                ("gen_ai.tool.message", {"role": "tool", "tool_call_id": call_id,
                                         "content": result(name == "cancel_order")})
                for name, _, call_id in TOOLS
            ]  # fmt: skip
        events = [(name, {"gen_ai.event.content": json.dumps(body)}) for name, body in bodies]
        return chat(span_events=events)(n, prompt, completion, cached)

    return request(INVOKE, call, execute_tool)


def langsmith() -> list[Traced]:
    """LangSmith's OpenTelemetry export (_internal/otel/_otel_exporter.py)."""
    calls = [{"name": n, "args": a, "id": i, "type": "tool_call"} for n, a, i in TOOLS]
    asked = {"generations": [[{"message": {"lc": 1, "kwargs": {"tool_calls": calls}}}]]}

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        name, attributes = chat()(n, prompt, completion, 0)
        answer = json.dumps(asked if n == 0 else {"generations": []})
        details = str({"cache_read": cached})
        more = {"langsmith.span.kind": "llm", "gen_ai.completion": answer}
        return "ChatOpenAI", {**attributes, **more, "gen_ai.usage.input_token_details": details}

    def tool(name: str, arguments: dict[str, Any], call_id: str, failed: bool) -> Traced:
        message = {"content": "it is on its way" if failed else "sent", "type": "tool",
                   "tool_call_id": call_id, "status": "error" if failed else "success"}  # fmt: skip
        return name, {
            "langsmith.span.kind": "tool",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.prompt": json.dumps({"input": str(arguments)}),
            "gen_ai.completion": json.dumps({"output": message}),
        }

    chain = {"langsmith.span.kind": "chain", "gen_ai.operation.name": "chain"}
    spans = request(("LangGraph", chain), call, tool, ("agent", chain))
    prompt = {"langsmith.span.kind": "prompt", "gen_ai.operation.name": "chat"}
    retriever = {"langsmith.span.kind": "retriever", "gen_ai.operation.name": "embeddings"}
    spans.append(span(40, 1, "app", "ChatPromptTemplate", 0.0, 0.001, **prompt))
    spans.append(span(41, 1, "app", "VectorStoreRetriever", 0.001, 0.002, **retriever))
    return spans


def google_adk(usage: bool) -> list[Traced]:
    """Google ADK: telemetry.py of June 2025 (usage only in llm_response), tracing.py of 2025-11."""
    asked = [{"function_call": {"id": i, "name": n, "args": a}} for n, a, i in TOOLS]

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        metadata = {"prompt_token_count": prompt, "candidates_token_count": completion}
        metadata |= {"cached_content_token_count": cached}
        content = {"role": "model", "parts": asked if n == 0 else [{"text": "done"}]}
        answer = {"content": content, "usage_metadata": metadata}
        attributes = {
            "gen_ai.system": "gcp.vertex.agent",
            "gen_ai.request.model": MODEL,
            "gcp.vertex.agent.llm_response": json.dumps(answer),
        }
        if usage:
            attributes["gen_ai.usage.input_tokens"] = prompt
            attributes["gen_ai.usage.output_tokens"] = completion
        return "call_llm", attributes

    def tool(name: str, arguments: dict[str, Any], call_id: str, failed: bool) -> Traced:
        answer = {"status": "error", "error_message": "no"} if failed else {"status": "success"}
        span_name, attributes = execute_tool(name, {}, call_id, failed)
        return span_name, {
            **attributes,
            "gcp.vertex.agent.tool_call_args": json.dumps(arguments),
            "gcp.vertex.agent.tool_response": json.dumps(answer),
            "gcp.vertex.agent.llm_request": "{}",
            "gcp.vertex.agent.llm_response": "{}",
        }

    spans = request(("invocation", {}), call, tool, ("agent_run [desk]", {}))
    merged = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "(merged tools)"}
    merged |= {"gcp.vertex.agent.tool_call_args": "N/A", "gen_ai.tool.call.id": "e1"}
    spans.append(span(40, 2, "app", "execute_tool (merged)", 0.46, 0.47, **merged))
    return spans


def vercel_7() -> list[Traced]:
    """Vercel AI SDK 7 (packages/otel/src/open-telemetry.ts): its agent has the sums."""

    def tool(name: str, arguments: dict[str, Any], call_id: str, failed: bool) -> Traced:
        span_name, attributes = execute_tool(name, {}, call_id, failed)
        content = {"type": "error-text", "value": "no"} if failed else SENT
        more = {"gen_ai.tool.call.arguments": json.dumps(arguments)}
        return span_name, {**attributes, **more, "gen_ai.tool.call.result": json.dumps(content)}

    sums = {"gen_ai.usage.input_tokens": 1900, "gen_ai.usage.output_tokens": 100}
    agent = (f"invoke_agent {MODEL}", {"gen_ai.operation.name": "invoke_agent", **sums})
    return request(agent, chat(), tool, ("step 1", {"gen_ai.operation.name": "agent_step"}))


def vercel_4() -> list[Traced]:
    """Vercel AI SDK 4: results of tools only in the messages of the next step."""
    asked = [
        {"toolCallType": "function", "toolCallId": i, "toolName": n, "args": json.dumps(a)}
        for n, a, i in TOOLS
    ]
    told = [
        {"role": "tool", "content": [
            {"type": "tool-result", "toolCallId": i, "toolName": n, "isError": n == "cancel_order",
             "result": "no"}]}
        for n, _, i in TOOLS
    ]  # fmt: skip

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        usage = {"ai.usage.promptTokens": prompt, "ai.usage.completionTokens": completion}
        usage |= {"ai.usage.cachedInputTokens": cached} if cached else {}
        content = {"ai.response.toolCalls": json.dumps(asked)} if n == 0 else {}
        content |= {"ai.prompt.messages": json.dumps(told)} if n else {}
        named = {"operation.name": "ai.generateText.doGenerate", "ai.model.id": MODEL}
        named |= {"ai.operationId": "ai.generateText.doGenerate"}
        return "ai.generateText.doGenerate", {**named, **usage, **content}

    def tool(name: str, _: dict[str, Any], call_id: str, __: bool) -> Traced:
        about = {"ai.toolCall.name": name, "ai.toolCall.id": call_id}
        return "ai.toolCall", {"ai.operationId": "ai.toolCall", **about}

    sums = {"ai.usage.promptTokens": 1900, "ai.usage.completionTokens": 100}
    return request(("ai.generateText", {"ai.operationId": "ai.generateText", **sums}), call, tool)


def spring_ai(newest: bool) -> list[Traced]:
    """Spring AI 1.0 and 2.0 (observation/conventions): every value is a text."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        name, attributes = chat()(n, prompt, completion, cached)
        return name, {key: str(value) for key, value in attributes.items()}

    def tool(name: str, arguments: dict[str, Any], call_id: str, failed: bool) -> Traced:
        operation = "execute_tool" if newest else "framework"
        attributes = {
            "gen_ai.operation.name": operation,
            "spring.ai.kind": "tool_call",
            "spring.ai.tool.definition.name": name,
            "spring.ai.tool.call.arguments": json.dumps(arguments),
            "spring.ai.tool.call.result": json.dumps(result(failed)),
        }
        return f"{'execute_tool' if newest else 'tool_call'} {name}", attributes

    kind = {"gen_ai.operation.name": "framework", "spring.ai.kind": "chat_client"}
    advisor = {"gen_ai.operation.name": "framework", "spring.ai.kind": "advisor"}
    spans = request(("spring_ai chat_client", kind), call, tool, ("call", advisor))
    store = {"spring.ai.kind": "vector_store", "db.operation.name": "query"}
    spans.append(span(40, 2, "app", "pg_vector query", 0.0, 0.005, **store))
    return spans


def quarkus() -> list[Traced]:
    """Quarkus LangChain4j (SpanChatModelListener, ToolSpanWrapper, SpanWrapper)."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        return f"completion {MODEL}", chat()(n, prompt, completion, cached)[1]

    def tool(name: str, arguments: dict[str, Any], call_id: str, failed: bool) -> Traced:
        attributes = execute_tool(name, {}, call_id, failed)[1]
        attributes["gen_ai.tool.call.arguments"] = json.dumps(arguments)
        attributes["gen_ai.tool.call.result"] = "Error: it is on its way" if failed else "sent"
        return f"langchain4j.tools.{name}", attributes

    return request(("langchain4j.aiservices.Desk.ask", {}), call, tool)


def openllmetry_mcp() -> list[Traced]:
    """OpenLLMetry: prompts as leaves, MCP's tools in an envelope (instrumentation/mcp)."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        usage = {"gen_ai.usage.prompt_tokens": prompt, "gen_ai.usage.completion_tokens": completion}
        usage |= {"gen_ai.usage.cache_read_input_tokens": cached} if cached else {}
        return "openai.chat", {"llm.request.type": "chat", "gen_ai.request.model": MODEL, **usage}

    def tool(name: str, arguments: dict[str, Any], _: str, failed: bool) -> Traced:
        asked = {"tool_name": name, "arguments": arguments}
        output = {"result": "no", "isError": True} if failed else {"result": "sent"}
        return f"{name}.tool", {
            "traceloop.span.kind": "tool",
            "traceloop.entity.name": name,
            "traceloop.entity.input": json.dumps(asked),
            "traceloop.entity.output": json.dumps(output),
        }

    workflow = {"traceloop.span.kind": "workflow"}
    task = {"traceloop.span.kind": "task", "gen_ai.operation.name": "invoke_agent"}
    return request(("desk.workflow", workflow), call, tool, ("desk.task", task))


def openllmetry_anthropic() -> list[Traced]:
    """OpenLLMetry's Anthropic and LangChain: results in the JSON text of a leaf."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        leaves: dict[str, Any] = {}
        if n == 0:
            for place, (name, arguments, call_id) in enumerate(TOOLS):
                leaf = f"gen_ai.completion.0.tool_calls.{place}"
                leaves[f"{leaf}.id"] = call_id
                leaves[f"{leaf}.name"] = name
                leaves[f"{leaf}.arguments"] = json.dumps(arguments)
        else:
            told = [
                {"type": "tool_result", "tool_use_id": i, "content": "no",
                 "is_error": n == "cancel_order"}
                for n, _, i in TOOLS
            ]  # fmt: skip
            leaves["gen_ai.prompt.2.role"] = "user"
            leaves["gen_ai.prompt.2.content"] = json.dumps(told)
        usage = {"gen_ai.usage.input_tokens": prompt, "gen_ai.usage.output_tokens": completion}
        usage |= {"gen_ai.usage.cache_read_input_tokens": cached} if cached else {}
        return "anthropic.chat", {"llm.request.type": "completion", **usage, **leaves}

    def tool(name: str, _: dict[str, Any], call_id: str, __: bool) -> Traced:
        about = {"traceloop.span.kind": "tool", "traceloop.entity.name": name}
        return f"execute_tool {name}", {**about, "gen_ai.tool.call.id": call_id}

    return request(("LangGraph.workflow", {"traceloop.span.kind": "workflow"}), call, tool)


def openinference_langgraph() -> list[Traced]:
    """OpenInference for LangChain: arguments as Python prints them, results in messages."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        usage = {"llm.token_count.prompt": prompt, "llm.token_count.completion": completion}
        usage |= {"llm.token_count.prompt_details.cache_read": cached} if cached else {}
        return "ChatOpenAI", {"openinference.span.kind": "LLM", "llm.model_name": MODEL, **usage}

    def tool(name: str, arguments: dict[str, Any], call_id: str, failed: bool) -> Traced:
        content = "Error: it is on its way\n Please fix your mistakes." if failed else "sent"
        message = {"content": content, "type": "tool", "tool_call_id": call_id}
        message["status"] = "error" if failed else "success"
        return name, {
            "openinference.span.kind": "TOOL",
            "tool.name": name,
            "input.value": str(arguments),
            "output.value": json.dumps({"output": message}),
        }

    chain = {"openinference.span.kind": "CHAIN"}
    return request(("LangGraph", chain), call, tool, ("agent", chain), ("RunnableSequence", chain))


def smolagents() -> list[Traced]:
    """OpenInference for smolagents: sums on the agent, arguments in an envelope."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        usage = {"llm.token_count.prompt": prompt, "llm.token_count.completion": completion}
        usage |= {"llm.token_count.prompt_details.cache_read": cached} if cached else {}
        return "OpenAIServerModel.generate", {"openinference.span.kind": "LLM", **usage}

    def tool(name: str, arguments: dict[str, Any], _: str, failed: bool) -> Traced:
        asked = {"args": [], "sanitize_inputs_outputs": True, "kwargs": arguments}
        return "SimpleTool", {
            "openinference.span.kind": "TOOL",
            "tool.name": name,
            "input.value": json.dumps(asked),
            "output.value": "{'error': 'it is on its way'}" if failed else "sent",
        }

    sums = {"llm.token_count.prompt": 1900, "llm.token_count.completion": 100}
    agent = ("CodeAgent.run", {"openinference.span.kind": "AGENT", **sums})
    return request(agent, call, tool, ("Step 1", {"openinference.span.kind": "CHAIN"}))


def haystack() -> list[Traced]:
    """Haystack's own spans (components/agents/agent.py, tool_calling.py)."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        usage |= {"prompt_tokens_details": {"cached_tokens": cached}}
        content = [
            {"tool_call": {"id": i, "tool_name": t, "arguments": a}} for t, a, i in TOOLS if n == 0
        ]
        reply = {"role": "assistant", "meta": {"model": MODEL, "usage": usage}, "content": content}
        output = json.dumps({"replies": [reply]})
        return "haystack.agent.step.llm", {"haystack.agent.step.llm.output": output}

    def tool(name: str, arguments: dict[str, Any], _: str, failed: bool) -> Traced:
        return "haystack.agent.step.tool", {
            "haystack.tool.name": name,
            "haystack.agent.step.tool.input": json.dumps(arguments),
            "haystack.agent.step.tool.output": result(failed),
        }

    return request(("haystack.agent.run", {}), call, tool, ("haystack.agent.step", {}))


def mlflow() -> list[Traced]:
    """MLflow's tracing with its own schema: every value is JSON."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        usage = {"input_tokens": prompt, "output_tokens": completion}
        usage |= {"cache_read_input_tokens": cached} if cached else {}
        kind = {"mlflow.spanType": '"CHAT_MODEL"', "mlflow.chat.tokenUsage": json.dumps(usage)}
        answer = {"choices": [{"message": {"tool_calls": requested() if n == 0 else []}}]}
        return "Completions", {**kind, "mlflow.spanOutputs": json.dumps(answer)}

    def tool(name: str, arguments: dict[str, Any], _: str, failed: bool) -> Traced:
        return name, {
            "mlflow.spanType": '"TOOL"',
            "mlflow.spanInputs": json.dumps(arguments),
            "mlflow.spanOutputs": result(failed),
        }

    return request(("desk", {"mlflow.spanType": '"AGENT"'}), call, tool)


def livekit() -> list[Traced]:
    """LiveKit Agents (telemetry/trace_types.py)."""

    def tool(name: str, arguments: dict[str, Any], call_id: str, failed: bool) -> Traced:
        return "function_tool", {
            "lk.function_tool.id": call_id,
            "lk.function_tool.name": name,
            "lk.pii.function_tool.arguments": json.dumps(arguments),
            "lk.pii.function_tool.output": "no",
            "lk.function_tool.is_error": failed,
        }

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        return "llm_request", chat()(n, prompt, completion, cached)[1]

    return request(("agent_turn", {}), call, tool, ("llm_node", {}))


def agent_framework() -> list[Traced]:
    """Microsoft Agent Framework and Microsoft.Extensions.AI: a failure in words, MCP below."""

    def tool(name: str, arguments: dict[str, Any], call_id: str, failed: bool) -> Traced:
        span_name, attributes = execute_tool(name, {}, call_id, failed)
        text = "Error: Function failed. Error: it is on its way" if failed else "sent"
        more = {"gen_ai.tool.call.arguments": json.dumps(arguments)}
        return span_name, {**attributes, **more, "gen_ai.tool.call.result": text}

    spans = request(INVOKE, chat(), tool, ("orchestrate_tools", {
        "gen_ai.operation.name": "orchestrate_tools"}))  # fmt: skip
    mcp = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "get_order"}
    spans.append(span(40, 30, "app", "tools/call get_order", 0.32, 0.37, CLIENT, **mcp))
    spans.append(
        span(41, 40, "desk", "tools/call get_order", 0.33, 0.36, "SPAN_KIND_SERVER", **mcp)
    )
    return spans


def openai_agents() -> list[Traced]:
    """OpenInference for OpenAI's Agents SDK: messages as leaves, a failure in the SDK's words."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        leaves: dict[str, Any] = {}
        for place, (name, arguments, call_id) in enumerate(TOOLS if n == 0 else ()):
            leaf = f"llm.output_messages.0.message.tool_calls.{place}.tool_call"
            leaves[f"{leaf}.id"] = call_id
            leaves[f"{leaf}.function.name"] = name
            leaves[f"{leaf}.function.arguments"] = json.dumps(arguments)
        usage = {"llm.token_count.prompt": prompt, "llm.token_count.completion": completion}
        usage |= {"llm.token_count.prompt_details.cache_read": cached} if cached else {}
        return "response", {"openinference.span.kind": "LLM", **usage, **leaves}

    def tool(name: str, _: dict[str, Any], __: str, failed: bool) -> Traced:
        text = "An error occurred while running the tool. Please try again. Error: no"
        output = text if failed else "sent"
        return name, {"openinference.span.kind": "TOOL", "tool.name": name, "output.value": output}

    agent = {"openinference.span.kind": "AGENT"}
    return request(("Agent workflow", agent), call, tool, ("Desk", agent), ("turn", {
        "openinference.span.kind": "CHAIN"}))  # fmt: skip


def langfuse() -> list[Traced]:
    """Langfuse's SDKs (_client/attributes.py): usage as OpenAI's API reports it."""

    def call(n: int, prompt: int, completion: int, cached: int) -> Traced:
        usage = {"input": prompt - cached, "output": completion}
        usage |= {"input_cached_tokens": cached} if cached else {}
        answer = {"role": "assistant", "tool_calls": requested() if n == 0 else []}
        return "OpenAI-generation", {
            "langfuse.observation.type": "generation",
            "langfuse.observation.usage_details": json.dumps(usage),
            "langfuse.observation.output": json.dumps(answer),
        }

    def tool(name: str, arguments: dict[str, Any], _: str, failed: bool) -> Traced:
        return name, {
            "langfuse.observation.type": "tool",
            "langfuse.observation.input": json.dumps(arguments),
            "langfuse.observation.output": result(failed),
        }

    return request(("desk", {"langfuse.observation.type": "agent"}), call, tool)


def doubly_instrumented() -> list[Traced]:
    """LangChain's and OpenAI's instrumentations in one process: the second cannot see the first."""
    spans = openinference_langgraph()
    for n, (prompt, completion, _) in enumerate(USAGES):
        usage = {"llm.token_count.prompt": prompt, "llm.token_count.completion": completion}
        kind = {"openinference.span.kind": "LLM", **usage}
        start = (0.02, 0.51)[n]
        spans.append(
            span(50 + n, 1 if n else 3, "app", "ChatCompletion", start, start + 0.2, CLIENT, **kind)
        )
    return spans


AGENTS: dict[str, Callable[[], list[Traced]]] = {
    "pydantic ai 1": pydantic_ai_1,
    "pydantic ai 5": pydantic_ai_5,
    "strands": lambda: strands(False),
    "strands latest": lambda: strands(True),
    "azure inference": azure_inference,
    "langsmith": langsmith,
    "google adk 2025-06": lambda: google_adk(False),
    "google adk": lambda: google_adk(True),
    "vercel 4": vercel_4,
    "vercel 7": vercel_7,
    "spring ai 1.0": lambda: spring_ai(False),
    "spring ai 2.0": lambda: spring_ai(True),
    "quarkus": quarkus,
    "openllmetry mcp": openllmetry_mcp,
    "openllmetry anthropic": openllmetry_anthropic,
    "openinference langgraph": openinference_langgraph,
    "smolagents": smolagents,
    "haystack": haystack,
    "mlflow": mlflow,
    "livekit": livekit,
    "agent framework": agent_framework,
    "openai agents": openai_agents,
    "langfuse": langfuse,
    "doubly instrumented": doubly_instrumented,
}
