"""Queues whose truth is known, simulated without a clock."""

from __future__ import annotations

import heapq

import numpy as np


def shared_processor(arrivals: np.ndarray, work: np.ndarray, speed) -> np.ndarray:
    """When each request ends: n in the system are served at once,
    together with `speed(n)` units of work a second.
    """
    now, done, at, waiting = 0.0, np.full(len(arrivals), np.nan), 0, []
    attained = 0.0  # work that each request in the system has had since the beginning: equal shares
    while at < len(arrivals) or waiting:
        n = len(waiting)
        next_arrival = arrivals[at] if at < len(arrivals) else np.inf
        if n:
            ends = now + (waiting[0][0] - attained) * n / speed(n)
        if n and ends <= next_arrival:
            attained, now = waiting[0][0], ends
            done[heapq.heappop(waiting)[1]] = now
        else:
            attained += (next_arrival - now) * speed(n) / n if n else 0.0
            now = next_arrival
            heapq.heappush(waiting, (attained + work[at], at))
            at += 1
    return done
