"""Prometheus' configuration: every part is a scrape job named as on a cluster (lab.schema.JOBS)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from lab.settings import REPO
from lab.stack.ports import HOST

# Rules and alerts, generated from lab/dashboards/rules.py; the same as on a cluster.
RULES = REPO / "lab/k8s/base/rules/rules.yaml"
ONLY_ON_A_CLUSTER = {"CollectorLosesSpans"}  # no OpenTelemetry Collector runs on one machine

# Runs last a minute or less here; at 1 s, scraping alone used a tenth of two small cores.
SCRAPE_INTERVAL = "2s"
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
) -> str:
    """Return prometheus.yml as text. `targets` is {job: host:port}.

    `on_demand` is a file with more targets, which Prometheus watches: parts that are off must not
    look like parts that are down. `rules_file` is a file with the text of `rules()`.
    """
    jobs: list[dict[str, Any]] = [
        {"job_name": job, "static_configs": [{"targets": [target]}]}
        for job, target in sorted(targets.items())
    ]
    if on_demand:
        jobs.append({"job_name": "on-demand", "file_sd_configs": [{"files": [str(on_demand)]}]})
    document = {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": [str(rules_file)] if rules_file else [],
        "scrape_configs": jobs,
    }
    return yaml.safe_dump(document, sort_keys=False)


def rules() -> str:
    """Return the recording rules and alerts that make sense on one machine, as a rule file."""
    resource = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    groups = resource["spec"]["groups"]
    for group in groups:
        group["rules"] = [r for r in group["rules"] if r.get("alert") not in ONLY_ON_A_CLUSTER]
    return yaml.safe_dump({"groups": groups}, sort_keys=False)
