"""Run one scripted agent against a vLLM, instrumented with one library, and keep its spans.

python tests/instrumentations/record.py LIBRARY BASE_URL MODEL

Needs the packages of requirements/instrumentations.in (`make instrumentations` runs all of them).
The agent asks for a tool, runs it, and asks again with its result. It writes the tool's span by
OpenTelemetry's conventions, with the call's id only; arguments and result are in the messages that
the library records. Writes tests/data/instrumentations/LIBRARY.json and its provenance.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "span_only"
os.environ["OTEL_SERVICE_NAME"] = "agent"
os.environ["OPENAI_API_KEY"] = "none"

from google.protobuf import json_format
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

DATA = Path(__file__).resolve().parent.parent / "data" / "instrumentations"
PACKAGES = {
    "genai": "opentelemetry-instrumentation-genai-openai",
    "openinference": "openinference-instrumentation-openai",
    "openllmetry": "opentelemetry-instrumentation-openai",
    "litellm": "litellm",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_order",
        "description": "Return an order",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string", "pattern": "^[0-9]{4}$"}},
            "required": ["order_id"],
        },
    },
}
QUESTION = "Where is order 4711?"
RESULT = '{"order_id": "4711", "status": "shipped"}'
WAIT_S = 30.0


def main(library: str, base_url: str, model: str) -> int:
    """Record one library's spans. Returns the exit status."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    complete = instrumented(library, base_url)
    run_agent(complete, model)

    limit = time.monotonic() + WAIT_S
    while len(exporter.get_finished_spans()) < 4 and time.monotonic() < limit:
        time.sleep(0.2)  # LiteLLM writes its spans in a thread
    time.sleep(1.0)
    spans = exporter.get_finished_spans()
    DATA.mkdir(exist_ok=True)
    document = json_format.MessageToDict(encode_spans(spans))
    (DATA / f"{library}.json").write_text(json.dumps(document, indent=1) + "\n")
    note_provenance(library)
    print(f"{library}: {len(spans)} spans: {', '.join(span.name for span in spans)}")
    return 0


def instrumented(library: str, base_url: str) -> Any:
    """Return a function that completes a chat, instrumented by a library."""
    if library == "litellm":
        import litellm
        from litellm.integrations.opentelemetry import OpenTelemetry

        litellm.callbacks = [OpenTelemetry(tracer_provider=trace.get_tracer_provider())]

        def complete(model: str, **options: Any) -> Any:
            return litellm.completion(model=f"openai/{model}", api_base=base_url, **options)

        return complete

    if library == "genai":
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
    elif library == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor
    else:
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor
    OpenAIInstrumentor().instrument()
    from openai import OpenAI

    return OpenAI(base_url=base_url).chat.completions.create


def run_agent(complete: Any, model: str) -> None:
    """Ask for a tool, run it, and ask again with its result."""
    tracer = trace.get_tracer("agent")
    with tracer.start_as_current_span("answer a question", kind=trace.SpanKind.SERVER):
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        choice = {"type": "function", "function": {"name": "get_order"}}
        options = {"tools": [TOOL], "temperature": 0, "max_tokens": 48}
        first = complete(model=model, messages=messages, tool_choice=choice, **options)
        answer = first.choices[0].message
        call = answer.tool_calls[0]
        function = {"name": call.function.name, "arguments": call.function.arguments}
        asked = {"id": call.id, "type": "function", "function": function}
        messages.append({"role": "assistant", "content": None, "tool_calls": [asked]})

        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call.function.name,
            "gen_ai.tool.call.id": call.id,
        }
        with tracer.start_as_current_span("execute_tool get_order", attributes=attributes):
            messages.append({"role": "tool", "tool_call_id": call.id, "content": RESULT})
        complete(model=model, messages=messages, tool_choice="none", **options)


def note_provenance(library: str) -> None:
    """Note when, and with which versions, a library's spans were recorded."""
    path = DATA / "provenance.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    package = PACKAGES[library]
    content[library] = {
        "recorded_on": datetime.now(UTC).date().isoformat(),
        "package": package,
        "version": importlib.metadata.version(package),
        "openai": importlib.metadata.version("openai"),
        "opentelemetry-sdk": importlib.metadata.version("opentelemetry-sdk"),
        "server": "vLLM, the lab's own model, temperature 0",
    }
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
