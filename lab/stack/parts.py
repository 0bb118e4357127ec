"""A part of the stack as a value: plan.py says which parts there are, the supervisor runs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# The parts that an agent request passes through, or that record it.
AGENT_PATH = ("tracestore", "prometheus", "vllm", "tools", "llama-stack")


@dataclass(frozen=True)
class Probe:
    """How to find out whether a part is ready: a function of ready.py by name, and its arguments.

    Three kinds have no such function: `exit` (a task is ready when it has ended well), `imported`
    (the zygote reports when it has imported vLLM) and `running` (it is ready once it runs).
    """

    kind: str
    target: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One part: a process, a process forked from another part, or a task that runs once.

    Attributes:
        what: description for `lab status` and error messages
        ports: the ports that it listens on, by their name in ports.PREFERRED; clients use the first
        alive: URL that a live process answers quickly and at no cost; empty where there is none
        base: name of the part that forks this one
        needs: names of the parts that must be ready before this one is started
        task: whether it runs once and ends, instead of serving
        on_demand: whether it is started and stopped by name only (lab.stack.start)
        temporary: whether its end, for any reason, undoes what it changed in the others; it is
            not started again
        reloads: whether it reads its files again on SIGHUP, without a restart
        essential: whether agent requests need it; if it fails at the start, the lab is stopped
        startup_s: how long it may take to become ready
        grace_s: how long it may take to end after SIGTERM
        endpoints: base URLs that it serves, by their name in lab.settings.ENDPOINTS
    """

    name: str
    what: str
    argv: tuple[str, ...]
    ready: Probe
    env: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    alive: str = ""
    base: str = ""
    needs: tuple[str, ...] = ()
    task: bool = False
    on_demand: bool = False
    temporary: bool = False
    reloads: bool = False
    essential: bool = True
    startup_s: float = 300.0
    grace_s: float = 5.0
    endpoints: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int | None:
        """Return the port that clients use."""
        return next(iter(self.ports.values()), None)

    def uses(self, path: str) -> bool:
        """Return whether its command line or environment names this file."""
        return any(path in value for value in (*self.argv, *self.env.values()))
