"""Run one scripted agent against a vLLM, instrumented with one library, and keep its spans.

python tests/instrumentations/record.py LIBRARY BASE_URL MODEL

Needs the packages of requirements/instrumentations.in (`make instrumentations` runs all of them).
The agent lets the model call two tools, one after the other, and then answer. It writes the tools'
spans by OpenTelemetry's conventions, with the call's id only; arguments and results are in the
messages that the library records. Writes tests/data/instrumentations/LIBRARY.json, and how and when
it was recorded.
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
# Otherwise LiteLLM writes its attributes on the caller's span, which has ended by then.
os.environ["USE_OTEL_LITELLM_REQUEST_SPAN"] = "true"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"  # no download of prices

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
QUESTION = "Where is order 4711? Cancel it."
# Each tool with its result, which is the same whatever arguments the small model chooses. The
# second one fails, and only its result shows that: its span's status is that of an answered call.
RESULTS = {
    "get_order": '{"order_id": "4711", "status": "shipped"}',
    "cancel_order": '{"error": "order 4711 is on its way"}',
}
PARAMETERS = {
    "type": "object",
    "properties": {"order_id": {"type": "string", "pattern": "^[0-9]{4}$"}},
    "required": ["order_id"],
}
N_SPANS = 2 * len(RESULTS) + 2  # each tool and its model call, the answer, the root
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
    while len(exporter.get_finished_spans()) < N_SPANS and time.monotonic() < limit:
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
    """Let the model call each tool, and then answer."""
    tracer = trace.get_tracer("agent")
    options = {
        "model": model,
        "tools": [described(name) for name in RESULTS],
        "temperature": 0,
        "max_tokens": 48,
    }
    with tracer.start_as_current_span("answer a question", kind=trace.SpanKind.SERVER):
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        for name in RESULTS:
            choice = {"type": "function", "function": {"name": name}}
            answer = complete(messages=list(messages), tool_choice=choice, **options)
            run_tool(tracer, answer.choices[0].message.tool_calls[0], messages)
        complete(messages=list(messages), tool_choice="none", **options)


def described(tool: str) -> dict[str, Any]:
    """Return the description of a tool for the model."""
    function = {"name": tool, "description": tool.replace("_", " "), "parameters": PARAMETERS}
    return {"type": "function", "function": function}


def run_tool(tracer: trace.Tracer, call: Any, messages: list[Any]) -> None:
    """Run a tool, and append its call and its result to the messages."""
    name = call.function.name
    function = {"name": name, "arguments": call.function.arguments}
    tool_call = {"id": call.id, "type": "function", "function": function}
    messages.append({"role": "assistant", "content": None, "tool_calls": [tool_call]})
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.call.id": call.id,
    }
    with tracer.start_as_current_span(f"execute_tool {name}", attributes=attributes):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": RESULTS[name]})


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
