"""Where a recording comes from: window, versions, machine, and how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lab.errors import StoreError
from lab.kit.asked import load_asked
from lab.runner import facts
from lab.settings import Settings
from lab.stores import Prometheus
from lab.workload import Run

FORMAT, VERSION = "lab-recording", 1


def collect(
    settings: Settings,
    prometheus: Prometheus,
    name: str,
    start: float,
    end: float,
    runs: Sequence[Run],
    command: str,
) -> dict[str, Any]:
    """All that recording.json says, but for the counts."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "recorded_at": _utc(datetime.now(UTC).timestamp()),
        "window": [start, end],
        "window_utc": [_utc(start), _utc(end)],
        "place": settings.place,
        "command": command or f"lab record {shlex.quote(name)}",
        "targets": _targets(prometheus),
        "runs": [
            {"run_id": run.run_id, "asked": str(_asked(run)), "requests": len(run.records)}
            for run in runs
        ],
        "made_on": {k: v for k, v in facts.collect(settings).items() if k != "place"},
    }


def readme(about: dict[str, Any]) -> str:
    """The same for people, as Markdown."""
    runs = (
        "\n".join(
            f"- `{r['run_id']}`: {r['requests']} requests ({r['asked']})" for r in about["runs"]
        )
        or "- none"
    )
    made = "\n".join(f"| {name} | {value} |" for name, value in about["made_on"].items())
    return f"""# {about["name"]}

A real run of the lab, recorded {about["recorded_at"]}: {about["samples"]:,} Prometheus samples of {about["series"]:,}
series and {about["traces"]:,} traces, from {about["window_utc"][0]} to {about["window_utc"][1]}.
Nothing in it was made up or edited, but for file paths, which begin at the repository's folder.

Replay it: `lab up --place recorded` (with `LAB_RECORDING={about["name"]}`), or `LAB_PLACE=recorded` for the notebooks.
Record it again: `{about["command"]} --replace`.

Runs:

{runs}

| made on | |
|---|---|
{made}
"""


def _targets(prometheus: Prometheus) -> dict[str, bool]:
    """Scrape jobs, and whether they were up; none where the server does not scrape by itself (Thanos, Mimir)."""
    try:
        return {t.job: t.up for t in prometheus.targets()}
    except StoreError:
        return {}


def _asked(run: Run) -> Any:
    return load_asked(run.folder, run.plan) if run.folder else f"{len(run.plan)} planned requests"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
