"""A run: what a driven plan left behind, and its journal.

A journal has the rows of a run on disk as they happen: what is left of it if the driver is killed.
It is one file of JSON lines beside the run's future folder: a header, the plan as `Plan.save`
writes it, then one line per row and, with every batch of rows, the driver's own lags. It is deleted
when the run has been saved.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from lab import files
from lab.errors import WorkloadError
from lab.headlines import LAGGED
from lab.workload.outcome import records_frame, with_added_columns
from lab.workload.plan import Plan

FORMAT = "lab-run"
VERSION = 1
LAG_BOUND_S = 0.03


@dataclass(frozen=True)
class Lag:
    """How late the driver itself was, in seconds.

    - `dispatch`: from the moment a request was due until the driver turned to it.
    - `loop`: lateness of its timers, which is how late an arriving chunk may have been noticed.
    - `connect`: opening connections.
    """

    dispatch_p50_s: float = 0.0
    dispatch_p99_s: float = 0.0
    dispatch_max_s: float = 0.0
    loop_p50_s: float = 0.0
    loop_p99_s: float = 0.0
    loop_max_s: float = 0.0
    connect_p50_s: float = 0.0
    connect_p99_s: float = 0.0
    bound_s: float = LAG_BOUND_S

    @classmethod
    def of(
        cls, dispatch: list[float], loop: list[float], connect: list[float], bound_s: float
    ) -> Lag:
        """Return the quantiles of samples in seconds."""
        return cls(
            *_quantiles(dispatch), *_quantiles(loop), *_quantiles(connect)[:2], bound_s=bound_s
        )

    @property
    def lagged(self) -> bool:
        """Whether the driver made one request or chunk in a hundred over `bound_s` late."""
        return max(self.dispatch_p99_s, self.loop_p99_s) > self.bound_s

    def __str__(self) -> str:
        send_ms = self.dispatch_p99_s * 1e3
        notice_ms = self.loop_p99_s * 1e3
        text = f"driver's lag p99: {send_ms:.1f} ms to send, {notice_ms:.1f} ms to notice"
        if self.lagged:
            text += (
                f"\n{LAGGED.upper()} (bound {self.bound_s * 1e3:.0f} ms): this run's latencies "
                "contain the driver's own delay. Lower the load, free the CPU, or spread the plan "
                "over more drivers (plan.shard)."
            )
        return text


def _quantiles(samples: list[float]) -> tuple[float, float, float]:
    """Return the median, the 99th percentile and the maximum."""
    if not samples:
        return (0.0, 0.0, 0.0)
    p50, p99 = np.quantile(samples, [0.5, 0.99])
    return (float(p50), float(p99), float(max(samples)))


@dataclass
class Run:
    """A driven plan.

    - `records` has the columns of lab.schema.CLIENT_RECORD; `window` is (start, end) in seconds
      since the epoch.
    - `interrupted`: it was stopped, and `not_sent` requests of the plan were not sent.
    - `cut_off`: its driver was killed. The rows are those that had reached the disk, and of the
      `not_sent` requests some may have been under way.
    - `spans_lost`: root spans that the trace store did not take (those traces have no root).
    """

    run_id: str
    window: tuple[float, float]
    records: pd.DataFrame
    plan: Plan
    lag: Lag = field(default_factory=Lag)
    interrupted: bool = False
    spans_made: int = 0
    spans_lost: int = 0
    folder: Path | None = None
    cut_off: bool = False

    @property
    def seed(self) -> int:
        """The plan's seed."""
        return self.plan.seed

    @property
    def not_sent(self) -> int:
        """How many requests of the plan have no row."""
        return len(self.plan) - len(self.records)

    @property
    def duration_s(self) -> float:
        """The length of the window in seconds."""
        return self.window[1] - self.window[0]

    def __repr__(self) -> str:
        counts = self.records.status.value_counts()
        by_status = ", ".join(f"{n} {status}" for status, n in counts.items())
        size = f"{len(self.records)} requests ({by_status}) in {self.duration_s:.1f} s"
        text = f"<Run {self.run_id}: {size}, {self.lag}>"
        if self.cut_off:
            text += (
                f"\nCUT OFF: the driver was killed. {self.not_sent} requests of the plan have no "
                "row: not sent, or under way."
            )
        elif self.interrupted:
            text += f"\nINTERRUPTED: {self.not_sent} requests of the plan were not sent."
        if self.spans_lost:
            lost = f"{self.spans_lost} of {self.spans_made}"
            text += f"\n{lost} root spans did not reach the trace store."
        return text

    def save(self, out_dir: str | Path) -> Path:
        """Write the folder `out_dir/run_id`, readable by its owner only, whole or not at all.

        It holds records.parquet, run.json and plan.jsonl. Raises WorkloadError if it exists or
        cannot be written.
        """
        final = Path(out_dir) / self.run_id
        try:
            with files.draft_folder(final) as draft:
                self.records.to_parquet(draft / "records.parquet", index=False)
                about = msgspec.json.format(msgspec.json.encode(self._about()), indent=2)
                (draft / "run.json").write_bytes(about)
                self.plan.save(draft / "plan.jsonl")
                os.rename(draft, final)  # fails if the folder exists and is not empty
        except OSError as e:
            raise WorkloadError(
                f"the run {self.run_id} cannot be saved to {final}",
                got=str(e),
                fix="choose a folder that can be written and does not hold this run already",
            ) from e
        self.folder = final
        return final

    def _about(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "run_id": self.run_id,
            "window": self.window,
            "seed": self.seed,
            "requests": len(self.records),
            "not_sent": self.not_sent,
            "interrupted": self.interrupted,
            "cut_off": self.cut_off,
            "spans_made": self.spans_made,
            "spans_lost": self.spans_lost,
            "lagged": self.lag.lagged,
            "lag": asdict(self.lag),
        }

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read what `save` wrote.

        Of a run whose driver was killed before that, what it had measured.

        `folder` may also be a journal itself. Raises WorkloadError for a folder that is not a whole
        run and has no journal beside it.
        """
        folder = Path(folder)
        journal = folder if folder.is_file() else journal_path(folder)
        try:
            if not folder.is_dir() and journal.is_file():
                return cls._from_journal(journal)
            return cls._from_folder(folder)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
            raise WorkloadError(
                f"{folder} does not hold a whole run",
                got=f"{type(e).__name__}: {e}",
                fix="use a folder that Run.save wrote",
            ) from e

    @classmethod
    def _from_folder(cls, folder: Path) -> Run:
        about = msgspec.json.decode((folder / "run.json").read_bytes())
        if (about["format"], about["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {about['format']!r}, version {about['version']!r}")
        records = pd.read_parquet(folder / "records.parquet")
        if len(records) != about["requests"]:
            raise ValueError(f"{len(records)} records, but run.json has {about['requests']}")
        return cls(
            run_id=about["run_id"],
            window=tuple(about["window"]),
            records=with_added_columns(records),
            plan=Plan.load(folder / "plan.jsonl"),
            lag=Lag(**about["lag"]),
            interrupted=about["interrupted"],
            spans_made=about["spans_made"],
            spans_lost=about["spans_lost"],
            folder=folder,
            cut_off=about.get("cut_off", False),
        )

    @classmethod
    def _from_journal(cls, path: Path) -> Run:
        """Read a journal, up to its last whole line."""
        first, _, rest = path.read_bytes().partition(b"\n")
        header = msgspec.json.decode(first, type=_JournalHeader)
        if (header.format, header.version) != (JOURNAL_FORMAT, JOURNAL_VERSION):
            raise ValueError(f"format {header.format!r}, version {header.version!r}")

        rows = []
        lags: dict[str, list[float]] = {name: [] for name in LAGS}
        window = (0.0, 0.0)
        for text in rest[header.plan_bytes :].split(b"\n")[:-1]:
            line = msgspec.json.decode(text, type=_JournalLine)
            rows += [line.row] if line.row is not None else []
            window = line.window or window
            for name, samples in line.lags.items():
                lags[name] += samples
        return cls(
            run_id=header.run_id,
            window=window,
            records=records_frame(rows),
            plan=Plan.from_bytes(rest[: header.plan_bytes], f"the plan in {path}"),
            lag=Lag.of(
                lags["dispatch_lags_s"],
                lags["loop_lags_s"],
                lags["connect_s"],
                header.lag_bound_s,
            ),
            interrupted=True,
            cut_off=True,
        )


def join_shards(plan: Plan, shards: Sequence[Run], run_id: str) -> Run:
    """Join the runs of a plan's shards: all records, the whole window, the worst driver's lag.

    `shards[i]` drove `plan.shard(i, len(shards))`. Raises WorkloadError where the records are not
    those of the plan.
    """
    _check_shards(plan, shards, run_id)
    records = pd.concat([s.records for s in shards], ignore_index=True)
    worst = {f.name: max(getattr(s.lag, f.name) for s in shards) for f in fields(Lag)}
    return Run(
        run_id=run_id,
        window=(min(s.window[0] for s in shards), max(s.window[1] for s in shards)),
        records=records.sort_values("sent_at", kind="stable", ignore_index=True),
        plan=plan,
        lag=Lag(**worst),
        interrupted=any(s.interrupted for s in shards),
        spans_made=sum(s.spans_made for s in shards),
        spans_lost=sum(s.spans_lost for s in shards),
    )


def _check_shards(plan: Plan, shards: Sequence[Run], run_id: str) -> None:
    planned = {r.scenario_id for r in plan.requests}
    records = sum(len(s.records) for s in shards)
    strangers = {name for s in shards for name in s.records["scenario_id"]} - planned
    if not shards or strangers or records > len(plan):
        raise WorkloadError(
            f"these shards are not of the plan that {run_id} drove",
            got=f"{len(shards)} shards, {records} records, {len(plan)} requests in the plan, "
            f"{len(strangers)} scenarios that it does not have",
            fix="use the plan that the load was given, and all of its shards in order",
        )


log = logging.getLogger("lab.workload")
JOURNAL_FORMAT = "lab-run-journal"
JOURNAL_VERSION = 1
LAGS = ("dispatch_lags_s", "loop_lags_s", "connect_s")


class _JournalHeader(msgspec.Struct):
    format: str
    version: int
    run_id: str
    lag_bound_s: float
    plan_bytes: int


class _JournalLine(msgspec.Struct, omit_defaults=True):
    """One row, or the lags since the last such line with the window up to now."""

    row: dict[str, Any] | None = None
    lags: dict[str, list[float]] = {}
    window: tuple[float, float] | None = None


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
        header = _JournalHeader(
            JOURNAL_FORMAT, JOURNAL_VERSION, run_id, lag_bound_s, len(plan_bytes)
        )
        try:
            if folder.exists():
                raise FileExistsError(f"{folder} exists")
            folder.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            self._file = os.fdopen(fd, "wb", buffering=0)
            self._append(msgspec.json.encode(header) + b"\n" + plan_bytes)
        except OSError as e:
            raise WorkloadError(
                f"the run {run_id} cannot be saved in {folder.parent}",
                got=str(e),
                fix="choose a folder that can be written and a run_id that is not in use there",
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
        lines = [_JournalLine(row=row) for row in new_rows] + [
            _JournalLine(lags=new_lags, window=window)
        ]
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
