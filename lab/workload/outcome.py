"""What a stream said, whichever API it came through."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

MESSAGE_CHARS = 500
NOTHING = msgspec.Raw()
MAX_NESTING = 64  # levels of a tool call's values; readers of the record recurse over them

# What decoding bytes from a server may raise: not JSON, text that is not UTF-8, JSON that is nested too deeply.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
TokenCount = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


def told(raw: msgspec.Raw) -> bool:
    """True if a field was there, and was not null."""
    return bytes(raw) not in (b"", b"null")


@dataclass(slots=True)
class Outcome:
    """What was read out of one answer.

    `token_times`: perf_counter seconds, one for every chunk with tokens in it. `first_answer`: the time of the first
    one with text of the answer, as opposed to reasoning and tool calls; NaN if there was none.
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
        if of_answer and math.isnan(self.first_answer):
            self.first_answer = at

    def fail(self, error_type: str, message: str) -> None:
        """Note what went wrong; the first thing that did stays."""
        if not self.error_type:
            self.error_type, self.error_message = error_type, message[:MESSAGE_CHARS]


def arguments_of(text: str) -> Any:
    """The arguments of a tool call as an object, or the raw text where the model wrote no JSON object."""
    try:
        value = msgspec.json.decode(text)
    except UNREADABLE:
        return text
    return value if isinstance(value, dict) and not nested_too_deeply(value) else text


def nested_too_deeply(value: Any, levels: int = MAX_NESTING) -> bool:
    """Return True if lists and objects are nested in each other more than `levels` deep."""
    if not isinstance(value, (dict, list)):
        return False
    if levels == 0:
        return True
    children = value.values() if isinstance(value, dict) else value
    return any(nested_too_deeply(child, levels - 1) for child in children)


def message_in(body: bytes) -> str:
    """The words of an error answer: OpenAI's and FastAPI's shapes, else the text itself."""
    text = body[: 4 * MESSAGE_CHARS].decode(errors="replace").strip()
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE:
        return text[:MESSAGE_CHARS]
    for key in ("error", "detail", "message"):
        found = value.get(key) if isinstance(value, dict) else None
        if isinstance(found, dict):
            found = found.get("message")
        if found:
            return str(found)[:MESSAGE_CHARS]
    return text[:MESSAGE_CHARS]
