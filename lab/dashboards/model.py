"""Dashboards, rows, panels and queries as plain values; grafana.py turns them into JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["timeseries", "stat", "heatmap", "table"]

GREEN = "green"
YELLOW = "yellow"
RED = "red"


@dataclass(frozen=True)
class Query:
    """A PromQL expression with Grafana's variables.

    `legend` names its series (`{{label}}` is replaced by the label's value); in a table it is the
    title of the query's column. `unit` is the unit of that column.
    """

    expr: str
    legend: str = ""
    unit: str = "short"


@dataclass(frozen=True)
class Panel:
    """One panel.

    - `description`: what the panel shows, and when it misleads.
    - `unit`: Grafana's unit id ('s', 'percentunit', 'reqps', 'short', 'currencyUSD', ...).
    - `thresholds`: (lower bound, colour), in rising order.
    - `needs`: '' if every place has the data; 'gpu', 'cluster' or 'local' if only those have it.
    - `quiet`: why the panel may be empty on a healthy lab under load; '' if it never may.
    - `no_value`: the text that a stat shows instead of an empty value.
    - `exemplars`: whether Grafana queries exemplars for its series.
    - `keys`: in a table, the labels that identify a row: (label, column title).
    - `drill_down`: in a table, the label whose cells set the dashboard variable of that name.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    thresholds: tuple[tuple[float, str], ...] = ()
    needs: str = ""
    quiet: str = ""
    no_value: str = "No traffic"
    stacked: bool = False
    exemplars: bool = False
    width: int = 8  # of Grafana's 24 columns
    keys: tuple[tuple[str, str], ...] = ()
    drill_down: str = ""

    def changed(self, change: Callable[[str], str]) -> Panel:
        """Return the panel with every expression changed."""
        queries = tuple(replace(query, expr=change(query.expr)) for query in self.queries)
        return replace(self, queries=queries)


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice that the reader makes.

    The choices are `options` (text, value), else the values that `query` lists, else free text.
    `default` is the value that applies until the reader chooses.
    """

    name: str
    label: str
    default: str
    query: str = ""
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Dashboard:
    """A dashboard. `name` is its file name; its uid is 'llm-lab-' followed by the name."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()

    @property
    def uid(self) -> str:
        """The uid under which Grafana knows the dashboard."""
        return f"llm-lab-{self.name}"

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, row by row."""
        return tuple(panel for row in self.rows for panel in row.panels)


def expand(expr: str, variables: Mapping[str, str], rate_interval_s: int, range_s: int) -> str:
    """Return the expression with every Grafana variable replaced, as Prometheus accepts it.

    Raises KeyError for a variable that has no value.
    """
    values = {
        **variables,
        "__rate_interval": f"{rate_interval_s}s",
        "__range": f"{range_s}s",
        "__interval": "5s",
    }
    return re.sub(r"\$\{?(\w+)\}?", lambda match: values[match[1]], expr)
