"""Panels as values, and the figures that are made of them."""

from __future__ import annotations

import json
import re

import matplotlib
import pytest

from lab import figures
from lab.dashboards import DASHBOARDS, Panel, Query, expand, grafana_json, panels
from lab.errors import FrameError
from lab.prices import api_prices, machine_prices
from lab.settings import REPO

matplotlib.use("Agg")


def _answer(**series: list[float]) -> list[dict]:
    values = {name: [[1000.0 + i, str(v)] for i, v in enumerate(vs)] for name, vs in series.items()}
    return [
        {"metric": {"le": name.removeprefix("le_"), "job": name}, "values": v}
        for name, v in values.items()
    ]


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
    bill = {q.legend: q.expr for q in by_title["USD per hour by price list"].queries}
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
    variables = {v["name"]: v for v in json.loads(grafana_json("cost"))["templating"]["list"]}
    shown = variables["usd_per_hour"]
    assert shown["type"] == "custom" and shown["query"].count(" : ") == len(machines)


def _panels_json(name: str) -> list[dict]:
    return [p for p in json.loads(grafana_json(name))["panels"] if p["type"] != "row"]


def test_every_time_series_panel_has_a_legend_a_unit_and_a_tooltip_of_all_series() -> None:
    """Lines can be told apart, axes have units, and one tooltip lists every series."""
    for name in DASHBOARDS:
        for panel in _panels_json(name):
            if panel["type"] != "timeseries":
                continue
            assert panel["options"]["legend"]["showLegend"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["options"]["tooltip"]["mode"] == "multi", panel["title"]
            if len(panel["targets"]) > 1:
                assert panel["options"]["legend"]["calcs"] == ["mean", "max", "lastNotNull"]


def test_heatmaps_have_a_unit_on_their_y_axis() -> None:
    """The buckets' bounds are seconds or tokens, and the axis says which."""
    heatmaps = [p for name in DASHBOARDS for p in _panels_json(name) if p["type"] == "heatmap"]
    assert {p["options"]["yAxis"]["unit"] for p in heatmaps} == {"s", "short"}


def test_a_dashboard_can_be_imported_into_any_grafana() -> None:
    """No panel names a data source of ours: a variable chooses it, and ad-hoc filters narrow it."""
    for name in DASHBOARDS:
        dashboard = json.loads(grafana_json(name))
        kinds = [variable["type"] for variable in dashboard["templating"]["list"]]
        assert kinds[0] == "datasource" and kinds[-1] == "adhoc"
        for panel in _panels_json(name):
            assert panel["datasource"]["uid"] == "${datasource}"
            assert {t["datasource"]["uid"] for t in panel["targets"]} == {"${datasource}"}


def test_a_table_has_one_row_per_instance_and_a_link_that_narrows_the_dashboard() -> None:
    """Each query becomes a column under its own title and unit; the instance's cell is a link."""
    (table,) = [p for p in _panels_json("vllm") if p["title"] == "Instances"]
    organize = table["transformations"][1]["options"]
    order = sorted(organize["indexByName"], key=organize["indexByName"].get)
    titles = [organize["renameByName"][name] for name in order]
    assert titles[:4] == ["Model", "Instance", "Engines", "Running"]
    assert len(titles) == 2 + len(table["targets"])
    assert all(t["format"] == "table" and t["instant"] for t in table["targets"])
    overrides = {
        o["matcher"]["options"]: o["properties"] for o in table["fieldConfig"]["overrides"]
    }
    assert overrides["KV cache (max)"][0] == {"id": "unit", "value": "percentunit"}
    assert "var-instance=${__value.raw}" in overrides["Instance"][0]["value"][0]["url"]


def test_empty_stats_say_no_traffic() -> None:
    """A ratio without traffic is named, neither blank nor 'NaN'."""
    for panel in _panels_json("vllm"):
        if panel["type"] == "stat":
            defaults = panel["fieldConfig"]["defaults"]
            assert defaults["noValue"] == "No traffic"
            assert defaults["mappings"][0]["options"]["result"]["text"] == "No traffic"


def test_unknown_names_say_which_there_are() -> None:
    """A dashboard or a variable that does not exist."""
    with pytest.raises(KeyError, match="overview"):
        panels("overviev")
    with pytest.raises(KeyError, match="usd_per_hour"):
        panels("cost", variables={"price": "1"})


def test_a_dashboard_is_one_figure() -> None:
    """A drawn axes for each panel of this place, those for elsewhere left out."""
    chosen = panels("overview")
    figure = figures.dashboard(chosen, lambda expr, start, end: _answer(a=[1, 2, 3]), 1000, 1003)
    drawn = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title(loc="left") or ax.get_title() for ax in drawn] == [p.title for p in chosen]
    assert all(ax.lines or ax.collections for ax in drawn)
    matplotlib.pyplot.close(figure)


def test_a_panel_without_data_says_so() -> None:
    """An empty panel never looks like a flat line at zero; NaN alone is no data."""
    panel = Panel("Calls", "What it means.", (Query("x"),), quiet="no call was made")
    for answer in ([], _answer(a=[float("nan")])):
        ax = figures.dashboard_panel(panel, [answer], ax=matplotlib.pyplot.figure().subplots())
        assert "no data" in ax.texts[0].get_text() and "no call was made" in ax.texts[0].get_text()
    matplotlib.pyplot.close("all")


def test_units_and_legends_are_for_people() -> None:
    """Shares are percents; a legend takes its labels."""
    panel = Panel("Share", "What it means.", (Query("x", "job {{job}}"),), unit="percentunit")
    ax = figures.dashboard_panel(
        panel, [_answer(a=[0.5, 0.25])], ax=matplotlib.pyplot.figure().subplots()
    )
    assert list(ax.lines[0].get_ydata()) == [50.0, 25.0] and ax.get_ylabel() == "%"
    assert ax.get_legend().get_texts()[0].get_text() == "job a"
    matplotlib.pyplot.close("all")


def test_a_line_at_zero_and_a_line_at_the_top_can_be_seen() -> None:
    """No error looks like a line at zero, not like a frame; a hundred percent is not cut off."""
    for values, low, high in (([0, 0], -0.03, 1.12), ([100, 90], -3, 112)):
        panel = Panel("Share", "What it means.", (Query("x"),))
        ax = figures.dashboard_panel(
            panel, [_answer(a=values)], ax=matplotlib.pyplot.figure().subplots()
        )
        assert ax.get_ylim() == pytest.approx((low, high))
    matplotlib.pyplot.close("all")


def test_a_legend_names_the_largest_and_counts_the_rest() -> None:
    """Twelve tools: eight names, and that there are four more. A stack leaves out what was never there."""
    many = _answer(**{f"t{i:02d}": [i, i] for i in range(12)})
    panel = Panel("Calls", "What it means.", (Query("x", "{{job}}"),))
    ax = figures.dashboard_panel(panel, [many], ax=matplotlib.pyplot.figure().subplots())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        f"t{i:02d}" for i in range(4, 12)
    ]
    assert ax.get_legend().get_title().get_text() == "and 4 more"
    panel = Panel("Calls", "What it means.", (Query("x", "{{job}}"),), stacked=True)
    ax = figures.dashboard_panel(
        panel, [_answer(a=[0, 0], b=[1, 2])], ax=matplotlib.pyplot.figure().subplots()
    )
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["b"]
    matplotlib.pyplot.close("all")


def test_a_heatmap_takes_cumulative_buckets_apart() -> None:
    """Prometheus' buckets count everything below their bound; a cell counts only its own."""
    panel = Panel("Heat", "What it means.", (Query("x", "{{le}}"),), kind="heatmap")
    answer = _answer(le_2=[3, 3], le_1=[1, 0], **{"le_+Inf": [3, 3]})
    ax = figures.dashboard_panel(panel, [answer], ax=matplotlib.pyplot.figure().subplots())
    assert ax.collections[0].get_array().filled(0).tolist() == [[1, 0], [2, 3]]
    matplotlib.pyplot.close("all")


def test_a_dashboard_for_another_place_is_an_error() -> None:
    """The GPU dashboard has nothing to draw without a GPU, and says so."""
    with pytest.raises(FrameError, match="no panel"):
        figures.dashboard(panels("gpu"), lambda *a: [], 0, 1)
