"""LLM Observability Lab: stand up a real serving stack, drive it, and read its telemetry in pandas.

Importing this package does nothing but make names available; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

# The face of the package: what the notebooks use. name -> module that defines it.
_FACE = {
    "LabError": "lab.errors",
    "Settings": "lab.settings",
    "load_settings": "lab.settings",
    "check": "lab.exercise",
    "up": "lab.stack",
    "down": "lab.stack",
    "require": "lab.stack",
    "make_scenarios": "lab.workload",
    "make_plan": "lab.workload",
    "plan_of": "lab.workload",
    "run_plan": "lab.workload",
    "Poisson": "lab.workload",
    "Users": "lab.workload",
    "Prometheus": "lab.stores",
    "Tempo": "lab.stores",
    "series_frame": "lab.frames",
    "trace_tree": "lab.frames",
    "turn_frame": "lab.frames",
    "stand_up": "lab.kit",
    "drive": "lab.kit.driving",
    "known": "lab.kit.window",
    "fresh_tokens": "lab.kit.window",
    "observe": "lab.kit",
    "status_frame": "lab.kit",
    "tools_frame": "lab.kit",
    "run_shards": "lab.kit.clusters",
    "durations_by_source": "lab.kit",
    "counter_totals": "lab.kit",
    "histogram": "lab.kit",
    "busy_s": "lab.kit",
    "listed": "lab.kit",
    "outline": "lab.kit",
    "output_items": "lab.kit",
    "phase_seconds": "lab.kit",
    "engine_turns": "lab.kit.cost",
    "with_busy_time": "lab.kit.cost",
    "needed_turns": "lab.kit.cost",
    "reconcile": "lab.kit.cost",
    "finished_calls": "lab.kit.cost",
    "energy": "lab.kit.cost",
    "watched_drive": "lab.kit.utilisation",
    "sources": "lab.kit.utilisation",
    "of_vllm": "lab.kit.scrapes",
    "raw": "lab.kit.utilisation",
    "engine_work": "lab.kit.utilisation",
    "steps": "lab.kit.utilisation",
    "cpu_by_source": "lab.kit.utilisation",
    "gpus": "lab.kit.utilisation",
    "measured_peak": "lab.kit.peak",
    "parameters_of": "lab.kit.peak",
    "chat_calls": "lab.kit.latency",
    "critical_trees": "lab.kit.latency",
    "prefix_probe": "lab.kit.latency",
    "probe_slopes": "lab.kit.latency",
    "run_levels": "lab.kit.capacity",
    "fit_rounds": "lab.kit.capacity",
    "engine_parts": "lab.kit.capacity",
    "sweep_rates": "lab.kit.capacity",
    "sweep": "lab.kit.capacity",
    "predict_latency": "lab.kit.capacity",
    "gauge_samples": "lab.kit.capacity",
    "backlog_lines": "lab.kit.capacity",
    "predict_slo_attainment": "lab.kit.capacity",
    "polled_level": "lab.kit.polling",
    "engine_pressure": "lab.kit.capacity",
    "argument_frame": "lab.kit.quality",
    "calls_by_source": "lab.kit.quality",
    "canary_served": "lab.kit.quality",
    "judged": "lab.kit.quality",
    "machine_prices": "lab.prices",
    "api_prices": "lab.prices",
}
_MODULES = ("figures", "measures")

__all__ = sorted((*_FACE, *_MODULES))


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"lab.{name}")
    if name not in _FACE:
        raise AttributeError(
            f"module 'lab' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return __all__
