"""The rows of a run on disk as they happen: what is left of it if the driver is killed.

A journal is one file of JSON lines beside the run's future folder: a header, the plan as
`Plan.save` writes it, then one line per row and, with every batch of rows, the driver's own lags.
It is deleted when the run has been saved.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lab.errors import WorkloadError
from lab.workload.plan import Plan

log = logging.getLogger("lab.workload")
FORMAT = "lab-run-journal"
VERSION = 1
LAGS = ("dispatch_lags_s", "loop_lags_s", "connect_s")


class _Header(msgspec.Struct):
    format: str
    version: int
    run_id: str
    lag_bound_s: float
    plan_bytes: int


class _Line(msgspec.Struct, omit_defaults=True):
    """One row, or the lags since the last such line with the window up to now."""

    row: dict[str, Any] | None = None
    lags: dict[str, list[float]] = {}
    window: tuple[float, float] | None = None


@dataclass
class Entries:
    """What a journal holds. `window` is (start, last write) in seconds since the epoch."""

    run_id: str
    plan: Plan
    lag_bound_s: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    lags: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in LAGS})
    window: tuple[float, float] = (0.0, 0.0)


def journal_path(folder: Path) -> Path:
    """Return where the journal of the run is that will be saved in `folder`."""
    return folder.parent / f".{folder.name}.jsonl"


class Journal:
    """Appends to the journal of one run. A write that fails ends the journal, not the run."""

    def __init__(self, folder: Path, run_id: str, plan: Plan, lag_bound_s: float) -> None:
        """Create the journal of the run that will be saved in `folder`.

        Raises WorkloadError if the run or its journal is there already, or the file cannot be
        written.
        """
        self.path = journal_path(folder)
        plan_bytes = plan.to_bytes()
        header = _Header(FORMAT, VERSION, run_id, lag_bound_s, len(plan_bytes))
        try:
            if folder.exists():
                raise FileExistsError(f"{folder} exists")
            folder.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            self._file = os.fdopen(fd, "wb", buffering=0)
            self._append(msgspec.json.encode(header) + b"\n" + plan_bytes)
        except OSError as e:
            fix = "choose a folder that can be written and a run_id that is not in use there"
            raise WorkloadError(
                f"the run {run_id} cannot be saved in {folder.parent}", got=str(e), fix=fix
            ) from e
        self._rows = 0
        self._lags = dict.fromkeys(LAGS, 0)
        self._failed = False

    def write(
        self, rows: list[dict[str, Any]], lags: dict[str, list[float]], window: tuple[float, float]
    ) -> None:
        """Append what was added to `rows` and `lags` since the last call; both only grow."""
        if self._failed:
            return
        new_rows = rows[self._rows :]
        new_lags = {name: lags[name][self._lags[name] :] for name in LAGS}
        lines = [_Line(row=row) for row in new_rows] + [_Line(lags=new_lags, window=window)]
        try:
            self._append(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        except OSError as e:
            self._failed = True
            log.warning("the rows under way are no longer written to %s: %s", self.path, e)
        self._rows += len(new_rows)
        for name in LAGS:
            self._lags[name] += len(new_lags[name])

    def _append(self, data: bytes) -> None:
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file; it stays where it is."""
        self._file.close()

    def delete(self) -> None:
        """Delete the file: the run has been saved."""
        self.path.unlink(missing_ok=True)


def read_journal(path: Path) -> Entries:
    """Read a journal, up to its last whole line. Raises ValueError or OSError for another file."""
    first, _, rest = path.read_bytes().partition(b"\n")
    header = msgspec.json.decode(first, type=_Header)
    if (header.format, header.version) != (FORMAT, VERSION):
        raise ValueError(f"format {header.format!r}, version {header.version!r}")
    plan = Plan.from_bytes(rest[: header.plan_bytes], f"the plan in {path}")
    entries = Entries(header.run_id, plan, header.lag_bound_s)
    for text in rest[header.plan_bytes :].split(b"\n")[:-1]:
        line = msgspec.json.decode(text, type=_Line)
        if line.row is not None:
            entries.rows.append(line.row)
        for name, samples in line.lags.items():
            entries.lags[name] += samples
        entries.window = line.window or entries.window
    return entries
