"""A tool server in this process: its application on a real port, its spans in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lab.tools.app import make_app
from lab.tools.calls import Calls, Database
from lab.tools.faults import Faults
from lab.tools.telemetry import Metrics, tracer_provider


@dataclass
class ToolServer:
    """Where it is, and what is behind it."""

    url: str
    calls: Calls
    exporter: InMemorySpanExporter
    db: Path

    def spans(self) -> list[ReadableSpan]:
        """Every span that has ended so far."""
        self.flush()
        return list(self.exporter.get_finished_spans())

    def flush(self) -> None:
        self.provider.force_flush()  # type: ignore[attr-defined]


@pytest.fixture
def tool_server(tmp_path: Path) -> Iterator[ToolServer]:
    """A server of its own for each test: no faults but those that the test sets."""
    exporter = InMemorySpanExporter()
    provider = tracer_provider(None, exporter)
    database = Database(tmp_path / "world.sqlite")
    calls = Calls(database, Faults(slow_s=0.0, failure_ratio=0.0), Metrics(), provider)
    server = uvicorn.Server(
        uvicorn.Config(make_app(calls, provider), port=0, log_config=None, lifespan="on")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    made = ToolServer(f"http://127.0.0.1:{port}", calls, exporter, database.path)
    made.provider = provider  # type: ignore[attr-defined]
    yield made
    server.should_exit = True
    thread.join(5)
    provider.shutdown()
