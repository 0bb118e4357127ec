"""What a processor did: shares of time and of its peak. Takes raw samples, as `lab.frames.series_frame` has them.

Three questions that are often taken for one: was there work (a request in the engine), did the processor run (CPU time,
GPU_UTIL), and how much of what it can compute did it compute (model FLOPs utilisation, tensor activity)?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab.errors import FrameError

IDLE_MODES = (
    "idle",
    "iowait",
    "steal",
)  # of node-exporter: time in which the processor did nothing for us


def rates(samples: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Counters' growth a second, from each raw sample to the next: columns `time` (the later one), those of `by`, and
    `value`, summed over the series of a group that were scraped at the same instant.

    A value below the one before it is a counter that began anew, and counts from 0. Raises FrameError for frames
    without these columns.
    """
    _need(samples, [*by, "time", "value"])
    labels = [c for c in samples.columns if c not in ("time", "value")]
    samples = samples.sort_values("time", kind="stable")
    keys = samples.groupby(
        labels, observed=True, dropna=False, sort=False
    ).ngroup()  # the series of each sample
    step = samples.groupby(keys)["value"].diff()
    step = step.where(~(step < 0), samples["value"])
    seconds = samples.groupby(keys)["time"].diff().dt.total_seconds()
    table = samples.assign(value=step / seconds)[step.notna() & (seconds > 0)]
    return table.groupby(["time", *by], observed=True, as_index=False)["value"].sum()


def cores_by_mode(samples: pd.DataFrame) -> pd.DataFrame:
    """Return how many cores were in each mode over time: columns `time`, `mode`, `value` (cores).

    `samples` are raw samples of node_cpu_seconds_total. Each core is in exactly one mode at any time, so the modes of a
    host add up to its cores and the counters are their own clock. Prometheus' timestamps are not: on a busy machine the
    counters are read later than their timestamp says.

    A host is an `instance`. It counts between its first and its last sample only, so a node-exporter that came back
    under another address is not a second host. Hosts are scraped at different instants; each instant adds up what every
    host did at that time. Raises FrameError for samples without `cpu` and `mode`.
    """
    _need(samples, ["cpu", "mode"])
    groups = (
        samples.groupby("instance", observed=True) if "instance" in samples else [("", samples)]
    )
    hosts = [_host_cores(part) for _, part in groups]

    # A rate holds for the interval that ends with its sample, so an instant takes the next sample of each host.
    instants = pd.DatetimeIndex(
        np.unique(np.concatenate([cores.index for _, cores in hosts])), tz="UTC"
    )
    total = pd.DataFrame()
    for first_sample, cores in hosts:
        known = cores.reindex(instants, method="bfill")[instants > first_sample]
        total = total.add(known, fill_value=0.0)

    table = total.rename_axis(index="time", columns="mode").stack().rename("value")
    return table.reset_index()


def _host_cores(samples: pd.DataFrame) -> tuple[pd.Timestamp, pd.DataFrame]:
    """Return the time of a host's first sample, and its cores per mode (columns) at each later one (index)."""
    grown = rates(samples, ["mode"]).pivot(index="time", columns="mode", values="value")
    total = grown.sum(axis=1)
    grown = grown[total > 0].div(total[total > 0], axis=0)
    grown.columns = grown.columns.astype(str)
    return samples["time"].min(), grown * samples["cpu"].nunique()


def busy_cores(cores: pd.DataFrame) -> pd.DataFrame:
    """Cores that worked, over time: `cores_by_mode` without idle, waiting for a disk, and taken by other guests."""
    works = cores[~cores["mode"].astype(str).isin(IDLE_MODES)]
    return works.groupby("time", as_index=False)["value"].sum()


def time_weighted_mean(samples: pd.DataFrame, end: float | None = None) -> float:
    """Mean of a gauge over time: each value holds until the next sample (the last one until `end`, epoch seconds, or
    not at all). Several series of one instant are added. NaN without two instants."""
    _need(samples, ["time", "value"])
    total = samples.groupby("time")["value"].sum().sort_index()
    at = total.index.astype("int64").to_numpy() / _per_second(total.index)
    until = np.append(at[1:], end if end is not None else at[-1:])
    held = np.clip(until - at, 0, None)
    return float((total.to_numpy() * held).sum() / held.sum()) if held.sum() > 0 else float("nan")


def time_share_above(samples: pd.DataFrame, bound: float = 0.0, end: float | None = None) -> float:
    """Share of time in which a gauge was above a bound, held as in `time_weighted_mean`.

    What happens between two scrapes is not seen: with short requests the true share may be higher or lower, so set it
    beside the union of the spans.
    """
    total = samples.groupby("time", as_index=False)["value"].sum()
    return time_weighted_mean(total.assign(value=(total["value"] > bound).astype(float)), end)


@dataclass(frozen=True)
class Work:
    """What an engine computed in so many seconds, by its own estimate, against what the machine can do (measured).

    `flops` and `bytes_moved` of the window, `seconds` of it in which there was work, and the peaks a second.
    """

    flops: float
    bytes_moved: float
    seconds: float
    peak_flops_per_s: float
    peak_bytes_per_s: float

    @property
    def mfu_ratio(self) -> float:
        """Model FLOPs utilisation: computed a second by the peak (Chowdhery et al. 2022, "PaLM", appendix B)."""
        return self.flops / self.seconds / self.peak_flops_per_s if self.seconds else float("nan")

    @property
    def bandwidth_ratio(self) -> float:
        """Bytes moved a second, by the estimate, of what memory can move. Above 1 where caches serve a small model."""
        return (
            self.bytes_moved / self.seconds / self.peak_bytes_per_s
            if self.seconds
            else float("nan")
        )

    @property
    def intensity(self) -> float:
        """FLOPs for a byte moved; below `ridge` memory is the limit (roofline: Williams, Waterman & Patterson 2009)."""
        return self.flops / self.bytes_moved if self.bytes_moved else float("nan")

    @property
    def ridge(self) -> float:
        """FLOPs a byte at which this machine's arithmetic and memory are both the limit."""
        return self.peak_flops_per_s / self.peak_bytes_per_s

    @property
    def limit(self) -> str:
        """Which of the two the work would meet first, if nothing else held it up."""
        return "memory" if self.intensity < self.ridge else "arithmetic"


def _per_second(index: pd.DatetimeIndex) -> float:
    return {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[index.unit]


def _need(samples: pd.DataFrame, columns: Sequence[str]) -> None:
    if missing := [c for c in columns if c not in samples]:
        raise FrameError(
            f"these samples lack {', '.join(missing)}",
            got=", ".join(map(str, samples.columns)) or "no column",
            fix="make them with lab.frames.series_frame; an answer without series has no labels",
        )
