"""Utilisation: how busy a processor was during a run, by every source that measures it.

The sources are vLLM, node-exporter, the operating system and DCGM. Where a source has no data, the
reason is in the answer.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lab.errors import NoData
from lab.frames import series_frame
from lab.frames.requests import union_length
from lab.frames.spans import end_ns, start_ns
from lab.measures import (
    GPU_ENERGY,
    GPU_GAUGES,
    OTHER_GPU_NAMES,
    Work,
    busy_cores,
    cores_by_mode,
    gpu_table,
    rates,
    time_share_above,
    time_weighted_mean,
)
from lab.measures import gpu_activity as activity_of
from lab.observation import Observation, drive
from lab.places import place_of
from lab.schema import Metric
from lab.settings import Settings
from lab.utilisation.machine import (
    CpuWatch,
    Peak,
    measured_peak,
    parameters_of,
    recorded_cpu,
)
from lab.workload import Run

__all__ = [
    "GpuActivity",
    "Peak",
    "busy_cores",
    "busy_s",
    "cores_by_mode",
    "cpu_by_source",
    "data_availability",
    "engine_steps",
    "engine_work",
    "gpu_activity",
    "measured_peak",
    "parameters_of",
    "rates",
    "time_share_above",
    "time_weighted_mean",
    "watched_drive",
]

# Collectors write lower case, and old exporters had names of their own.
DCGM = f'{{__name__=~"(?i:{"|".join([*GPU_GAUGES, GPU_ENERGY])})|{"|".join(OTHER_GPU_NAMES)}"}}'
PART_OF_JOB = {
    "vllm": "vllm",
    "vllm-embed": "vllm-embed",
    "llama-stack": "llama-stack",
    "lab-tools": "tools",
    "tracestore": "tracestore",
    "prometheus": "prometheus",
    "node": "node",
}
NO_VLLM = "vLLM is not scraped"
NO_GPU = "no NVIDIA GPU, or its exporter is not scraped"
QUESTIONS = [  # question, a metric that answers it, its exporter, why it may be missing
    ("requests running and waiting", Metric.RUNNING, "vLLM", NO_VLLM),
    ("KV cache in use", Metric.KV_CACHE_USAGE, "vLLM", NO_VLLM),
    ("tokens per step (batch)", f"{Metric.STEP_TOKENS}_count", "vLLM", NO_VLLM),
    (
        "estimated FLOPs and bytes",
        Metric.FLOPS,
        "vLLM",
        "vLLM was started without --enable-mfu-metrics",
    ),
    ("CPU by mode", "node_cpu_seconds_total", "node-exporter", "node-exporter is not scraped"),
    (
        "processes that want to run",
        "node_procs_running",
        "node-exporter",
        "its stat collector is off",
    ),
    (
        "memory",
        "node_memory_MemAvailable_bytes",
        "node-exporter",
        "not Linux, or node-exporter is not scraped",
    ),
    (
        "energy of the processor",
        "node_rapl_package_joules_total",
        "node-exporter",
        "RAPL is hidden: on most virtual machines, and on Linux from all but root",
    ),
    ("GPU_UTIL, power, memory", "DCGM_FI_DEV_GPU_UTIL", "DCGM exporter", NO_GPU),
    (
        "tensor and DRAM activity",
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
        "DCGM exporter",
        "no NVIDIA GPU; or a consumer or shared one; or no right to profile (SYS_ADMIN)",
    ),
]


def watched_drive(settings: Settings, **conditions: Any) -> tuple[Run, pd.DataFrame]:
    """Return `lab.drive(settings, **conditions)`, and the CPU time of every part meanwhile.

    See `lab.utilisation.machine.cpu_now`. The readings are saved next to the run, so a recording
    has them too. They are empty where the lab runs elsewhere.
    """
    if not place_of(settings).live:
        run = drive(settings, **conditions)
        return run, recorded_cpu(run.folder)

    with CpuWatch(settings) as watch:
        run = drive(settings, **conditions)
    watch.save(run.folder)
    return run, watch.samples


def busy_s(spans: pd.DataFrame, service: str) -> float:
    """Return the seconds in which at least one span of a service was open."""
    own = spans[spans["service"] == service]
    group = np.zeros(len(own), dtype=int)
    return float(union_length(group, start_ns(own), end_ns(own), 1)[0]) / 1e9


def data_availability(seen: Observation) -> pd.DataFrame:
    """Return which questions have data in the run's window.

    Columns: `question`, `metric`, `from` (its exporter), `series` (how many), `why_not`.
    """
    rows = []
    for question, metric, exporter, reason in QUESTIONS:
        selector = seen.of_vllm(metric) if exporter == "vLLM" else metric
        count = len(seen.prometheus.samples(selector, *seen.run.window, lookback_s=0.0))
        rows.append((question, metric, exporter, count, "" if count else reason))
    return pd.DataFrame(rows, columns=["question", "metric", "from", "series", "why_not"])


def engine_work(seen: Observation, peak: Peak, busy_s: float) -> Work:
    """Return vLLM's estimate of its arithmetic in the run, against the peak of one machine.

    `busy_s` are the seconds in which it had work. Of several replicas the sum. Raises NoData where
    vLLM estimates nothing.
    """
    flops = seen.increase(Metric.FLOPS)
    moved = seen.increase(Metric.READ_BYTES) + seen.increase(Metric.WRITE_BYTES)
    return Work(flops, moved, busy_s, peak.flops_per_s, peak.bytes_per_s)


def engine_steps(seen: Observation) -> pd.Series:
    """Return vLLM's engine steps of the run: `steps`, `tokens` (computed), `tokens_per_step`."""
    steps = seen.increase(f"{Metric.STEP_TOKENS}_count")
    tokens = seen.increase(f"{Metric.STEP_TOKENS}_sum")
    per_step = tokens / steps if steps else float("nan")
    return pd.Series({"steps": steps, "tokens": tokens, "tokens_per_step": per_step})


def cpu_by_source(seen: Observation, cpu: pd.DataFrame) -> pd.DataFrame:
    """Return the CPU seconds of the run, one row per part, most first.

    - `prometheus_s`: the part's own `process_cpu_seconds_total`, NaN without one;
    - `process_s`, `tree_s`: the operating system's, without and with its children, and `children`,
      their number;
    - `hidden_ratio`: the share of `tree_s` that Prometheus does not see.

    The windows of the two sources differ by up to a scrape at each end.
    """
    groups = cpu.groupby("part", sort=False)
    table = groups[["own_s", "tree_s"]].last() - groups[["own_s", "tree_s"]].first()
    table = table.rename(columns={"own_s": "process_s"})
    exported = {}
    for job, part in PART_OF_JOB.items():
        if part in table.index:
            try:
                exported[part] = seen.increase("process_cpu_seconds_total", job=job)
            except NoData:
                exported[part] = float("nan")
    table.insert(0, "prometheus_s", pd.Series(exported, dtype=float))
    table["children"] = groups["children"].max()
    hidden = 1 - table["prometheus_s"] / table["tree_s"]
    table["hidden_ratio"] = hidden.where(table["tree_s"] > 0)
    return table.sort_values("tree_s", ascending=False).rename_axis("part")


@dataclass(frozen=True)
class GpuActivity:
    """`table` is lab.measures.gpu_table and `samples` its source.

    Without a GPU both are empty, and `why` is the reason.
    """

    table: pd.DataFrame
    samples: pd.DataFrame
    why: str = ""

    def activity(self) -> pd.DataFrame:
        """Return lab.measures.gpu_activity of the samples."""
        return activity_of(self.samples)

    def mean(self, column: str) -> float:
        """Return the mean over all GPUs; NaN where there is none, or none has this column."""
        return float(self.table[column].mean()) if len(self.table) else float("nan")

    def __bool__(self) -> bool:
        return len(self.table) > 0


def gpu_activity(seen: Observation) -> GpuActivity:
    """Return what DCGM has of this run, one row per GPU; or why it has nothing."""
    answer = seen.prometheus.samples(DCGM, *seen.run.window, lookback_s=0.0)
    if not len(answer):
        why = f"no series of DCGM in this window: {NO_GPU}"
        return GpuActivity(pd.DataFrame(), pd.DataFrame(), why)
    samples = series_frame(answer)
    return GpuActivity(gpu_table(samples), samples)
