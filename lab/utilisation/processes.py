"""CPU time of every part of a local lab, by the operating system, while something runs.

Prometheus clients export `process_cpu_seconds_total` of their own process only. Where a part works
in a child, as vLLM's engine does, that metric misses most of the work; the operating system does
not.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pandas as pd
import psutil

from lab.observation import Sampler
from lab.places import place_of
from lab.settings import Settings

EVERY_S = 1.0
COLUMNS = ("at", "part", "own_s", "tree_s", "children")
FILE = "processes.parquet"


class CpuWatch(Sampler[pd.DataFrame]):
    """Reads `cpu_now` before, during and after a block, into `samples`."""

    def __init__(self, settings: Settings, every_s: float = EVERY_S) -> None:
        processes = place_of(settings).processes(settings)
        super().__init__(lambda: cpu_now(processes), every_s)

    @property
    def samples(self) -> pd.DataFrame:
        """Return all readings, one below the other; no row where no part runs here."""
        tables = [reading for reading in self.readings if len(reading)]
        return pd.concat(tables, ignore_index=True) if tables else _no_samples()

    def save(self, folder: Path | None) -> None:
        """Save the readings next to the run that they belong to."""
        if folder is not None and len(self.samples):
            self.samples.to_parquet(folder / FILE, index=False)


def cpu_now(processes: dict[int, str]) -> pd.DataFrame:
    """Return one row per living process of {process id: part}: COLUMNS.

    `at` is in epoch seconds; `own_s` are the CPU seconds of the part's process since its start,
    `tree_s` those with all its descendants except other parts; `children` is the number of these
    descendants.
    """
    at = time.time()
    rows = []
    for pid, part in processes.items():
        with contextlib.suppress(psutil.Error):  # it has ended
            process = psutil.Process(pid)
            own_s = _cpu_s(process)
            below = _descendants(process, set(processes))
            rows.append((at, part, own_s, own_s + sum(map(_cpu_s, below)), len(below)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def recorded_cpu(folder: Path | None) -> pd.DataFrame:
    """Return what `CpuWatch.save` saved next to a run; no row where it saved nothing."""
    path = folder / FILE if folder is not None else None
    return pd.read_parquet(path) if path is not None and path.exists() else _no_samples()


def _no_samples() -> pd.DataFrame:
    return pd.DataFrame(columns=list(COLUMNS))


def _descendants(process: psutil.Process, parts: set[int]) -> list[psutil.Process]:
    """Return all processes below this one, without those below another part."""
    below = []
    with contextlib.suppress(psutil.Error):
        for child in process.children():
            if child.pid not in parts:
                below += [child, *_descendants(child, parts)]
    return below


def _cpu_s(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0
