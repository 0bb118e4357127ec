"""The table of components follows what happens to the parts."""

from __future__ import annotations

import psutil
import pytest

from lab import stack
from lab.settings import Settings
from lab.stack import state
from tests.browser import CHROMIUM, Page

STATE = "document.querySelector('#components tr[data-part=prometheus]')?.dataset.state"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_part_that_died_is_shown_without_a_reload(page: Page, recorded_lab: Settings) -> None:
    """The open page shows that Prometheus is dead, what that breaks, and that it is back."""
    page.resize(1280, 900)
    page.open("about:blank")
    page.open(f"{recorded_lab.endpoint('view')}/#/lab")
    page.wait_for(f"{STATE} === '{state.READY}'")

    (prometheus,) = [p for p in stack.status(recorded_lab) if p.name == "prometheus"]
    psutil.Process(prometheus.pid).kill()
    try:
        page.wait_for(f"{STATE} === '{state.DEAD}'")
        page.evaluate("document.querySelector('#nav-alerts').click()")
        message = "document.querySelector('#alerts .bad')?.innerText"
        assert "Prometheus" in page.wait_for(message)
    finally:
        stack.up(recorded_lab, wait_for="all")
    page.evaluate("document.querySelector('#nav-lab').click()")
    page.wait_for(f"{STATE} === '{state.READY}'")
