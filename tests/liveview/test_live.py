"""The live view follows a lab that runs: panels fill while requests are sent."""

from __future__ import annotations

import pytest

from lab import stack
from lab.settings import Settings
from lab.workload import Poisson, make_plan, run_plan
from tests.browser import CHROMIUM, Page

RULES = "[...document.querySelectorAll('tr[data-rule]')].map(r => r.dataset.rule)"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_open_page_follows_the_lab(page: Page, live_lab: Settings) -> None:
    """Without a reload, the requests appear in a panel, and each part has its state and address."""
    stack.require(live_lab, "live-view")
    page.resize(1280, 3000)
    page.open("about:blank")
    page.failures.clear()
    page.open(f"{live_lab.endpoint('view')}/#/lab?range=5m")
    rows = "[...document.querySelectorAll('#components tr[data-part]')]"
    page.wait_for(f"{rows}.length > 8")
    shown = page.evaluate(f"Object.fromEntries({rows}.map(r => [r.dataset.part, r.innerText]))")
    for part in stack.status(live_lab):
        assert part.name in shown
        assert part.port is None or f"127.0.0.1:{part.port}" in shown[part.name]

    plan = make_plan(arrivals=Poisson(4.0), requests=12, seed=5, settings=live_lab)
    run_plan(plan, live_lab, progress=False)
    legend = "document.querySelector('[data-title=\"TTFT: median and p95\"] .legend')?.innerText"
    page.wait_for(f"/p95\\s+[\\d.]+ m?s/.test({legend})")

    page.evaluate("document.querySelector('#nav-alerts').click()")
    page.wait_for(f"{RULES}.includes('TargetDown')")
    assert page.failures == []
