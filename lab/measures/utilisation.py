"""What a processor did: shares of time and of its peak.

Everything is computed from raw samples, as `lab.frames.series_frame` returns them.
Three questions that are often taken for one: was there work (a request in the engine), did the
processor run (CPU time, GPU_UTIL), and how much of what it can compute did it compute (model FLOPs
utilisation, tensor activity)?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from lab.errors import FrameError, require_columns

# node-exporter's modes in which the processor did nothing for us.
IDLE_MODES = ("idle", "iowait", "steal")

# DCGM's gauges: metric -> (column, factor to its unit).
GPU_GAUGES = {
    "DCGM_FI_DEV_GPU_UTIL": ("util_ratio", 0.01),  # some kernel ran
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("engine_ratio", 1.0),  # the same, finer
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("tensor_ratio", 1.0),  # tensor cores worked
    "DCGM_FI_PROF_DRAM_ACTIVE": ("dram_ratio", 1.0),  # memory moved data
    "DCGM_FI_DEV_POWER_USAGE": ("power_w", 1.0),
    "DCGM_FI_DEV_FB_USED": ("memory_mib", 1.0),
}
GPU_ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"  # counter, mJ
# Of nvitop-exporter 1.7, which reads NVML and needs no DCGM, and of dcgm-exporter 1.x (until 2020).
# NVML cannot know how busy tensor cores and memory are, and nvitop-exporter has no energy counter.
OTHER_GPU_NAMES = {
    "gpu_utilization_Percentage": "DCGM_FI_DEV_GPU_UTIL",
    "gpu_power_usage_W": "DCGM_FI_DEV_POWER_USAGE",
    "gpu_memory_used_MiB": "DCGM_FI_DEV_FB_USED",
    "dcgm_gpu_utilization": "DCGM_FI_DEV_GPU_UTIL",
    "dcgm_power_usage": "DCGM_FI_DEV_POWER_USAGE",
    "dcgm_fb_used": "DCGM_FI_DEV_FB_USED",
    "dcgm_total_energy_consumption": GPU_ENERGY,
}
# The GPU's own, whatever label of an instance DCGM repeats them under.
_OF_WHOLE_GPU = ("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_POWER_USAGE", GPU_ENERGY)
# What DCGM writes for 'unknown', 'not supported' and the like (dcgm_structs.h: DCGM_INT32_BLANK,
# _INT64_, _FP64_); the last digits vary, and as float64 large ones lie up to 2048 apart.
GPU_BLANKS = (2147483632.0, 140737488355328.0, 9223372036854775792.0)
GPU_BUSY, TENSOR_HIGH, DRAM_HIGH = 0.5, 0.4, 0.6


def rates(samples: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the growth of counters per second, from each raw sample to the next.

    Columns: `time` (the later sample's), those of `by`, and `value`, summed over the series of a
    group that were scraped at the same instant. A value below the one before it is a counter that
    began anew, and counts from 0. Raises FrameError for frames without these columns.
    """
    _need(samples, [*by, "time", "value"])
    samples = samples.sort_values("time", kind="stable")
    series = samples.groupby(_series_numbers(samples))
    seconds = series["time"].diff().dt.total_seconds()
    growth = _growth(series["value"].diff(), samples["value"])
    table = samples.assign(value=growth / seconds)[growth.notna() & (seconds > 0)]
    return table.groupby(["time", *by], observed=True, as_index=False)["value"].sum()


def cores_by_mode(samples: pd.DataFrame) -> pd.DataFrame:
    """Return how many cores were in each mode over time: columns `time`, `mode`, `value` (cores).

    `samples` are raw samples of node_cpu_seconds_total. Each core is in exactly one mode at any
    time, so the modes of a host add up to its cores and the counters are their own clock.
    Prometheus' timestamps are not: on a busy machine the counters are read later than their
    timestamp says.

    A host is an `instance`. It counts between its first and its last sample only, so a
    node-exporter that came back under another address is not a second host. Hosts are scraped at
    different instants; each instant adds up what every host did at that time. Raises FrameError for
    samples without `cpu` and `mode`.
    """
    _need(samples, ["cpu", "mode"])
    by_host = (
        samples.groupby("instance", observed=True) if "instance" in samples else [("", samples)]
    )
    hosts = [_host_cores(part) for _, part in by_host]

    # A rate holds for the interval that ends with its sample, so an instant takes the next sample
    # of each host.
    instants = pd.concat([cores for _, cores in hosts]).index.unique().sort_values()
    total = pd.DataFrame()
    for first_sample, cores in hosts:
        known = cores.reindex(instants, method="bfill")[instants > first_sample]
        total = total.add(known, fill_value=0.0)

    table = total.rename_axis(index="time", columns="mode").stack().rename("value")
    return table.reset_index()


def _host_cores(samples: pd.DataFrame) -> tuple[pd.Timestamp, pd.DataFrame]:
    """Return the time of a host's first sample, and its cores per mode at each later one."""
    grown = rates(samples, ["mode"]).pivot(index="time", columns="mode", values="value")
    total = grown.sum(axis=1)
    shares = grown[total > 0].div(total[total > 0], axis=0)
    shares.columns = shares.columns.astype(str)
    return samples["time"].min(), shares * samples["cpu"].nunique()


def busy_cores(cores: pd.DataFrame) -> pd.DataFrame:
    """Return the cores that worked, over time: `cores_by_mode` without IDLE_MODES."""
    works = cores[~cores["mode"].astype(str).isin(IDLE_MODES)]
    return works.groupby("time", as_index=False)["value"].sum()


def time_weighted_mean(
    samples: pd.DataFrame, end: float | None = None, how: Literal["sum", "mean", "max"] = "sum"
) -> float:
    """Return the mean of a gauge over time: each value holds until the next sample.

    The last value holds until `end` (epoch seconds), or not at all. Several series are combined as
    `level_over_time` does: numbers of requests are added, shares must not be (`mean` or `max`). NaN
    without two instants.
    """
    _need(samples, ["time", "value"])
    return _held_mean(level_over_time(samples, how), end)


def time_share_above(samples: pd.DataFrame, bound: float = 0.0, end: float | None = None) -> float:
    """Return the share of time in which a gauge was above a bound, as in `time_weighted_mean`.

    What happens between two scrapes is not seen: with short requests the true share may be higher
    or lower, so set it beside the union of the spans.
    """
    total = level_over_time(samples)
    return _held_mean((total > bound).astype(float), end)


def level_over_time(samples: pd.DataFrame, how: Literal["sum", "mean", "max"] = "sum") -> pd.Series:
    """Return a gauge over time, all its series together: a value per instant of any of them.

    Replicas are scraped at different instants: at each of them a series has the value of its latest
    sample, from its first to its last one. `how` combines the series: requests are added; of shares
    (KV cache usage) take the `mean` or the `max`.
    """
    if samples.columns.isin(["time", "value"]).all():
        return samples.groupby("time")["value"].agg(how).sort_index()
    wide = samples.assign(series=_series_numbers(samples)).pivot_table(
        index="time", columns="series", values="value", aggfunc="last"
    )
    wide = wide.sort_index().ffill(limit_area="inside")
    return wide.sum(axis=1) if how == "sum" else wide.agg(how, axis=1)


def _held_mean(level: pd.Series, end: float | None) -> float:
    """Return the mean of a level, each value weighted by the time until the next one."""
    instants = (level.index - pd.Timestamp(0, tz="UTC")).total_seconds().to_numpy()
    until = np.append(instants[1:], instants[-1:] if end is None else end)
    held = np.clip(until - instants, 0, None)
    return float(np.average(level, weights=held)) if held.sum() > 0 else float("nan")


@dataclass(frozen=True)
class Work:
    """What an engine computed, by its own estimate, against what the machine can do (measured).

    `flops` and `bytes_moved` of a window, the `seconds` of it in which there was work, and the
    peaks per second.
    """

    flops: float
    bytes_moved: float
    seconds: float
    peak_flops_per_s: float
    peak_bytes_per_s: float

    @property
    def mfu_ratio(self) -> float:
        """Model FLOPs utilisation: computed per second by the peak.

        Chowdhery et al. 2022, "PaLM", appendix B.
        """
        return _ratio(self.flops, self.seconds) / self.peak_flops_per_s

    @property
    def bandwidth_ratio(self) -> float:
        """Bytes moved per second, by the estimate, of what memory can move.

        Above 1 where caches serve a small model.
        """
        return _ratio(self.bytes_moved, self.seconds) / self.peak_bytes_per_s

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved; below `ridge` memory is the limit.

        Roofline model: Williams, Waterman & Patterson 2009.
        """
        return _ratio(self.flops, self.bytes_moved)

    @property
    def ridge(self) -> float:
        """FLOPs per byte at which this machine's arithmetic and memory are both the limit."""
        return self.peak_flops_per_s / self.peak_bytes_per_s


def gpu_table(samples: pd.DataFrame) -> pd.DataFrame:
    """Return what DCGM reports of each GPU, one row per GPU.

    - its labels `gpu`, `model` and `host` (`hostname`, until May 2026 `Hostname`);
    - the means of GPU_GAUGES over the samples. NaN where DCGM has none: profiling counters are
      missing on consumer GPUs and on some shared ones;
    - `energy_j` by the counter, and `verdict`, what they mean together.

    A GPU that is divided (MIG) has one row per `instance`, and one as a whole: power and energy are
    the whole GPU's, though DCGM repeats them for every instance.

    `samples` is `lab.frames.series_frame` of any of these metrics. Raises FrameError without a
    sample of DCGM.
    """
    if samples.empty or "metric" not in samples:
        raise FrameError(
            "the answer has no sample of DCGM",
            fix="scrape its exporter; without an NVIDIA GPU there is none",
        )

    table = _with_gpu_labels(_without_blanks(samples))
    key = ["host", "gpu", "model", "instance"]
    gauges = table[table["metric"].isin(GPU_GAUGES)]
    means = gauges.groupby([*key, "metric"])["value"].mean().unstack("metric")
    names, factors = zip(*GPU_GAUGES.values(), strict=True)
    result = (
        means.reindex(columns=list(GPU_GAUGES)).mul(list(factors)).set_axis(names, axis="columns")
    )

    counter = table[table["metric"] == GPU_ENERGY].sort_values("time")
    # Each series by itself: of one GPU there may be several, for the pods that share it.
    series = counter.groupby([*key, "series"])["value"].agg(_total_growth)
    energy = series.groupby(level=key).max() / 1000
    result["energy_j"] = energy.reindex(result.index)
    result["verdict"] = [_verdict(*row) for row in result[_BUSY].itertuples(index=False)]
    result = result.reset_index()
    divided = result["instance"].ne("").groupby([result["host"], result["gpu"]]).transform("any")
    result.loc[divided & (result["instance"] == ""), "verdict"] = "divided (MIG): see its instances"
    return result if divided.any() else result.drop(columns="instance")


def _with_gpu_labels(samples: pd.DataFrame) -> pd.DataFrame:
    """Return samples with `host`, `gpu`, `model`, `instance` (MIG) and `series`, a number.

    Metric names are DCGM's own, whatever a collector or an old exporter made of them. What a GPU
    has only once is of no instance.
    """
    instance = _first_label(samples, "GPU_I_ID", "gpu_i_id")
    profile = _first_label(samples, "GPU_I_PROFILE", "gpu_i_profile")
    instance = instance.where(profile == "", instance + " (" + profile + ")")
    metric = samples["metric"].astype(str).map(gpu_metric)
    return samples.assign(
        series=_series_numbers(samples),
        host=_first_label(samples, "hostname", "Hostname", "exported_hostname", "node"),
        gpu=_first_label(samples, "gpu", "exported_gpu", "index"),
        model=_first_label(samples, "modelName", "modelname", "devicename"),
        metric=metric,
        instance=instance.where(~metric.isin(_OF_WHOLE_GPU), ""),
    )


def gpu_metric(name: str) -> str:
    """Return DCGM's own name of a metric: of lower-case ones, and of OTHER_GPU_NAMES."""
    return OTHER_GPU_NAMES.get(name, name.upper() if name.lower().startswith("dcgm_fi_") else name)


def gpu_activity(samples: pd.DataFrame) -> pd.DataFrame:
    """Return the shares among GPU_GAUGES over time.

    Columns: `time`, `what` (the share's name and the GPU), `value` (0 to 1).
    """
    table = _with_gpu_labels(_without_blanks(samples))
    gauges = pd.DataFrame(GPU_GAUGES, index=["column", "factor"]).T
    table = table.join(gauges[gauges["column"].str.endswith("_ratio")], on="metric", how="inner")
    name = table["column"].str.removesuffix("_ratio")
    return pd.DataFrame(
        {
            "time": table["time"],
            "what": (name + " of gpu " + table["gpu"] + " " + table["instance"]).str.rstrip(),
            "value": table["value"] * table["factor"].astype(float),
        }
    )


_BUSY = ["util_ratio", "engine_ratio", "tensor_ratio", "dram_ratio"]


def _verdict(util: float, engine: float, tensor: float, dram: float) -> str:
    """Return in words what the four counters mean together; the bounds are rules of thumb."""
    if np.isnan(util) and not np.isnan(engine):
        return f"{_verdict(engine, engine, tensor, dram)} (by GR_ENGINE_ACTIVE: no GPU_UTIL here)"
    if np.isnan(util):
        return "no GPU_UTIL: is this the GPU's own exporter?"
    if util < GPU_BUSY:
        return "mostly without work: more load fits"
    if np.isnan(dram) or (np.isnan(tensor) and dram < DRAM_HIGH):
        return "some kernel ran; how much it computed is not known (no profiling counters)"
    if dram >= DRAM_HIGH:
        return "at the memory's limit, as decode is: larger batches would be nearly free"
    if tensor >= TENSOR_HIGH:
        return "at the arithmetic's limit, as prefill is"
    return "GPU_UTIL is high, but neither tensor cores nor memory are busy: waiting between kernels"


def _without_blanks(samples: pd.DataFrame) -> pd.DataFrame:
    """Return samples without DCGM's marks for missing values, which look like huge numbers."""
    blank = [samples["value"].between(mark, mark + 2048) for mark in GPU_BLANKS]
    return samples[~np.any(blank, axis=0)]


def _total_growth(values: pd.Series) -> float:
    """Return the growth of a counter that may have begun anew; NaN of a single sample."""
    return float(_growth(values.diff(), values).iloc[1:].sum(min_count=1))


def _series_numbers(samples: pd.DataFrame) -> pd.Series:
    """Return the number of each sample's series, a combination of its labels."""
    labels = [name for name in samples.columns if name not in ("time", "value")]
    return samples.groupby(labels, observed=True, dropna=False, sort=False).ngroup()


def _growth(steps: pd.Series, values: pd.Series) -> pd.Series:
    return steps.where(~(steps < 0), values)


def _ratio(total: float, per: float) -> float:
    return total / per if per else float("nan")


def _first_label(table: pd.DataFrame, *names: str) -> pd.Series:
    """Return the first of these labels that a row has, as text; empty if it has none."""
    texts = table.reindex(columns=list(names)).astype(object)
    return texts.where(texts != "").bfill(axis="columns").iloc[:, 0].fillna("").astype(str)


def _need(samples: pd.DataFrame, columns: Sequence[str]) -> None:
    require_columns(
        samples,
        columns,
        "these samples lack {}",
        got=", ".join(map(str, samples.columns)) or "no column",
        fix="make them with lab.frames.series_frame; an answer without series has no labels",
    )
