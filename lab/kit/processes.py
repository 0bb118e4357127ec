"""CPU time of every part of a local lab, by the operating system, while something runs.

Prometheus clients export `process_cpu_seconds_total` of their own process only. A part that works in a child, as vLLM's
engine does, hides most of its work from it; the operating system does not.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType

import pandas as pd
import psutil

from lab import stack
from lab.settings import Settings

EVERY_S = 1.0
NOTEBOOK = "this notebook (the load)"
COLUMNS = ("at", "part", "own_s", "tree_s", "children")
FILE = "processes.parquet"


def parts_of(settings: Settings) -> dict[int, str]:
    """{process id: part} of the running local lab, and this process; {} where nothing runs locally."""
    if settings.place != "local":
        return {}
    found = {p.pid: p.name for p in stack.status(settings) if p.pid}
    return found | {os.getpid(): NOTEBOOK} if found else {}


def cpu_now(parts: dict[int, str]) -> pd.DataFrame:
    """One row a part that lives: COLUMNS.

    `at` epoch seconds; `own_s` CPU seconds of the part's process since its start, `tree_s` with all its descendants,
    those excepted that are parts themselves; `children` how many descendants.
    """
    rows, at = [], time.time()
    for pid, name in parts.items():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            process = psutil.Process(pid)
            own, below = _cpu_s(process), _descendants(process, set(parts) - {pid})
            rows.append((at, name, own, own + sum(map(_cpu_s, below)), len(below)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


class CpuWatch:
    """`with CpuWatch(settings) as watch: ...` reads `cpu_now` before, every second and after, into `watch.samples`."""

    def __init__(self, settings: Settings, every_s: float = EVERY_S) -> None:
        self._parts, self._every_s = parts_of(settings), every_s
        self._read: list[pd.DataFrame] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="cpu watch")

    @property
    def samples(self) -> pd.DataFrame:
        """Every reading, one below the other; no row where there is nothing to read."""
        real = [r for r in self._read if len(r)]
        return pd.concat(real, ignore_index=True) if real else pd.DataFrame(columns=list(COLUMNS))

    def save(self, folder: Path | None) -> None:
        """Keep the readings beside the run that they belong to."""
        if folder is not None and len(self.samples):
            self.samples.to_parquet(folder / FILE, index=False)

    def __enter__(self) -> CpuWatch:
        self._read.append(cpu_now(self._parts))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._read.append(cpu_now(self._parts))

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            self._read.append(cpu_now(self._parts))


def recorded_cpu(folder: Path | None) -> pd.DataFrame:
    """What `CpuWatch.save` kept beside a run; no row where it was not kept."""
    path = folder / FILE if folder is not None else None
    if path is None or not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.read_parquet(path)


def _descendants(process: psutil.Process, excepted: set[int]) -> list[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.Error):
        for child in process.children():
            if child.pid not in excepted:
                found += [child, *_descendants(child, excepted)]
    return found


def _cpu_s(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0
