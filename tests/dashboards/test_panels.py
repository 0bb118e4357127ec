"""Panels are values, from which the JSON of Grafana's dashboards is generated."""

from __future__ import annotations

import json
import re

import pytest

from lab.dashboards import DASHBOARDS, expand, for_store, grafana_json, panels
from lab.dashboards.rules import rule_groups
from lab.prices import api_prices, machine_prices
from lab.settings import REPO

RECORDED_METRICS = REPO / "data" / "recorded" / "metrics"


def test_variables_are_expanded() -> None:
    """A panel's expression is plain PromQL, with defaults or the caller's values for variables."""
    for name in DASHBOARDS:
        assert not any("$" in q.expr for p in panels(name) for q in p.queries)
    custom = panels("cost", variables={"usd_per_hour": "7"}, range_s=60)
    assert custom[0].queries[0].expr.startswith("7 * count(")
    assert any("[60s]" in q.expr for p in custom for q in p.queries)
    assert expand("x[$__rate_interval] * ${a}", {"a": "2"}, 20, 60) == "x[20s] * 2"


def test_prices_are_those_of_the_price_list() -> None:
    """Every API has a line and every machine an option, with the values of data/prices."""
    machines = machine_prices(REPO / "data")
    apis = api_prices(REPO / "data")
    by_title = {p.title: p for p in DASHBOARDS["cost"].panels}
    bill = {q.legend: q.expr for q in by_title["USD per hour by price list"].queries}
    assert bill.keys() == {*apis, "own machines"}
    for name, price in apis.items():
        numbers = [float(x) for x in re.findall(r"(?<![\w.])\d+\.?\d*(?= \*)", bill[name])]
        cached = price.cached_input_usd_per_mtok
        assert numbers[1:] == [
            price.input_usd_per_mtok,
            price.input_usd_per_mtok if cached is None else cached,
            price.output_usd_per_mtok,
        ]
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


def test_every_time_series_panel_has_a_legend_a_unit_and_a_shared_tooltip() -> None:
    """Lines are named in a legend, axes have units, and one tooltip lists every series."""
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
    """The axis shows whether the bounds of the buckets are seconds or tokens."""
    heatmaps = [p for name in DASHBOARDS for p in _panels_json(name) if p["type"] == "heatmap"]
    assert {p["options"]["yAxis"]["unit"] for p in heatmaps} == {"s", "short"}


def test_a_dashboard_can_be_imported_into_any_grafana() -> None:
    """A variable, instead of a fixed uid, chooses the data source, and ad-hoc filters narrow it."""
    for name in DASHBOARDS:
        dashboard = json.loads(grafana_json(name))
        kinds = [variable["type"] for variable in dashboard["templating"]["list"]]
        assert kinds[0] == "datasource" and kinds[-1] == "adhoc"
        for panel in _panels_json(name):
            assert panel["datasource"]["uid"] == "${datasource}"
            assert {t["datasource"]["uid"] for t in panel["targets"]} == {"${datasource}"}


def test_a_table_has_one_row_per_instance_and_a_link_that_narrows_the_dashboard() -> None:
    """Each query is a column with its title and unit, and the cell of the instance is a link."""
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


def test_empty_stats_show_no_traffic() -> None:
    """A ratio without traffic shows this text instead of a blank or 'NaN'."""
    for panel in _panels_json("vllm"):
        if panel["type"] == "stat":
            defaults = panel["fieldConfig"]["defaults"]
            assert defaults["noValue"] == "No traffic"
            assert defaults["mappings"][0]["options"]["result"]["text"] == "No traffic"


def test_an_error_for_unknown_names_lists_the_known_ones() -> None:
    """An unknown dashboard and an unknown variable raise a KeyError with the known names."""
    with pytest.raises(KeyError, match="overview"):
        panels("overviev")
    with pytest.raises(KeyError, match="usd_per_hour"):
        panels("cost", variables={"price": "1"})


# vLLM's metrics that have no panel, with the reason. Its own dashboards (examples/observability/
# dashboards/grafana: overview, instances, KV cache, speculative decoding) query a part of the rest.
WITHOUT_A_PANEL = {
    "vllm:request_inference_time_seconds": "prefill and decode are shown apart",
    "vllm:request_params_n": "a property of the clients' requests, which the lab never sets",
}


def test_every_metric_that_vllm_exports_has_a_panel_or_a_reason() -> None:
    """Whatever a dashboard of vLLM's queries, ours show, or say why they do not."""
    page = (REPO / "data" / "recorded" / "metrics" / "vllm.prom").read_text()
    exported = {
        name
        for name, kind in re.findall(r"^# TYPE (vllm:\S+) (\w+)$", page, re.MULTILINE)
        if not name.endswith("_created")
    }
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", metric)
        for dashboard in DASHBOARDS.values()
        for panel in dashboard.panels
        for query in panel.queries
        for metric in re.findall(r"vllm:\w+", query.expr)
    }
    assert exported - shown == set(WITHOUT_A_PANEL)


@pytest.mark.parametrize(
    ("stem", "prefix"), [("kserve_vllm:", ""), ("ray_vllm_", ""), ("acme_llm_", "vllm=acme_llm_")]
)
def test_a_dashboard_has_the_names_of_another_store(stem: str, prefix: str) -> None:
    """Every query goes through the maps of lab.engines; a prefix is a parameter."""
    page = (RECORDED_METRICS / "vllm.prom").read_text()
    exported = set(re.findall(r"(?m)^vllm:(\w+)", page))
    names = [stem + name for name in sorted(exported)]
    for name in DASHBOARDS:
        dashboard, left_out = for_store(name, names, prefix)
        used = set(
            re.findall(r"[\w:]+", " ".join(q.expr for p in dashboard.panels for q in p.queries))
        )
        assert not {each for each in used if each.startswith("vllm:")}
        renamed = {each for each in used if each.startswith(stem)}
        assert renamed <= set(names)
        complete = {p.title for p in DASHBOARDS[name].panels} - {p.title for p in dashboard.panels}
        assert complete == set(left_out)
        if name == "vllm":
            assert len(renamed) > 30


def test_a_dashboard_for_another_engine_leaves_out_what_it_does_not_export() -> None:
    """With the reason, never another metric in its place."""
    names = ["sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"]
    dashboard, left_out = for_store("vllm", names)
    exprs = " ".join(query.expr for panel in dashboard.panels for query in panel.queries)
    assert "sglang:num_running_reqs{" in exprs and "sglang:token_usage{" in exprs
    assert "vllm:" not in exprs
    assert any("time_to_first_token" in why for why in left_out.values())


def test_llama_stacks_panels_and_rules_have_ogxs_names_too() -> None:
    """OGX, the newer name of Llama Stack, begins all of its metrics with its own name."""
    expressions = [q.expr for d in DASHBOARDS.values() for p in d.panels for q in p.queries]
    for group in rule_groups()["groups"]:
        expressions += [rule["expr"] for rule in group["rules"]]
    older = [expr for expr in expressions if "llama_stack_" in expr]
    assert len(older) >= 15
    for expr in older:
        assert " or " in expr
        assert expr.count("llama_stack_") == expr.count("ogx_")
