"""Panels as values, and the JSON that is made of them."""

from __future__ import annotations

import json
import re

import pytest

from lab.dashboards import DASHBOARDS, expand, grafana_json, panels
from lab.prices import api_prices, machine_prices
from lab.settings import REPO


def test_variables_are_filled_in() -> None:
    """A panel's expression is plain PromQL: Grafana's variables have their defaults, or what the caller says."""
    for name in DASHBOARDS:
        assert not any("$" in q.expr for p in panels(name) for q in p.queries)
    own = panels("cost", variables={"usd_per_hour": "7"}, range_s=60)
    assert own[0].queries[0].expr.startswith("7 * count(")
    assert any("[60s]" in q.expr for p in own for q in p.queries)
    assert expand("x[$__rate_interval] * ${a}", {"a": "2"}, 20, 60) == "x[20s] * 2"


def test_prices_are_those_of_the_price_list() -> None:
    """Every API has its line, every machine its choice, with the numbers and the days of data/prices."""
    machines, apis = machine_prices(REPO / "data"), api_prices(REPO / "data")
    by_title = {p.title: p for p in DASHBOARDS["cost"].panels}
    bill = {q.legend: q.expr for q in by_title["USD an hour, by the price list"].queries}
    assert bill.keys() == {*apis, "own machines"}
    for name, price in apis.items():
        numbers = [float(x) for x in re.findall(r"(?<![\w.])\d+\.?\d*(?= \*)", bill[name])]
        cached = price.cached_input_usd_per_mtok
        assert numbers[1:] == [
            price.input_usd_per_mtok, price.input_usd_per_mtok if cached is None else cached, price.output_usd_per_mtok,
        ]  # fmt: skip
    (choice,) = [v for v in DASHBOARDS["cost"].variables if v.name == "usd_per_hour"]
    assert [float(value) for _, value in choice.options] == [
        m.usd_per_hour for m in machines.values()
    ]
    assert all(
        str(m.read_on) in text
        for (text, _), m in zip(choice.options, machines.values(), strict=True)
    )
    shown = json.loads(grafana_json("cost"))["templating"]["list"][-1]
    assert shown["type"] == "custom" and shown["query"].count(" : ") == len(machines)


def test_unknown_names_say_which_there_are() -> None:
    """A dashboard or a variable that does not exist."""
    with pytest.raises(KeyError, match="overview"):
        panels("overviev")
    with pytest.raises(KeyError, match="usd_per_hour"):
        panels("cost", variables={"price": "1"})
