"""Check rules and panels with promtool: syntax, lint, and whether alerts fire when they should."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from lab.dashboards import DASHBOARDS, expand
from lab.dashboards.rules import alerts, rule_groups
from lab.stack.toolbox import find_tools
from tests.k8s.checks.render import REPO


def promtool() -> str:
    """Return the path of promtool. Raises SetupError if it is not installed."""
    return find_tools(needs=["promtool"]).promtool


def check_syntax(groups: dict[str, Any] | None = None) -> list[str]:
    """Return what promtool reports about the rules, with lint."""
    return _check_rules(groups or rule_groups())


def check_panels() -> list[str]:
    """Return what promtool reports about the panels' expressions, each as a recording rule."""
    rules = []
    for d in DASHBOARDS.values():
        variables = {v.name: v.default for v in d.variables}
        for i, panel in enumerate(d.panels):
            for j, query in enumerate(panel.queries):
                name = f"panel:{d.name.replace('-', '_')}_{i}:q{j}"
                rules.append({"record": name, "expr": expand(query.expr, variables, 20, 1800)})
    return _check_rules({"groups": [{"name": "panels", "rules": rules}]})


def check_runbooks(folder: Path = REPO) -> list[str]:
    """Return the alerts whose runbook is not a notebook of the repository."""
    links = {a["alert"]: a["annotations"]["runbook_url"] for a in alerts()}
    return [
        f"{alert}: there is no {link}"
        for alert, link in links.items()
        if not (folder / link).is_file()
    ]


def check_scrape_configuration(documents: list[dict[str, Any]]) -> list[str]:
    """Return what promtool reports about the scrape configuration that the monitors lead to."""
    from tests.smoke_podman import pods, scrape

    running = pods.pods_of(documents)
    pods.give_addresses(running)
    text, _ = scrape.configuration(documents, running)
    config = yaml.safe_load(text)
    config.pop("rule_files")  # checked by themselves
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        return _promtool("check", "config", str(path))


def run_tests(tests: list[dict[str, Any]], groups: dict[str, Any] | None = None) -> list[str]:
    """Return what promtool reports about unit tests of the rules; empty if all pass.

    The rules are evaluated at the interval of each test's series rather than at their own, since
    days of samples would take minutes.
    """
    report = []
    for interval in sorted({t["interval"] for t in tests}):
        chosen = [{**g, "interval": interval} for g in (groups or rule_groups())["groups"]]
        with tempfile.TemporaryDirectory() as folder:
            rules = Path(folder) / "rules.yaml"
            file = Path(folder) / "tests.yaml"
            rules.write_text(yaml.safe_dump({"groups": chosen}))
            chosen_tests = [t for t in tests if t["interval"] == interval]
            # Without an order promtool evaluates the groups in any.
            order = [g["name"] for g in chosen]
            document = {
                "rule_files": [str(rules)],
                "evaluation_interval": interval,
                "group_eval_order": order,
            }
            file.write_text(yaml.safe_dump(document | {"tests": chosen_tests}))
            report += _promtool("test", "rules", str(file))
    return report


def _check_rules(groups: dict[str, Any]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rules.yaml"
        path.write_text(yaml.safe_dump(groups))
        return _promtool("check", "rules", "--lint=all", "--lint-fatal", str(path))


def _promtool(*arguments: str) -> list[str]:
    done = subprocess.run([promtool(), *arguments], capture_output=True, text=True, timeout=300)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines if done.returncode else []
