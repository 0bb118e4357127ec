"""Instants and spans of time as the stores' APIs take them: seconds since the epoch, always with a time zone."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from lab.errors import StoreError

Instant = float | int | datetime


def epoch_s(instant: Instant) -> float:
    """Seconds since the epoch. Raises StoreError for a datetime without a time zone: nobody can tell when that is."""
    if isinstance(instant, datetime):
        if instant.tzinfo is None:
            raise StoreError(
                "an instant without a time zone was given",
                got=repr(instant),
                fix="say which one: datetime(..., tzinfo=UTC), pd.Timestamp(..., tz='UTC'), or seconds since the epoch",
            )
        return instant.timestamp()
    seconds = float(instant)
    if not math.isfinite(seconds):
        raise StoreError("an instant is not a finite number of seconds", got=repr(instant))
    return seconds


def window_s(start: Instant, end: Instant) -> tuple[float, float]:
    """Both ends in seconds since the epoch. Raises StoreError if the end lies before the start."""
    first, last = epoch_s(start), epoch_s(end)
    if last < first:
        raise StoreError(
            "the window ends before it starts", got=f"start {utc(first)}, end {utc(last)}"
        )
    return first, last


def utc(seconds: float) -> str:
    """For messages: an instant in UTC, to the millisecond."""
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
