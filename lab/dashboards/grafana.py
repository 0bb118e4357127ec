"""Dashboards as Grafana's JSON, built with grafana-foundation-sdk.

The JSON can be imported into any Grafana: the data source is a variable, and ad-hoc filters narrow
every query of a dashboard.
"""

from __future__ import annotations

from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from lab.dashboards.model import Dashboard, Panel, Query, Variable

DATA_SOURCE = "prometheus"  # the uid that lab/k8s provisions; the variable's default
SOURCE = common_model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8
_AXIS_LABELS = {"reqps": "requests per second", "ops": "operations per second"}


def as_json(dashboard: Dashboard, *, local: bool = False) -> str:
    """Return the dashboard's JSON, ending in a newline. The same dashboard gives the same text.

    A cluster has its own collector and Tempo in place of a laptop's components: panels that need
    the one are left out for the other.
    """
    return JSONEncoder(sort_keys=True, indent=1).encode(_build(dashboard, local)) + "\n"


def _build(dashboard: Dashboard, local: bool) -> model.Dashboard:
    built = (
        builder.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags(["llm-lab"])
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .link(_links_to_other_dashboards())
        .with_variable(_data_source())
    )
    for variable in dashboard.variables:
        built = built.with_variable(_variable(variable))
    built = built.with_variable(builder.AdHocVariable("filters").label("Filter").datasource(SOURCE))

    for row in dashboard.rows:
        shown = [panel for panel in row.panels if panel.needs != ("cluster" if local else "local")]
        if shown:
            built = built.with_row(builder.Row(row.title))
        for panel in shown:
            built = built.with_panel(_panel(panel, dashboard))
    return built.build()


def _links_to_other_dashboards() -> builder.DashboardLink:
    link = builder.DashboardLink("LLM lab").type(model.DashboardLinkType.DASHBOARDS)
    return link.tags(["llm-lab"]).as_dropdown(True).keep_time(True).include_vars(True)


def _data_source() -> builder.DatasourceVariable:
    default = model.VariableOption(selected=True, text="Prometheus", value=DATA_SOURCE)
    variable = builder.DatasourceVariable("datasource").label("Data source")
    return variable.type("prometheus").current(default)


def _variable(
    variable: Variable,
) -> builder.QueryVariable | builder.CustomVariable | builder.TextBoxVariable:
    if variable.options:
        return _choice(variable)
    if not variable.query:
        text_box = builder.TextBoxVariable(variable.name).label(variable.label)
        return text_box.default_value(variable.default)

    listed = (
        builder.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(SOURCE)
        .query(variable.query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    if variable.default == ".*":
        everything = model.VariableOption(selected=True, text="All", value="$__all")
        return listed.include_all(True).all_value(".*").multi(True).current(everything)
    default = model.VariableOption(selected=True, text=variable.default, value=variable.default)
    return listed.current(default)


def _choice(variable: Variable) -> builder.CustomVariable:
    texts = {value: text.replace(",", " ") for text, value in variable.options}
    choices = ", ".join(f"{text} : {value}" for value, text in texts.items())
    default = model.VariableOption(
        selected=True, text=texts[variable.default], value=variable.default
    )
    chosen = builder.CustomVariable(variable.name).label(variable.label)
    return chosen.values(choices).current(default)


def _panel(
    panel: Panel, dashboard: Dashboard
) -> timeseries.Panel | stat.Panel | heatmap.Panel | table.Panel:
    built: Any
    if panel.kind == "table":
        built = _table(panel, dashboard)
    else:
        built = {"timeseries": _timeseries, "stat": _stat, "heatmap": _heatmap}[panel.kind](panel)
    built = built.title(panel.title).description(_description(panel)).datasource(SOURCE)
    built = built.span(panel.width).height(_HEIGHT)
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        built = built.with_target(_target(panel, query, letter))
    return built


def _target(panel: Panel, query: Query, letter: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(letter).datasource(SOURCE)
    if query.legend and panel.kind != "table":
        target = target.legend_format(query.legend)
    if panel.kind == "heatmap":
        target = target.format(PromQueryFormat.HEATMAP)
    elif panel.kind == "table":
        target = target.format(PromQueryFormat.TABLE).instant()
    elif panel.kind == "stat":
        target = target.instant()
    if panel.exemplars:
        target = target.exemplar(True)
    return target


def _description(panel: Panel) -> str:
    needs = {"gpu": " Needs a GPU.", "cluster": " Available on a cluster only."}
    return panel.description + needs.get(panel.needs, "")


def _thresholds(panel: Panel) -> builder.ThresholdsConfig:
    steps = [
        model.Threshold(value=bound if bound else None, color=colour)
        for bound, colour in panel.thresholds
    ]
    steps = steps or [model.Threshold(value=None, color="green")]
    return builder.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _timeseries(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .unit(panel.unit)
        .thresholds(_thresholds(panel))
        .axis_soft_min(0)
        .axis_label(_AXIS_LABELS.get(panel.unit, ""))
        .fill_opacity(20 if panel.stacked else 8)
        .line_width(1)
        .show_points(common_model.VisibilityMode.AUTO)
        .legend(_legend(panel))
        .tooltip(
            common_builder.VizTooltipOptions()
            .mode(common_model.TooltipDisplayMode.MULTI)
            .sort(common_model.SortOrder.DESCENDING)
        )
        .no_value(panel.no_value)
    )
    if panel.stacked:
        normal = common_builder.StackingConfig().mode(common_model.StackingMode.NORMAL)
        built = built.stacking(normal)
    return built


def _legend(panel: Panel) -> common_builder.VizLegendOptions:
    """Return a table of mean, maximum and last value where several series may be drawn."""
    legend = common_builder.VizLegendOptions().show_legend(True)
    legend = legend.placement(common_model.LegendPlacement.BOTTOM)
    several = len(panel.queries) > 1 or "{{" in panel.queries[0].legend
    if not several:
        return legend.display_mode(common_model.LegendDisplayMode.LIST)
    legend = legend.display_mode(common_model.LegendDisplayMode.TABLE)
    return legend.calcs(["mean", "max", "lastNotNull"])


def _stat(panel: Panel) -> stat.Panel:
    built = stat.Panel().unit(panel.unit).thresholds(_thresholds(panel))
    return built.no_value(panel.no_value).mappings([_nan_as(panel.no_value)])


def _heatmap(panel: Panel) -> heatmap.Panel:
    y_axis = heatmap.YAxisConfig().unit(panel.unit)
    cells = heatmap.CellValues().unit("short")
    tooltip = heatmap.HeatmapTooltip().mode(common_model.TooltipDisplayMode.SINGLE)
    return heatmap.Panel().unit(panel.unit).y_axis(y_axis).cell_values(cells).tooltip(tooltip)


def _table(panel: Panel, dashboard: Dashboard) -> table.Panel:
    """Return a table with one row per combination of `keys` and one column per query."""
    titles = dict(panel.keys)
    titles |= {
        f"Value #{letter}": query.legend
        for letter, query in zip(ascii_uppercase, panel.queries, strict=False)
    }
    organize = {
        "excludeByName": {"Time": True},
        "indexByName": {name: position for position, name in enumerate(titles)},
        "renameByName": titles,
    }
    built = (
        table.Panel()
        .no_value(panel.no_value)
        .mappings([_nan_as(panel.no_value)])
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(model.DataTransformerConfig(id_val="organize", options=organize))
    )
    for query in panel.queries:
        unit = model.DynamicConfigValue(id_val="unit", value=query.unit)
        built = built.override_by_name(query.legend, [unit])
    if panel.drill_down:
        link = model.DynamicConfigValue(id_val="links", value=[_drill_down(panel, dashboard)])
        built = built.override_by_name(dict(panel.keys)[panel.drill_down], [link])
    return built


def _drill_down(panel: Panel, dashboard: Dashboard) -> dict[str, str]:
    variable = f"var-{panel.drill_down}=${{__value.raw}}"
    query = f"${{datasource:queryparam}}&{variable}&${{__url_time_range}}"
    return {"title": "Show only this one", "url": f"/d/{dashboard.uid}?{query}"}


def _nan_as(text: str) -> model.SpecialValueMap:
    result = model.ValueMappingResult(text=text, index=0)
    options = model.DashboardSpecialValueMapOptions(
        match=model.SpecialValueMatch.NA_N, result=result
    )
    return model.SpecialValueMap(options=options)
