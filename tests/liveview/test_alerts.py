"""Alerts of a real Prometheus that evaluates the lab's rules, and panels that follow it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, Page
from tests.stack.test_prometheus_pages import address  # noqa: F401 - a fixture
from tests.stack.test_replay import running
from tests.tools.test_process import free_port

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
ALERT = "document.querySelector('tr[data-alert=TargetDown][data-state=firing]')?.innerText"


@pytest.fixture
def view(
    address: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Serve the live view of a Prometheus that the lab did not start, and yield its address."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("LAB_PROMETHEUS_URL", address)
    port = free_port()
    command = [sys.executable, "-m", "lab.liveview", "--port", str(port)]
    with running(command, f"http://127.0.0.1:{port}/healthz"):
        yield f"http://127.0.0.1:{port}"


def test_a_firing_alert_is_shown_with_its_labels_and_rule(page: Page, view: str) -> None:
    """The first page lists what fires; the page of alerts has each rule with its expression."""
    page.resize(1280, 900)
    page.open("about:blank")
    page.failures.clear()
    page.open(f"{view}/#/lab")
    assert "job=vllm" in page.wait_for(ALERT)
    page.evaluate("document.querySelector('#nav-alerts').click()")
    rule = page.wait_for("document.querySelector('tr[data-rule=TargetDown]')?.innerText")
    assert "firing" in rule and "up == 0" in rule
    assert page.wait_for("document.querySelectorAll('tr[data-rule]').length") > 10
    assert page.failures == []


def test_a_panel_follows_prometheus_without_a_reload(page: Page, view: str) -> None:
    """The last value of a counter grows in the page that stays open."""
    page.resize(1280, 900)
    page.open("about:blank")
    query = "sum(prometheus_tsdb_head_samples_appended_total)"
    page.open(f"{view}/#/query?range=5m&promql={query}")
    last = "document.querySelector('.legend td:last-child')?.innerText"
    before = page.wait_for(last)
    page.wait_for(f"{last} !== {before!r}")
