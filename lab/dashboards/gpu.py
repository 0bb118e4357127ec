"""The GPU dashboard: DCGM's counters, of which GPU_UTIL says the least."""

from __future__ import annotations

from lab.dashboards.model import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row
from lab.dashboards.promql import VLLM, R, rate, ratio
from lab.dashboards.vllm import VARIABLES
from lab.schema import Metric as M

GPU = "{{hostname}} gpu {{gpu}}"


def _panel(title: str, description: str, expr: str, unit: str = "short", **more: object) -> Panel:
    return Panel(title, description, (Query(expr, GPU),), unit=unit, needs="gpu", **more)


ACTIVITY = Row(
    "What it does",
    (
        Panel(
            "Busy, three ways",
            "GPU_UTIL: some kernel ran, be it on one of a hundred cores; near 1 for every serving workload. Graphics "
            "engine "
            "active: the same, finer. Tensor active: the cores that multiply matrices worked: this is the one to "
            "compare "
            "with what was paid for. Profiling counters are absent on consumer and some shared GPUs.",
            (
                Query("avg(DCGM_FI_DEV_GPU_UTIL) / 100", "GPU_UTIL"),
                Query("avg(DCGM_FI_PROF_GR_ENGINE_ACTIVE)", "engine active"),
                Query("avg(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)", "tensor active"),
            ),
            unit="percentunit",
            needs="gpu",
        ),
        _panel("Tensor cores", "Share of cycles in which the tensor pipe was active. Prefill is high, decode low: "
                               "decode "
               "waits for memory.", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "percentunit"),
        _panel("Memory traffic", "Share of cycles in which DRAM moved data. Near 0.8 is as good as it gets: decode is "
                                 "at "
               "the memory's limit, and a larger batch is free.", "DCGM_FI_PROF_DRAM_ACTIVE", "percentunit"),
        _panel("GPU_UTIL", "Shown because everybody asks. See the first panel for why it says little. It reads 100 % "
                           "with one busy core in a hundred.",
               "DCGM_FI_DEV_GPU_UTIL / 100", "percentunit"),
    ),
)  # fmt: skip

POWER = Row(
    "What it takes",
    (
        _panel("Power", "Drawn now. An idle GPU with a model loaded still draws a fifth of its limit. An average over "
                        "the driver's own window of up to a second; other parts of the machine are not in it.",
               "DCGM_FI_DEV_POWER_USAGE", "watt"),
        _panel("Energy", "Mean power, by the energy counter (mJ): also sees peaks between scrapes. Starts anew when "
                         "the driver is loaded again.",
               f"rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{R}) / 1000", "watt"),
        Panel("Joules for a generated token", "Power of all GPUs by generated tokens; idle GPUs are in it. GPUs that "
                                              "serve others on the same node are in it too.",
              (Query(ratio("sum(DCGM_FI_DEV_POWER_USAGE)", rate(M.GENERATION_TOKENS, VLLM)), "J/token"),), needs="gpu"),
        _panel("Temperature", "Of the chip. Clocks fall at the limit, and latency rises with no other sign. Memory "
                              "has a sensor of its own, and may throttle first.",
               "DCGM_FI_DEV_GPU_TEMP", "celsius", thresholds=((0, GREEN), (80, YELLOW), (90, RED))),
        _panel("SM clock", "Falls when hot or at the power limit. Idle GPUs clock down, which is no fault. Between "
                           "two scrapes it may have dipped and come back.",
               "DCGM_FI_DEV_SM_CLOCK * 1e6", "hertz"),
    ),
)  # fmt: skip

MEMORY = Row(
    "Memory and faults",
    (
        _panel("Memory in use", "vLLM takes its share at start and keeps it: flat, and no measure of load. The KV "
                                "cache's "
               "filling is on vLLM's dashboard.",
               "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)", "percentunit"),
        _panel("XID of the last error", "0: none. Any other number is in NVIDIA's list of XIDs; it stays until the "
                                        "driver "
               "is loaded again.", "DCGM_FI_DEV_XID_ERRORS", kind="stat", thresholds=((0, GREEN), (1, RED))),
        _panel("PCIe replays", "Retries a second on the bus: a bad riser or slot. A link that came up with fewer "
                               "lanes replays nothing.",
               f"rate(DCGM_FI_DEV_PCIE_REPLAY_COUNTER{R})"),
        _panel("PCIe traffic", "Bytes a second to and from the GPU. NVLink's traffic is not in it; loading a model is "
                               "the one large peak.",
               f"rate(DCGM_FI_PROF_PCIE_TX_BYTES{R}) + rate(DCGM_FI_PROF_PCIE_RX_BYTES{R})", "Bps"),
    ),
)  # fmt: skip

DASHBOARD = Dashboard(
    "gpu",
    "GPU",
    "DCGM's view of the GPUs: what they did, what they drew, what went wrong.",
    (ACTIVITY, POWER, MEMORY),
    VARIABLES,
)
