"""Shares of time, of cores and of peaks, by hand and from counters with known truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge

from lab.errors import FrameError
from lab.frames import series_frame
from lab.measures import (
    Work,
    busy_cores,
    cores_by_mode,
    gpu_table,
    rates,
    time_share_above,
    time_weighted_mean,
)
from lab.measures.utilisation import gpu_activity
from tests.frames.telemetry import metrics
from tests.measures.recorded import recorded_samples

T0 = 1_790_000_000


def samples(*series: tuple[dict[str, str], list[float]], step_s: float = 2.0) -> pd.DataFrame:
    """Series with these values, a sample every `step_s`."""
    return series_frame(
        metrics(
            *(
                (labels, [(T0 + i * step_s, str(v)) for i, v in enumerate(values)])
                for labels, values in series
            )
        )
    )


def cpu(number: str, mode: str, values: list[float]) -> tuple[dict[str, str], list[float]]:
    return {
        "__name__": "node_cpu_seconds_total",
        "cpu": number,
        "mode": mode,
        "instance": "m",
    }, values


def test_rates_of_counters_by_hand() -> None:
    """Two series of one group add up; a counter that began anew counts from 0, not backwards."""
    found = rates(
        samples(
            ({"job": "a", "i": "1"}, [10, 14, 2]),
            ({"job": "a", "i": "2"}, [0, 2, 4]),
            ({"job": "b"}, [1, 1, 1]),
        ),
        ["job"],
    )
    assert (
        found.value.tolist() == [3.0, 0.0, 2.0, 0.0]
        and found.job.astype(str).tolist() == ["a", "b"] * 2
    )


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30), st.floats(0.5, 60))
def test_rates_give_back_what_was_counted(steps: list[float], step_s: float) -> None:
    """Rate by seconds is the counter's growth, however it was sampled."""
    values = np.cumsum(steps)
    found = rates(samples(({"job": "a"}, values.tolist()), step_s=step_s), ["job"])
    seconds = found.time.diff().dt.total_seconds().fillna(step_s)
    assert (found.value * seconds).sum() == pytest.approx(
        values[-1] - values[0], rel=1e-3, abs=1e-6
    )


def test_each_core_is_in_one_mode() -> None:
    """Two cores for two seconds, read half a second late:
    still two cores, three quarters of them busy.
    """
    table = samples(
        cpu("0", "user", [0, 2.5]),
        cpu("0", "idle", [0, 0.0]),
        cpu("1", "user", [0, 1.25]),
        cpu("1", "idle", [0, 1.25]),
    )
    modes = cores_by_mode(table)
    assert modes.set_index("mode").value.to_dict() == {"idle": 0.5, "user": 1.5}
    assert busy_cores(modes).value.tolist() == [1.5]
    with pytest.raises(FrameError, match="lack cpu"):
        cores_by_mode(table.drop(columns="cpu"))


def test_waiting_and_stolen_time_is_not_work() -> None:
    """A core that waits for its disk, or that another guest has, did nothing for us."""
    table = samples(*(cpu("0", mode, [0, 0.5]) for mode in ("user", "idle", "iowait", "steal")))
    assert busy_cores(cores_by_mode(table)).value.tolist() == [0.25]


def test_a_gauge_holds_until_it_is_looked_at_again() -> None:
    """0 for 2 s, 4 for 2 s, then 1 until the end, 6 s later: 14/10; above nothing for 8 of 10."""
    gauge = samples(({"job": "a"}, [0, 4, 1]))
    assert time_weighted_mean(gauge, T0 + 10.0) == pytest.approx(1.4)
    assert time_share_above(gauge, 0, T0 + 10.0) == pytest.approx(0.8)
    assert time_weighted_mean(gauge) == pytest.approx(2.0) and math.isnan(
        time_weighted_mean(gauge.head(1))
    )


def test_the_roofline_by_hand() -> None:
    """10 GFLOP and 5 GB in 2 s of 100 GFLOP/s and 10 GB/s:
    5 %, 25 %, 2 FLOPs a byte where 10 would balance.
    """
    work = Work(10e9, 5e9, 2.0, 100e9, 10e9)
    assert (work.mfu_ratio, work.bandwidth_ratio, work.intensity, work.ridge) == pytest.approx(
        (0.05, 0.25, 2, 10)
    )
    computing = Work(1e12, 1e9, 1, 1e12, 1e12)
    assert work.intensity < work.ridge and computing.intensity > computing.ridge
    assert math.isnan(Work(1, 1, 0, 1, 1).mfu_ratio)


def dcgm(
    metric: str, gpu: str, values: list[float], host: str = "hostname"
) -> tuple[dict[str, str], list[float]]:
    labels = {
        "gpu": gpu,
        "UUID": f"GPU-{gpu}",
        "device": f"nvidia{gpu}",
        "modelName": "NVIDIA H100",
        host: "node-1",
    }
    return {"__name__": metric, **labels}, values


def gpu(number: str, util: float, tensor: float, dram: float, host: str = "hostname") -> list:
    return [
        dcgm("DCGM_FI_DEV_GPU_UTIL", number, [util, util], host),
        dcgm("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", number, [tensor, tensor], host),
        dcgm("DCGM_FI_PROF_DRAM_ACTIVE", number, [dram, dram], host),
    ]


@pytest.mark.parametrize(
    ("util", "tensor", "dram", "says"),
    [
        (20, 0.1, 0.1, "mostly without work"),
        (99, 0.05, 0.8, "memory's limit"),
        (99, 0.6, 0.3, "arithmetic's limit"),
        (99, 0.05, 0.1, "waiting between kernels"),
    ],
)
def test_what_three_counters_say_together(
    util: float, tensor: float, dram: float, says: str
) -> None:
    """GPU_UTIL alone calls the last three the same."""
    row = gpu_table(samples(*gpu("0", util, tensor, dram))).iloc[0]
    assert (
        says in row.verdict
        and row.util_ratio == pytest.approx(util / 100)
        and row.model == "NVIDIA H100"
    )


def test_energy_is_a_counter_in_millijoules() -> None:
    """From 1,000 to 4,000 mJ, a driver that was loaded again, and 500 more:
    3.5 J; power is a gauge.
    """
    table = gpu_table(
        samples(
            dcgm("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "0", [1000, 4000, 500]),
            *gpu("0", 60, 0.1, 0.1),
            dcgm("DCGM_FI_DEV_POWER_USAGE", "0", [300, 400, 500]),
        )
    )
    assert table.energy_j.tolist() == [3.5] and table.power_w.tolist() == [400.0]


def test_marks_for_missing_values_are_not_values() -> None:
    """9223372036854775794 is how an exporter says 'not supported',
    not a temperature and not a power.
    """
    table = samples(
        dcgm("DCGM_FI_DEV_POWER_USAGE", "0", [9223372036854775794.0, 250.0]),
        dcgm("DCGM_FI_DEV_FB_USED", "0", [2147483634.0, 2147483634.0]),
        *gpu("0", 90, 0.2, 0.2),
    )
    row = gpu_table(table).iloc[0]
    assert row.power_w == 250.0 and math.isnan(row.memory_mib)


def test_older_exporters_and_gpus_without_profiling_are_read() -> None:
    """The host's label was `Hostname` until May 2026;
    without profiling counters no verdict rests on GPU_UTIL.
    """
    old = gpu_table(samples(*gpu("1", 99, 0.5, 0.5, host="Hostname"))).iloc[0]
    assert old.host == "node-1" and old.gpu == "1"
    bare = gpu_table(samples(dcgm("DCGM_FI_DEV_GPU_UTIL", "0", [99, 99]))).iloc[0]
    assert "not known" in bare.verdict and math.isnan(bare.tensor_ratio)


def test_nvitops_exporter_answers_what_nvml_knows() -> None:
    """Its gauges are named as prometheus_client names them; what NVML cannot know is not known."""
    gauges = {"gpu_utilization": "Percentage", "gpu_power_usage": "W", "gpu_memory_used": "MiB"}
    labels = {"hostname": "laptop", "index": "0", "devicename": "RTX", "uuid": "GPU-1"}
    registry = CollectorRegistry()
    for name, unit in gauges.items():
        Gauge(name, "x", list(labels), unit=unit, registry=registry).labels(**labels).set(80)
    series = [
        ({"__name__": sample.name, **sample.labels}, [sample.value] * 2)
        for family in registry.collect()
        for sample in family.samples
    ]
    (row,) = gpu_table(samples(*series)).to_dict("records")
    assert (row["host"], row["gpu"], row["model"]) == ("laptop", "0", "RTX")
    assert (row["util_ratio"], row["power_w"], row["memory_mib"]) == (0.8, 80, 80)
    assert math.isnan(row["tensor_ratio"]) and math.isnan(row["dram_ratio"])
    assert "not known" in row["verdict"]


def test_every_gpu_is_a_row_and_a_line() -> None:
    """Two GPUs do not become one mean."""
    table = samples(*gpu("0", 99, 0.05, 0.8), *gpu("1", 0, 0.0, 0.0))
    assert gpu_table(table).util_ratio.tolist() == [0.99, 0.0]
    lines = gpu_activity(table)
    assert sorted(set(lines.what)) == sorted(
        f"{w} of gpu {g}" for g in "01" for w in ("util", "tensor", "dram")
    )
    assert lines.value.max() == pytest.approx(0.99)


def test_no_gpu_is_no_table() -> None:
    """A frame without DCGM's samples is refused, not a row of zeros."""
    with pytest.raises(FrameError, match="no sample of DCGM"):
        gpu_table(samples())


def test_a_node_exporter_that_changed_its_address_is_one_machine() -> None:
    """Recorded samples of two cores, the later half under another address:
    two cores at every instant, as before.
    """
    recorded = recorded_samples("node_cpu_seconds_total")
    middle = recorded["time"].quantile(0.5)
    moved = recorded.assign(
        instance=recorded["instance"].where(recorded["time"] < middle, "node:9100")
    )

    cores = cores_by_mode(moved).groupby("time")["value"].sum()

    assert moved["instance"].nunique() == 2
    assert cores.to_numpy() == pytest.approx(2)
    # Only the interval in which the address changed is not known.
    assert len(cores) == len(cores_by_mode(recorded)["time"].unique()) - 1


def test_hosts_that_are_scraped_at_different_instants_add_up() -> None:
    """An idle host and a busy one, scraped a second apart:
    two cores, one of them busy, while both are there.
    """
    idle = samples(cpu("0", "idle", [0, 2, 4, 6]), cpu("0", "user", [0, 0, 0, 0]))
    busy = samples(cpu("0", "idle", [0, 0, 0, 0]), cpu("0", "user", [0, 2, 4, 6]))
    busy = busy.assign(instance="n", time=busy["time"] + pd.Timedelta("1s"))
    both = pd.concat([idle, busy]).astype({"instance": str})

    cores = cores_by_mode(both).pivot(index="time", columns="mode", values="value")

    assert cores.iloc[1:-1].to_numpy().tolist() == [[1.0, 1.0]] * 4
