"""Connections that carry one request at a time and time what comes back: the driver's hot path.

This is an asyncio.Protocol on raw connections instead of an HTTP client library. Measured with 512
streams against aiohttp (benchmarks/driver.py has the method): on a quiet, fast machine both add 1.0
ms to the median time to first token (p99: 10.1 ms here, 7.8 ms with aiohttp; CPU per request: 0.42
and 0.65 ms). On a slow machine, or one that is shared with other work, this adds 4.5 ms (p99 28 ms)
where aiohttp adds 90 ms (p99 330 ms), which would be reported as the server's. Drivers share their
machine with the lab, so that is the usual case.

Nothing is decoded here: the pieces are kept with their times until the stream has ended.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from dataclasses import dataclass
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

from lab.errors import WorkloadError
from lab.workload.http1 import Answer, AnswerTooLarge, MalformedAnswer

# Servers close idle connections (uvicorn after 5 s), and one that closes while we write looks like
# a fault of the server.
REUSE_IDLE_S = 1.0
MAX_HELD_BYTES = 256 * 2**20  # of all answers of one pool that are under way


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is: what to connect to, and what to send as Host."""

    host: str
    port: int
    host_header: str
    path: str
    tls: ssl.SSLContext | None

    @classmethod
    def at(cls, url: str) -> Server:
        """Return the server at a URL.

        Raises WorkloadError for one that is not http(s) or has no host.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WorkloadError(
                "this is not the address of a server",
                got=url,
                fix="use one such as http://127.0.0.1:8321",
            )
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        host_header = parts.netloc.rpartition("@")[2]
        return cls(parts.hostname, port, host_header, parts.path.rstrip("/"), tls)


@dataclass(slots=True)
class Exchange:
    """One request and its answer.

    Times are `time.perf_counter()` seconds, NaN for what did not happen.
    """

    answer: Answer
    connect_s: float = 0.0
    sent: float = float("nan")
    done: float = float("nan")
    error_type: str = ""
    error_message: str = ""


class _Connection(asyncio.Protocol):
    __slots__ = (
        "transport",
        "idle_since",
        "lost",
        "_pool",
        "_received",
        "_exchange",
        "_answer",
        "_finished",
    )

    def __init__(self, pool: Pool) -> None:
        self.transport: asyncio.Transport
        self.idle_since = 0.0
        self.lost = False
        self._pool = pool
        self._received = 0
        self._exchange: Exchange | None = None
        self._answer: Answer
        self._finished: asyncio.Future[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self, request: bytes, exchange: Exchange, finished: asyncio.Future[None]) -> None:
        """Write the request; `finished` is set when the exchange has ended."""
        self._exchange = exchange
        self._answer = exchange.answer
        self._finished = finished
        exchange.sent = perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        if self._exchange is None:  # unsolicited data: this connection cannot be used again
            self.transport.abort()
            return
        self._received += len(data)
        self._pool.held_bytes += len(data)
        try:
            self._answer.feed(data, now)
            if self._pool.held_bytes > MAX_HELD_BYTES:
                self._answer.limit(self._pool.share_bytes)
        except (MalformedAnswer, AnswerTooLarge) as e:
            kind = "too_large" if isinstance(e, AnswerTooLarge) else "malformed_http"
            self._end(now, kind, str(e))
            self.transport.abort()
            return
        if self._answer.done:
            self._end(now)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._exchange is None:
            return
        now = perf_counter()
        if exc is not None:
            self._end(now, "connection_reset", str(exc) or type(exc).__name__)
        elif self._answer.finish():
            self._end(now)
        else:
            self._end(now, "connection_closed", _where_cut(self._answer))

    def give_up(self, error_type: str, message: str) -> None:
        """End the running exchange from our side."""
        if self._exchange is not None:
            self._end(perf_counter(), error_type, message)
        self.transport.abort()

    def _end(self, now: float, error_type: str = "", message: str = "") -> None:
        exchange = self._exchange
        assert exchange is not None
        self._exchange = None
        self._pool.held_bytes -= self._received
        self._received = 0
        exchange.done = now
        exchange.error_type = error_type
        exchange.error_message = message
        self.idle_since = now
        if not self._finished.done():
            self._finished.set_result(None)

    @property
    def reusable(self) -> bool:
        return not self.lost and self._exchange is None and not self.transport.is_closing()


def _where_cut(answer: Answer) -> str:
    if not answer.status:
        return "the server closed the connection before it answered"
    return f"the server closed the connection after {answer.size} bytes of an unfinished body"


class Pool:
    """Connections to one server, reused while they are fresh.

    A failed request is recorded, never retried.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._address = server.host
        self.held_bytes = 0

    @property
    def share_bytes(self) -> int:
        """Return what each answer may hold where all together hold too much."""
        return MAX_HELD_BYTES // max(1, len(self._busy))

    async def send(self, request: bytes, *, timeout_s: float) -> Exchange:
        """Send one request and wait for the end of its answer, for `timeout_s` in all."""
        exchange = Exchange(Answer())
        begun = perf_counter()
        try:
            connection = self._take_idle(begun) or await self._connect(timeout_s)
        except (OSError, asyncio.CancelledError) as e:
            _go_on_after(e)
            exchange.done = perf_counter()
            exchange.error_type, exchange.error_message = self._connect_error(e, timeout_s)
            return exchange

        self._busy.add(connection)
        exchange.connect_s = perf_counter() - begun
        await self._exchange(connection, request, exchange, timeout_s)
        self._busy.discard(connection)
        if connection.reusable and exchange.answer.keep_alive:
            self._idle.append(connection)
        else:
            connection.transport.abort()
        return exchange

    async def _exchange(
        self, connection: _Connection, request: bytes, exchange: Exchange, timeout_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        finished = loop.create_future()
        timer = loop.call_later(
            max(0.0, timeout_s - exchange.connect_s),
            connection.give_up,
            "timeout",
            f"no complete answer within {timeout_s:g} s",
        )
        connection.start(request, exchange, finished)
        try:
            await finished
        except asyncio.CancelledError as e:
            _go_on_after(e)
            connection.give_up("cancelled", "the run was stopped")
        timer.cancel()

    def _take_idle(self, now: float) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and now - connection.idle_since < REUSE_IDLE_S:
                return connection
            connection.transport.abort()
        return None

    async def _connect(self, timeout_s: float) -> _Connection:
        """Connect to the first address of the host that accepts, and from then on to that one.

        Every further look-up would be the driver's own delay. Raises OSError (TimeoutError after
        `timeout_s`).
        """
        server = self.server
        async with asyncio.timeout(timeout_s):
            transport, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self),
                self._address,
                server.port,
                ssl=server.tls,
                server_hostname=server.host if server.tls else None,
            )
        self._address = transport.get_extra_info("peername")[0]
        return connection

    def _connect_error(self, e: BaseException, timeout_s: float) -> tuple[str, str]:
        """Return (error type, message) of a connection that could not be opened."""
        where = f"{self.server.host}:{self.server.port}"
        if isinstance(e, asyncio.CancelledError):
            return "cancelled", "the run was stopped"
        if isinstance(e, TimeoutError):
            return "timeout", f"no connection to {where} within {timeout_s:g} s"
        if f"[Errno {errno.ECONNREFUSED}]" in str(e):  # of several addresses, all errors are in it
            return "connection_refused", f"nothing listens on {where}"
        if isinstance(e, socket.gaierror):
            return "name_unknown", f"the host {self.server.host!r} has no address: {e}"
        if isinstance(e, ssl.SSLError):
            return "tls", f"{where}: {e}"
        return "connection_failed", f"{where}: {e or type(e).__name__}"

    def close(self) -> None:
        """Close all connections."""
        for connection in (*self._idle, *self._busy):
            connection.transport.abort()
        self._idle.clear()


def _go_on_after(e: BaseException) -> None:
    """Withdraw a cancellation: the same task still records the request that was cancelled."""
    task = asyncio.current_task()
    if isinstance(e, asyncio.CancelledError) and task is not None:
        task.uncancel()
