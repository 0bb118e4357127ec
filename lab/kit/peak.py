"""The peak of this machine, measured: of a CPU nobody can look it up, since it depends on dtype, threads and turbo."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import stack
from lab.errors import SetupError
from lab.settings import Settings
from lab.stack import toolbox
from lab.stack.control import external_endpoints
from lab.stack.plan import chat_model
from lab.stack.vllm_args import base_env, cpu_dtype

PROGRAM = Path(__file__).with_name("peak_matmul.py")
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Peak:
    """What was measured: `flops_per_s` in `dtype` on `threads` threads, `bytes_per_s` read and written."""

    flops_per_s: float
    bytes_per_s: float
    dtype: str
    threads: int
    device: str

    def __str__(self) -> str:
        if self.flops_per_s != self.flops_per_s:
            return f"no peak is known: {self.device}"
        return (
            f"measured peak: {self.flops_per_s / 1e9:,.0f} GFLOP/s in {self.dtype} with {self.threads} thread(s), "
            f"{self.bytes_per_s / 1e9:.1f} GB/s of memory, on {self.device}"
        )


def measured_peak(settings: Settings) -> Peak:
    """A short multiplication and a copy on this machine, as vLLM's own torch does them: its dtype, its threads.

    Measure when nothing else runs, or it is too low and every share of it too high. All NaN where vLLM runs on another
    machine (attached, on a cluster, recorded): then take the data sheet's number. Raises SetupError if it fails.
    """
    if not (_own(settings) and "vllm" in {part.name for part in stack.status(settings)}):
        unknown = float("nan")
        return Peak(unknown, unknown, "", 0, "vLLM runs on another machine than this notebook")
    tools = toolbox.find_tools()
    env = base_env(tools.vllm_build, tools.cache_dir, PROGRAM)
    dtype = cpu_dtype() if tools.vllm_build != "cuda" else "bfloat16"
    dtype = (
        "bfloat16" if dtype == "auto" else dtype
    )  # what vLLM takes from a model that was saved in it
    threads = env.get("OMP_NUM_THREADS", "1")
    command = [tools.python_vllm, str(PROGRAM), dtype, threads]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise SetupError(
            "the machine's peak could not be measured",
            got=done.stderr.strip()[-300:],
            fix="give it as a parameter, from the data sheet",
        )
    return Peak(**json.loads(done.stdout))


def _own(settings: Settings) -> bool:
    """Whether the telemetry is that of this machine's own lab, not of somebody's servers."""
    return settings.place == "local" and not {"prometheus", "tempo"} & set(
        external_endpoints(settings)
    )


def parameters_of(settings: Settings) -> int | None:
    """How many weights the chat model has, by its file's header; None where it is not a folder on this machine."""
    if not _own(settings):
        return None
    path = Path(chat_model(settings)[0]) / "model.safetensors"
    if not path.exists():
        return None
    with path.open("rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    return sum(
        math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"
    )
