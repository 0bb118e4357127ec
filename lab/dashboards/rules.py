"""Recording rules and alerts, as plain values; lab/k8s/base/rules/rules.yaml is written from them.

Burn rates follow the multi-window, multi-burn-rate recipe of the Google SRE Workbook, chapter 5
('Alerting on SLOs'): an alert fires when the error budget burns fast over a long window, so that it
matters, and over a short one, so that it is still going on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.engines import either_name
from lab.schema import Metric as M

# The notebooks that runbook links lead to.
HEALTH = "00_stand_up_the_lab"
TRACES = "01_follow_one_request"
OUTCOMES = "02_drive_a_workload"
LATENCY = "04_explain_latency"
CAPACITY = "05_find_capacity"
TOOL_USE = "07_judge_tool_use"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# (long window, short window, factor above the budget's even burn rate): the Workbook's table 5-2.
PAGE = (("1h", "5m", 14.4), ("6h", "30m", 6.0))
TICKET = (("1d", "2h", 3.0), ("3d", "6h", 1.0))


@dataclass(frozen=True)
class Symptom:
    """An alert on a symptom that has a cause of its own. `notebook` is the runbook."""

    name: str
    expr: str
    hold: str  # how long the expression must be true
    severity: str
    summary: str
    description: str
    notebook: str

    def rule(self) -> dict[str, Any]:
        """Return the alerting rule as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.hold,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"notebooks/{self.notebook}.ipynb",
            },
        }


@dataclass(frozen=True)
class Objective:
    """An objective: `target` is the share that must be good, `errors` the share that was bad.

    `errors` is PromQL over a window `{w}`.
    """

    name: str
    alert: str
    target: float
    errors: str
    what: str
    notebook: str

    def record(self, window: str) -> str:
        """Return the name of the recorded share of bad events."""
        return f"lab:{self.name}_errors:ratio_rate{window}"


def _late(metric: str, bound: str) -> str:
    within = f'sum by (model_name) (rate({metric}_bucket{{job="vllm",le="{bound}"}}[{{w}}]))'
    return f'1 - {within} / (sum by (model_name) (rate({metric}_count{{job="vllm"}}[{{w}}])) > 0)'


TTFT_BOUND_S, ITL_BOUND_S = (
    "1.0",
    "0.05",
)  # bounds of buckets that lab.stack sets; a test holds them
OBJECTIVES = (
    Objective(
        "availability",
        "Availability",
        0.99,
        either_name(
            '(sum(rate(llama_stack_requests_total{job="llama-stack",status="error"}[{w}])) '
            "or vector(0)) "
            '/ (sum(rate(llama_stack_requests_total{job="llama-stack"}[{w}])) > 0)'
        ),
        "requests to Llama Stack answered without an error",
        OUTCOMES,
    ),
    Objective(
        "ttft", "TTFT", 0.95, _late(M.TTFT, TTFT_BOUND_S),
        f"model calls whose first token comes within {TTFT_BOUND_S} s", LATENCY,
    ),
    Objective(
        "itl", "ITL", 0.95, _late(M.ITL, ITL_BOUND_S),
        f"pauses between tokens of at most {ITL_BOUND_S} s", LATENCY,
    ),
)  # fmt: skip

# Used by alerts and cheap for dashboards of many replicas.
RECORDED = {
    "lab:requests_waiting:sum": f'sum by (model_name) ({M.WAITING}{{job="vllm"}})',
    "lab:requests_running:sum": f'sum by (model_name) ({M.RUNNING}{{job="vllm"}})',
    "lab:kv_cache_usage:max": f'max by (model_name) ({M.KV_CACHE_USAGE}{{job="vllm"}})',
    "lab:generation_tokens:rate1m": (
        f'sum by (model_name) (rate({M.GENERATION_TOKENS}{{job="vllm"}}[1m]))'
    ),
    "lab:prompt_tokens:rate1m": f'sum by (model_name) (rate({M.PROMPT_TOKENS}{{job="vllm"}}[1m]))',
    "lab:tool_calls:rate10m": 'sum by (tool) (rate(lab_tool_calls_total{job="lab-tools"}[10m]))',
    "lab:tool_call_errors:ratio_rate10m": (
        '(sum by (tool) (rate(lab_tool_calls_total{job="lab-tools",outcome!="ok"}[10m])) '
        'or 0 * sum by (tool) (rate(lab_tool_calls_total{job="lab-tools"}[10m]))) '
        '/ (sum by (tool) (rate(lab_tool_calls_total{job="lab-tools"}[10m])) > 0)'
    ),
    # The collector's spans on a cluster, the embedded store's on one machine; 0 without both.
    "lab:spans_accepted:rate10m": (
        "sum(rate(otelcol_receiver_accepted_spans_total[10m])) "
        "or sum(rate(tracestore_spans_accepted_total[10m])) or vector(0)"
    ),
    "lab:model_calls:rate10m": f'sum(rate({M.REQUESTS}{{job="vllm"}}[10m]))',
}


# Spans lost in five minutes, by reason. A counter that appears within them counts from zero:
# increase() alone would take its first sample, and with it the first loss, as the start.
_LOST_COUNTERS = {
    "send": "otelcol_exporter_send_failed_spans_total",
    "enqueue": "otelcol_exporter_enqueue_failed_spans_total",
    "refused": "otelcol_receiver_refused_spans_total",
}
_LOST_SPANS = " or ".join(
    f"label_replace(sum(({c} - ({c} offset 5m or 0 * {c}) > 0) or (increase({c}[5m]) > 0)), "
    f'"reason", "{reason}", "", "")'
    for reason, c in _LOST_COUNTERS.items()
)


_TOOL_CALLS = 'sum by (tool) (increase(lab_tool_calls_total{job="lab-tools"}[10m]))'
_TOOL_SECONDS, _TOOL_COUNT = (
    f'sum by (tool) (rate(lab_tool_duration_seconds_{part}{{job="lab-tools",'
    'tool!="run_diagnostics"}[10m]))'
    for part in ("sum", "count")
)
_PROMPT, _CACHED, _GENERATED, _FINISHED = (
    f'sum by (model_name) (rate({metric}{{job="vllm"}}[10m]))'
    for metric in (M.PROMPT_TOKENS, M.CACHED_TOKENS, M.GENERATION_TOKENS, M.REQUESTS)
)

_QUEUE_SECONDS, _QUEUED = (
    f'sum by (model_name) (rate({M.QUEUE}_{part}{{job="vllm"}}[10m]))' for part in ("sum", "count")
)


SYMPTOMS = (
    Symptom(
        "KVCacheNearlyFull",
        "min_over_time(lab:kv_cache_usage:max[5m]) > 0.9",
        "2m",
        "ticket",
        "The KV cache of {{ $labels.model_name }} has been above 90 % for minutes",
        "New requests wait and running ones are preempted: reduce concurrency, use a shorter "
        "context, or add a replica.",
        CAPACITY,
    ),
    Symptom(
        "QueueGrows",
        "lab:requests_waiting:sum > 5 "
        "and lab:requests_waiting:sum > 1.2 * (lab:requests_waiting:sum offset 5m)",
        "3m",
        "page",
        "More requests for {{ $labels.model_name }} arrive than are served",
        "{{ $value }} requests are waiting, at least a fifth more than five minutes ago. Latency "
        "keeps growing until load falls or capacity is added.",
        CAPACITY,
    ),
    Symptom(
        "ToolFailsOften",
        # Two standard deviations of as many calls above what the flaky tool does by design.
        "lab:tool_call_errors:ratio_rate10m > 0.4 and lab:tool_call_errors:ratio_rate10m "
        f"> 0.3 + 2 * sqrt(0.21 / {_TOOL_CALLS})",
        "5m",
        "ticket",
        "Tool {{ $labels.tool }} fails in {{ $value | humanizePercentage }} of its calls",
        "The agent receives errors instead of results and invents an answer, retries or gives up. "
        "The help desk's flaky tool fails in 30 % of calls by design; this is more.",
        TOOL_USE,
    ),
    Symptom(
        "RequestsWait",
        f"{_QUEUE_SECONDS} / ({_QUEUED} > 0) > 0.1",
        "3m",
        "ticket",
        "Requests to {{ $labels.model_name }} wait {{ $value | humanizeDuration }} before they run",
        "More requests arrive than run at once: look at the limit of running requests, at the KV "
        "cache, and at what takes the time of each step.",
        CAPACITY,
    ),
    Symptom(
        "RequestsPreempted",
        f'sum by (model_name) (increase({M.PREEMPTIONS}{{job="vllm"}}[10m])) > 1',
        "1m",
        "ticket",
        "{{ $value | humanize }} running requests of {{ $labels.model_name }} were put back",
        "The KV cache is too small for what runs at once, so work is thrown away and done again: "
        "give it more memory, run fewer requests at once, or use a shorter context.",
        CAPACITY,
    ),
    Symptom(
        "ToolSlow",
        f"{_TOOL_SECONDS} / ({_TOOL_COUNT} > 0) > 0.5",
        "3m",
        "ticket",
        "Tool {{ $labels.tool }} takes {{ $value | humanizeDuration }} per call",
        "Each request that calls it waits as long: look at the tool's own upstream. The help "
        "desk's slow tool takes seconds by design and is left out.",
        TOOL_USE,
    ),
    Symptom(
        "PrefixCacheMisses",
        f"{_CACHED} / ({_PROMPT} > 50) < 0.3",
        "3m",
        "ticket",
        "Of the prompt tokens of {{ $labels.model_name }}, {{ $value | humanizePercentage }} are "
        "cached",
        "Prompts are computed from the beginning: the cache is off or too small, or prompts no "
        "longer begin alike (a time or an id in the system prompt).",
        LATENCY,
    ),
    Symptom(
        "LongPrompts",
        f"{_PROMPT} / ({_FINISHED} > 0) > 600",
        "3m",
        "ticket",
        "Prompts to {{ $labels.model_name }} have {{ $value | humanize }} tokens on average",
        "Long prompts delay the requests beside them: find the tenant that sends them. The help "
        "desk's have 150 tokens on average.",
        LATENCY,
    ),
    Symptom(
        "LongAnswers",
        f"{_GENERATED} / ({_FINISHED} > 0) > 80",
        "3m",
        "ticket",
        "An answer of {{ $labels.model_name }} has {{ $value | humanize }} tokens on average",
        "Answers no longer end by themselves, or a tenant asks for long ones: look at finish "
        "reasons and at the limits on output tokens. The help desk's have 20 on average.",
        LATENCY,
    ),
    Symptom(
        "NoSpans",
        "lab:model_calls:rate10m > 0 and on() lab:spans_accepted:rate10m == 0",
        "5m",
        "ticket",
        "Requests are served, but no spans arrive",
        "Traces, span metrics and exemplars are missing from now on; requests are not affected.",
        TRACES,
    ),
    Symptom(
        "NoModelMetrics",
        'absent(up{job="vllm"})',
        "5m",
        "page",
        "Prometheus has no vLLM target",
        "No replica runs, or none is discovered. Every rule on vLLM is silent, which does not "
        "mean that all is well.",
        HEALTH,
    ),
    Symptom(
        "TargetDown",
        "up == 0",
        "2m",
        "ticket",
        "{{ $labels.job }} at {{ $labels.instance }} does not answer scrapes",
        "Its panels show old values.",
        HEALTH,
    ),
    Symptom(
        "CollectorLosesSpans",
        _LOST_SPANS,
        "0m",  # each lost span is missing from a trace for good
        "ticket",
        "The collector lost {{ $value | humanize }} spans in five minutes ({{ $labels.reason }})",
        "Its backend refuses spans or is too slow (send, enqueue), or the collector is out of "
        "memory (refused). Traces are incomplete.",
        TRACES,
    ),
)


def recording_rules() -> list[dict[str, Any]]:
    """Return all recording rules."""
    return _recorded() + _burn_rates()


def _recorded() -> list[dict[str, Any]]:
    return [{"record": name, "expr": expr} for name, expr in RECORDED.items()]


def _burn_rates() -> list[dict[str, Any]]:
    return [
        {"record": o.record(w), "expr": o.errors.replace("{w}", w)}
        for o in OBJECTIVES
        for w in WINDOWS
    ]


def alerts() -> list[dict[str, Any]]:
    """Return all alerts: the burn rates of each objective, and the symptoms."""
    rules = []
    for objective in OBJECTIVES:
        rules += [_burns(objective, "Fast", PAGE), _burns(objective, "Slow", TICKET)]
    return rules + [symptom.rule() for symptom in SYMPTOMS]


def prometheus_rule(runbooks_url: str = "") -> dict[str, Any]:
    """Return the PrometheusRule that the operator loads.

    Alerts link to notebooks below `runbooks_url`.
    """
    groups = rule_groups()
    for group in groups["groups"]:
        for rule in group["rules"]:
            if "alert" in rule and runbooks_url:
                annotations = rule["annotations"]
                annotations["runbook_url"] = f"{runbooks_url}/{annotations['runbook_url']}"
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "llm-lab",
            "namespace": "llm-lab-obs",
            "labels": {"app.kubernetes.io/name": "rules"},
        },
        "spec": groups,
    }


def rule_groups() -> dict[str, Any]:
    """Return the rules as the content of a Prometheus rule file."""
    return {
        "groups": [
            {"name": "llm-lab-recorded", "interval": "15s", "rules": _recorded()},
            {
                "name": "llm-lab-burn-rates",
                "interval": "1m",
                "rules": _burn_rates(),
            },  # ranges of days cost
            {"name": "llm-lab-alerts", "interval": "30s", "rules": alerts()},
        ]
    }


def _burns(
    objective: Objective, speed: str, windows: tuple[tuple[str, str, float], ...]
) -> dict[str, Any]:
    budget = 1 - objective.target
    conditions = []
    for long, short, factor in windows:
        limit = f"{factor * budget:.4g}"
        over = f"{objective.record(long)} > {limit} and {objective.record(short)} > {limit}"
        conditions.append(f"({over})")
    fast = speed == "Fast"
    symptom = Symptom(
        f"{objective.alert}BudgetBurns{speed}",
        " or ".join(conditions),
        "2m" if fast else "15m",
        "page" if fast else "ticket",
        f"The error budget of {objective.alert} burns {'fast' if fast else 'slowly but steadily'}",
        f"Objective: {objective.target:.0%} of {objective.what}. "
        "{{ $value | humanizePercentage }} are not.",
        objective.notebook,
    )
    return symptom.rule()
