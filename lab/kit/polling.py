"""vLLM's gauges asked ten times a second: Prometheus' scrapes of a short run are too few for a narrow interval."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pandas as pd

from lab.errors import NoData
from lab.kit.capacity import Measured, gauge_samples, run_levels
from lab.measures import Slo, steady_window
from lab.schema import Metric
from lab.settings import Settings

EVERY_S = 0.1


def polled_level(
    settings: Settings,
    users: int,
    *,
    level_s: float,
    warm_s: float,
    slo: Slo,
    seed: int,
    round_number: int,
) -> tuple[Measured, pd.DataFrame]:
    """One closed-loop level as `run_levels` measures it, and vLLM's own count of requests in its engine meanwhile:
    `at` (epoch seconds), `value` (running + waiting), in the level's steady window only.

    The polling costs vLLM's API server a few milliseconds each time, so such a level is not for timing. A recording
    has Prometheus' scrapes instead, which are fewer. Raises NoData where vLLM's metrics lack the gauges.
    """
    with _polled(settings) as samples:
        level = run_levels(
            settings,
            [users],
            rounds=1,
            level_s=level_s,
            warm_s=warm_s,
            slo=slo,
            seed=seed,
            first_round=round_number,
        )
    first, last = steady_window(level.runs[0].records, warm_s=warm_s, users=users)
    table = (
        gauge_samples(settings, level) if settings.place == "recorded" else pd.DataFrame(samples)
    )
    inside = table[(table["at"] >= first) & (table["at"] <= last)] if len(table) else table
    if inside.empty:
        raise NoData(
            "vLLM's gauges were not read while the level was run",
            query=f"{Metric.RUNNING}, {Metric.WAITING}",
        )
    return level, inside.reset_index(drop=True)


def in_engine(metrics: str) -> float:
    """Requests running and waiting, from the text of vLLM's /metrics. Raises NoData where it has neither."""
    wanted = (f"{Metric.RUNNING}{{", f"{Metric.WAITING}{{")
    found = [
        float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(wanted)
    ]
    if not found:
        raise NoData("this is not vLLM's /metrics", query=", ".join(wanted), got=metrics[:80])
    return sum(found)


@contextmanager
def _polled(settings: Settings) -> Iterator[list[dict[str, float]]]:
    """Samples appear in the list until the block is left; none are taken in a recording."""
    samples: list[dict[str, float]] = []
    if settings.place == "recorded":
        yield samples
        return
    url, stop = f"{settings.endpoint('vllm')}/metrics", threading.Event()

    def poll() -> None:
        with httpx.Client(timeout=settings.timeout_s) as client:
            while not stop.wait(EVERY_S):
                asked = time.time()
                value = in_engine(client.get(url).text)
                samples.append({"at": (asked + time.time()) / 2, "value": value})

    thread = threading.Thread(target=poll, name="lab-gauge-poll", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join(settings.timeout_s)
