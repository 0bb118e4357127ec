"""Retention: delete spans older than an age, and the oldest ones of a too large database."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from lab.tracestore.store import SpanStore

log = logging.getLogger("lab.tracestore.retention")

_SHARE = 0.1  # of the spans go in one step where the size is too large


@dataclass(frozen=True)
class Retention:
    """None means no limit."""

    max_age_s: float | None = None
    max_bytes: int | None = None


def apply(store: SpanStore, retention: Retention, now_ns: int | None = None) -> int:
    """Delete what is too much; returns the number of spans deleted.

    A late span that is old already goes too.
    """
    deleted = 0
    if retention.max_age_s is not None:
        now_ns = time.time_ns() if now_ns is None else now_ns
        deleted += store.delete_before(max(0, now_ns - round(retention.max_age_s * 10**9)))
    if retention.max_bytes is not None:
        deleted += _shrink(store, retention.max_bytes)
    if deleted:
        log.info("spans forgotten", extra={"spans": deleted})
    return deleted


def _shrink(store: SpanStore, max_bytes: int) -> int:
    deleted = 0
    while store.used_bytes() > max_bytes:
        cutoff = store.quantile_end_ns(_SHARE)
        if cutoff is None:
            break
        gone = store.delete_before(cutoff + 1)
        if gone == 0:
            break
        deleted += gone
    return deleted
