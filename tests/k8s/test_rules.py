"""Rules and dashboards pass promtool and use only metric names that were recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab.dashboards import DASHBOARDS, Panel, Query
from lab.dashboards.model import Dashboard, Row
from lab.dashboards.rules import alerts, recording_rules, rule_groups
from tests.k8s.alert_cases import CASES, Case, promtool_tests
from tests.k8s.checks import metrics, rules

KNOWN = metrics.known()


def test_rules_are_good_promql() -> None:
    """All rules pass promtool's syntax check and its lints."""
    assert rules.check_syntax() == []


def test_panels_are_good_promql() -> None:
    """Every panel's expression passes promtool once Grafana's variables are filled in."""
    assert rules.check_panels() == []


def test_every_alert_has_a_case() -> None:
    """Every alert has histories that it is tested on."""
    assert {a["alert"] for a in alerts()} == CASES.keys()


def test_each_alert_fires_on_a_bad_history_and_is_silent_on_a_good_one() -> None:
    """promtool evaluates the real rules over both histories of every alert."""
    assert (
        rules.run_tests([t for name, case in CASES.items() for t in promtool_tests(name, case)])
        == []
    )


@pytest.mark.parametrize(
    "counter",
    [
        'otelcol_exporter_send_failed_spans_total{job="otel-collector",exporter="otlp_grpc/tempo"}',
        'otelcol_exporter_enqueue_failed_spans_total{job="otel-collector",exporter="otlp_grpc/tempo"}',
        'otelcol_receiver_refused_spans_total{job="otel-collector",receiver="otlp"}',
    ],
    ids=["refused by the backend", "queue full", "refused by the memory limiter"],
)
def test_the_first_lost_span_raises_an_alert(counter: str) -> None:
    """An alert fires although the counter appears only with its first and last lost span."""
    lost = Case({counter: "_x28 1x5"}, {counter: "7x40"}, "30m")
    assert rules.run_tests(promtool_tests("CollectorLosesSpans", lost)) == []


def test_promtool_notices_an_alert_that_cannot_fire() -> None:
    """promtool fails for a threshold that no ratio reaches."""
    groups = rule_groups()
    for rule in groups["groups"][-1]["rules"]:
        if rule["alert"] == "ToolFailsOften":
            rule["expr"] = rule["expr"].replace("> 0.4", "> 4")
    output = rules.run_tests(promtool_tests("ToolFailsOften", CASES["ToolFailsOften"]), groups)
    assert any("FAILED" in line for line in output)


def test_promtool_notices_an_alert_that_always_fires() -> None:
    """promtool fails for an alert that fires on the good history."""
    groups = rule_groups()
    for rule in groups["groups"][-1]["rules"]:
        if rule["alert"] == "QueueGrows":
            rule["expr"] = "lab:requests_waiting:sum > 0"
    output = rules.run_tests(promtool_tests("QueueGrows", CASES["QueueGrows"]), groups)
    assert any("FAILED" in line for line in output)


def test_promtool_notices_bad_syntax_and_duplicate_names() -> None:
    """A missing bracket and two rules with the same name are reported."""
    bad = {"groups": [{"name": "g", "rules": [{"record": "a:b", "expr": "sum(rate(x[5m])"}]}]}
    twice = {
        "groups": [
            {"name": "g", "rules": [{"record": "a:b", "expr": "x"}, {"record": "a:b", "expr": "x"}]}
        ]
    }
    assert rules.check_syntax(bad) and rules.check_syntax(twice)


def test_every_alert_explains_what_to_do() -> None:
    """Every alert has a severity, a summary, a description and a runbook."""
    for alert in alerts():
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description", "runbook_url"} <= alert["annotations"].keys()


def test_runbooks_exist(tmp_path: Path) -> None:
    """The notebook of every alert exists; in an empty folder, every one is reported missing."""
    assert rules.check_runbooks() == []
    assert len(rules.check_runbooks(tmp_path)) == len(alerts())


# -- names ---------------------------------------------------------------------------------


def test_panels_query_metrics_that_exist() -> None:
    """Names, labels, bucket bounds and legends exist on the pages of the pinned releases."""
    assert metrics.check_dashboards(KNOWN) == []


def test_rules_query_metrics_that_exist() -> None:
    """Every alert leads, through recorded series, to metrics that some part exports."""
    assert metrics.check_rules(KNOWN) == []


def test_notebooks_and_schema_name_metrics_that_exist() -> None:
    """Names, labels and bounds in notebooks, their helpers and the schema exist."""
    texts = metrics.notebook_texts() | metrics.analysis_texts()
    assert metrics.check_names(KNOWN, texts | metrics.schema_texts()) == []
    queries = metrics.queries_in(texts)
    assert len(queries) >= 3 and metrics.check_queries(KNOWN, queries) == []


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("p.query('sum(rate(vllm:num_preemptions[5m]))')", "no metric vllm:num_preemptions"),
        ("p.query('vllm:num_requests_waiting{model=\"x\"}')", "no label model"),
        ("p.query(f'rate(vllm:prompt_tokens_total{{engin=\"0\"}}[{w}s])')", "no label engin"),
        (
            'p.range(\'{__name__=~"vllm:num_requests_(running|wating)", job="vllm"}\', 0, 1)',
            "num_requests_wating",
        ),
        (
            "%matplotlib inline\nx = 'vllm:request_success_total{finish_reason=\"stop\"}';",
            "no label finish_reason",
        ),
    ],
)
def test_a_fault_in_a_notebooks_query_is_found(cell: str, words: str) -> None:
    """Wrong names and labels are found in strings, f-strings and selectors without a name."""
    problems = metrics.check_queries(KNOWN, metrics.queries_in({"x.ipynb": cell}))
    assert len(problems) == 1 and words in problems[0]


@pytest.mark.parametrize(
    ("expr", "words"),
    [
        ("sum(rate(vllm:num_preemptions[5m]))", "no metric vllm:num_preemptions"),
        ("vllm:gpu_cache_usage_perc", "no metric vllm:gpu_cache_usage_perc"),
        ('vllm:num_requests_waiting{model="x"}', "no label model"),
        ("sum by (model) (vllm:num_requests_waiting)", "label model to group by"),
        ('vllm:time_to_first_token_seconds_bucket{le="0.3"}', "no bucket bound 0.3"),
        (
            "llama_stack_llama_stack_inference_duration_seconds_sum",
            "no metric llama_stack_llama_stack",
        ),
    ],
)
def test_names_finds(expr: str, words: str) -> None:
    """Faults of published dashboards are found: dropped suffixes, removed metrics, other labels."""
    assert any(words in p for p in metrics.check_expression(expr, KNOWN))


def test_a_panel_for_every_place_may_not_need_a_cluster() -> None:
    """A panel that claims to work everywhere may not use DCGM's metrics."""
    panel = Panel("x", "y", (Query("sum(DCGM_FI_DEV_POWER_USAGE)", "{{nobody}}"),))
    dashboard = Dashboard("x", "x", "x", (Row("x", (panel,)),))
    problems = metrics.check_dashboards(KNOWN, [dashboard])
    assert any("in the recorded pages" in p for p in problems)
    assert any("legend label nobody" in p for p in problems)
    for_gpu = Dashboard(
        "x", "x", "x", (Row("x", (replace(panel, needs="gpu", queries=(Query("sum(up)"),)),)),)
    )
    assert metrics.check_dashboards(KNOWN, [for_gpu]) == []


def test_the_scanner_reads_what_an_expression_uses() -> None:
    """The scanner returns metrics with matchers and grouping labels, and nothing else."""
    parsed = metrics.read(
        "histogram_quantile(0.9, sum by (le, a) "
        '(rate(x_bucket{job=~"v|w",b!="by"}[5m] offset 1h))) '
        "/ on(c) group_left(d) (y:z > bool 0) or vector(0)"
    )
    assert parsed.metrics == [
        ("x_bucket", {"job": ("=~", "v|w"), "b": ("!=", "by")}),
        ("y:z", {}),
    ]
    assert parsed.groups == {"le", "a", "c", "d"}


def test_every_dashboard_explains_itself() -> None:
    """All six dashboards exist, their titles are unique, and each panel has a description."""
    assert set(DASHBOARDS) == {"overview", "vllm", "llama-stack", "gpu", "cost", "lab"}
    for d in DASHBOARDS.values():
        titles = [p.title for p in d.panels]
        assert len(set(titles)) == len(titles)
        assert all(
            len(p.description) > 20 and p.description.rstrip().endswith((".", ":"))
            for p in d.panels
        )


def test_recorded_series_are_named_by_convention_and_used() -> None:
    """Names follow level:metric:operation, and every series that an alert uses is recorded."""
    recorded = {r["record"] for r in recording_rules()}
    assert all(name.startswith("lab:") and name.count(":") == 2 for name in recorded)
    used = {
        name
        for a in alerts()
        for name, _ in metrics.read(a["expr"]).metrics
        if name.startswith("lab:")
    }
    assert used <= recorded
