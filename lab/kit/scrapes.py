"""Up to when Prometheus' counters tell of a run: the first scrape that follows it holds all of it, later ones more."""

from __future__ import annotations

import json
import time

from lab.errors import NoData
from lab.settings import Settings
from lab.stores import Prometheus
from lab.workload import Run

AFTER_S = (
    120.0  # a scrape so long after a run is not looked for: what it counts may be somebody else's
)
STORED_S = 5.0  # a scrape is reported a moment before its samples can be asked for
POLL_S = 0.2


def of_vllm(settings: Settings, *metrics: str) -> str:
    """A selector of these metrics of the chat model's vLLM: an embedding server exports the same names."""
    job = _job(settings.vllm_job)
    return (
        f"{metrics[0]}{{{job}}}"
        if len(metrics) == 1
        else f'{{__name__=~"{"|".join(metrics)}",{job}}}'
    )


def scraped_until(settings: Settings, prometheus: Prometheus, run: Run, job: str) -> float:
    """The instant (epoch seconds) of the first scrape of `job` that succeeded after the run. Live, it is waited for.

    A scrape that failed (`up` is 0: the machine was too busy to answer) brought no counters, so it is passed over. Of
    several instances the one that was scraped last. A recording is asked for the sample that it holds. Raises
    StoreError where no scrape comes, NoData where none was kept.
    """
    ended = run.window[1]
    fresh = settings.place != "recorded" and time.time() < ended + AFTER_S
    if fresh:  # of an older run all scrapes were made, and its targets may be gone
        prometheus.wait_for_scrape(ended, jobs=[job])
    limit = time.monotonic() + (STORED_S if fresh else 0.0)
    while True:
        firsts = _first_successes(prometheus, ended, job)
        if firsts and None not in firsts:
            return max(at for at in firsts if at is not None)
        if time.monotonic() > limit:
            raise NoData(
                f"no scrape of {job} succeeded within {AFTER_S:.0f} s after the run",
                query=_up(job),
                fix="see `lab status`; a recording must be kept until a scrape after its last run",
            )
        time.sleep(POLL_S)


def _first_successes(prometheus: Prometheus, ended: float, job: str) -> list[float | None]:
    """Of each instance of a job that is scraped at all."""
    up = prometheus.samples(_up(job), ended, ended + AFTER_S, lookback_s=0.0)
    return [
        min(
            (
                float(at)
                for at, value in series["values"]
                if float(at) > ended and float(value) == 1
            ),
            default=None,
        )
        for series in up.metrics
    ]


def _up(job: str) -> str:
    return f"up{{{_job(job)}}}"


def _job(name: str) -> str:
    return f"job={json.dumps(name, ensure_ascii=False)}"  # PromQL's strings are Go's, which read JSON's
