"""What DCGM's exporter writes becomes the GPU table; missing data has a reason."""

from __future__ import annotations

import pandas as pd
import pytest
from prometheus_api_client import MetricRangeDataFrame, PrometheusConnect

from lab.cost import energy
from lab.errors import NoData
from lab.frames import series_frame
from lab.observation import Observation
from lab.settings import load_settings
from lab.utilisation import (
    Peak,
    data_availability,
    engine_steps,
    engine_work,
    gpu_activity,
)
from lab.workload import Run
from tests.observation.prometheus_of import prometheus_of

T0 = 1_790_000_000
RUN = Run("by hand", (T0 + 1.0, T0 + 11.0), pd.DataFrame(), plan=None)  # type: ignore[arg-type]
EVERY = range(
    0, 17, 2
)  # seconds; the last scrape of the run is the one at 10 s, the first after it at 12 s

# As dcgm-exporter writes it (etc/default-counters.csv, and its README), 'not supported' included.
LABELS = (
    'gpu="0",UUID="GPU-604ac76c",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",'
    'hostname="node-1",job="dcgm"'
)
JOB = 'serving/"chat"'  # as an attached Prometheus may call it
ESCAPED = JOB.replace('"', r"\"")
VLLM = f'engine="0",model_name="m",job="{ESCAPED}",instance="i"'


def exposition(gpu: bool) -> str:
    """Return sixteen seconds by hand.

    vLLM computes 50 GFLOP and moves 20 GB per second, in 100 steps of 8 tokens; the GPU is at 98 %
    by GPU_UTIL with 6 % of its tensor cores, draws 400 W, and does not report its used memory.
    """
    families = [
        ("up", "gauge", f'job="{ESCAPED}",instance="i"', lambda _: 1),
        ("up", "", 'job="late",instance="l"', lambda s: int(s in (0, 16))),
        *([("up", "", 'job="dcgm",instance="d"', lambda _: 1)] if gpu else []),
        ("vllm:estimated_flops_per_gpu_total", "counter", VLLM, lambda s: 50e9 * s),
        ("vllm:estimated_read_bytes_per_gpu_total", "counter", VLLM, lambda s: 15e9 * s),
        ("vllm:estimated_write_bytes_per_gpu_total", "counter", VLLM, lambda s: 5e9 * s),
        ("vllm:iteration_tokens_total_count", "unknown", VLLM, lambda s: 100 * s),
        ("vllm:iteration_tokens_total_sum", "unknown", VLLM, lambda s: 800 * s),
    ]
    if gpu:
        families += [
            ("DCGM_FI_DEV_GPU_UTIL", "gauge", LABELS, lambda _: 98),
            ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "gauge", LABELS, lambda _: 0.06),
            ("DCGM_FI_PROF_DRAM_ACTIVE", "gauge", LABELS, lambda _: 0.72),
            ("DCGM_FI_DEV_POWER_USAGE", "gauge", LABELS, lambda _: 400),
            ("DCGM_FI_DEV_FB_USED", "gauge", LABELS, lambda _: 9223372036854775794),
            (
                "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
                "unknown",
                LABELS,
                lambda s: 7e6 + 400_000 * s,
            ),
        ]
    lines = []
    for name, kind, labels, value in families:
        if kind:
            lines.append(
                f"# TYPE {name.removesuffix('_total') if kind == 'counter' else name} {kind}"
            )
        lines += [f"{name}{{{labels}}} {value(at)} {T0 + at}" for at in EVERY]
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def with_gpu(tmp_path_factory: pytest.TempPathFactory):
    with prometheus_of(exposition(gpu=True), tmp_path_factory.mktemp("gpu")) as url:
        settings = load_settings(place="recorded", prometheus_url=url, vllm_job=JOB)
        yield Observation(RUN, settings)


@pytest.fixture(scope="module")
def without_gpu(tmp_path_factory: pytest.TempPathFactory):
    with prometheus_of(exposition(gpu=False), tmp_path_factory.mktemp("bare")) as url:
        settings = load_settings(place="recorded", prometheus_url=url, vllm_job=JOB)
        yield Observation(RUN, settings)


def test_the_exporters_text_becomes_a_verdict(with_gpu) -> None:
    """98 % by GPU_UTIL, tensor cores 6 %, memory 72 %: a larger batch would be nearly free."""
    found = gpu_activity(with_gpu)
    row = found.table.iloc[0]
    assert found and row.model == "NVIDIA H100 80GB HBM3" and "memory's limit" in row.verdict
    assert (row.util_ratio, row.tensor_ratio, row.dram_ratio, row.power_w) == pytest.approx(
        (0.98, 0.06, 0.72, 400)
    )
    assert found.mean("tensor_ratio") == pytest.approx(0.06) and row.memory_mib != row.memory_mib
    assert set(found.activity().what) == {"util of gpu 0", "tensor of gpu 0", "dram of gpu 0"}


def test_energy_is_counted_up_to_the_scrape_after_the_run(with_gpu) -> None:
    """From the sample at 0 s to the one at 12 s: 4,800 J.

    One that ended with the run would miss its last second.
    """
    found = energy(with_gpu)
    assert (
        found.joules == pytest.approx(4800)
        and found.source == "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
    )


def test_the_first_scrape_that_holds_the_run(with_gpu) -> None:
    """Not the last one that there is: what came after the run does not belong to it."""
    assert with_gpu.scraped_until == T0 + 12


def test_a_scrape_that_failed_holds_nothing(with_gpu) -> None:
    """After the run two scrapes of a busy server failed: the first that succeeded counts."""
    assert with_gpu.scraped("late") == T0 + 16
    with pytest.raises(NoData, match="no scrape of unknown"):
        with_gpu.scraped("unknown")


def test_the_engines_work_against_a_peak(with_gpu) -> None:
    """50 GFLOP and 20 GB a second for 12 s, in 6 busy seconds, of 1 TFLOP/s and 100 GB/s."""
    work = engine_work(with_gpu, Peak(1e12, 100e9, "bfloat16", 1, "by hand"), busy_s=6.0)
    assert (work.mfu_ratio, work.bandwidth_ratio, work.intensity) == pytest.approx((0.1, 0.4, 2.5))
    assert engine_steps(with_gpu).to_dict() == pytest.approx(
        {"steps": 1200, "tokens": 9600, "tokens_per_step": 8}
    )


def test_what_has_no_data_says_why(with_gpu, without_gpu) -> None:
    """Every question is a row; those without a series have a reason, the others none."""
    bare, full = (data_availability(s).set_index("question") for s in (without_gpu, with_gpu))
    assert (
        "no NVIDIA GPU" in bare.why_not["GPU_UTIL, power, memory"]
        and not bare.series["GPU_UTIL, power, memory"]
    )
    assert (
        full.why_not["GPU_UTIL, power, memory"] == ""
        and full.series["GPU_UTIL, power, memory"] == 1
    )
    assert (bare.why_not[bare.series == 0] != "").all() and (
        bare.why_not[bare.series > 0] == ""
    ).all()
    found = gpu_activity(without_gpu)
    assert (
        not found
        and "no NVIDIA GPU" in found.why
        and found.mean("util_ratio") != found.mean("util_ratio")
    )
    assert not energy(without_gpu).known


def test_raw_samples_are_those_of_the_run(with_gpu) -> None:
    """From its start to the scrape that holds all of it: 2 to 12 s."""
    found = with_gpu.samples("vllm:iteration_tokens_total_count")
    assert found.value.tolist() == [200, 400, 600, 800, 1000, 1200]


def test_another_client_reads_the_same_numbers(with_gpu) -> None:
    """Notebook 02 compares the lab's range query with that of prometheus-api-client."""
    metric = f'vllm:iteration_tokens_total_count{{job="{ESCAPED}"}}'
    start, end = (pd.Timestamp(at, unit="s", tz="UTC") for at in (T0 + 1, T0 + 11))
    client = PrometheusConnect(url=with_gpu.settings.endpoint("prometheus"))
    theirs = MetricRangeDataFrame(client.custom_query_range(metric, start, end, step="1")).value
    ours = series_frame(with_gpu.prometheus.range(metric, start, end, step=1)).value
    assert theirs.astype(float).tolist() == ours.tolist() and len(ours) == 11
