"""The result of reading one answer, through either API: timed events, an Outcome, a record's row.

Server-sent events follow the WHATWG definition of event streams as far as language model servers
use it: events end with an empty line, lines end with LF, CRLF or CR, `data` fields are joined with
LF, comments and other fields are ignored.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any

import msgspec
import pandas as pd

from lab.schema import CLIENT_RECORD
from lab.workload.connection import Exchange
from lab.workload.plan import PlannedRequest
from lab.workload.tracing import TraceIds

MESSAGE_CHARS = 500
ABSENT = msgspec.Raw()
MAX_NESTING = 64  # levels of a tool call's values; readers of the record recurse over them

# What decoding bytes from a server may raise: not JSON, text that is not UTF-8, JSON that is nested
# too deeply.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
TokenCount = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class PromptDetails(msgspec.Struct):
    """Details of the prompt's tokens in an answer's usage; the same in both APIs."""

    cached_tokens: TokenCount | None = None


@dataclass(slots=True)
class Outcome:
    """What was read from one answer.

    `token_times` are perf_counter seconds, one per chunk with tokens in it. `first_answer` is the
    time of the first one with text of the answer, as opposed to reasoning and tool calls; NaN if
    there was none.
    """

    token_times: list[float] = field(default_factory=list)
    first_answer: float = math.nan
    answer: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str = ""
    response_id: str = ""
    prompt_tokens: int = -1
    cached_tokens: int = -1
    completion_tokens: int = -1
    error_type: str = ""
    error_message: str = ""

    def add_tokens(self, at: float, *, of_answer: bool) -> None:
        """Record that a chunk with generated tokens came at the time `at`."""
        self.token_times.append(at)
        if of_answer and self.first_answer != self.first_answer:  # NaN, in the hot path
            self.first_answer = at

    def add_call(self, tool: str, arguments: Any, output: Any = None, error: Any = None) -> None:
        """Record a tool call, with a note in the place of a result that is nested too deeply."""
        self.tool_calls.append(
            {
                "tool": tool,
                "arguments": arguments,
                "output": _bounded(output),
                "error": _bounded(error),
            }
        )

    def take_usage(
        self, prompt: int, completion: int | None, details: PromptDetails | None
    ) -> None:
        """Record the numbers of tokens, of which some may not be reported."""
        self.prompt_tokens = prompt
        if completion is not None:
            self.completion_tokens = completion
        if details is not None and details.cached_tokens is not None:
            self.cached_tokens = details.cached_tokens

    def fail(self, error_type: str, message: str) -> None:
        """Record what went wrong; the first error stays."""
        if not self.error_type:
            self.error_type = error_type
            self.error_message = message[:MESSAGE_CHARS]


class Stream:
    """The events of one answer as they come. Each API has a subclass that reads its own."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self.ended = False

    def add(self, at: float, data: bytes) -> None:
        """Take one event. Raises one of UNREADABLE."""
        raise NotImplementedError

    def finish(self) -> Outcome:
        """Put the pieces together. A stream that did not end properly is an error."""
        raise NotImplementedError

    def read(self, events: list[tuple[float, bytes]]) -> Outcome:
        """Read all events up to the end mark."""
        for at, data in events:
            if data == b"[DONE]":
                self.ended = True
                break
            try:
                self.add(at, data)
            except UNREADABLE as e:
                self.outcome.fail("malformed_event", f"{e}: {data[:200]!r}")
        return self.finish()


def is_present(raw: msgspec.Raw) -> bool:
    """Return whether a field was there and not null."""
    return bytes(raw) not in (b"", b"null")


def parse_arguments(text: str) -> Any:
    """Return a tool call's arguments as an object.

    The text where it is not a JSON object or nested too deeply.
    """
    try:
        value = msgspec.json.decode(text)
    except UNREADABLE:
        return text
    return value if isinstance(value, dict) and not nested_too_deeply(value) else text


def nested_too_deeply(value: Any, levels: int = MAX_NESTING) -> bool:
    """Return whether lists and objects are nested more than `levels` deep."""
    if not isinstance(value, (dict, list)):
        return False
    if levels == 0:
        return True
    children = value.values() if isinstance(value, dict) else value
    return any(nested_too_deeply(child, levels - 1) for child in children)


def _bounded(value: Any) -> Any:
    return "(nested too deeply to be recorded)" if nested_too_deeply(value) else value


def error_message(body: bytes) -> str:
    """Return the message of an error answer in OpenAI's or FastAPI's shape, else its beginning."""
    text = body[: 4 * MESSAGE_CHARS].decode(errors="replace").strip()
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE:
        return text[:MESSAGE_CHARS]

    for key in ("error", "detail", "message"):
        message = value.get(key) if isinstance(value, dict) else None
        if isinstance(message, dict):
            message = message.get("message")
        if message:
            return str(message)[:MESSAGE_CHARS]
    return text[:MESSAGE_CHARS]


DTYPES = {c.name: "string" if c.dtype == "json" else c.dtype for c in CLIENT_RECORD}
ADDED_COLUMNS = ("first_answer_at", "first_answer_s")  # not in runs that an older lab saved
_FROM_PLAN = (
    "request_id",
    "scenario_id",
    "kind",
    "intent",
    "turn_index",
    "tenant",
    "user_id",
    "session_id",
    "api",
    "model",
)
_FROM_OUTCOME = (
    "error_type",
    "error_message",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "answer",
    "finish_reason",
)
_STATUS = {
    "": "ok",
    "cancelled": "cancelled",
    "timeout": "timeout",
    "predecessor_failed": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Clock:
    """Converts perf_counter seconds to seconds since the epoch, with one offset per run."""

    offset_s: float

    def at(self, perf_s: float) -> float:
        """Return seconds since the epoch."""
        return perf_s + self.offset_s


def merge_errors(exchange: Exchange, outcome: Outcome) -> Outcome:
    """Return the outcome with the exchange's error, which explains an incomplete stream."""
    if exchange.error_type:
        outcome.error_type = exchange.error_type
        outcome.error_message = exchange.error_message
    elif exchange.answer.status != 200:
        outcome.error_type = f"http_{exchange.answer.status}"
        outcome.error_message = error_message(exchange.answer.body)
    return outcome


def row(
    run_id: str,
    request: PlannedRequest,
    ids: TraceIds,
    clock: Clock,
    scheduled: float,
    exchange: Exchange,
    outcome: Outcome,
) -> dict[str, Any]:
    """Return the row; times in the arguments are perf_counter seconds."""
    tokens = outcome.token_times or [math.nan]
    offsets = [round(t - exchange.sent, 6) for t in outcome.token_times]
    return {
        "run_id": run_id,
        "trace_id": ids.trace_hex,
        **{name: getattr(request, name) for name in _FROM_PLAN},
        "scheduled_at": clock.at(scheduled),
        "sent_at": clock.at(exchange.sent),
        "first_token_at": clock.at(tokens[0]),
        "last_token_at": clock.at(tokens[-1]),
        "first_answer_at": clock.at(outcome.first_answer),
        "done_at": clock.at(exchange.done),
        "lag_s": exchange.sent - scheduled,
        "ttft_s": tokens[0] - scheduled,
        "first_answer_s": outcome.first_answer - scheduled,
        "e2e_s": exchange.done - scheduled,
        "chunk_offsets_s": msgspec.json.encode(offsets).decode(),
        "status": _STATUS.get(outcome.error_type, "error"),
        "http_status": exchange.answer.status,
        "prompt": request.text,
        "tool_calls": msgspec.json.encode(outcome.tool_calls).decode(),
        **{name: getattr(outcome, name) for name in _FROM_OUTCOME},
    }


def records_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows with the columns and dtypes of CLIENT_RECORD, sorted by `scheduled_at`."""
    table = pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)
    return table.sort_values("scheduled_at", kind="stable", ignore_index=True)


def with_added_columns(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records with NaN in the columns that runs saved by an older lab do not have."""
    missing = {name: math.nan for name in ADDED_COLUMNS if name not in records}
    return records.assign(**missing)[list(DTYPES)] if missing else records


# Of one stream. Further events are dropped, so that the stream counts as incomplete.
MAX_EVENTS = 500_000
_END_OF_LINE = rb"(?:\r\n|\n|\r(?!\n))"
_END_OF_EVENT = re.compile(_END_OF_LINE + _END_OF_LINE)
_LINES = re.compile(_END_OF_LINE)
_FIRST = -1.0  # sorts before every time


def events(body: bytes, marks: list[tuple[int, float]]) -> list[tuple[float, bytes]]:
    """Return the (time, data) of every complete event; an event's time is that of its last byte.

    `marks` are the (bytes so far, time) of the pieces of `body`. Bytes after the last complete
    event are dropped, as the definition requires.
    """
    timed = []
    mark = 0
    for start, end, after in islice(_blocks(body), MAX_EVENTS):
        data = _data(body[start:end])
        if data is not None:
            mark = bisect_left(marks, (after, _FIRST), lo=mark)
            timed.append((marks[mark][1], data))
    return timed


def _blocks(body: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, end with the empty line) of every complete event."""
    start = 0
    if b"\r" not in body:  # the usual case, and much faster than the expression
        while (end := body.find(b"\n\n", start)) >= 0:
            yield start, end, end + 2
            start = end + 2
        return
    for match in _END_OF_EVENT.finditer(body):
        yield start, match.start(), match.end()
        start = match.end()


def _data(block: bytes) -> bytes | None:
    """Return the data of one event; None for a comment that keeps the connection alive."""
    if block.startswith(b"data: ") and b"\n" not in block and b"\r" not in block:
        return block[6:]

    values = []
    for line in _LINES.split(block):
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(values) if values else None
