"""A run: what a driven plan left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from lab.errors import WorkloadError
from lab.workload.journal import journal_path, read_journal
from lab.workload.plan import Plan
from lab.workload.record import frame, with_added_columns

FORMAT, VERSION = "lab-run", 1
LAG_BOUND_S = 0.03


@dataclass(frozen=True)
class Lag:
    """How late the driver itself was, in seconds.

    `dispatch`: from due until the driver turned to the request; `loop`: lateness of its timers, which is how late an
    arriving chunk may have been noticed; `connect`: opening connections.
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
        """From samples in seconds."""
        d, lo, c = (_quantiles(x) for x in (dispatch, loop, connect))
        return cls(*d, *lo, *c[:2], bound_s=bound_s)

    @property
    def lagged(self) -> bool:
        """True if one request or chunk in a hundred was more than `bound_s` late because of the driver."""
        return max(self.dispatch_p99_s, self.loop_p99_s) > self.bound_s

    def __str__(self) -> str:
        text = f"driver's lag p99: {self.dispatch_p99_s * 1e3:.1f} ms to send, {self.loop_p99_s * 1e3:.1f} ms to notice"
        if self.lagged:
            text += (
                f"\nTHE DRIVER LAGGED (bound {self.bound_s * 1e3:.0f} ms): this run's latencies contain the driver's "
                "own delay. Lower the load, free the CPU, or spread the plan over more drivers (plan.shard)."
            )
        return text


def _quantiles(samples: list[float]) -> tuple[float, float, float]:
    if not samples:
        return (0.0, 0.0, 0.0)
    p50, p99 = np.quantile(samples, [0.5, 0.99])
    return (float(p50), float(p99), float(max(samples)))


@dataclass
class Run:
    """`records` has the columns of lab.schema.CLIENT_RECORD; `window` is (start, end) in seconds since the epoch.

    `interrupted`: it was stopped, `not_sent` requests of the plan were never sent. `cut_off`: its driver was killed;
    the rows are those that had reached the disk, and of the `not_sent` some may have been under way. `spans_lost`: root
    spans that the trace store did not take (those traces have no root).
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
        return self.plan.seed

    @property
    def not_sent(self) -> int:
        return len(self.plan) - len(self.records)

    @property
    def duration_s(self) -> float:
        return self.window[1] - self.window[0]

    def __repr__(self) -> str:
        by_status = ", ".join(
            f"{n} {status}" for status, n in self.records.status.value_counts().items()
        )
        text = f"<Run {self.run_id}: {len(self.records)} requests ({by_status}) in {self.duration_s:.1f} s, {self.lag}>"
        if self.cut_off:
            text += (
                f"\nCUT OFF: the driver was killed. {self.not_sent} requests of the plan have no row: "
                "not sent, or under way."
            )
        elif self.interrupted:
            text += f"\nINTERRUPTED: {self.not_sent} requests of the plan were not sent."
        if self.spans_lost:
            text += f"\n{self.spans_lost} of {self.spans_made} root spans did not reach the trace store."
        return text

    def save(self, out_dir: str | Path) -> Path:
        """Write the folder `out_dir/run_id` (records.parquet, run.json, plan.jsonl), whole or not at all.

        Raises WorkloadError if it is there already or cannot be written.
        """
        out_dir = Path(out_dir)
        final = out_dir / self.run_id
        draft = None
        try:
            out_dir.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(dir=out_dir, prefix=f".{self.run_id}."))
            self.records.to_parquet(draft / "records.parquet", index=False)
            (draft / "run.json").write_bytes(
                msgspec.json.format(msgspec.json.encode(self._about()), indent=2)
            )
            self.plan.save(draft / "plan.jsonl")
            os.rename(draft, final)  # fails if the folder is there and not empty
        except OSError as e:
            fix = "choose a folder that can be written, and does not hold this run already"
            raise WorkloadError(
                f"the run {self.run_id} cannot be saved to {final}", got=str(e), fix=fix
            ) from e
        finally:
            if draft is not None:
                shutil.rmtree(draft, ignore_errors=True)
        self.folder = final
        return final

    def _about(self) -> dict:
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
        """Read what `save` wrote; or, of a run whose driver was killed before it could save, what it had measured.

        Raises WorkloadError for a folder that is not a whole run and has no journal beside it.
        """
        folder = Path(folder)
        journal = folder if folder.is_file() else journal_path(folder)
        try:
            if not folder.is_dir() and journal.is_file():
                return cls._from_journal(journal)
            about = msgspec.json.decode((folder / "run.json").read_bytes())
            if (about["format"], about["version"]) != (FORMAT, VERSION):
                raise ValueError(f"format {about['format']!r}, version {about['version']!r}")
            records = with_added_columns(pd.read_parquet(folder / "records.parquet"))
            if len(records) != about["requests"]:
                raise ValueError(
                    f"{len(records)} records where run.json tells of {about['requests']}"
                )
            return cls(
                about["run_id"],
                tuple(about["window"]),
                records,
                Plan.load(folder / "plan.jsonl"),
                Lag(**about["lag"]),
                about["interrupted"],
                about["spans_made"],
                about["spans_lost"],
                folder,
                about.get("cut_off", False),
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
            got, fix = f"{type(e).__name__}: {e}", "give a folder that Run.save wrote"
            raise WorkloadError(f"{folder} does not hold a whole run", got=got, fix=fix) from e

    @classmethod
    def _from_journal(cls, path: Path) -> Run:
        entries = read_journal(path)
        return cls(
            run_id=entries.run_id,
            window=entries.window,
            records=frame(entries.rows),
            plan=entries.plan,
            lag=Lag.of(*entries.lags.values(), entries.lag_bound_s),
            interrupted=True,
            cut_off=True,
        )
