"""When requests arrive: open-loop processes do not wait for the server, closed-loop users do.

An open-loop process gives the first request of each session its offset from the run's start; how
long the server takes changes nothing about it. With closed-loop users at most `count` requests are
under way, and a slow server lowers the load: that hides queueing, which is why both are here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from lab.errors import WorkloadError


@dataclass(frozen=True)
class Arrivals:
    """Base of the arrival processes."""

    kind: ClassVar[str] = ""
    closed: ClassVar[bool] = False
    may_be_zero: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Raise WorkloadError for a number that is negative, or zero where it may not be."""
        for name, number in asdict(self).items():
            is_number = isinstance(number, (int, float)) and np.isfinite(number)
            may_be_zero = name in self.may_be_zero
            if not is_number or number < 0 or (number == 0 and not may_be_zero):
                rule = "must not be negative" if may_be_zero else "must be above 0"
                raise WorkloadError(
                    f"{name} of the arrival process {self.kind!r} {rule}", got=repr(number)
                )

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Yield ascending offsets in seconds of the sessions' first requests, without end."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """Return the process as `from_dict` reads it."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Constant(Arrivals):
    """A session every 1/rate_per_s seconds."""

    rate_per_s: float
    kind: ClassVar[str] = "constant"

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Return equally spaced offsets."""
        return (i / self.rate_per_s for i in itertools.count())


@dataclass(frozen=True)
class Poisson(Arrivals):
    """Independent arrivals, `rate_per_s` per second on average: exponential gaps."""

    rate_per_s: float
    kind: ClassVar[str] = "poisson"

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Return offsets with exponential gaps."""
        return _exponential(self.rate_per_s, rng)


@dataclass(frozen=True)
class Burst(Arrivals):
    """Poisson arrivals: `rate_per_s` for `on_s`, `quiet_rate_per_s` for `off_s`, repeated."""

    rate_per_s: float
    on_s: float
    off_s: float
    quiet_rate_per_s: float = 0.0
    kind: ClassVar[str] = "burst"
    may_be_zero: ClassVar[tuple[str, ...]] = ("quiet_rate_per_s",)

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Yield offsets, burst by burst."""
        period = self.on_s + self.off_s
        for cycle in itertools.count():
            start = cycle * period
            yield from _within(start, start + self.on_s, self.rate_per_s, rng)
            yield from _within(start + self.on_s, start + period, self.quiet_rate_per_s, rng)


@dataclass(frozen=True)
class Ramp(Arrivals):
    """Poisson arrivals whose rate changes linearly for `ramp_s`, and then stays.

    It shows where the server stops keeping up.
    """

    start_rate_per_s: float
    end_rate_per_s: float
    ramp_s: float
    kind: ClassVar[str] = "ramp"
    may_be_zero: ClassVar[tuple[str, ...]] = ("start_rate_per_s",)

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Yield candidates at the highest rate, each kept with probability rate(t) / highest.

        This is thinning (Lewis and Shedler 1979).
        """
        highest = max(self.start_rate_per_s, self.end_rate_per_s)
        for t in _exponential(highest, rng):
            share = min(1.0, t / self.ramp_s)
            rate = self.start_rate_per_s + (self.end_rate_per_s - self.start_rate_per_s) * share
            if rng.random() * highest < rate:
                yield t


@dataclass(frozen=True)
class Users(Arrivals):
    """Closed loop: `count` users send, read the answer, think (mean `think_s`), repeat.

    They do not all start at once: their first requests are spread evenly over `start_over_s`.
    """

    count: int
    think_s: float = 0.0
    start_over_s: float = 0.0
    kind: ClassVar[str] = "users"
    closed: ClassVar[bool] = True
    may_be_zero: ClassVar[tuple[str, ...]] = ("think_s", "start_over_s")

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Return the start of each user."""
        return (i * self.start_over_s / self.count for i in range(self.count))


KINDS: dict[str, type[Arrivals]] = {c.kind: c for c in (Constant, Poisson, Burst, Ramp, Users)}


def from_dict(value: dict[str, Any]) -> Arrivals:
    """Return the process that `as_dict` described. Raises WorkloadError for another one."""
    settings = dict(value)
    kind = settings.pop("kind", None)
    if kind not in KINDS:
        raise WorkloadError(
            f"there is no arrival process {kind!r}", fix=f"use one of {', '.join(KINDS)}"
        )
    try:
        return KINDS[kind](**settings)
    except TypeError as e:
        raise WorkloadError(
            f"the arrival process {kind!r} is malformed", got=f"{settings}: {e}"
        ) from e


def _exponential(rate: float, rng: np.random.Generator) -> Iterator[float]:
    t = 0.0
    while True:
        t += rng.exponential(1 / rate)
        yield t


def _within(start: float, end: float, rate: float, rng: np.random.Generator) -> Iterator[float]:
    if rate > 0:
        yield from itertools.takewhile(
            lambda t: t < end, (start + t for t in _exponential(rate, rng))
        )
