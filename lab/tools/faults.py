"""Faults on purpose: which tool is slow, and which fails how often; changeable at run time."""

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lab.errors import WorldError
from lab.world import catalogue, facts

MAX_DELAY_S = 120.0
ALL_TOOLS = "*"


@dataclass(frozen=True)
class Fault:
    """Seconds to wait before a call, and the share of calls whose upstream times out."""

    delay_s: float = 0.0
    error_ratio: float = 0.0


@dataclass(frozen=True)
class Lease(Fault):
    """What an incident changes until `expires_at`, unless it renews the lease before.

    The fault goes away with the incident's process, however that ends. It is neither listed nor
    named in spans, because an incident may be hidden.

    Attributes:
        tool: the tool that has the fault, or ALL_TOOLS
        stale_ratio: share of calls that get the answer to an earlier call with other arguments
        lost_spans_ratio: share of this server's spans that are not sent
        clock_skew_s: seconds by which the times of this server's spans are wrong
        expires_at: on the clock of the Faults, in seconds
    """

    tool: str = ALL_TOOLS
    stale_ratio: float = 0.0
    lost_spans_ratio: float = 0.0
    clock_skew_s: float = 0.0
    expires_at: float = 0.0


@dataclass(frozen=True)
class Draw:
    """What happens to one call: seconds to wait, whether it fails, whether the answer is stale.

    `shown_s` is the part of the delay that spans may name.
    """

    delay_s: float = 0.0
    fails: bool = False
    stale: bool = False
    shown_s: float = 0.0


class Faults:
    """The fault of every tool. Draws are seeded: the same calls in the same order fail again.

    For one thread, the event loop's; others may read the lease, which is replaced as a whole.
    """

    def __init__(
        self,
        *,
        slow_s: float,
        failure_ratio: float,
        seed: int = facts.WORLD_SEED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usual = {
            tool.name: Fault(slow_s if tool.slow else 0.0, failure_ratio if tool.flaky else 0.0)
            for tool in catalogue.MCP_TOOLS
        }
        for fault in self._usual.values():
            _check(fault)
        self._now = dict(self._usual)
        self._draws = {name: random.Random(f"{seed} {name}") for name in self._usual}
        self._clock = clock
        self._lease = Lease()

    def of(self, tool: str) -> Draw:
        """Return what happens to the next call of a tool."""
        fault = self._now.get(tool, Fault())
        draw = self._draws[tool].random() if tool in self._draws else 1.0
        lease = self.lease()
        if lease.tool not in (tool, ALL_TOOLS):
            lease = Lease()
        return Draw(
            delay_s=fault.delay_s + lease.delay_s,
            fails=draw < max(fault.error_ratio, lease.error_ratio),
            stale=draw < lease.stale_ratio,
            shown_s=fault.delay_s,
        )

    def lease(self) -> Lease:
        """Return what an incident changes now; a Lease of zeros without one."""
        lease = self._lease
        return lease if self._clock() < lease.expires_at else Lease()

    def set_lease(self, for_s: float, **values: Any) -> None:
        """Replace the lease; with `for_s` 0, end it. Raises WorldError for a value out of range."""
        lease = Lease(**values, expires_at=self._clock() + for_s)
        _check(lease)
        if lease.tool != ALL_TOOLS and lease.tool not in self._now:
            raise WorldError(f"there is no tool {lease.tool!r}")
        self._lease = lease

    def set(
        self, tool: str, *, delay_s: float | None = None, error_ratio: float | None = None
    ) -> None:
        """Change a tool's fault; None leaves a value as it is.

        Raises WorldError for an unknown tool or a value out of range.
        """
        if tool not in self._now:
            raise WorldError(f"there is no tool {tool!r}", fix=f"use one of {', '.join(self._now)}")
        old = self._now[tool]
        new = Fault(
            old.delay_s if delay_s is None else delay_s,
            old.error_ratio if error_ratio is None else error_ratio,
        )
        _check(new)
        self._now[tool] = new

    def reset(self) -> None:
        """Return to the faults that the server was started with."""
        self._now = dict(self._usual)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return {tool: {delay_s, error_ratio}} as it is now."""
        return {name: asdict(fault) for name, fault in self._now.items()}


def _check(fault: Fault) -> None:
    for name, value, top in (
        ("delay_s", fault.delay_s, MAX_DELAY_S),
        ("error_ratio", fault.error_ratio, 1.0),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= top:
            raise WorldError(
                f"{name} of a fault is out of range",
                got=repr(value),
                fix=f"use a number from 0 to {top:g}",
            )
