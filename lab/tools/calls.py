"""One tool call: its fault, its work in the database, its span, its metrics, its log line."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from lab.schema import Attr
from lab.schema import Span as SpanName
from lab.tools.database import Database
from lab.tools.faults import Faults
from lab.tools.metrics import Metrics
from lab.world import catalogue, facts
from lab.world.scenarios import as_text

log = logging.getLogger("lab.tools")
UPSTREAM_WAIT_S = 0.25  # how long a call waits for an upstream that does not answer


@dataclass(frozen=True)
class Result:
    """What the agent is told; `outcome` as in lab.tools.metrics."""

    text: str
    outcome: str = "ok"

    @property
    def failed(self) -> bool:
        return self.outcome != "ok"


class Calls:
    """Runs tool calls, many at a time; a slow one holds up no other."""

    def __init__(
        self, database: Database, faults: Faults, metrics: Metrics, provider: TracerProvider
    ) -> None:
        self.database, self.faults, self.metrics = database, faults, metrics
        self._tracer = provider.get_tracer("lab.tools")

    async def run(
        self, tool: str, arguments: dict[str, Any], parent: Context | None, call_id: str = ""
    ) -> Result:
        """Run one tool; `parent` is the context of the request that asked for it.

        Failures are results.
        """
        begun = time.perf_counter()
        known = (
            tool if tool in catalogue.BY_NAME else "unknown"
        )  # a label must not grow with what a model invents
        attributes = {Attr.OPERATION: "execute_tool", Attr.TOOL_NAME: tool}
        if call_id:
            attributes["gen_ai.tool.call.id"] = call_id
        with (
            self.metrics.running.track_inprogress(),
            self._tracer.start_as_current_span(
                f"{SpanName.EXECUTE_TOOL_PREFIX}{tool}",
                context=parent,
                kind=SpanKind.INTERNAL,
                attributes=attributes,
            ) as span,
        ):
            result = await self._outcome(tool, arguments, span)
            took_s = time.perf_counter() - begun
            if result.failed:
                span.set_status(Status(StatusCode.ERROR, result.text))
                span.set_attribute(Attr.ERROR_TYPE, _error_type(result))
            self.metrics.calls.labels(known, result.outcome).inc()
            self.metrics.seconds.labels(known).observe(took_s)
            about = {"tool": tool, "outcome": result.outcome, "duration_ms": round(took_s * 1e3, 2)}
            log.info("tool call", extra=about)
        return result

    async def _outcome(self, tool: str, arguments: dict[str, Any], span: Span) -> Result:
        if (wrong := _misfit(tool, arguments)) is not None:
            return Result(wrong, "invalid")
        delay_s, fail = self.faults.of(tool)
        if delay_s:
            span.set_attribute("lab.delay_s", delay_s)
            await asyncio.sleep(delay_s)
        if fail:
            await asyncio.sleep(UPSTREAM_WAIT_S)
            return Result(facts.TIMED_OUT, "error")
        try:
            # In a thread, since a writer may wait for another; with this context, so that its span is our child.
            context = contextvars.copy_context()
            work = asyncio.get_running_loop().run_in_executor(
                self.database.executor,
                context.run,
                self._query,
                tool,
                arguments,
                set_span_in_context(span),
            )
            return Result(as_text(await work))
        except facts.ToolFailed as e:
            return Result(str(e), "error")

    def _query(self, tool: str, arguments: dict[str, Any], parent: Context) -> dict[str, Any]:
        attributes = {"db.system.name": "sqlite", "db.namespace": self.database.path.name}
        with self._tracer.start_as_current_span(
            "sqlite query", context=parent, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False,
            set_status_on_exception=False,
        ):  # fmt: skip
            return self.database.call(tool, arguments)


def _error_type(result: Result) -> str:
    if result.outcome == "invalid":
        return "invalid_arguments"
    return "timeout" if result.text == facts.TIMED_OUT else "tool_error"


_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "number": (int, float), "integer": (int,)}


def _misfit(tool: str, arguments: dict[str, Any]) -> str | None:
    """Why these arguments do not fit the tool's parameters, in words for the agent.

    None if they do.
    """
    found = catalogue.BY_NAME.get(tool)
    if found is None or not found.mcp:
        return f"unknown tool {tool}"
    wanted = {p.name: p for p in found.parameters}
    if missing := [name for name in wanted if name not in arguments]:
        return f"missing argument {missing[0]}"
    for name, value in arguments.items():
        if name not in wanted:
            return f"unexpected argument {name}"
        if isinstance(value, bool) or not isinstance(value, _TYPES[wanted[name].type]):
            return f"argument {name} must be a {wanted[name].type}"
    return None
