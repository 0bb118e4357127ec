"""How a lab describes itself: `stack.json` for lab.stack, `endpoints.json` for lab.settings."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lab.errors import SettingsError, StackError
from lab.files import read_json, write_atomically
from lab.settings import ENDPOINTS_FILE, REPO

STACK_FILE = "stack.json"
FOLDERS = ("logs", "run", "llama-stack")
# Folders of the parts and the notebooks, with prompts and answers in them.
PRIVATE_FOLDERS = (*FOLDERS, "traces", "prometheus", "alertmanager", "runs", "jupyter")
REQUESTED_FILE = Path("run") / "requested.json"
PRIVATE = 0o600

# The states of a part.
WAITING = "waiting"  # for a part that it needs
STARTING = "starting"  # its process runs, but does not answer yet
READY = "ready"
DONE = "done"  # a task that has ended well
HANGS = "hangs"  # its process runs, but has stopped answering
FAILED = "failed"  # it did not become ready
DEAD = "dead"  # it was ready, and its process has ended
STOPPED = "stopped"
OFF = "off"  # a part on demand that was not requested
BROKEN = (FAILED, DEAD, STOPPED, HANGS)  # what `lab up` starts again


@dataclass
class PartStatus:
    """The state of one part. Times are in seconds, memory is in bytes.

    `rss_bytes` counts shared pages in every process that has them, `pss_bytes` counts them once
    (Linux only, 0 elsewhere). `ready_after_s` counts from the part's own start.
    """

    name: str
    state: str
    what: str = ""
    pid: int | None = None
    create_time: float | None = None
    port: int | None = None
    uptime_s: float | None = None
    ready_after_s: float | None = None
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
    """The content of stack.json.

    Attributes:
        phase: "starting", "up", "stopping", "failed" or "down"
        processes: (pid, start time) of all running processes, to find them without a supervisor
        repairs: how many repairs have begun
    """

    supervisor_pid: int
    supervisor_create_time: float
    started_at: float
    heartbeat_at: float
    phase: str
    parts: list[PartStatus]
    ports: dict[str, int]
    endpoints: dict[str, str]
    processes: list[tuple[int, float]]
    repairs: int = 0

    def part(self, name: str) -> PartStatus | None:
        """Return the part of that name."""
        return next((p for p in self.parts if p.name == name), None)


def prepare(state_dir: Path) -> None:
    """Make the folders, readable by their owner only.

    A state folder elsewhere that existed before keeps its permissions, since it may be a shared
    one; the folders in it do not. Raises SettingsError if one cannot be made or written.
    """
    ours = not state_dir.exists() or state_dir.is_relative_to(REPO / ".lab")
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        if ours:
            state_dir.chmod(0o700)
        for name in FOLDERS:
            (state_dir / name).mkdir(exist_ok=True)
        for name in PRIVATE_FOLDERS:
            if (state_dir / name).is_dir():
                (state_dir / name).chmod(0o700)
        with tempfile.TemporaryFile(dir=state_dir / "run"):
            pass
    except OSError as e:
        raise SettingsError(
            f"the state folder {state_dir} cannot be written",
            got=str(e),
            fix="set LAB_STATE_DIR to a folder that you may write, or free some disk",
        ) from e


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, readable by its owner only."""
    write_atomically(path, json.dumps(value, indent=1), PRIVATE)


def read(state_dir: Path) -> StackState | None:
    """Return what the supervisor wrote last; None if no lab was started here.

    Raises StackError if the file cannot be read.
    """
    path = state_dir / STACK_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=StackState)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise StackError(
            f"{path} cannot be read", got=repr(e), fix=f"remove {path}, then run `lab up`"
        ) from e


def requested(state_dir: Path) -> set[str]:
    """Return the parts on demand that should run; empty if the file cannot be read."""
    return set(read_json(state_dir / REQUESTED_FILE, list))


def write_requested(state_dir: Path, names: set[str]) -> None:
    """Write which parts on demand should run. The supervisor reads it on SIGHUP."""
    write_json(state_dir / REQUESTED_FILE, sorted(names))


def written_endpoints(state_dir: Path) -> dict[str, str]:
    """Return the content of endpoints.json; empty if it cannot be read."""
    return read_json(state_dir / ENDPOINTS_FILE)


def write_endpoints(state_dir: Path, endpoints: dict[str, str]) -> None:
    """Write endpoints.json, from which lab.settings takes the addresses."""
    write_json(state_dir / ENDPOINTS_FILE, endpoints)


def remove_endpoints(state_dir: Path) -> None:
    """Remove endpoints.json: the addresses in it are no longer served."""
    (state_dir / ENDPOINTS_FILE).unlink(missing_ok=True)
