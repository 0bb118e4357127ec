"""Points in time as the stores' APIs take them: seconds since the epoch, with a known time zone."""

from __future__ import annotations

from datetime import UTC, datetime

from lab.errors import StoreError

Instant = float | int | datetime
MIN_S = -62_135_596_800.0  # the year 1; Prometheus reports it for a target that was never scraped
MAX_S = 253_402_300_799.0  # the end of the year 9999


def epoch_s(instant: Instant) -> float:
    """Return seconds since the epoch.

    Raises StoreError for a datetime without a time zone, since it could mean several points in
    time, and for anything that is not a time between the years 1 and 9999.
    """
    if isinstance(instant, datetime):
        if instant.tzinfo is None:
            raise StoreError(
                "a datetime has no time zone",
                got=repr(instant),
                fix="use datetime(..., tzinfo=UTC), pd.Timestamp(..., tz='UTC'), or seconds",
            )
        instant = instant.timestamp()
    try:
        seconds = float(instant)
    except (TypeError, ValueError, OverflowError):
        seconds = float("nan")
    if not MIN_S <= seconds <= MAX_S:  # also false for NaN
        raise StoreError(
            "a time is not a finite number of seconds since the epoch",
            got=repr(instant)[:100],
            fix="give seconds (not milliseconds), or a datetime with a time zone",
        )
    return seconds


def window_s(start: Instant, end: Instant) -> tuple[float, float]:
    """Return both ends in seconds since the epoch.

    Raises StoreError if the end lies before the start.
    """
    start_s = epoch_s(start)
    end_s = epoch_s(end)
    if end_s < start_s:
        raise StoreError(
            "the window ends before it starts",
            got=f"start {utc(start_s)}, end {utc(end_s)}",
        )
    return start_s, end_s


def utc(seconds: float) -> str:
    """Format a time in UTC, to the millisecond, for messages."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
