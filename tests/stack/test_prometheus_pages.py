"""Prometheus' pages show a lab's graphs, targets, rules and alerts in a real browser."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lab.stack import parts, prometheus_config
from lab.stack.toolbox import Toolbox, find_tools
from scripts.setup.prometheus import has_web_pages
from tests.browser import CHROMIUM, dom
from tests.tools.test_process import free_port

GRAPH = "graph?g0.expr=up&g0.tab=0&g0.range_input=5m"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Prometheus as the lab does, with one target up and one down, and yield its address."""
    tools = find_tools(needs=("prometheus",))
    if not has_web_pages(tools.prometheus):
        pytest.skip("Prometheus was set up without its web pages: run `make setup`")
    state = tmp_path_factory.mktemp("state")
    port = free_port()
    part = _prometheus(state, tools, port)
    log = (state / "log").open("w")
    process = subprocess.Popen(part.argv, stdout=log, stderr=log, env=dict(os.environ))
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for_samples(url)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _prometheus(state: Path, tools: Toolbox, port: int) -> parts.Part:
    rules = state / "rules.yml"
    rules.write_text(prometheus_config.rules().replace("interval: 30s", "interval: 1s"))
    config = state / "prometheus.yml"
    targets = {"prometheus": f"127.0.0.1:{port}", "vllm": f"127.0.0.1:{free_port()}"}
    config.write_text(prometheus_config.render(targets, rules_file=rules, interval="1s"))
    return parts.prometheus("test", tools, {"prometheus": port}, state, config, "1d")


def _wait_for_samples(url: str, timeout_s: float = 60.0) -> None:
    """Wait until one target was scraped and the other has raised an alert."""
    query = 'up{job="prometheus"} == 1 and on() ALERTS{alertname="TargetDown"}'
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=60)
            if answer.is_success and answer.json()["data"]["result"]:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"no samples and no alert within {timeout_s:.0f} s")


def page(address: str, name: str, profile: Path) -> str:
    """Return a page by its name in the menu (below /classic in Debian's build)."""
    home = httpx.get(f"{address}/", follow_redirects=True, timeout=60)
    prefix = "/classic" if "/classic/" in str(home.url) else ""
    return dom(f"{address}{prefix}/{name}", profile)


def test_the_graph_is_drawn(address: str, tmp_path: Path) -> None:
    """The address that `lab status` prints leads to a page whose scripts draw a query."""
    html = page(address, GRAPH, tmp_path / "profile")
    assert "<svg" in html and 'job="prometheus"' in html.replace("&quot;", '"')


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("targets", ("prometheus (1/1 up)", "vllm (0/1 up)")),
        ("rules", ("lab:kv_cache_usage:max", "QueueGrows")),
        ("alerts", ("TargetDown", "TTFTBudgetBurnsFast")),
    ],
)
def test_targets_rules_and_alerts_are_shown(
    address: str, tmp_path: Path, name: str, texts: tuple[str, ...]
) -> None:
    """The pages show what the lab scrapes and which rules it evaluates."""
    html = page(address, name, tmp_path / "profile")
    assert all(text in html for text in texts)
