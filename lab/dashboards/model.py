"""Panels as plain values, from which Grafana's JSON is made (grafana.py)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["timeseries", "stat", "heatmap"]

GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Query:
    """A PromQL expression with Grafana's variables, and the legend of its series (`{{label}}` is filled in)."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel. `description` says what it means and when it lies.

    unit: Grafana's id ('s', 'percentunit', 'reqps', 'short', 'currencyUSD', ...). thresholds: (from, colour), rising.
    needs: '' where every place shows it; 'gpu', 'cluster' or 'local' where only those have its source.
    quiet: why it may have nothing to show on a healthy lab under load; '' if it never may.
    exemplars: its series carry exemplars, so Grafana asks for them.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    thresholds: tuple[tuple[float, str], ...] = ()
    needs: str = ""
    quiet: str = ""
    stacked: bool = False
    exemplars: bool = False
    width: int = 8  # of 24


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice of the reader: from `options` (what is shown, value), from what `query` lists, else a text to type.

    `default` is the value that fits where none is made.
    """

    name: str
    label: str
    default: str
    query: str = ""
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Dashboard:
    """A dashboard: `name` is its file and its uid (with 'llm-lab-' before it)."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, row by row."""
        return tuple(p for row in self.rows for p in row.panels)


def expand(expr: str, variables: Mapping[str, str], rate_interval_s: int, range_s: int) -> str:
    """The expression with every variable filled in, as Prometheus takes it.

    Raises KeyError for a variable that has no value.
    """
    values = {
        **variables,
        "__rate_interval": f"{rate_interval_s}s",
        "__range": f"{range_s}s",
        "__interval": "5s",
    }
    return re.sub(r"\$\{?(\w+)\}?", lambda m: values[m[1]], expr)
