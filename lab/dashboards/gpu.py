"""The GPU dashboard: DCGM's counters, of which GPU_UTIL tells the least, or NVML's gauges."""

from __future__ import annotations

from lab.dashboards.model import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row
from lab.dashboards.promql import R, rate, ratio
from lab.dashboards.vllm import VARIABLES
from lab.schema import Metric as M

# DCGM's exporter writes `Hostname` up to 4.5 and `hostname` later; Grafana leaves an absent label
# empty, so both are named. MIG instances have a GPU_I_ID and otherwise share the GPU's number.
GPU = "{{Hostname}}{{hostname}} GPU {{gpu}} {{GPU_I_PROFILE}} {{GPU_I_ID}}"
# nvitop-exporter, which runs on one's own machine and reads NVML, has an `index` instead of `gpu`.
GPU_OF_EITHER = "{{Hostname}}{{hostname}} GPU {{gpu}}{{index}} {{GPU_I_PROFILE}} {{GPU_I_ID}}"
POWER_W = "(DCGM_FI_DEV_POWER_USAGE or gpu_power_usage_W)"


def _panel(
    title: str,
    description: str,
    expr: str,
    unit: str = "short",
    thresholds: tuple[tuple[float, str], ...] = (),
) -> Panel:
    query = Query(expr, GPU_OF_EITHER if " or " in expr else GPU)
    return Panel(title, description, (query,), unit=unit, needs="gpu", thresholds=thresholds)


ACTIVITY = Row(
    "Activity",
    (
        Panel(
            "Three measures of activity",
            "GPU_UTIL: some kernel ran, even if on one of a hundred multiprocessors; near 1 for "
            "every serving workload. Engine active: the same, more finely measured. Tensor active: "
            "the matrix units worked, which is what to compare with the price. Consumer GPUs, "
            "some shared GPUs and NVML have no profiling counters.",
            (
                Query("avg(DCGM_FI_DEV_GPU_UTIL or gpu_utilization_Percentage) / 100", "GPU_UTIL"),
                Query("avg(DCGM_FI_PROF_GR_ENGINE_ACTIVE)", "engine active"),
                Query("avg(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)", "tensor active"),
            ),
            unit="percentunit",
            needs="gpu",
        ),
        _panel(
            "Tensor activity",
            "Share of cycles in which the tensor pipe was active. High in prefill and low in "
            "decode, which waits for memory.",
            "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
            "percentunit",
        ),
        _panel(
            "DRAM activity",
            "Share of cycles in which device memory moved data. About 0.8 is the practical "
            "maximum: decode is then limited by memory, and a larger batch costs no time.",
            "DCGM_FI_PROF_DRAM_ACTIVE",
            "percentunit",
        ),
        _panel(
            "GPU_UTIL",
            "Shown because other tools show it. It reads 100 % with one busy multiprocessor in a "
            "hundred; the first panel has better measures.",
            "(DCGM_FI_DEV_GPU_UTIL or gpu_utilization_Percentage) / 100",
            "percentunit",
        ),
    ),
)

POWER = Row(
    "Power and temperature",
    (
        _panel(
            "Power",
            "Current draw, averaged by the driver over up to a second, without the rest of the "
            "machine. An idle GPU with a loaded model still draws about a fifth of its limit.",
            POWER_W,
            "watt",
        ),
        _panel(
            "Mean power by the energy counter",
            "Growth of the energy counter (mJ) per second, which includes peaks between scrapes. "
            "The counter restarts when the driver is reloaded.",
            f"rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{R}) / 1000",
            "watt",
        ),
        Panel(
            "Energy per generated token",
            "Power of all GPUs divided by generated tokens per second. Idle GPUs are included, and "
            "so are GPUs on the same nodes that serve other workloads.",
            (
                Query(
                    ratio(f"sum({POWER_W})", rate(M.GENERATION_TOKENS)),
                    "per token",
                ),
            ),
            unit="joule",
            needs="gpu",
        ),
        _panel(
            "Temperature",
            "Of the chip. At the limit the clocks fall, and rising latency is the only other sign. "
            "Memory has its own sensor and may throttle first.",
            "DCGM_FI_DEV_GPU_TEMP or gpu_temperature_C",
            "celsius",
            thresholds=((0, GREEN), (80, YELLOW), (90, RED)),
        ),
        _panel(
            "SM clock",
            "Falls when the chip is hot or at its power limit. Idle GPUs clock down as well, which "
            "is not a fault. Dips between two scrapes are missed.",
            "(DCGM_FI_DEV_SM_CLOCK or gpu_clock_sm_MHz) * 1e6",
            "hertz",
        ),
    ),
)

MEMORY = Row(
    "Memory and errors",
    (
        _panel(
            "Memory in use",
            "vLLM reserves its share at start and keeps it, so the line is flat and does not "
            "measure load. The vLLM dashboard shows how full the KV cache is.",
            "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)"
            " or gpu_memory_used_MiB / gpu_memory_total_MiB",
            "percentunit",
        ),
        Panel(
            "Last XID error",
            "0 means none. NVIDIA documents the other numbers. The value stays until the driver is "
            "reloaded.",
            (Query("DCGM_FI_DEV_XID_ERRORS", GPU),),
            needs="gpu",
            kind="stat",
            thresholds=((0, GREEN), (1, RED)),
        ),
        _panel(
            "PCIe replays",
            "Retries per second on the bus: a faulty riser or slot. A link that came up with fewer "
            "lanes causes no replays.",
            f"rate(DCGM_FI_DEV_PCIE_REPLAY_COUNTER{R})",
            "ops",
        ),
        _panel(
            "PCIe traffic",
            "Bytes per second to and from the GPU, without NVLink. Loading a model is the one "
            "large peak.",
            f"rate(DCGM_FI_PROF_PCIE_TX_BYTES{R}) + rate(DCGM_FI_PROF_PCIE_RX_BYTES{R})",
            "Bps",
        ),
    ),
)

DASHBOARD = Dashboard(
    "gpu",
    "GPU",
    "The GPUs by DCGM, or by NVML where there is no DCGM: activity, power, memory, errors.",
    (ACTIVITY, POWER, MEMORY),
    VARIABLES,
)
