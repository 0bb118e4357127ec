"""What a stream said, whichever API it came through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

MESSAGE_CHARS = 500
NOTHING = msgspec.Raw()


def told(raw: msgspec.Raw) -> bool:
    """True if a field was there, and was not null."""
    return bytes(raw) not in (b"", b"null")


@dataclass(slots=True)
class Outcome:
    """What was read out of one answer. `token_times`: perf_counter seconds, one for every chunk with tokens in it."""

    token_times: list[float] = field(default_factory=list)
    answer: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str = ""
    response_id: str = ""
    prompt_tokens: int = -1
    cached_tokens: int = -1
    completion_tokens: int = -1
    error_type: str = ""
    error_message: str = ""

    def fail(self, error_type: str, message: str) -> None:
        """Note what went wrong; the first thing that did stays."""
        if not self.error_type:
            self.error_type, self.error_message = error_type, message[:MESSAGE_CHARS]


def arguments_of(text: str) -> Any:
    """The arguments of a tool call as an object, or the raw text where the model wrote no JSON object."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return value if isinstance(value, dict) else text


def message_in(body: bytes) -> str:
    """The words of an error answer: OpenAI's and FastAPI's shapes, else the text itself."""
    text = body[: 4 * MESSAGE_CHARS].decode(errors="replace").strip()
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return text[:MESSAGE_CHARS]
    for key in ("error", "detail", "message"):
        found = value.get(key) if isinstance(value, dict) else None
        if isinstance(found, dict):
            found = found.get("message")
        if found:
            return str(found)[:MESSAGE_CHARS]
    return text[:MESSAGE_CHARS]
