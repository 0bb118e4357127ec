"""LLM Observability Lab: stand up a real serving stack, drive it, and read its telemetry in pandas.

    import lab
    from lab import cost, figures, latency      # ... capacity, quality, utilisation

    settings = lab.stand_up()
    run = lab.drive(settings, n_requests=60)
    seen = lab.observe(run, settings)           # the analyses take this Observation

Importing this package only makes names available; each is loaded when it is first used.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "LabError": "lab.errors",
    "Observation": "lab.observation",
    "Poisson": "lab.workload",
    "Prometheus": "lab.stores",
    "Settings": "lab.settings",
    "Tempo": "lab.stores",
    "Users": "lab.workload",
    "check": "lab.exercises",
    "compare": "lab.comparison",
    "drive": "lab.observation",
    "headline": "lab.headlines",
    "live_view": "lab.notebook",
    "load_settings": "lab.settings",
    "make_plan": "lab.workload",
    "make_scenarios": "lab.workload",
    "observe": "lab.observation",
    "plan_of": "lab.workload",
    "run_plan": "lab.workload",
    "stand_up": "lab.places",
    "trace_tree": "lab.frames",
}
_MODULES = (
    "capacity",
    "comparison",
    "cost",
    "dashboards",
    "engines",
    "figures",
    "fleet",
    "frames",
    "incidents",
    "latency",
    "measures",
    "places",
    "quality",
    "utilisation",
)

__all__ = sorted((*_MODULE_OF, *_MODULES))


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"lab.{name}")
    if name not in _MODULE_OF:
        names = ", ".join(__all__)
        raise AttributeError(f"module 'lab' has no attribute {name!r}; it offers {names}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
