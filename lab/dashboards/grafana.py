"""Our panels as Grafana's JSON, by grafana-foundation-sdk."""

from __future__ import annotations

from string import ascii_uppercase

from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from lab.dashboards.model import Dashboard, Panel, Variable

SOURCE = common_model.DataSourceRef(type_val="prometheus", uid="prometheus")
_HEIGHT = 8


def as_json(dashboard: Dashboard) -> str:
    """The dashboard's JSON, with a line end; the same text every time."""
    return JSONEncoder(sort_keys=True, indent=1).encode(_build(dashboard)) + "\n"


def _build(dashboard: Dashboard) -> model.Dashboard:
    built = (
        builder.Dashboard(dashboard.title)
        .uid(f"llm-lab-{dashboard.name}")
        .description(dashboard.description)
        .tags(["llm-lab"])
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .link(_sisters())
    )
    for variable in dashboard.variables:
        built = built.with_variable(_variable(variable))
    for row in dashboard.rows:
        shown = [
            p for p in row.panels if p.needs != "local"
        ]  # a cluster has its own collector and Tempo instead
        if shown:
            built = built.with_row(builder.Row(row.title))
        for panel in shown:
            built = built.with_panel(_panel(panel))
    return built.build()


def _sisters() -> builder.DashboardLink:
    link = (
        builder.DashboardLink("LLM lab").type(model.DashboardLinkType.DASHBOARDS).tags(["llm-lab"])
    )
    return link.as_dropdown(True).keep_time(True).include_vars(True)


def _variable(
    variable: Variable,
) -> builder.QueryVariable | builder.CustomVariable | builder.TextBoxVariable:
    if variable.options:
        choices = ", ".join(
            f"{text.replace(',', ' ')} : {value}" for text, value in variable.options
        )
        shown = next(
            text.replace(",", " ") for text, value in variable.options if value == variable.default
        )
        chosen = model.VariableOption(selected=True, text=shown, value=variable.default)
        return (
            builder.CustomVariable(variable.name)
            .label(variable.label)
            .values(choices)
            .current(chosen)
        )
    if not variable.query:
        return (
            builder.TextBoxVariable(variable.name)
            .label(variable.label)
            .default_value(variable.default)
        )
    chosen = (
        builder.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(SOURCE)
        .query(variable.query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    if variable.default == ".*":
        everything = model.VariableOption(selected=True, text="All", value="$__all")
        return chosen.include_all(True).all_value(".*").multi(True).current(everything)
    return chosen.current(
        model.VariableOption(selected=True, text=variable.default, value=variable.default)
    )


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel | heatmap.Panel:
    built = {"timeseries": _timeseries, "stat": _stat, "heatmap": _heatmap}[panel.kind](panel)
    built = built.title(panel.title).description(_description(panel)).datasource(SOURCE)
    built = built.span(panel.width).height(_HEIGHT)
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).ref_id(letter).datasource(SOURCE)
        if query.legend:
            target = target.legend_format(query.legend)
        if panel.kind == "heatmap":
            target = target.format(PromQueryFormat.HEATMAP)
        elif panel.kind == "stat":
            target = target.instant()
        if panel.exemplars:
            target = target.exemplar(True)
        built = built.with_target(target)
    return built


def _description(panel: Panel) -> str:
    needs = {"gpu": " Needs a GPU.", "cluster": " Only on a cluster.", "": ""}
    return panel.description + needs[panel.needs]


def _thresholds(panel: Panel) -> builder.ThresholdsConfig:
    steps = [
        model.Threshold(value=v if v else None, color=colour) for v, colour in panel.thresholds
    ]
    steps = steps or [model.Threshold(value=None, color="green")]
    return builder.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _timeseries(panel: Panel) -> timeseries.Panel:
    built = timeseries.Panel().unit(panel.unit).thresholds(_thresholds(panel)).axis_soft_min(0)
    built = (
        built.fill_opacity(20 if panel.stacked else 8)
        .line_width(1)
        .show_points(common_model.VisibilityMode.AUTO)
    )
    if panel.stacked:
        built = built.stacking(
            common_builder.StackingConfig().mode(common_model.StackingMode.NORMAL)
        )
    return built


def _stat(panel: Panel) -> stat.Panel:
    return stat.Panel().unit(panel.unit).thresholds(_thresholds(panel))


def _heatmap(panel: Panel) -> heatmap.Panel:
    return heatmap.Panel().unit(panel.unit)
