"""Dashboards as code: panels as plain values, and the Grafana JSON that is made of them.

DASHBOARDS                  {name: Dashboard}
panels("vllm", range_s=600) the panels of one with its variables filled in
grafana_json("vllm")        what lab/k8s/dashboards/vllm.json must be
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lab.dashboards import cost, gpu, itself, llama_stack, overview, vllm
from lab.dashboards.model import Dashboard, Panel, Query, expand

__all__ = ["DASHBOARDS", "Dashboard", "Panel", "Query", "expand", "grafana_json", "panels"]

DASHBOARDS: dict[str, Dashboard] = {
    d.name: d for d in (m.DASHBOARD for m in (overview, vllm, llama_stack, gpu, cost, itself))
}


def panels(
    name: str,
    *,
    range_s: int = 1800,
    rate_interval_s: int = 20,
    variables: Mapping[str, str] | None = None,
) -> tuple[Panel, ...]:
    """The panels of a dashboard, row by row, in plain PromQL: variables have their defaults or what is given.

    `rate_interval_s` should be four times the scrape interval, as Grafana has it. Raises KeyError, with the names that
    exist, for a dashboard or a variable that does not.
    """
    if name not in DASHBOARDS:
        raise KeyError(f"there is no dashboard {name!r}; there are {', '.join(DASHBOARDS)}")
    values = {v.name: v.default for v in DASHBOARDS[name].variables}
    if unknown := set(variables or {}) - values.keys():
        raise KeyError(
            f"{name} has no variable {', '.join(sorted(unknown))}; it has {', '.join(values)}"
        )
    values |= variables or {}

    def filled(query: Query) -> Query:
        return replace(query, expr=expand(query.expr, values, rate_interval_s, range_s))

    return tuple(
        replace(p, queries=tuple(filled(q) for q in p.queries)) for p in DASHBOARDS[name].panels
    )


def grafana_json(name: str) -> str:
    """A dashboard as Grafana's JSON. Needs grafana-foundation-sdk."""
    from lab.dashboards.grafana import as_json

    return as_json(DASHBOARDS[name])
