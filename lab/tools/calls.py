"""One tool call: its fault, its work in the database, its span, its metrics, its log line."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from lab.errors import WorldError
from lab.schema import Attr
from lab.schema import Span as SpanName
from lab.tools.faults import Faults
from lab.tools.telemetry import Metrics
from lab.world import catalogue, facts
from lab.world.scenarios import as_text

log = logging.getLogger("lab.tools")
MAX_NUMBER = 1e12  # of an argument: beyond it, results are not exact or not JSON
UPSTREAM_WAIT_S = 0.25  # how long a call waits for an upstream that does not answer


@dataclass(frozen=True)
class Result:
    """The text for the agent; `outcome` as in lab.tools.telemetry.Metrics."""

    text: str
    outcome: str = "ok"

    @property
    def failed(self) -> bool:
        """Whether the agent gets an error."""
        return self.outcome != "ok"


class Calls:
    """Runs tool calls concurrently; a slow one does not delay others."""

    def __init__(
        self, database: Database, faults: Faults, metrics: Metrics, provider: TracerProvider
    ) -> None:
        self.database = database
        self.faults = faults
        self.metrics = metrics
        self._tracer = provider.get_tracer("lab.tools")
        self._answers: dict[str, list[str]] = {}

    async def run(
        self, tool: str, arguments: dict[str, Any], parent: Context | None, call_id: str = ""
    ) -> Result:
        """Run one tool; `parent` is the context of the caller's request. Failures are results."""
        begun = time.perf_counter()
        # A label must not grow with what a model invents.
        label = tool if tool in catalogue.BY_NAME else "unknown"
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
            self.metrics.calls.labels(label, result.outcome).inc()
            self.metrics.seconds.labels(label).observe(took_s)
            about = {"tool": tool, "outcome": result.outcome, "duration_ms": round(took_s * 1e3, 2)}
            log.info("tool call", extra=about)
        return result

    async def _outcome(self, tool: str, arguments: dict[str, Any], span: Span) -> Result:
        problem = _validate(tool, arguments)
        if problem is not None:
            return Result(problem, "invalid")
        fault = self.faults.of(tool)
        if fault.shown_s:
            span.set_attribute("lab.delay_s", fault.shown_s)
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.fails:
            await asyncio.sleep(UPSTREAM_WAIT_S)
            return Result(facts.TIMED_OUT, "error")
        parent = set_span_in_context(span)
        try:
            # In a thread, because a writer may wait for another.
            text = as_text(await asyncio.to_thread(self._query, tool, arguments, parent))
        except facts.ToolFailed as e:
            return Result(str(e), "error")
        except sqlite3.Error as e:
            return Result(f"the database failed: {e}", "error")
        return Result(self._stale(tool, text) if fault.stale else self._remember(tool, text))

    def _remember(self, tool: str, text: str) -> str:
        """Keep the last two different answers of a tool; returns the text."""
        answers = self._answers.setdefault(tool, [])
        if text not in answers:
            self._answers[tool] = [*answers, text][-2:]
        return text

    def _stale(self, tool: str, text: str) -> str:
        """Return an earlier, different answer of this tool, as a cache with a wrong key would."""
        return next((old for old in self._answers.get(tool, []) if old != text), text)

    def _query(self, tool: str, arguments: dict[str, Any], parent: Context) -> dict[str, Any]:
        attributes = {"db.system.name": "sqlite", "db.namespace": self.database.path.name}
        with self._tracer.start_as_current_span(
            "sqlite query",
            context=parent,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ):
            return self.database.call(tool, arguments)


def _error_type(result: Result) -> str:
    if result.outcome == "invalid":
        return "invalid_arguments"
    return "timeout" if result.text == facts.TIMED_OUT else "tool_error"


_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "number": (int, float), "integer": (int,)}


def _validate(tool: str, arguments: dict[str, Any]) -> str | None:
    """Return why these arguments do not fit the tool's parameters, in words for the agent.

    None if they do.
    """
    definition = catalogue.BY_NAME.get(tool)
    if definition is None or not definition.mcp:
        return f"unknown tool {tool}"
    parameters = {p.name: p for p in definition.parameters}
    missing = [name for name in parameters if name not in arguments]
    if missing:
        return f"missing argument {missing[0]}"
    for name, value in arguments.items():
        if name not in parameters:
            return f"unexpected argument {name}"
        if problem := _validate_value(value, parameters[name].type):
            return f"argument {name} {problem}"
    return None


def _validate_value(value: Any, type_: str) -> str | None:
    if isinstance(value, bool) or not isinstance(value, _TYPES[type_]):
        return f"must be a {type_}"
    if isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
        return "is out of range"
    return None


BUSY_S = 5.0


class Database:
    """Runs tool calls on the database file.

    Makes the file from the world's seed if it is not there.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises WorldError if it cannot be made or is not the help desk's."""
        self.path = path
        if not path.exists():
            facts.build_database(path)
        self._local = threading.local()
        self._check()

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run a tool in the calling thread. Raises ToolFailed with the text for the agent."""
        return facts.call_tool(self._connection(), tool, arguments)

    def rows(self) -> int:
        """Return the number of nodes: a real query, for the health check."""
        return self._connection().execute("SELECT count(*) FROM nodes").fetchone()[0]

    def _check(self) -> None:
        again = f"remove {self.path}; it is made again from the world's seed"
        try:
            with self._connection() as db:
                db.execute("PRAGMA journal_mode = WAL")
            nodes = self.rows()
        except sqlite3.Error as e:
            raise WorldError(
                f"{self.path} is not the help desk's database", got=str(e), fix=again
            ) from e
        if not nodes:
            raise WorldError(f"{self.path} has no nodes", fix=again)

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=BUSY_S)
            connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: safe but for a power cut
            self._local.connection = connection
        return connection
