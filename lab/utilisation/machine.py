"""This machine: the CPU time of every part of a local lab, and the peak of its processor.

Prometheus clients export `process_cpu_seconds_total` of their own process only. Where a part works
in a child, as vLLM's engine does, that metric misses most of the work; the operating system does
not. The peak of a CPU cannot be looked up, since it depends on dtype, threads and clock.
"""

import contextlib
import json
import math
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

from lab import stack
from lab.errors import SetupError
from lab.observation import Sampler
from lab.places import place_of
from lab.settings import Settings
from lab.stack import toolbox
from lab.stack.control import external_endpoints
from lab.stack.plan import chat_model
from lab.stack.processes import cpu_s, tree
from lab.stack.vllm_args import base_env, cpu_dtype

EVERY_S = 1.0
COLUMNS = ("at", "part", "own_s", "tree_s", "children")
CPU_FILE = "processes.parquet"
PROGRAM = Path(__file__).with_name("peak_matmul.py")
TIMEOUT_S = 120.0


class CpuWatch(Sampler[pd.DataFrame]):
    """Reads `cpu_now` before, during and after a block, into `samples`."""

    def __init__(self, settings: Settings, every_s: float = EVERY_S) -> None:
        processes = place_of(settings).processes(settings)
        super().__init__(lambda: cpu_now(processes), every_s)

    @property
    def samples(self) -> pd.DataFrame:
        """Return all readings, one below the other; no row where no part runs here."""
        tables = [reading for reading in self.readings if len(reading)]
        return pd.concat(tables, ignore_index=True) if tables else _no_samples()

    def save(self, folder: Path | None) -> None:
        """Save the readings next to the run that they belong to."""
        if folder is not None and len(self.samples):
            self.samples.to_parquet(folder / CPU_FILE, index=False)


def cpu_now(processes: dict[int, str]) -> pd.DataFrame:
    """Return one row per living process of {process id: part}: COLUMNS.

    `at` is in epoch seconds; `own_s` are the CPU seconds of the part's process since its start,
    `tree_s` those with all its descendants except other parts; `children` is the number of these
    descendants.
    """
    at = time.time()
    rows = []
    for pid, part in processes.items():
        with contextlib.suppress(psutil.Error):  # it has ended
            process = psutil.Process(pid)
            below = tree(pid, without=processes.keys())[1:]
            own_s = cpu_s([process])
            rows.append((at, part, own_s, own_s + cpu_s(below), len(below)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def recorded_cpu(folder: Path | None) -> pd.DataFrame:
    """Return what `CpuWatch.save` saved next to a run; no row where it saved nothing."""
    path = folder / CPU_FILE if folder is not None else None
    return pd.read_parquet(path) if path is not None and path.exists() else _no_samples()


def _no_samples() -> pd.DataFrame:
    return pd.DataFrame(columns=list(COLUMNS))


@dataclass(frozen=True)
class Peak:
    """What was measured.

    `flops_per_s` in `dtype` on `threads` threads, `bytes_per_s` read and written.
    """

    flops_per_s: float
    bytes_per_s: float
    dtype: str
    threads: int
    device: str

    def __str__(self) -> str:
        if math.isnan(self.flops_per_s):
            return f"no peak is known: {self.device}"
        return (
            f"measured peak: {self.flops_per_s / 1e9:,.0f} GFLOP/s in {self.dtype} with "
            f"{self.threads} thread(s), {self.bytes_per_s / 1e9:.1f} GB/s of memory, "
            f"on {self.device}"
        )


def measured_peak(settings: Settings) -> Peak:
    """Measure a matrix multiplication and a copy with vLLM's own torch, dtype and threads.

    Measure when nothing else runs; otherwise the peak is too low and every share of it too high.
    All NaN where vLLM runs on another machine (attached, on a cluster, recorded): then use the data
    sheet's number. Raises SetupError if the measurement fails.
    """
    running = {part.name for part in stack.status(settings)} if _is_own_lab(settings) else set()
    if "vllm" not in running:
        unknown = float("nan")
        return Peak(unknown, unknown, "", 0, "vLLM runs on another machine than this notebook")

    tools = toolbox.find_tools()
    env = base_env(tools.vllm_build, tools.cache_dir, PROGRAM)
    dtype = "bfloat16" if tools.vllm_build == "cuda" else cpu_dtype()
    if dtype == "auto":
        dtype = "bfloat16"  # vLLM takes the dtype that the model was saved in
    command = [tools.python_vllm, str(PROGRAM), dtype, env.get("OMP_NUM_THREADS", "1")]
    process = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if process.returncode:
        raise SetupError(
            "the machine's peak could not be measured",
            got=process.stderr.strip()[-300:],
            fix="set it as a parameter, from the data sheet",
        )
    return Peak(**json.loads(process.stdout))


def parameters_of(settings: Settings) -> int | None:
    """Return how many weights the chat model has, by its file's header.

    None where the file is not on this machine.
    """
    if not _is_own_lab(settings):
        return None
    path = Path(chat_model(settings)[0]) / "model.safetensors"
    if not path.exists():
        return None
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


def _is_own_lab(settings: Settings) -> bool:
    """Return whether the telemetry is that of this machine's own lab, not of other servers."""
    stores = {"prometheus", "tempo"}
    return place_of(settings).runs_here and not stores & set(external_endpoints(settings))
