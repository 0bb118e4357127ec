"""What a processor did while a run was driven, asked of everybody who might know: vLLM, node-exporter, the operating
system, DCGM. Where one has nothing to say, the reason is in the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from lab.frames import increase_exact, series_frame
from lab.kit.driving import drive
from lab.kit.peak import Peak
from lab.kit.processes import CpuWatch, recorded_cpu
from lab.kit.scrapes import of_vllm, scraped_until
from lab.measures import GPU_ENERGY, GPU_GAUGES, Work, gpu_activity, gpu_table
from lab.schema import Metric
from lab.settings import Settings
from lab.stores import Prometheus
from lab.workload import Run

DCGM = f'{{__name__=~"{"|".join([*GPU_GAUGES, GPU_ENERGY])}"}}'
PARTS = {  # scrape job -> part of the local lab
    "vllm": "vllm", "vllm-embed": "vllm-embed", "llama-stack": "llama-stack", "lab-tools": "tools",
    "tracestore": "tracestore", "prometheus": "prometheus", "node": "node",
}  # fmt: skip
# question -> (a metric that answers it, who exports it, why it may be missing)
QUESTIONS = {
    "requests running and waiting": (Metric.RUNNING, "vLLM", "vLLM is not scraped"),
    "KV cache in use": (Metric.KV_CACHE_USAGE, "vLLM", "vLLM is not scraped"),
    "tokens a step (batch)": (f"{Metric.STEP_TOKENS}_count", "vLLM", "vLLM is not scraped"),
    "estimated FLOPs and bytes": (Metric.FLOPS, "vLLM", "vLLM was started without --enable-mfu-metrics"),
    "CPU by mode": ("node_cpu_seconds_total", "node-exporter", "node-exporter is not scraped"),
    "processes that want to run": ("node_procs_running", "node-exporter", "its stat collector is off"),
    "memory": ("node_memory_MemAvailable_bytes", "node-exporter", "not Linux, or node-exporter is not scraped"),
    "energy of the processor": ("node_rapl_package_joules_total", "node-exporter", "RAPL is not shown: most virtual "
                                "machines, and Linux to all but root"),
    "GPU_UTIL, power, memory": ("DCGM_FI_DEV_GPU_UTIL", "DCGM exporter", "no NVIDIA GPU, or its exporter is not seen"),
    "tensor and DRAM activity": ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM exporter", "no NVIDIA GPU; or a consumer or "
                                 "shared one; or no right to profile (SYS_ADMIN)"),
}  # fmt: skip


def watched_drive(settings: Settings, **asked: Any) -> tuple[Run, pd.DataFrame]:
    """`lab.drive(settings, **asked)`, and the CPU time of every part meanwhile (`lab.kit.processes.cpu_now`).

    The readings are kept beside the run, so a recording has them too. They are empty where the lab runs elsewhere, and
    of a window: nobody looked then.
    """
    if asked.get("window"):
        return drive(settings, **asked), recorded_cpu(None)
    with CpuWatch(settings) as watch:
        run = drive(settings, **asked)
    if settings.place == "recorded":
        return run, recorded_cpu(run.folder)
    watch.save(run.folder)
    return run, watch.samples


def sources(settings: Settings, run: Run) -> pd.DataFrame:
    """Which question has data in this run's window: `question`, `metric`, `from`, `series` (how many), `why_not`."""
    prometheus = Prometheus(settings)
    rows = []
    for question, (metric, exporter, reason) in QUESTIONS.items():
        selector = of_vllm(settings, metric) if exporter == "vLLM" else metric
        count = len(prometheus.samples(selector, *run.window, lookback_s=0.0))
        rows.append((question, metric, exporter, count, "" if count else reason))
    return pd.DataFrame(rows, columns=["question", "metric", "from", "series", "why_not"])


def raw(settings: Settings, run: Run, selector: str) -> pd.DataFrame:
    """Every sample of a selector while the run was driven, up to the scrape of their job that holds all of it.

    lab.frames.series_frame. Raises NoData, with the reason that the server knows, where there is none.
    """
    prometheus = Prometheus(settings)
    jobs = [s.labels.get("job", "") for s in prometheus.samples(selector, *run.window).series]
    end = scraped_until(settings, prometheus, run, jobs[0] if jobs else settings.vllm_job)
    return series_frame(prometheus.samples(selector, run.window[0], end, lookback_s=0.0).require())


def engine_work(settings: Settings, run: Run, peak: Peak, busy_s: float) -> Work:
    """What vLLM estimates that it computed in the run, over the seconds in which it had work, against the peak.

    Of several replicas the sum; the peak is one machine's. Raises NoData where vLLM estimates nothing.
    """
    grown = {
        name: _growth(settings, run, name)
        for name in (Metric.FLOPS, Metric.READ_BYTES, Metric.WRITE_BYTES)
    }
    moved = grown[Metric.READ_BYTES] + grown[Metric.WRITE_BYTES]
    return Work(grown[Metric.FLOPS], moved, busy_s, peak.flops_per_s, peak.bytes_per_s)


def steps(settings: Settings, run: Run) -> pd.Series:
    """vLLM's engine steps of the run: `steps`, `tokens` (prompt and generated, computed), `tokens_per_step`."""
    count = _growth(settings, run, f"{Metric.STEP_TOKENS}_count")
    tokens = _growth(settings, run, f"{Metric.STEP_TOKENS}_sum")
    return pd.Series(
        {
            "steps": count,
            "tokens": tokens,
            "tokens_per_step": tokens / count if count else float("nan"),
        }
    )


def cpu_by_source(settings: Settings, run: Run, cpu: pd.DataFrame) -> pd.DataFrame:
    """CPU seconds of the run, one row a part: `prometheus_s` (its own `process_cpu_seconds_total`), `process_s` and
    `tree_s` (the operating system's, without and with its children), `children`, and `hidden_ratio`: how much of the
    tree's time Prometheus does not see. The two windows differ by up to a scrape at each end.
    """
    grouped = cpu.groupby("part", sort=False)
    used = grouped[["own_s", "tree_s"]].last() - grouped[["own_s", "tree_s"]].first()
    counted = {}
    prometheus = Prometheus(settings)
    for job, part in PARTS.items():
        if part in used.index:
            end = scraped_until(settings, prometheus, run, job)
            answer = prometheus.samples(
                f'process_cpu_seconds_total{{job="{job}"}}', run.window[0], end
            )
            grown = increase_exact(answer, run.window[0], end)
            counted[part] = float(grown["increase"].sum()) if len(grown) else float("nan")
    table = pd.DataFrame(
        {"prometheus_s": pd.Series(counted, dtype=float), "process_s": used["own_s"]}
    )
    table["tree_s"], table["children"] = used["tree_s"], grouped["children"].max()
    table["hidden_ratio"] = (1 - table["prometheus_s"] / table["tree_s"]).where(table["tree_s"] > 0)
    return table.sort_values("tree_s", ascending=False).rename_axis("part")


@dataclass(frozen=True)
class Gpus:
    """`table` is lab.measures.gpu_table and `samples` its source; both empty without a GPU, and then `why` says so."""

    table: pd.DataFrame
    samples: pd.DataFrame
    why: str = ""

    def activity(self) -> pd.DataFrame:
        """lab.measures.gpu_activity of the samples."""
        return gpu_activity(self.samples)

    def mean(self, column: str) -> float:
        """Over all GPUs; NaN where there is none, or none has it."""
        return float(self.table[column].mean()) if len(self.table) else float("nan")

    def __bool__(self) -> bool:
        return len(self.table) > 0


def gpus(settings: Settings, run: Run) -> Gpus:
    """What DCGM has of this run, one row a GPU; or why it has nothing."""
    prometheus = Prometheus(settings)
    answer = prometheus.samples(DCGM, *run.window, lookback_s=0.0)
    if not len(answer):
        why = "no series of DCGM in this window: " + QUESTIONS["GPU_UTIL, power, memory"][2]
        return Gpus(pd.DataFrame(), pd.DataFrame(), why)
    samples = series_frame(answer)
    return Gpus(gpu_table(samples), samples)


def _growth(settings: Settings, run: Run, metric: str) -> float:
    prometheus = Prometheus(settings)
    start, end = run.window[0], scraped_until(settings, prometheus, run, settings.vllm_job)
    answer = prometheus.samples(of_vllm(settings, metric), start, end).require()
    return float(increase_exact(answer, start, end)["increase"].sum())
