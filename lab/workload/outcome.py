"""The result of reading one answer, through either API."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

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
