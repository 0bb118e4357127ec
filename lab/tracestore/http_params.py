"""Query parameters as Tempo reads them, with its defaults and limits; a bad one is a BadRequest."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from lab.tracestore.errors import BadRequest

_NUMBER = r"[0-9]{1,20}(?:\.[0-9]{1,20})?"
_PART = re.compile(rf"({_NUMBER})(ns|us|µs|ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ns|us|µs|ms|s|m|h|d)){{1,20}}")
_UNIT_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_MAX_NS = 2**63 - 1


def trace_id(text: str) -> UUID:
    """Return a trace id from hexadecimal digits; a short one is padded with zeros, as in Tempo."""
    if not text or len(text) > 32 or not re.fullmatch(r"[0-9a-fA-F]+", text):
        raise BadRequest(
            "trace IDs can only contain hex characters and at most 32 of them",
            got=repr(text[:64]),
            fix="give 32 hex digits",
        )
    return UUID(hex=text.rjust(32, "0"))


def integer(
    params: Mapping[str, str], name: str, default: int, *, low: int = 0, high: int = _MAX_NS
) -> int:
    """Return an integer parameter within bounds."""
    text = params.get(name, "")
    if text == "":
        return default
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise BadRequest(f"invalid {name}: not an integer", got=repr(text[:64]))
    value = int(text)
    if not low <= value <= high:
        raise BadRequest(f"invalid {name}: must be between {low} and {high}", got=text[:64])
    return value


def flag(params: Mapping[str, str], name: str) -> bool:
    """Return a boolean parameter; false where it is absent."""
    text = params.get(name, "").lower()
    if text not in ("", "0", "1", "true", "false"):
        raise BadRequest(f"invalid {name}: must be true or false", got=repr(text[:64]))
    return text in ("1", "true")


def duration_ns(text: str, name: str) -> int:
    """Return a Go duration such as `1m30s`, or a number of seconds, in nanoseconds."""
    if re.fullmatch(_NUMBER, text):
        return _in_range(round(float(text) * 10**9), text, name)
    if not _DURATION.fullmatch(text):
        raise BadRequest(
            f"invalid {name}: not a duration",
            got=repr(text[:64]),
            fix="write it like 30s, 5m or 1h",
        )
    value = sum(float(number) * _UNIT_NS[unit] for number, unit in _PART.findall(text))
    return _in_range(round(value), text, name)


def _in_range(value_ns: int, text: str, name: str) -> int:
    if not 0 <= value_ns <= _MAX_NS:
        raise BadRequest(f"invalid {name}: out of range", got=repr(text[:64]))
    return value_ns


def window_s(params: Mapping[str, str], *, max_hours: float | None = None) -> tuple[int, int]:
    """Return `start` and `end` (unix s) in nanoseconds; (0, 2^63 - 1) where both are absent."""
    start = integer(params, "start", 0, high=2**33)
    end = integer(params, "end", 0, high=2**33)
    if start == 0 and end == 0:
        return 0, _MAX_NS
    if end <= start:
        raise BadRequest("http parameter start must be before end", got=f"start={start} end={end}")
    if max_hours is not None and end - start > max_hours * 3600:
        raise BadRequest(
            f"range specified by start and end exceeds {max_hours:g}h",
            got=f"start={start} end={end}",
        )
    return start * 10**9, end * 10**9


def instant_ns(text: str, name: str) -> int:
    """Return a point in time in unix nanoseconds.

    `text` is unix seconds, also with a fraction, unix nanoseconds, or RFC 3339.
    """
    if re.fullmatch(r"[0-9]{1,20}", text):
        value = int(text) if len(text) > 10 else int(text) * 10**9
        return _in_range(value, text, name)
    if re.fullmatch(_NUMBER, text):
        return _in_range(round(float(text) * 10**9), text, name)
    try:
        parsed = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as e:
        raise BadRequest(
            f"invalid {name}: neither seconds, nanoseconds nor RFC 3339", got=repr(text[:64])
        ) from e
    if parsed.tzinfo is None:
        raise BadRequest(
            f"invalid {name}: RFC 3339 needs a time zone", got=repr(text[:64]), fix="end it with Z"
        )
    return _in_range(round(parsed.timestamp() * 10**9), text, name)


def metrics_window(params: Mapping[str, str], *, max_hours: float = 24) -> tuple[int, int]:
    """Return start and end (unix ns) of a metrics query.

    `since` takes precedence over `start` and `end`; without any of them it is the last hour.
    """
    now = time.time_ns()
    if params.get("since"):
        start = now - duration_ns(params["since"], "since")
        end = now
    else:
        end = instant_ns(params["end"], "end") if params.get("end") else now
        start = instant_ns(params["start"], "start") if params.get("start") else end - 3600 * 10**9
    if end <= start:
        raise BadRequest("end must be greater than start", got=f"start={start} end={end}")
    if end - start > max_hours * 3600 * 10**9:
        raise BadRequest(
            f"metrics query time range exceeds the maximum allowed duration of {max_hours:g}h0m0s"
        )
    return start, end


def step_ns(params: Mapping[str, str]) -> int:
    """Return the `step` of a range query in nanoseconds; it must be more than 0."""
    step = duration_ns(params["step"], "step")
    if step <= 0:
        raise BadRequest("invalid step: must be greater than 0", got=repr(params["step"][:64]))
    return step
