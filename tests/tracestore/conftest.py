"""Run a trace store in this process on free ports, for the HTTP tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

# pyarrow imports pandas at its first list, which would otherwise happen during a request.
import pandas  # noqa: F401
import pytest

from lab.tracestore.engine import Engine
from lab.tracestore.server import Server


@dataclass
class Running:
    """A running server, with one client per port."""

    engine: Engine
    tempo: httpx.Client
    otlp: httpx.Client
    server: Server

    def export(self, body: bytes, **headers: str) -> httpx.Response:
        """POST an OTLP payload, as protobuf unless a content type is given."""
        sent = {"Content-Type": "application/x-protobuf"} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        return self.otlp.post("/v1/traces", content=body, headers=sent)


def start(folder: Path) -> tuple[Running, threading.Thread, asyncio.AbstractEventLoop, Server]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    engine = Engine(folder)
    server = Server(engine, port=0, otlp_port=0)
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(timeout=180)
    clients = [
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=180)
        for port in (server.port, server.otlp_port)
    ]
    return Running(engine, *clients, server), thread, loop, server


def stop(
    running: Running, thread: threading.Thread, loop: asyncio.AbstractEventLoop, server: Server
) -> None:
    running.tempo.close()
    running.otlp.close()
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(timeout=180)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=10)
    loop.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Yield an empty store for one test."""
    parts = start(tmp_path)
    yield parts[0]
    stop(*parts)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield one store for all invalid inputs of a test module."""
    parts = start(tmp_path_factory.mktemp("fuzzed"))
    yield parts[0]
    stop(*parts)
