"""Prometheus' configuration: every part is a scrape job named as on a cluster (lab.schema.JOBS)."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from lab.durations import parse_duration_s
from lab.settings import REPO
from lab.stack.ports import HOST

# Rules and alerts, generated from lab/dashboards/rules.py; the same as on a cluster.
RULES = REPO / "lab/k8s/base/rules/rules.yaml"
ONLY_ON_A_CLUSTER = {"CollectorLosesSpans"}  # no OpenTelemetry Collector runs on one machine

# Runs last a minute or less here; at 1 s, scraping alone used a tenth of two small cores.
SCRAPE_INTERVAL = "2s"
# Rules and alerts are those of a cluster, but an hour of theirs is two minutes here: a window, an
# offset and a duration are divided by ALERT_SCALE. Shorter windows than SHORTEST_WINDOW_S would
# hold too few scrapes.
ALERT_SCALE = 30
SHORTEST_WINDOW_S = 10
_WINDOW = re.compile(r"(?<=\[)\w+(?=\])|(?<=offset )\w+")
_FROM_ENDPOINT = {
    "vllm": "vllm",
    "vllm-embed": "vllm_embed",
    "lab-tools": "mcp",
    "tracestore": "tempo",
}


def targets(ports: dict[str, int], url: dict[str, str], external: dict[str, str]) -> dict[str, str]:
    """Return {job: host:port}, also of the user's own servers where they have metrics."""
    jobs = {job: urlsplit(url[endpoint]).netloc for job, endpoint in _FROM_ENDPOINT.items()}
    if "llama_stack" not in external:
        jobs["llama-stack"] = f"{HOST}:{ports['llama_stack_metrics']}"
    if "prometheus" not in external:
        jobs["node"] = f"{HOST}:{ports['node']}"
        jobs["prometheus"] = urlsplit(url["prometheus"]).netloc
    return jobs


def essential_jobs(external: dict[str, str]) -> list[str]:
    """Return our own jobs on an agent request's path: they must be up before the lab is ready."""
    jobs = {"vllm": "vllm", "lab-tools": "mcp", "tracestore": "tempo", "llama-stack": "llama_stack"}
    return [job for job, endpoint in jobs.items() if endpoint not in external]


def render(
    targets: dict[str, str],
    on_demand: Path | None = None,
    rules_file: Path | None = None,
    interval: str = SCRAPE_INTERVAL,
    alertmanager: str = "",
) -> str:
    """Return prometheus.yml as text. `targets` is {job: host:port}.

    `on_demand` is a file with more targets, which Prometheus watches: parts that are off must not
    look like parts that are down. `rules_file` is a file with the text of `rules()`,
    `alertmanager` the host:port that receives the alerts.
    """
    jobs: list[dict[str, Any]] = [
        {"job_name": job, "static_configs": [{"targets": [target] if target else []}]}
        for job, target in sorted(targets.items())
    ]
    if on_demand:
        jobs.append({"job_name": "on-demand", "file_sd_configs": [{"files": [str(on_demand)]}]})
    document: dict[str, Any] = {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": [str(rules_file)] if rules_file else [],
        "scrape_configs": jobs,
    }
    if alertmanager:
        managers = [{"static_configs": [{"targets": [alertmanager]}]}]
        document["alerting"] = {"alertmanagers": managers}
    return yaml.safe_dump(document, sort_keys=False)


def alertmanager_config() -> str:
    """Return alertmanager.yml as text: one group per alert, sent to no one."""
    route = {"receiver": "lab", "group_by": ["..."], "group_wait": "0s", "group_interval": "5s"}
    parts = {"global": {"resolve_timeout": "30s"}, "route": route, "receivers": [{"name": "lab"}]}
    return yaml.safe_dump(parts, sort_keys=False)


def scaled(window: str, shortest_s: float = 0.0) -> str:
    """Return a window of the rules as this machine's Prometheus uses it."""
    seconds = max(parse_duration_s(window) / ALERT_SCALE, shortest_s)
    return f"{seconds:g}s"


def rules() -> str:
    """Return the rules and alerts that make sense on one machine, with scaled times, as a file."""
    resource = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    groups = resource["spec"]["groups"]
    for group in groups:
        group["rules"] = [r for r in group["rules"] if r.get("alert") not in ONLY_ON_A_CLUSTER]
        group["interval"] = SCRAPE_INTERVAL
        for rule in group["rules"]:
            _scale(rule)
    return yaml.safe_dump({"groups": groups}, sort_keys=False)


def _scale(rule: dict[str, Any]) -> None:
    """Divide the times of a rule by ALERT_SCALE; an alert says so in an annotation."""
    rule["expr"] = _WINDOW.sub(lambda w: scaled(w[0], SHORTEST_WINDOW_S), rule["expr"])
    if "alert" in rule:
        rule["for"] = scaled(rule["for"])
        rule["annotations"]["scale"] = f"an hour of this rule is {3600 / ALERT_SCALE:.0f} s here"
