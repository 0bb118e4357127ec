"""Load the whole lab for a while, and report how the memory of each part grows.

    python -m benchmarks.soak --minutes 30      # make soak

Starts a lab in a temporary state folder, drives agent requests at a constant rate, and sends spans
to the trace store beside them. Prints the resident memory of each part per minute, and its growth
after the first minutes in % per hour with a 95 % interval (Theil-Sen, which single jumps do not
move). A part grows if the whole interval is above `--limit-percent`. Nothing changes meanwhile:
`lab investigate` compares each window of `--window-s` with the one before it, and what it finds is
a false finding. Exit status 1 if a part grows, died, or too few requests succeeded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from scipy import stats

from benchmarks.start_up import temporary_lab
from benchmarks.tracestore_corpus import SPANS_PER_REQUEST, requests
from lab import stack
from lab.errors import LabError
from lab.investigation import NOTHING, investigate
from lab.settings import Settings, load_settings
from lab.stores.timestamps import utc

SAMPLES_PER_MINUTE = 6
MIB = 2**20
PROTOBUF = {"Content-Type": "application/x-protobuf"}


class Spans:
    """Sends spans at a constant rate in a thread, until `stop`."""

    def __init__(self, otlp_url: str, per_s: float, seconds: float) -> None:
        self.sent = 0
        self.refused = 0
        self._bodies = requests(int(per_s * seconds) + SPANS_PER_REQUEST)
        self._every_s = SPANS_PER_REQUEST / per_s
        self._url = f"{otlp_url}/v1/traces"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _send(self) -> None:
        due = time.monotonic()
        with httpx.Client(timeout=60) as client:
            for body in self._bodies:
                if self._ended.wait(max(0.0, due - time.monotonic())):
                    return
                due += self._every_s
                is_stored = client.post(self._url, content=body, headers=PROTOBUF).is_success
                self.sent += SPANS_PER_REQUEST * is_stored
                self.refused += SPANS_PER_REQUEST * (not is_stored)


def load_command(folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the command that drives the requests."""
    return [
        *(sys.executable, "-m", "lab.cli", "load", "--quiet", "--out", str(folder / "runs")),
        *("--arrivals", f"constant:{options.requests_per_s:g}"),
        *("--duration-s", f"{60 * options.minutes:g}"),
    ]


def sample(settings: Settings, driver: psutil.Process) -> tuple[dict[str, float], list[str]]:
    """Return the resident memory of each part in MiB, and the parts that are not ready."""
    parts = [part for part in stack.status(settings) if not part.on_demand]
    memory = {part.name: part.rss_bytes / MIB for part in parts if part.rss_bytes}
    with contextlib.suppress(psutil.Error):
        memory["lab load"] = driver.memory_info().rss / MIB
    return memory, [f"{p.name}: {p.state}" for p in parts if p.essential and not p.ready]


def growth(minutes: Iterable[float], mib: Iterable[float]) -> dict[str, float]:
    """Return the growth in % of the median per hour, with its 95 % interval."""
    x = np.array(list(minutes)) / 60
    y = np.array(list(mib))
    fit = stats.theilslopes(y, x, alpha=0.95)
    percent = 100 / float(np.median(y))
    return {
        "percent_per_hour": round(fit.slope * percent, 2),
        "low": round(fit.low_slope * percent, 2),
        "high": round(fit.high_slope * percent, 2),
    }


def verdict(slope: dict[str, float], limit: float) -> str:
    """Return whether a part grows by more than `limit` % per hour."""
    if slope["low"] > limit:
        return "grows"
    return "steady" if slope["high"] <= limit else "not known: the interval includes the limit"


def report(samples: list[tuple[float, dict[str, float]]], options: argparse.Namespace) -> dict:
    """Print the memory per minute; return the growth of each part."""
    names = sorted({name for _, memory in samples for name in memory})
    print("MiB resident".ljust(14), *(f"{name[:12]:>13}" for name in names))
    for i in range(0, len(samples), SAMPLES_PER_MINUTE):
        minute, memory = samples[i]
        print(f"minute {minute:5.1f}  ", *(f"{memory.get(name, np.nan):13.1f}" for name in names))

    result: dict[str, dict[str, Any]] = {}
    for name in names:
        points = [(t, m[name]) for t, m in samples if t >= options.settle_minutes and name in m]
        if len(points) < 3:
            result[name] = {"verdict": "not known: fewer than three samples"}
            continue
        slope = growth(*zip(*points, strict=True))
        result[name] = {**slope, "verdict": verdict(slope, options.limit_percent)}
    return result


def false_findings(settings: Settings, start: float, end: float, window_s: float) -> dict:
    """Compare each window with the one before it; return what was found, though nothing changed."""
    edges = [utc(at) for at in np.arange(start, end, window_s)]
    found: list[str] = []
    windows = list(zip(edges, edges[1:], edges[2:], strict=False))
    for before, since, until in windows:
        try:
            cause = investigate(settings, f"{since}/{until}", f"{before}/{since}").cause
        except LabError as e:
            cause = f"{e.happened}: {e.got}"
        if cause != NOTHING:
            found.append(f"{since}/{until}: {cause}")
    return {"windows": len(windows), "false_findings": found}


def soak(settings: Settings, folder: Path, options: argparse.Namespace) -> dict:
    """Load the lab and return what happened."""
    urls = stack.up(settings, wait_for="all")
    spans = Spans(urls["otlp"], options.spans_per_s, 60 * options.minutes)
    with (folder / "load.log").open("wb") as log:
        env = os.environ | {"LAB_STATE_DIR": str(settings.state_dir)}
        command = load_command(folder, options)
        driver = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    samples: list[tuple[float, dict[str, float]]] = []
    faults: set[str] = set()
    began = time.monotonic()
    began_at = time.time()
    process = psutil.Process(driver.pid)
    while driver.poll() is None:
        memory, not_ready = sample(settings, process)
        samples.append(((time.monotonic() - began) / 60, memory))
        faults.update(not_ready)
        if time.monotonic() - began > 60 * options.minutes + 300:
            faults.add("lab load did not end")
            driver.terminate()
        time.sleep(60 / SAMPLES_PER_MINUTE)
    spans.stop()
    output = (folder / "load.log").read_text(errors="replace")
    if driver.returncode:
        faults.add(f"lab load ended with {driver.returncode}")
    settings = load_settings(state_dir=settings.state_dir)  # with the addresses that `up` gave
    settled_at = began_at + 60 * min(1.0, options.minutes / 10)
    ends_at = began_at + 60 * options.minutes
    return {
        "minutes": options.minutes,
        "calm": false_findings(settings, settled_at, ends_at, options.window_s),
        "spans_stored": spans.sent,
        "spans_refused": spans.refused,
        "load": output.strip().splitlines()[-12:],
        "faults": sorted(faults),
        "growth": report(samples, options),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the soak; return 1 if a part grew or failed, otherwise 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=30)
    # Two cores answer 4 to 6 agent requests per second; beyond that, requests only time out.
    parser.add_argument("--requests-per-s", type=float, default=3)
    parser.add_argument("--spans-per-s", type=float, default=500)
    parser.add_argument("--settle-minutes", type=float, default=5, help="left out of the growth")
    parser.add_argument("--window-s", type=float, default=30, help="length of a calm window")
    parser.add_argument("--limit-percent", type=float, default=1, help="growth allowed per hour")
    options = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="lab-soak-") as folder,
        temporary_lab(Path(folder)) as settings,
    ):
        result = soak(settings, Path(folder), options)
    print(json.dumps(result, indent=2))
    grew = any(part["verdict"] == "grows" for part in result["growth"].values())
    return 1 if grew or result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
