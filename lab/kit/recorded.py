"""The runs of a recording: which there are, and which of them a notebook means."""

from __future__ import annotations

from pathlib import Path

from lab.errors import WorkloadError
from lab.kit.asked import Asked, load_asked
from lab.settings import Settings
from lab.workload import Run

RUNS = "runs"


def runs_in(folder: Path) -> list[tuple[Asked, Run]]:
    """Every run below a folder, oldest first, and what it was asked to be. Raises WorkloadError for a broken one."""
    found = [Run.load(path.parent) for path in sorted(folder.glob("*/run.json"))]
    return [
        (load_asked(run.folder, run.plan), run) for run in sorted(found, key=lambda run: run.window)
    ]


def run_for(settings: Settings, asked: Asked) -> Run:
    """The recorded run of the same conditions, the nearest in the number of requests; prints where it differs.

    Raises WorkloadError where the recording has none, and says what it has.
    """
    held = runs_in(settings.recording_dir / RUNS)
    alike = [(one, run) for one, run in held if one.like(asked)]
    if not alike:
        raise WorkloadError(
            f"the recording {settings.recording} has no such run",
            got=f"asked for {asked}; it holds "
            + ("; ".join(str(one) for one, _ in held) or "no run at all"),
            fix="ask for one of these, choose another recording (LAB_RECORDING), or record it (`lab record --help`)",
        )
    found, run = min(
        alike,
        key=lambda pair: (abs(pair[0].n_requests - asked.n_requests), pair[0].seed != asked.seed),
    )
    differences = found.differences(asked)
    print(f"recorded run {run.run_id}" + (f" ({'; '.join(differences)})" if differences else ""))
    return run
