"""The record of an incident, below the state folder; what names a hidden one is sealed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.errors import StackError
from lab.files import write_atomically
from lab.stack.changes import seal, unseal
from lab.stack.state import PRIVATE

FILE = Path("run") / "incident.json"
# What anyone may see of a hidden incident.
PUBLIC = ("id", "hidden", "started_at", "ended_at")


@dataclass(frozen=True)
class Record:
    """One incident as it happened. Times are seconds since the epoch, None until they come.

    Attributes:
        id: of this incident; says nothing about it
        hidden: whether its name and all that follows from it is kept secret
        started_at: when it was requested
        ended_at: when it was undone; where its process was killed, when that was noticed
        name: as in INCIDENTS; empty in a record that is shown before it is revealed
        strength: from 0 (weakest) to 1
        parameters: what exactly was changed, by how much
        onset_at: when the change began, `onset_after_s` seconds after the start
        in_effect_at: when it was complete; later where parts had to restart
        error: why it could not be brought about
    """

    id: str
    hidden: bool
    started_at: float
    ended_at: float | None = None
    name: str = ""
    seed: int = 0
    strength: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)
    onset_after_s: float = 0.0
    onset_at: float | None = None
    in_effect_at: float | None = None
    error: str = ""

    def shown(self) -> Record:
        """Return the record as it may be shown: a hidden one without its name and details."""
        if not self.hidden:
            return self
        return Record(**{name: getattr(self, name) for name in PUBLIC})


def read(state_dir: Path) -> Record | None:
    """Return the whole record, None if there is none. Raises StackError for an unreadable one."""
    path = state_dir / FILE
    try:
        content = json.loads(path.read_text())
        truth = content.pop("truth")
        return Record(**content, **(truth if isinstance(truth, dict) else unseal(truth)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise StackError(f"{path} cannot be read", got=repr(e), fix=f"remove {path}") from e


def write(state_dir: Path, record: Record) -> Record:
    """Write and return the record."""
    truth = asdict(record)
    content = {name: truth.pop(name) for name in PUBLIC}
    content["truth"] = seal(truth) if record.hidden else truth
    write_atomically(state_dir / FILE, json.dumps(content, indent=1), PRIVATE)
    return record


def require(state_dir: Path) -> Record:
    """Return the whole record. Raises StackError if there is none."""
    record = read(state_dir)
    if record is None:
        raise StackError("there was no incident", got=str(state_dir), fix="start one first")
    return record


def update(state_dir: Path, **values: Any) -> Record:
    """Change and return the record. Raises StackError if there is none."""
    return write(state_dir, replace(require(state_dir), **values))
