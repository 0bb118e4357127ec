"""Two listeners, one process: Tempo's API on one port, OTLP on the other."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from lab.tracestore import api, otlp_http
from lab.tracestore.engine import Engine
from lab.tracestore.errors import TraceStoreError
from lab.tracestore.guard import LOOPBACK, HostGuard, IdleConnections
from lab.tracestore.traceql.parse import parse

if TYPE_CHECKING:
    from lab.tracestore.otlp_grpc import GrpcServer
    from lab.tracestore.retention import Retention

log = logging.getLogger("lab.tracestore.server")

_SHUTDOWN_S = 2  # for open requests; with the flush it stays below a supervisor's grace of 10 s


def _without_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback of a request that is not HTTP: aiohttp answers it with 400."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info = None
        record.msg = f"{record.getMessage()}: {type(error).__name__}"
        record.args = ()
    return True


logging.getLogger("aiohttp.server").addFilter(_without_traceback)


def _warm_up() -> None:
    """Import what the first batch and the first query need, after the start."""
    for module in ("decode", "batch", "series", "bulk"):
        importlib.import_module(f"lab.tracestore.{module}")
    parse("{}")


def query_app(engine: Engine, guard: HostGuard, idle: IdleConnections) -> web.Application:
    """Build the application of the query port."""
    middlewares = [idle.middleware(), guard.middleware(), api.answer_errors]
    app = web.Application(middlewares=middlewares, client_max_size=otlp_http.MAX_BODY_BYTES)
    app[otlp_http.ENGINE] = engine
    api.add_routes(app)
    return app


def otlp_app(engine: Engine, guard: HostGuard, idle: IdleConnections) -> web.Application:
    """Build the application of the OTLP port."""
    middlewares = [idle.middleware(), guard.middleware()]
    app = web.Application(middlewares=middlewares, client_max_size=otlp_http.MAX_BODY_BYTES)
    app[otlp_http.ENGINE] = engine
    otlp_http.add_routes(app)
    return app


class Server:
    """Listens as soon as it is started (503 until ready) and stops cleanly.

    A port of 0 takes a free one.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        host: str = "127.0.0.1",
        port: int = 3200,
        otlp_port: int = 4318,
        grpc_port: int | None = None,
        allowed_hosts: tuple[str, ...] = (),
    ) -> None:
        """Prepare the HTTP applications; nothing listens before `start`."""
        self.engine = engine
        self.host = host
        self.port = port
        self.otlp_port = otlp_port
        self.grpc_port = grpc_port
        self._guard = HostGuard(host, allowed_hosts)
        self._idle = IdleConnections()
        self._closer: asyncio.Task[None] | None = None
        self._runners: list[web.AppRunner] = []
        self._grpc: GrpcServer | None = None

    async def start(self) -> None:
        """Bind the ports, then start the engine.

        Raises TraceStoreError where a port is taken, or grpcio missing.
        """
        query = query_app(self.engine, self._guard, self._idle)
        self.port = await self._listen(query, self.port)
        otlp = otlp_app(self.engine, self._guard, self._idle)
        self.otlp_budget = otlp[otlp_http.BUDGET]
        self.otlp_port = await self._listen(otlp, self.otlp_port)
        if self.grpc_port is not None:
            from lab.tracestore.otlp_grpc import GrpcServer

            self._grpc = GrpcServer(self.engine, self.host, self.grpc_port)
            self.grpc_port = self._grpc.port
            self._grpc.start()
        servers = [runner.server for runner in self._runners if runner.server is not None]
        self._closer = asyncio.create_task(self._idle.close_forever(servers))
        await asyncio.get_running_loop().run_in_executor(None, self.engine.start)
        if self.host not in LOOPBACK:
            log.warning(
                "other machines can reach the store, and it has no passwords: "
                "every user there can read and write all spans",
                extra={"host": self.host},
            )
        log.info(
            "listening", extra={"host": self.host, "port": self.port, "otlp_port": self.otlp_port}
        )
        threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()

    async def _listen(self, app: web.Application, port: int) -> int:
        runner = web.AppRunner(
            app, access_log=None, auto_decompress=False, shutdown_timeout=_SHUTDOWN_S
        )
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, self.host, port, reuse_address=True)
        try:
            await site.start()
        except OSError as e:
            raise TraceStoreError(
                f"port {port} on {self.host} cannot be opened",
                got=str(e),
                fix="stop what holds it, or give another port (0: a free one)",
            ) from e
        return runner.addresses[0][1]

    async def stop(self) -> bool:
        """Close the ports and stop the engine; return whether everything was flushed in time."""
        if self._closer is not None:
            self._closer.cancel()
        ends = [runner.cleanup() for runner in self._runners]
        if self._grpc is not None:
            ends.append(asyncio.to_thread(self._grpc.stop))
        await asyncio.gather(*ends)
        if self.engine.ready:
            return await asyncio.to_thread(self.engine.stop)
        return True


async def serve(
    folder: Path,
    *,
    host: str,
    port: int,
    otlp_port: int,
    grpc_port: int | None = None,
    allowed_hosts: tuple[str, ...] = (),
    retention: Retention | None = None,
) -> bool:
    """Run until SIGTERM or SIGINT; return whether everything was flushed in time."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(sig, stop.set)
    engine = Engine(folder, retention=retention)
    server = Server(
        engine,
        host=host,
        port=port,
        otlp_port=otlp_port,
        grpc_port=grpc_port,
        allowed_hosts=allowed_hosts,
    )
    try:
        await server.start()
        await stop.wait()
    finally:
        is_flushed = await server.stop()
    return is_flushed


def run(folder: Path, **options: Any) -> None:
    """`serve` with these options in a new event loop; uvloop where it is installed."""
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    sys.setswitchinterval(0.002)  # the event loop and the logger thread share the interpreter
    with runner:
        is_flushed = runner.run(serve(folder, **options))
    if not is_flushed:
        logging.shutdown()
        os._exit(0)  # a thread of the database still works, and would keep the process
