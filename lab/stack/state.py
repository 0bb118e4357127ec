"""What a lab writes about itself into its state folder: `stack.json` for us, `endpoints.json` for lab.settings."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.errors import SettingsError, StackError
from lab.settings import ENDPOINTS_FILE

STACK_FILE = "stack.json"
FOLDERS = ("logs", "run", "llama-stack")
WANTED_FILE = Path("run") / "wanted.json"  # the parts on demand that were asked for

# states of a part
WAITING, STARTING, READY, DONE, FAILED, DEAD, STOPPED, OFF = (
    "waiting",  # for parts that it needs
    "starting",  # runs, does not answer yet
    "ready",
    "done",  # a task that has ended well
    "failed",  # did not get ready
    "dead",  # was ready once, and is no more
    "stopped",
    "off",  # a part on demand that nobody has asked for
)


@dataclass
class PartStatus:
    """How one part is. Times are seconds, memory is bytes.

    `rss_bytes` counts shared pages in every process that has them, `pss_bytes` (Linux, else 0) counts them once.
    """

    name: str
    state: str
    what: str = ""
    pid: int | None = None
    create_time: float | None = None
    port: int | None = None
    uptime_s: float | None = None
    ready_after_s: float | None = None  # from its own start
    rss_bytes: int = 0
    pss_bytes: int = 0
    ready: bool = False
    essential: bool = True
    on_demand: bool = False
    waits_for: str = ""
    log: str = ""
    error: str = ""


@dataclass
class StackState:
    """All of stack.json. `processes` are (pid, start time) of everything that runs, so that it can be swept."""

    supervisor_pid: int
    supervisor_create_time: float
    started_at: float
    heartbeat_at: float
    phase: str  # 'starting', 'up', 'stopping', 'failed', 'down'
    parts: list[PartStatus]
    ports: dict[str, int]
    endpoints: dict[str, str]
    processes: list[tuple[int, float]]
    repairs: int = 0  # how often it was asked to start again what was dead, and has begun to
    vector_store_id: str = ""

    def part(self, name: str) -> PartStatus | None:
        """The part of that name."""
        return next((p for p in self.parts if p.name == name), None)


def prepare(state_dir: Path) -> None:
    """Make the folders. Raises SettingsError if one cannot be made or written."""
    try:
        for name in FOLDERS:
            (state_dir / name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=state_dir / "run"):
            pass
    except OSError as e:
        raise SettingsError(
            f"the state folder {state_dir} cannot be written",
            got=str(e),
            fix="set LAB_STATE_DIR to a folder that you may write, or free some disk",
        ) from e


def write_json(path: Path, value: Any) -> None:
    """Write wholly or not at all: readers look at these files at any moment."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w") as f:
            json.dump(value, f, indent=1)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def write(state_dir: Path, state: StackState) -> None:
    """Write stack.json."""
    write_json(state_dir / STACK_FILE, asdict(state))


def read(state_dir: Path) -> StackState | None:
    """What the supervisor wrote last; None if no lab was started here. Raises StackError if it cannot be read."""
    path = state_dir / STACK_FILE
    try:
        found = json.loads(path.read_text())
        parts = [PartStatus(**p) for p in found.pop("parts")]
        processes = [(int(pid), float(t)) for pid, t in found.pop("processes")]
        return StackState(parts=parts, processes=processes, **found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise StackError(
            f"{path} cannot be read", got=repr(e), fix=f"remove {path}, then run `lab up`"
        ) from e


def wanted(state_dir: Path) -> set[str]:
    """The parts on demand that were asked for; none if that is not readable."""
    try:
        return set(json.loads((state_dir / WANTED_FILE).read_text()))
    except (OSError, ValueError):
        return set()


def write_wanted(state_dir: Path, names: set[str]) -> None:
    """Write which parts on demand should run; the supervisor reads it when it is sent a SIGHUP."""
    write_json(state_dir / WANTED_FILE, sorted(names))


def written_endpoints(state_dir: Path) -> dict[str, str]:
    """What endpoints.json says; empty if it is not there or not readable."""
    try:
        return json.loads((state_dir / ENDPOINTS_FILE).read_text())
    except (OSError, ValueError):
        return {}


def write_endpoints(state_dir: Path, endpoints: dict[str, str]) -> None:
    """Write endpoints.json, from which lab.settings takes the addresses."""
    write_json(state_dir / ENDPOINTS_FILE, endpoints)


def remove_endpoints(state_dir: Path) -> None:
    """Remove endpoints.json: nobody answers there any more."""
    (state_dir / ENDPOINTS_FILE).unlink(missing_ok=True)
