"""Refuse requests that a web page sent: the MCP specification requires servers to validate Origin.

A page that a user of this machine has open can send requests to loopback addresses. If it does so
under its own name (DNS rebinding), the Host header has that name; if not, the Origin header has it.
Both are checked for every path, so that `mcp`'s own check of its one path
(TransportSecuritySettings) has nothing left to do; it also knows neither addresses nor patterns of
names.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# Names of Services inside a cluster. No public name ends like this, so no page can have one of
# them.
CLUSTER_NAMES = ("*.svc", "*.svc.cluster.local")


@dataclass(frozen=True)
class AllowedHosts:
    """The names that a request may use for this server.

    `names` may begin with `*.`. With `addresses`, any IP address is allowed too: probes and
    Prometheus use a pod's own, and a page that was rebound has a name.
    """

    names: tuple[str, ...] = LOOPBACK_NAMES
    addresses: bool = False

    @classmethod
    def for_bind_address(cls, host: str, more: list[str]) -> AllowedHosts:
        """Return what a server on `host` allows: beyond loopback also a cluster's names."""
        names = (*LOOPBACK_NAMES, *(name.lower() for name in more))
        if _is_loopback(host):
            return cls(names)
        return cls((*names, *CLUSTER_NAMES), addresses=True)

    def allow_host(self, host: str) -> bool:
        """Return whether `host`, a Host header with or without a port, is one of the names."""
        name = _host_name(f"//{host}")
        endings = tuple(pattern[1:] for pattern in self.names if pattern.startswith("*."))
        return (
            name in self.names or name.endswith(endings) or (self.addresses and _is_address(name))
        )

    def allow_origin(self, origin: str, host: str) -> bool:
        """Return whether `origin` is this server itself, or a page of this machine."""
        return origin.partition("://")[2] == host or _is_loopback(_host_name(origin))


class RefuseForeignPages:
    """ASGI middleware: answer 421 to a foreign Host and 403 to a foreign Origin."""

    def __init__(self, app: ASGIApp, allowed: AllowedHosts) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._allowed.allow_host(hosts[0]):
            refusal = PlainTextResponse("this server is not known by that Host\n", 421)
            await refusal(scope, receive, send)
        elif not all(self._allowed.allow_origin(o, hosts[0]) for o in headers.getlist("origin")):
            refusal = PlainTextResponse("pages of that Origin may not call this server\n", 403)
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)
