"""One question to a store over HTTP, with every way to fail made into the lab's own error.

urllib3, since a large answer costs it a fifth of the work that it costs httpx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from lab.errors import QueryRejected, StoreUnreachable

MAX_WORDS = 600  # of what a server said in an error
CONNECTIONS = 16


@dataclass(frozen=True)
class Reply:
    """What came back, whatever its status."""

    status_code: int
    content: bytes
    content_type: str = ""


class Asker:
    """Asks one server. `name` is for messages. A user and a password in the URL become an Authorization header."""

    def __init__(
        self, name: str, url: str, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.url, own = _without_login(url.rstrip("/"))
        # Uncompressed: packing a large answer costs the server ten times what sending it costs on the same machine.
        self._headers = {"Accept-Encoding": "identity", **own, **(headers or {})}
        self._pool = urllib3.PoolManager(maxsize=CONNECTIONS, timeout=timeout_s, retries=False)

    def get(
        self,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        accept: str = "",
        query: str = "",
    ) -> bytes:
        """The body. Raises StoreUnreachable (no answer, or a cut one) and QueryRejected (a refusal)."""
        answer = self.ask(path, params, accept=accept, query=query)
        if answer.status_code >= 400:
            raise self.refusal(answer.status_code, answer.content, query or path)
        return answer.content

    def ask(
        self,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        accept: str = "",
        query: str = "",
    ) -> Reply:
        """The answer with whatever status; redirects are not followed. Raises StoreUnreachable."""
        url = self.url + path + (f"?{urlencode(params)}" if params else "")
        headers = self._headers | ({"Accept": accept} if accept else {})
        try:
            answer = self._pool.request("GET", url, headers=headers, redirect=False)
            return Reply(answer.status, answer.data, answer.headers.get("Content-Type", ""))
        except (ConnectTimeoutError, ReadTimeoutError) as e:
            if isinstance(e, NewConnectionError):  # a kind of time-out to urllib3
                raise self._unreachable(e, query) from e
            raise StoreUnreachable(
                f"{self.name} at {self.url} did not answer in time",
                query=query,
                got=f"{type(e).__name__} on {path}",
                fix="ask for less (a shorter window, a coarser step, a narrower query), or raise LAB_TIMEOUT_S",
            ) from e
        except (HTTPError, ValueError) as e:
            raise self._unreachable(e, query) from e

    def _unreachable(self, error: Exception, query: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"{self.name} at {self.url} cannot be reached",
            query=query,
            got=f"{type(error).__name__}: {error}",
            fix="see `lab status`; if it is your own server, check the address",
        )

    def refusal(self, status: int, body: bytes, query: str, words: str = "") -> QueryRejected:
        """The error for an answer that is a refusal."""
        said = (words or body[: 4 * MAX_WORDS].decode("utf-8", "replace")).strip()[:MAX_WORDS]
        return QueryRejected(
            f"{self.name} refused the question (HTTP {status}): {said or 'without a word'}",
            query=query,
            got=f"{query} sent to {self.url}",
            fix="correct the query" if status in (400, 422) else f"look at {self.name}'s log",
        )

    def not_its_api(self, body: bytes, query: str, why: str) -> StoreUnreachable:
        """The error for an answer that the server in question would never give."""
        start = body[:200].decode("utf-8", "replace")
        return StoreUnreachable(
            f"what answers at {self.url} is not {self.name}, or its answer was cut",
            query=query,
            got=f"{why}; it begins with {start!r}" if body else "an empty answer",
            fix=f"check the address: it must be the base URL of {self.name}, past any login page",
        )

    def close(self) -> None:
        self._pool.clear()


def _without_login(url: str) -> tuple[str, dict[str, str]]:
    """The URL without the user and password in it, and the header that says them instead."""
    try:
        parts = urllib3.util.parse_url(url)
    except HTTPError:
        return url, {}  # refused with a message when it is asked
    if not parts.auth:
        return url, {}
    return parts._replace(auth=None).url, {
        "Authorization": urllib3.make_headers(basic_auth=parts.auth)["authorization"]
    }
