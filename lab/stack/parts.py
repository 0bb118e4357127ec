"""What a part of the stack is, as a value. The supervisor runs what these say; plan.py says what there is."""

from __future__ import annotations

from dataclasses import dataclass, field

AGENT_PATH = ("tracestore", "prometheus", "vllm", "tools", "llama-stack")


@dataclass(frozen=True)
class Probe:
    """How to know that a part really answers. `kind` is a function of ready.py, `target` what it is asked with."""

    kind: str
    target: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One part: a process, a process forked from another part, or a task that runs once and ends well."""

    name: str
    what: str  # for people
    argv: tuple[str, ...]
    ready: Probe
    env: dict[str, str] = field(default_factory=dict)
    port: int | None = None
    base: str = ""  # the part that forks it
    needs: tuple[str, ...] = ()  # parts that must be ready before this one is started
    task: bool = False
    on_demand: bool = False  # started and stopped by name only (lab.stack.start)
    essential: bool = True  # an agent request needs it: if it fails at the start, nothing stays up
    startup_s: float = 300.0  # how long it may take until it is ready
    grace_s: float = 5.0  # how long it may take to end when asked to
    endpoints: dict[str, str] = field(default_factory=dict)  # name in settings -> base URL
