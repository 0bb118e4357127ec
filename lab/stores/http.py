"""One question to a store over HTTP, with every way to fail made into the lab's own error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from lab.errors import QueryRejected, StoreUnreachable

MAX_WORDS = 600  # of what a server said in an error


class Asker:
    """Asks one server. `name` is for messages, `read_words` finds the server's words in the body of an error."""

    def __init__(self, name: str, url: str, timeout_s: float, headers: Mapping[str, str] | None = None) -> None:
        self.name, self.url = name, url.rstrip("/")
        # Uncompressed: packing a large answer costs the server ten times what sending it costs on the same machine.
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
        self._client = httpx.Client(timeout=timeout_s, headers=sent, limits=limits, trust_env=False)

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, accept: str = "", query: str = "") -> bytes:
        """The body. Raises StoreUnreachable (no answer, or a cut one) and QueryRejected (a refusal)."""
        answer = self.ask(path, params, accept=accept, query=query)
        if answer.status_code >= 400:
            raise self.refusal(answer.status_code, answer.content, query or path)
        return answer.content

    def ask(
        self, path: str, params: Mapping[str, Any] | None = None, *, accept: str = "", query: str = ""
    ) -> httpx.Response:
        """The answer with whatever status. Raises StoreUnreachable."""
        headers = {"Accept": accept} if accept else {}
        try:
            return self._client.get(self.url + path, params=dict(params or {}), headers=headers)
        except httpx.TimeoutException as e:
            raise StoreUnreachable(
                f"{self.name} at {self.url} did not answer in time",
                query=query,
                had=f"{type(e).__name__} on {path}",
                do="ask for less (a shorter window, a coarser step, a narrower query), or raise LAB_TIMEOUT_S",
            ) from e
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise StoreUnreachable(
                f"{self.name} at {self.url} cannot be reached",
                query=query,
                had=f"{type(e).__name__}: {e}",
                do="see `lab status`; if it is your own server, check the address",
            ) from e

    def refusal(self, status: int, body: bytes, query: str, words: str = "") -> QueryRejected:
        """The error for an answer that is a refusal."""
        said = (words or body[: 4 * MAX_WORDS].decode("utf-8", "replace")).strip()[:MAX_WORDS]
        return QueryRejected(
            f"{self.name} refused the question (HTTP {status}): {said or 'without a word'}",
            query=query,
            had=f"{query} sent to {self.url}",
            do="correct the query" if status in (400, 422) else f"look at {self.name}'s log",
        )

    def not_its_api(self, body: bytes, query: str, why: str) -> StoreUnreachable:
        """The error for an answer that the server in question would never give."""
        start = body[:200].decode("utf-8", "replace")
        return StoreUnreachable(
            f"what answers at {self.url} is not {self.name}, or its answer was cut",
            query=query,
            had=f"{why}; it begins with {start!r}" if body else "an empty answer",
            do=f"check the address: it must be the base URL of {self.name}, past any login page",
        )

    def close(self) -> None:
        self._client.close()
