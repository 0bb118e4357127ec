"""Dashboards show data of a real lab under load."""

from __future__ import annotations

import time

import pytest

from lab.dashboards import DASHBOARDS, panels
from lab.settings import Settings
from lab.stores import Prometheus
from lab.workload import Poisson, make_plan, run_plan


@pytest.mark.live
def test_no_panel_is_empty_under_load(live_lab: Settings) -> None:
    """Every panel for this place shows a number under load, unless it explains why it may not."""
    started = time.time()
    plan = make_plan(arrivals=Poisson(1.0), requests=25, seed=3, settings=live_lab)
    run_plan(plan, live_lab, progress=False)
    ended = time.time()
    prometheus = Prometheus(live_lab)
    try:
        prometheus.wait_for_scrape(ended)
        empty = []
        for name in DASHBOARDS:
            for panel in panels(name, range_s=int(ended - started) + 1, rate_interval_s=10):
                if panel.needs in ("", "local") and not panel.quiet:
                    answers = [
                        prometheus.range(q.expr, started, ended + 2, 2) for q in panel.queries
                    ]
                    empty += [
                        f"{name}: {panel.title}: query {i}"
                        for i, a in enumerate(answers)
                        if not _shows(a)
                    ]
    finally:
        prometheus.close()
    assert empty == []


def _shows(answer) -> bool:
    """Return whether the answer has a value other than NaN."""
    return any(float(v) == float(v) for series in answer.metrics for _, v in series["values"])
