"""Dashboards as code: panels as plain values, and the Grafana JSON that is made from them.

- `DASHBOARDS`: every dashboard by name.
- `panels(name)`: the panels of one, with all variables replaced, in plain PromQL.
- `grafana_json(name)`: the content of `lab/k8s/dashboards/<name>.json`.
- `for_store(name, names)`: a dashboard with the names of another Prometheus, by lab.engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lab.dashboards import cost, gpu, llama_stack, overview, self_monitoring, vllm
from lab.dashboards.model import Dashboard, Panel, Query, expand
from lab.engines import either_name, renamed
from lab.errors import NoData

__all__ = [
    "DASHBOARDS",
    "Dashboard",
    "Panel",
    "Query",
    "expand",
    "for_store",
    "grafana_json",
    "panels",
]


def _with_either_name(dashboard: Dashboard) -> Dashboard:
    rows = []
    for row in dashboard.rows:
        panels = tuple(panel.changed(either_name) for panel in row.panels)
        rows.append(replace(row, panels=panels))
    return replace(dashboard, rows=tuple(rows))


DASHBOARDS: dict[str, Dashboard] = {
    module.DASHBOARD.name: _with_either_name(module.DASHBOARD)
    for module in (overview, vllm, llama_stack, gpu, cost, self_monitoring)
}


def panels(
    name: str,
    *,
    range_s: int = 1800,
    rate_interval_s: int = 20,
    variables: Mapping[str, str] | None = None,
) -> tuple[Panel, ...]:
    """Return a dashboard's panels, row by row, with `variables` or their defaults filled in.

    `rate_interval_s` should be four times the scrape interval, as in Grafana. Raises KeyError,
    naming the valid choices, for an unknown dashboard or variable.
    """
    if name not in DASHBOARDS:
        raise KeyError(f"there is no dashboard {name!r}; choose one of {', '.join(DASHBOARDS)}")

    dashboard = DASHBOARDS[name]
    values = {variable.name: variable.default for variable in dashboard.variables}
    unknown = set(variables or {}) - values.keys()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise KeyError(f"{name} has no variable {names}; it has {', '.join(values)}")
    values |= variables or {}

    def filled(expr: str) -> str:
        return expand(expr, values, rate_interval_s, range_s)

    return tuple(panel.changed(filled) for panel in dashboard.panels)


def grafana_json(name: str, *, local: bool = False) -> str:
    """Return a dashboard as Grafana's JSON, with the panels of a cluster or of a local lab.

    Needs grafana-foundation-sdk.
    """
    from lab.dashboards.grafana import as_json

    return as_json(DASHBOARDS[name], local=local)


def for_store(
    name: str, names: Sequence[str], prefix: str = ""
) -> tuple[Dashboard, dict[str, str]]:
    """Return a dashboard with the names of a store, and {panel: why it is left out}.

    `names` are the store's metrics. `prefix` is LAB_METRIC_PREFIX: what stands before the engine's
    own names, where it cannot be guessed. Queries of other exporters stay as they are.
    """
    dashboard = DASHBOARDS[name]
    rows = []
    left_out = {}
    for row in dashboard.rows:
        kept = []
        for panel in row.panels:
            try:
                kept.append(panel.changed(lambda expr: renamed(expr, names, prefix)))
            except NoData as e:
                left_out[panel.title] = e.happened
        if kept:
            rows.append(replace(row, panels=tuple(kept)))
    variables = []
    for variable in dashboard.variables:
        try:
            variables.append(replace(variable, query=renamed(variable.query, names, prefix)))
        except NoData:
            variables.append(replace(variable, query="", options=()))
    return replace(dashboard, rows=tuple(rows), variables=tuple(variables)), left_out
