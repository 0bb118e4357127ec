"""What a run was asked to be, beside the run: by this a recorded run is found again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lab.errors import WorkloadError
from lab.workload import Plan, Users

FILE = "asked.json"
# What must be the same, for a comparison of runs is about these; the others only make a run longer or another draw.
CONDITIONS = ("rate_per_s", "users", "think_s", "kinds", "model", "api", "temperature", "label")
AMOUNTS = ("n_requests", "seed", "max_tokens")


class Asked(msgspec.Struct, frozen=True):
    """The arguments of `lab.drive`. `rate_per_s` is 0 for closed-loop users, `kinds` empty for all kinds."""

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

    def like(self, other: Asked) -> bool:
        """Whether a run of the other is one of the same conditions."""
        return all(getattr(self, name) == getattr(other, name) for name in CONDITIONS)

    def differences(self, other: Asked) -> list[str]:
        """'n_requests 60, not 80' for every argument in which this differs from the other."""
        return [
            f"{name} {getattr(self, name)}, not {getattr(other, name)}"
            for name in (*CONDITIONS, *AMOUNTS)
            if getattr(self, name) != getattr(other, name)
        ]

    def __str__(self) -> str:
        defaults = Asked(self.n_requests)
        said = [f"{name}={getattr(self, name)!r}" for name in (*AMOUNTS[:1], *CONDITIONS, *AMOUNTS[1:])
                if name == "n_requests" or getattr(self, name) != getattr(defaults, name)]  # fmt: skip
        return ", ".join(said)


def save_asked(folder: Path | None, asked: Asked) -> None:
    """Write it into a saved run's folder. Raises WorkloadError if that cannot be."""
    try:
        (folder / FILE).write_bytes(
            msgspec.json.format(msgspec.json.encode(asked), indent=2) + b"\n"
        )
    except OSError as e:
        raise WorkloadError(
            f"{folder} cannot be written", got=str(e), fix="free some space, or mend the folder"
        ) from e


def load_asked(folder: Path, plan: Plan) -> Asked:
    """What the run in a folder was asked to be; for one that `drive` did not make, as far as its plan tells.

    Raises WorkloadError for a file that is no such thing.
    """
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Asked)
    except FileNotFoundError:
        return of_plan(plan)
    except (OSError, msgspec.MsgspecError) as e:
        raise WorkloadError(
            f"{folder / FILE} cannot be read", got=str(e), fix="record the run again"
        ) from e


def of_plan(plan: Plan) -> Asked:
    """From a plan alone: the kinds that were asked for are not known, so all are taken."""
    first, how = plan.requests[0], plan.arrivals
    closed = isinstance(how, Users)
    return Asked(
        n_requests=len(plan), rate_per_s=0.0 if closed else float(getattr(how, "rate_per_s", 0.0)),
        users=how.count if closed else 0, think_s=how.think_s if closed else 0.0, seed=plan.seed, model=first.model,
        api=first.api, temperature=first.temperature, max_tokens=first.max_tokens,
        label="" if closed or how.kind == "poisson" else str(how),
    )  # fmt: skip
