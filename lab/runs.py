"""Saved runs, and the conditions that each was driven under; recordings are looked up by them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lab import files
from lab.errors import WorkloadError
from lab.settings import Settings
from lab.workload import Plan, Run, Users

RUNS = "runs"
FILE = "asked.json"  # the name in every recording made so far

# A comparison of runs is about the conditions, so they must be equal. The amounts only make a run
# longer, or another draw of the same workload.
CONDITIONS = ("rate_per_s", "users", "think_s", "kinds", "model", "api", "temperature", "label")
AMOUNTS = ("n_requests", "seed", "max_tokens")


class Conditions(msgspec.Struct, frozen=True):
    """The arguments that a run was driven with (`lab.drive`), saved next to it.

    `rate_per_s` is 0 for closed-loop users; `kinds` is empty for all kinds.
    """

    n_requests: int
    rate_per_s: float = 0.0
    users: int = 0
    think_s: float = 0.0
    seed: int = 0
    kinds: tuple[str, ...] = ()
    model: str = ""
    api: str = "responses"
    temperature: float = 0.0
    max_tokens: int = 192
    label: str = ""

    def like(self, other: Conditions) -> bool:
        """Return whether both describe the same experiment, whatever the amounts."""
        return all(getattr(self, name) == getattr(other, name) for name in CONDITIONS)

    def differences(self, other: Conditions) -> list[str]:
        """Return 'n_requests 60, not 80' for every argument in which the two differ."""
        return [
            f"{name} {getattr(self, name)}, not {getattr(other, name)}"
            for name in (*CONDITIONS, *AMOUNTS)
            if getattr(self, name) != getattr(other, name)
        ]

    def __str__(self) -> str:
        defaults = Conditions(self.n_requests)
        changed = [
            name
            for name in (*CONDITIONS, "seed", "max_tokens")
            if getattr(self, name) != getattr(defaults, name)
        ]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in ("n_requests", *changed))


def save_conditions(folder: Path | None, conditions: Conditions) -> None:
    """Write the conditions into the folder of a saved run.

    Raises WorkloadError if that is not possible.
    """
    if folder is None:
        raise WorkloadError("the run has no folder", fix="save the run first (Run.save)")
    content = msgspec.json.format(msgspec.json.encode(conditions), indent=2) + b"\n"
    files.save(folder / FILE, content, WorkloadError)


def load_conditions(folder: Path, plan: Plan) -> Conditions:
    """Return the conditions of the run in a folder.

    Where `drive` did not make the run, they are what its plan shows of them.

    Raises WorkloadError for a file in another format.
    """
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Conditions)
    except FileNotFoundError:
        return _conditions_of_plan(plan)
    except (OSError, msgspec.MsgspecError) as e:
        raise WorkloadError(
            f"{folder / FILE} cannot be read", got=str(e), fix="record the run again"
        ) from e


def _conditions_of_plan(plan: Plan) -> Conditions:
    """Return what a plan shows; the kinds that were chosen are not in it, so all are assumed."""
    first = plan.requests[0]
    arrivals = plan.arrivals
    closed = arrivals if isinstance(arrivals, Users) else None
    return Conditions(
        n_requests=len(plan),
        rate_per_s=0.0 if closed else float(getattr(arrivals, "rate_per_s", 0.0)),
        users=closed.count if closed else 0,
        think_s=closed.think_s if closed else 0.0,
        seed=plan.seed,
        model=first.model,
        api=first.api,
        temperature=first.temperature,
        max_tokens=first.max_tokens,
        label="" if closed or arrivals.kind == "poisson" else str(arrivals),
    )


def runs_in(folder: Path) -> list[tuple[Conditions, Run]]:
    """Return every run below a folder with its conditions, oldest first.

    Raises WorkloadError for a broken one.
    """
    pairs = []
    for path in sorted(folder.glob("*/run.json")):
        run = Run.load(path.parent)
        pairs.append((load_conditions(path.parent, run.plan), run))
    return sorted(pairs, key=lambda pair: pair[1].window)


def recorded_run(settings: Settings, conditions: Conditions) -> Run:
    """Return the recorded run of these conditions that is nearest in the amounts.

    Prints in which of them it differs.

    Raises WorkloadError, with what the recording holds, where it has no such run.
    """
    recorded = runs_in(settings.recording_dir / RUNS)
    alike = [(other, run) for other, run in recorded if other.like(conditions)]
    if not alike:
        there = "; ".join(str(other) for other, _ in recorded) or "no run at all"
        raise WorkloadError(
            f"the recording {settings.recording} has no such run",
            got=f"looked for {conditions}; it holds {there}",
            fix="use the conditions of one of these, choose another recording (LAB_RECORDING), "
            "or record the run (`lab record --help`)",
        )

    def distance(pair: tuple[Conditions, Run]) -> tuple[int, bool]:
        other = pair[0]
        return abs(other.n_requests - conditions.n_requests), other.seed != conditions.seed

    nearest, run = min(alike, key=distance)
    differences = "; ".join(nearest.differences(conditions))
    print(f"recorded run {run.run_id}" + (f" ({differences})" if differences else ""))
    return run
