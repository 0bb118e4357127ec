"""Access to the store's ports: foreign web pages and half-open connections are refused.

A page can reach a port of this machine in two ways: by requests from its own origin, and by letting
its own host name resolve to this machine ("DNS rebinding"). The first sends a foreign `Origin`, the
second a foreign `Host`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web_protocol import RequestHandler

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
PAGE_HEADER = "X-Lab-Request"  # a page of another site cannot send it
IDLE_S = 75.0  # a connection without a complete request is closed after this time


def hostname(netloc: str) -> str:
    """Return the host of `host:port` in lower case, without brackets; "" where there is none."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class HostGuard:
    """Refuses (403) requests with a foreign Host or Origin.

    Allowed are the loopback names, the host that the store listens on, and `names`. Where it
    listens on every address, any IP address is allowed as well: only names can be made to resolve
    to another machine.
    """

    def __init__(self, host: str, names: Iterable[str] = ()) -> None:
        """Allow the address that the server listens on, and further host names."""
        self._names = LOOPBACK | {hostname(name) or name.lower() for name in (host, *names)}
        self._any_address = host in ("", "0.0.0.0", "::")

    def allows_host(self, netloc: str) -> bool:
        """Whether a request with this Host header is for this store."""
        name = hostname(netloc)
        return name in self._names or (self._any_address and _is_address(name))

    def allows_origin(self, origin: str, netloc: str) -> bool:
        """Whether a page of this origin may send requests: one that this store has served."""
        scheme, _, place = origin.partition("://")
        return scheme in ("http", "https") and place.lower() == netloc.lower()

    def middleware(self) -> Middleware:
        """Build the middleware for an application."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            netloc = request.headers.get("Host", "")
            if netloc and not self.allows_host(netloc):
                return _refusal(
                    f"host {netloc[:100]!r} is not served here\n"
                    "  Fix: start the store with --allowed-host NAME"
                )
            origin = request.headers.get("Origin")
            if origin is not None and not self.allows_origin(origin, netloc):
                return _refusal(f"pages of {origin[:100]!r} may not send requests to this store")
            return await handler(request)

        return check


def _refusal(text: str) -> web.Response:
    return web.Response(status=403, text=text)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class IdleConnections:
    """Closes connections without a complete request for `IDLE_S`, half-open ones included."""

    def __init__(self) -> None:
        """Begin without connections."""
        self._since: dict[RequestHandler, float] = {}

    def middleware(self) -> Middleware:
        """Build the middleware that notes which connections are busy, and since when not."""

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._since[request.protocol] = float("inf")
            try:
                return await handler(request)
            finally:
                self._since[request.protocol] = time.monotonic()

        return note

    async def close_forever(self, servers: list[web.Server]) -> None:
        """Look at the connections of the servers until cancelled."""
        while True:
            await asyncio.sleep(IDLE_S / 5)
            now = time.monotonic()
            connections = [c for server in servers for c in server.connections]
            self._since = {c: self._since.get(c, now) for c in connections}
            for connection, since in self._since.items():
                if now - since > IDLE_S:
                    connection.force_close()
