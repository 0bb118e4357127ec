"""DCGM's view of a GPU: three meanings of busy, and which of them a verdict may rest on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.errors import FrameError

# metric -> (column, factor to its unit)
GAUGES = {
    "DCGM_FI_DEV_GPU_UTIL": ("util_ratio", 0.01),  # some kernel ran
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("engine_ratio", 1.0),  # the same, finer
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": (
        "tensor_ratio",
        1.0,
    ),  # the cores that multiply matrices worked
    "DCGM_FI_PROF_DRAM_ACTIVE": ("dram_ratio", 1.0),  # memory moved data
    "DCGM_FI_DEV_POWER_USAGE": ("power_w", 1.0),
    "DCGM_FI_DEV_FB_USED": ("memory_mib", 1.0),
}
ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"  # counter, mJ
# What DCGM writes for 'unknown', 'not supported' and the like (dcgm_structs.h: DCGM_INT32_BLANK, _INT64_, _FP64_).
BLANKS = (2147483632.0, 140737488355328.0, 9223372036854775792.0)
BUSY, TENSOR_HIGH, DRAM_HIGH = 0.5, 0.4, 0.6


def without_blanks(samples: pd.DataFrame) -> pd.DataFrame:
    """Samples without DCGM's marks for missing values, which look like huge numbers (of its last digits 0 to 3)."""
    value = samples["value"].to_numpy(float)
    blank = np.zeros(len(value), dtype=bool)
    for mark in BLANKS:
        blank |= (value >= mark) & (
            value <= mark + 2048
        )  # as float64 large ones lie that far apart
    return samples[~blank]


def gpu_table(samples: pd.DataFrame) -> pd.DataFrame:
    """One row a GPU: its labels `gpu`, `model` and `host`, the means of GAUGES over the samples (NaN where DCGM has
    none: profiling counters are missing on consumer and on some shared GPUs), `energy_j` of the counter, and `says`.

    `samples` is `lab.frames.series_frame` of any of these metrics. The label of the host is `hostname`, until May 2026
    `Hostname`. Raises FrameError where no sample of DCGM is in it.
    """
    if samples.empty or "metric" not in samples:
        raise FrameError(
            "there is no sample of DCGM",
            fix="scrape its exporter; without an NVIDIA GPU there is none",
        )
    table = without_blanks(samples)
    labels = {"gpu": _label(table, "gpu"), "model": _label(table, "modelName")}
    labels["host"] = _label(table, "hostname").where(
        _label(table, "hostname") != "", _label(table, "Hostname")
    )
    table = table.assign(**labels, metric=table["metric"].astype(str))
    gauges = table[table["metric"].isin(GAUGES)]
    key = ["host", "gpu", "model"]
    means = (
        gauges.groupby([*key, "metric"])["value"]
        .mean()
        .unstack("metric")
        .reindex(columns=list(GAUGES))
    )
    found = pd.DataFrame(
        {name: means[metric] * factor for metric, (name, factor) in GAUGES.items()}
    )
    joules = (
        table[table["metric"] == ENERGY].sort_values("time").groupby(key)["value"].agg(_growth)
        / 1000
    )
    found["energy_j"] = joules.reindex(found.index)
    found["says"] = [_verdict(row) for row in found.itertuples()]
    return found.reset_index()


def gpu_activity(samples: pd.DataFrame) -> pd.DataFrame:
    """The shares of time among GAUGES over time: columns `time`, `what` (its name and the GPU), `value` (0 to 1)."""
    shares = {metric: how for metric, how in GAUGES.items() if how[0].endswith("_ratio")}
    table = without_blanks(samples)
    metric = table["metric"].astype(str)
    table, metric = table[metric.isin(shares)], metric[metric.isin(shares)]
    what = metric.map({m: name.removesuffix("_ratio") for m, (name, _) in shares.items()})
    value = table["value"] * metric.map({m: factor for m, (_, factor) in shares.items()})
    return pd.DataFrame(
        {"time": table["time"], "what": what + " of gpu " + _label(table, "gpu"), "value": value}
    )


def _verdict(row: object) -> str:
    """In words what the three counters say together. The bounds are rules of thumb, as good as their round numbers."""
    util, tensor, dram = row.util_ratio, row.tensor_ratio, row.dram_ratio  # type: ignore[attr-defined]
    if np.isnan(util):
        return "no GPU_UTIL: is this the GPU's own exporter?"
    if util < BUSY:
        return "mostly without work: more load fits"
    if np.isnan(tensor) or np.isnan(dram):
        return "some kernel ran; how much it computed is not known (no profiling counters)"
    if dram >= DRAM_HIGH:
        return "at the memory's limit, as decode is: larger batches would be nearly free"
    if tensor >= TENSOR_HIGH:
        return "at the arithmetic's limit, as prefill is"
    return "GPU_UTIL is high, but neither tensor cores nor memory are busy: waiting between kernels"


def _growth(values: pd.Series) -> float:
    """Of a counter that may have begun anew; NaN of a single sample."""
    step = values.diff().iloc[1:]
    return float(step.where(step >= 0, values.iloc[1:]).sum()) if len(step) else float("nan")


def _label(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        return pd.Series("", index=table.index)
    return table[name].astype(object).fillna("").astype(str)
