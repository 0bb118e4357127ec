"""Little's law as a check of measurements, without the excuse of wide intervals: exact books, a paired comparison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.errors import FrameError


@dataclass(frozen=True)
class LittlesLaw:
    """L = λW over a finite window, with what its edges owe (Little & Graves 2008, section 5.2).

    `mean_in_system` is the exact integral of the number in the system over the window, divided by its length;
    `arrivals_per_s` * `mean_time_s` (arrivals in the window, their whole times) is λW. What differs is due to requests
    that were there before the window (`before`: their time inside) and time after it of those that arrived in it
    (`after`), both a second of the window. `rest` = mean_in_system - (λW + before - after) must be mere rounding.
    """

    mean_in_system: float
    arrivals_per_s: float
    mean_time_s: float
    before: float
    after: float
    rest: float
    n: int

    @property
    def lambda_w(self) -> float:
        return self.arrivals_per_s * self.mean_time_s


def littles_law(start: np.ndarray, end: np.ndarray, window: tuple[float, float]) -> LittlesLaw:
    """Both sides of Little's law from the same requests. The integral is taken over the step function of how many were
    under way, not over the requests, so that an error in either shows in `rest`. NaN (never sent) is left out.

    Raises FrameError for a window without a request.
    """
    start, end = _real(start, end)
    # From the window's beginning: seconds since the epoch leave a float only tenths of a microsecond.
    start, end, first, last = start - window[0], end - window[0], 0.0, window[1] - window[0]
    arrived = (start >= first) & (start < last)
    if not arrived.any() or not last > first:
        raise FrameError(
            "no request arrived in this window",
            got=f"{window[0]} to {window[1]}, {len(start)} requests",
        )
    span_s = last - first
    mean_time = float((end - start)[arrived].mean())
    rate = arrived.sum() / span_s
    earlier = start < first
    before = float(np.clip(np.minimum(end, last) - first, 0, None)[earlier].sum()) / span_s
    after = float(np.clip(end - last, 0, None)[arrived].sum()) / span_s
    mean_in = _integral(start, end, first, last) / span_s
    rest = mean_in - (rate * mean_time + before - after)
    return LittlesLaw(mean_in, float(rate), mean_time, before, after, rest, int(arrived.sum()))


def in_flight_at(start: np.ndarray, end: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How many requests were under way at these instants (started at or before, not yet ended)."""
    start, end = _real(start, end)
    instants = np.asarray(at, dtype=float)
    return np.searchsorted(np.sort(start), instants, "right") - np.searchsorted(
        np.sort(end), instants, "right"
    )


def _integral(start: np.ndarray, end: np.ndarray, first: float, last: float) -> float:
    """Area under the step function of requests under way, between two instants."""
    at = np.concatenate((start, end))
    step = np.concatenate((np.ones(len(start)), -np.ones(len(end))))
    order = np.argsort(at, kind="stable")
    at, level = at[order], np.cumsum(step[order])
    edges = np.clip(np.append(at, last), first, last)
    return float((level * np.diff(edges)).sum())


def _real(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    there = ~(np.isnan(start) | np.isnan(end))
    return start[there], end[there]
