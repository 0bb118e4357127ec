"""Up to when Prometheus' counters tell of a run: the first scrape that follows it holds all of it, later ones more."""

from __future__ import annotations

from lab.settings import Settings
from lab.stores import Prometheus
from lab.workload import Run

AFTER_S = 120.0  # a scrape so long after a run is not looked for: what it counts may be somebody else's


def scraped_until(settings: Settings, prometheus: Prometheus, run: Run, job: str) -> float:
    """The instant (epoch seconds) of the first scrape of `job` that holds the whole run. Live, it is waited for.

    Of several instances the one that was scraped last. A recording is asked for the sample that it holds. Raises
    StoreError where no scrape comes, NoData where none was kept.
    """
    ended = run.window[1]
    if settings.place != "recorded":
        prometheus.wait_for_scrape(ended, jobs=[job])
    up = prometheus.samples(f'up{{job="{job}"}}', ended, ended + AFTER_S, lookback_s=0.0).require()
    return max(min(float(at) for at, _ in series["values"] if float(at) > ended) for series in up.metrics)
