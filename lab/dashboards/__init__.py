"""Dashboards as code: panels as plain values, and the Grafana JSON that is made of them.

    DASHBOARDS                 {name: Dashboard}
    panels("vllm")             the panels of one, for lab.figures.dashboard
    grafana_json("vllm")       what lab/k8s/dashboards/vllm.json must be
"""

from __future__ import annotations

from lab.dashboards import cost, gpu, itself, llama_stack, overview, vllm
from lab.dashboards.model import Dashboard, Panel, Query, expand

__all__ = ["DASHBOARDS", "Dashboard", "Panel", "Query", "expand", "grafana_json", "panels"]

DASHBOARDS: dict[str, Dashboard] = {
    d.name: d for d in (m.DASHBOARD for m in (overview, vllm, llama_stack, gpu, cost, itself))
}


def panels(name: str) -> tuple[Panel, ...]:
    """The panels of a dashboard, row by row. Raises KeyError, with the names that exist, for one that does not."""
    if name not in DASHBOARDS:
        raise KeyError(f"there is no dashboard {name!r}; there are {', '.join(DASHBOARDS)}")
    return DASHBOARDS[name].panels


def grafana_json(name: str) -> str:
    """A dashboard as Grafana's JSON. Needs grafana-foundation-sdk."""
    from lab.dashboards.grafana import as_json

    return as_json(DASHBOARDS[name])
