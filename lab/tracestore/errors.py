"""What can go wrong in the trace store, as a tree.

TraceStoreError              carries the HTTP status that the caller gets
├── BadRequest           400: a payload or a parameter cannot be read
│   └── TraceQLError     ... a query; names the position
│       ├── TraceQLSyntax         it does not parse
│       ├── TraceQLInvalid        it parses, but the types or the references make no sense
│       └── TraceQLUnsupported    it is right, but this store (or Tempo itself) does not answer it
├── TooLarge             413: a body over the cap
├── TooSlow              408: a body did not arrive in time
├── Overloaded           429: the queue is full; try again after `retry_after_s`
├── QueryTooSlow         503: a query ran into its time limit
└── StoreBroken          503: the disk or the database refuses; try again after `retry_after_s`
"""

from __future__ import annotations


class TraceStoreError(Exception):
    """Base of the trace store's errors. `status` is the HTTP status code of the answer.

    `happened` is one sentence; `got` says what was found instead; `fix` says how to correct it.
    """

    status = 500

    def __init__(self, happened: str, *, got: str = "", fix: str = "") -> None:
        """Compose the message of what happened, what was found and how to fix it."""
        self.happened = happened
        self.got = got
        self.fix = fix
        parts = [happened, f"  Got: {got}" if got else "", f"  Fix: {fix}" if fix else ""]
        super().__init__("\n".join(part for part in parts if part))


class BadRequest(TraceStoreError):
    """What was sent cannot be read."""

    status = 400


class TraceQLError(BadRequest):
    """A TraceQL query is refused.

    `position` is the offset in characters, `line` and `column` count from 1.
    """

    stage = "query"

    def __init__(
        self, message: str, *, query: str = "", position: int = 0, construct: str = ""
    ) -> None:
        """Compose the message with the place in the query, an offset in characters."""
        self.message = message
        self.query = query
        self.position = position
        self.construct = construct
        before = query[:position]
        self.line = before.count("\n") + 1
        self.column = position - (before.rfind("\n") + 1) + 1
        named = f" ({construct})" if construct and construct not in message else ""
        super().__init__(
            f"{self.stage} error at line {self.line}, col {self.column}: {message}{named}"
        )


class TraceQLSyntax(TraceQLError):
    """The query does not parse."""

    stage = "parse"


class TraceQLInvalid(TraceQLError):
    """The query parses, but its types or references make no sense."""

    stage = "validation"


class TraceQLUnsupported(TraceQLError):
    """The query uses a construct that is not answered here. `construct` names it."""

    stage = "unsupported"


class TooLarge(TraceStoreError):
    """A request body is larger than the cap."""

    status = 413


class TooSlow(TraceStoreError):
    """A request body did not arrive in time."""

    status = 408


class Overloaded(TraceStoreError):
    """The queue is full. Nothing of the request was kept; it should be sent again."""

    status = 429

    def __init__(
        self, happened: str, *, got: str = "", fix: str = "", retry_after_s: int = 1
    ) -> None:
        """Name when a client may try again, in seconds."""
        self.retry_after_s = retry_after_s
        super().__init__(happened, got=got, fix=fix or f"send it again after {retry_after_s} s")


class QueryTooSlow(TraceStoreError):
    """A query was stopped at its time limit: it is too much, or the machine is too busy."""

    status = 503
    retry_after_s = 5


class StoreBroken(TraceStoreError):
    """The disk or the database refuses. Nothing was kept; the request should be sent again."""

    status = 503

    def __init__(
        self, happened: str, *, got: str = "", fix: str = "", retry_after_s: int = 5
    ) -> None:
        """Name when a client may try again, in seconds."""
        self.retry_after_s = retry_after_s
        super().__init__(happened, got=got, fix=fix)
