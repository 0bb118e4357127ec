"""When requests arrive: open-loop processes do not wait for the server, closed-loop users do.

An open-loop process gives the first request of each session its offset from the run's start; how
long the server takes changes nothing about it. With closed-loop users at most `count` requests are
under way, and a slow server lowers the load: that hides queueing, which is why both are here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import ClassVar

import msgspec
import numpy as np

from lab.errors import WorkloadError


class Arrivals(msgspec.Struct, frozen=True, tag_field="kind", tag=str.lower):
    """Base of the arrival processes, which are saved by their `kind` and numbers."""

    closed: ClassVar[bool] = False
    may_be_zero: ClassVar[tuple[str, ...]] = ()

    @property
    def kind(self) -> str:
        """Return the name of the process, as in `lab load --arrivals KIND:...`."""
        return type(self).__name__.lower()

    def __post_init__(self) -> None:
        """Raise WorkloadError for a number that is negative, or zero where it may not be."""
        for name, number in msgspec.structs.asdict(self).items():
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


class Constant(Arrivals, frozen=True):
    """A session every 1/rate_per_s seconds."""

    rate_per_s: float

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Return equally spaced offsets."""
        return (i / self.rate_per_s for i in itertools.count())


class Poisson(Arrivals, frozen=True):
    """Independent arrivals, `rate_per_s` per second on average: exponential gaps."""

    rate_per_s: float

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Return offsets with exponential gaps."""
        return _exponential(self.rate_per_s, rng)


class Burst(Arrivals, frozen=True):
    """Poisson arrivals: `rate_per_s` for `on_s`, `quiet_rate_per_s` for `off_s`, repeated."""

    rate_per_s: float
    on_s: float
    off_s: float
    quiet_rate_per_s: float = 0.0
    may_be_zero: ClassVar[tuple[str, ...]] = ("quiet_rate_per_s",)

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Yield offsets, burst by burst."""
        period = self.on_s + self.off_s
        for cycle in itertools.count():
            start = cycle * period
            yield from _within(start, start + self.on_s, self.rate_per_s, rng)
            yield from _within(start + self.on_s, start + period, self.quiet_rate_per_s, rng)


class Ramp(Arrivals, frozen=True):
    """Poisson arrivals whose rate changes linearly for `ramp_s`, and then stays.

    It shows where the server stops keeping up.
    """

    start_rate_per_s: float
    end_rate_per_s: float
    ramp_s: float
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


class Users(Arrivals, frozen=True):
    """Closed loop: `count` users send, read the answer, think (mean `think_s`), repeat.

    They do not all start at once: their first requests are spread evenly over `start_over_s`.
    """

    count: int
    think_s: float = 0.0
    start_over_s: float = 0.0
    closed: ClassVar[bool] = True
    may_be_zero: ClassVar[tuple[str, ...]] = ("think_s", "start_over_s")

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Return the start of each user."""
        return (i * self.start_over_s / self.count for i in range(self.count))


Process = Constant | Poisson | Burst | Ramp | Users
KINDS: dict[str, Callable[..., Process]] = {
    "constant": Constant,
    "poisson": Poisson,
    "burst": Burst,
    "ramp": Ramp,
    "users": Users,
}


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
