"""Connections that carry one request at a time, and time what comes back. The driver's hot path.

An asyncio.Protocol on raw connections instead of an HTTP client library: under 512 streams a client library adds tens
of milliseconds to the time to the first token (see benchmarks/driver.py), which would then be reported as the server's.
Nothing is decoded here: the pieces are kept with their times until the stream has ended.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from time import perf_counter
from urllib.parse import urlsplit

from lab.errors import WorkloadError
from lab.workload.http1 import Answer, AnswerTooLarge, MalformedAnswer

# Servers close idle connections (uvicorn after 5 s), and one that closes while we write looks like a fault of its own.
REUSE_IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """One server: where to connect (resolved once), and what to say as Host."""

    url: str
    host: str
    port: int
    host_header: str
    path: str
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str) -> Target:
        """Raises WorkloadError for an address that is not http(s) or has no host."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WorkloadError(
                "this is not the address of a server",
                got=url,
                fix="give one such as http://127.0.0.1:8321",
            )
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        return cls(
            url, parts.hostname, port, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), tls
        )


@dataclass(slots=True)
class Exchange:
    """What one request did on the wire. Times are `time.perf_counter()` seconds, nan where it did not get there."""

    answer: Answer
    connect_s: float = 0.0
    sent: float = float("nan")
    done: float = float("nan")
    error_type: str = ""
    error_message: str = ""


class _Connection(asyncio.Protocol):
    __slots__ = ("transport", "idle_since", "lost", "_exchange", "_answer", "_finished")

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.idle_since = 0.0
        self.lost = False
        self._exchange: Exchange | None = None
        self._answer: Answer
        self._finished: asyncio.Future[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self, request: bytes, exchange: Exchange, finished: asyncio.Future[None]) -> None:
        self._exchange, self._answer, self._finished = exchange, exchange.answer, finished
        exchange.sent = perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        if (
            self._exchange is None
        ):  # nobody asked: whatever it is, this connection is not usable any more
            self.transport.abort()
            return
        try:
            self._answer.feed(data, now)
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
        if exc is None and self._answer.finish():
            self._end(now)
        elif exc is not None:
            self._end(now, "connection_reset", str(exc) or type(exc).__name__)
        else:
            self._end(now, "connection_closed", _where_cut(self._answer))

    def give_up(self, error_type: str, message: str) -> None:
        """End the running exchange from our side."""
        if self._exchange is not None:
            self._end(perf_counter(), error_type, message)
        self.transport.abort()

    def _end(self, now: float, error_type: str = "", message: str = "") -> None:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        exchange.done, exchange.error_type, exchange.error_message = now, error_type, message
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
    """Connections to one server, used again while they are fresh. Never retries: what failed is recorded as failed."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._addresses: list[str] = []

    async def send(self, request: bytes, *, timeout_s: float) -> Exchange:
        """Send one request and wait until its answer is complete, has failed, or `timeout_s` has passed."""
        exchange = Exchange(Answer())
        loop = asyncio.get_running_loop()
        begun = perf_counter()
        try:
            connection = self._take(begun) or await self._connect(timeout_s)
        except (OSError, asyncio.CancelledError) as e:
            _go_on_after(e)
            exchange.done = perf_counter()
            exchange.error_type, exchange.error_message = _connect_error(e, self.target, timeout_s)
            return exchange
        finished = loop.create_future()
        timer = loop.call_later(
            max(0.0, timeout_s - (perf_counter() - begun)),
            connection.give_up,
            "timeout",
            f"no complete answer within {timeout_s:g} s",
        )
        self._busy.add(connection)
        exchange.connect_s = perf_counter() - begun
        connection.start(request, exchange, finished)
        try:
            await finished
        except asyncio.CancelledError as e:
            _go_on_after(e)
            connection.give_up("cancelled", "the run was stopped")
        timer.cancel()
        self._busy.discard(connection)
        if connection.reusable and exchange.answer.keep_alive:
            self._idle.append(connection)
        else:
            connection.transport.abort()
        return exchange

    def _take(self, now: float) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and now - connection.idle_since < REUSE_IDLE_S:
                return connection
            connection.transport.abort()
        return None

    async def _connect(self, timeout_s: float) -> _Connection:
        async with asyncio.timeout(timeout_s):
            addresses = self._addresses or await self._resolve()
            for last, address in enumerate(addresses, start=1 - len(addresses)):
                try:
                    connection = await self._connect_to(address)
                except OSError:
                    if last == 0:
                        raise
                else:
                    self._addresses = [address]
                    return connection
        raise AssertionError("unreachable: there is at least one address")

    async def _resolve(self) -> list[str]:
        """The host's addresses, asked for once: a look-up for every connection would be the driver's own delay."""
        found = await asyncio.get_running_loop().getaddrinfo(
            self.target.host, self.target.port, type=socket.SOCK_STREAM
        )
        self._addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        return self._addresses

    async def _connect_to(self, address: str) -> _Connection:
        target = self.target
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection,
            address,
            target.port,
            ssl=target.tls,
            server_hostname=target.host if target.tls else None,
        )
        return connection

    def close(self) -> None:
        for connection in (*self._idle, *self._busy):
            connection.transport.abort()
        self._idle.clear()


def _go_on_after(e: BaseException) -> None:
    """A cancelled request is still recorded, by the same task: it must not be cancelled any more."""
    task = asyncio.current_task()
    if isinstance(e, asyncio.CancelledError) and task is not None:
        task.uncancel()


def _connect_error(e: BaseException, target: Target, timeout_s: float) -> tuple[str, str]:
    where = f"{target.host}:{target.port}"
    if isinstance(e, asyncio.CancelledError):
        return "cancelled", "the run was stopped"
    if isinstance(e, TimeoutError):
        return "timeout", f"no connection to {where} within {timeout_s:g} s"
    if isinstance(e, ConnectionRefusedError):
        return "connection_refused", f"nothing listens on {where}"
    if isinstance(e, socket.gaierror):
        return "name_unknown", f"the host {target.host!r} has no address: {e}"
    if isinstance(e, ssl.SSLError):
        return "tls", f"{where}: {e}"
    return "connection_failed", f"{where}: {e or type(e).__name__}"
