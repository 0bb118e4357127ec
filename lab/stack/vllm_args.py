"""Command lines and environment of the vLLM servers. Pure functions: nothing is started here."""

import json
import os
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path

from lab.settings import REPO
from lab.stack.ports import HOST

EMBED_MODEL = "all-minilm-l6-v2"
EMBED_DIMENSION = 384
KV_CACHE_BYTES = 512 * 1024**2  # holds 64 requests of 1,400 tokens of the lab model in float32
MAX_CONTEXT_CPU = 8192
EXPORT_EVERY_MS = 500  # spans; OpenTelemetry's default of 5 s would delay every analysis of a run


@dataclass(frozen=True)
class VllmServer:
    """What one vLLM server serves.

    Attributes:
        build: of vLLM: "cuda", or for a CPU "cpu" or "source" (macOS)
        text_parts: whether the chat template joins the parts of a message
    """

    model: str
    served_name: str
    port: int
    otlp_url: str | None
    build: str
    max_context: int | None = None
    text_parts: bool = False
    extra: str = ""


def log_spaced(lowest: float, highest: float, per_decade: int = 10) -> list[float]:
    """Return bucket bounds with three significant digits, `per_decade` of them per power of ten."""
    bounds: list[float] = []
    step = 0
    while (bound := float(f"{lowest * 10 ** (step / per_decade):.3g}")) <= highest:
        bounds.append(bound)
        step += 1
    return bounds


# vLLM's first bounds are 0.3 s (phases) and 0.01 s (between tokens): all values of a small model
# would be in one bucket.
BUCKETS = {
    "request_latency": [*log_spaced(0.0005, 60), 120.0, 300.0],
    "time_to_first_token": [*log_spaced(0.001, 60), 120.0],
    "inter_token_latency": log_spaced(0.0005, 5),
}


def chat_args(server: VllmServer) -> list[str]:
    """Return the chat server's arguments: tools, traces, per-request metrics, fine buckets."""
    args = [
        *_common(server),
        "--enable-auto-tool-choice",
        *("--tool-call-parser", "hermes"),
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        # Not --enable-force-include-usage: it reports the usage in every chunk, and Llama Stack
        # adds them all up.
        "--enable-per-request-metrics",
        "--enable-mfu-metrics",
    ]
    if server.build != "cuda":
        context = min(server.max_context or MAX_CONTEXT_CPU, MAX_CONTEXT_CPU)
        args += [
            *("--enforce-eager", "--dtype", cpu_dtype(), "--max-model-len", str(context)),
            *("--kv-cache-memory-bytes", str(KV_CACHE_BYTES), "--max-num-seqs", "128"),
            # The prefix cache holds whole blocks; a CPU's default, 128, exceeds most prompts.
            *("--block-size", "32"),
        ]
    else:
        args += ["--gpu-memory-utilization", "0.8"]
    if server.text_parts:
        args += ["--chat-template-content-format", "openai"]
    return args + shlex.split(server.extra)


def embed_args(server: VllmServer) -> list[str]:
    """Return the embedding server's arguments."""
    args = [
        *(*_common(server), "--runner", "pooling", "--enforce-eager"),
        # Llama Stack names the dimension, which vLLM accepts only from models with several of them.
        *("--hf-overrides", json.dumps({"matryoshka_dimensions": [EMBED_DIMENSION]})),
    ]
    if server.build != "cuda":
        # It keeps no KV cache; without a size, vLLM would reserve most of the memory for one.
        return [*args, "--dtype", "float32", "--kv-cache-memory-bytes", str(64 * 1024**2)]
    return [*args, "--gpu-memory-utilization", "0.1"]


def _common(server: VllmServer) -> list[str]:
    args = [
        *("--model", server.model, "--served-model-name", server.served_name),
        *("--host", HOST, "--port", str(server.port)),
        "--disable-uvicorn-access-log",
        *("--middleware", "lab.stack.vllm_access.AccessLog"),
        *("--custom-histogram-buckets", json.dumps(BUCKETS)),
    ]
    if server.otlp_url:
        args += ["--otlp-traces-endpoint", f"{server.otlp_url}/v1/traces"]
    return args


def cpu_dtype(cpuinfo: str | None = None, machine: str | None = None) -> str:
    """Return the dtype that this CPU computes fastest.

    An x86 CPU without bfloat16 instructions emulates them: 415 instead of 1,200 tokens per second
    for the lab model at 32 streams on AVX2. Elsewhere vLLM's own choice is right.
    """
    if (machine or platform.machine()) not in ("x86_64", "AMD64"):
        return "auto"
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text()
        except OSError:
            return "auto"
    lines = [line for line in cpuinfo.splitlines() if line.startswith("flags")]
    flags = set(lines[0].split()) if lines else set()
    return "bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32"


def base_env(
    build: str, cache_dir: Path, logging_config: Path, cores: int | None = None
) -> dict[str, str]:
    """Return the environment of the process that imports vLLM and of the servers it forks."""
    cores = cores or os.cpu_count() or 1
    env = {
        "PYTHONPATH": str(REPO),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(cache_dir / "vllm"),
        "VLLM_LOGGING_CONFIG_PATH": str(logging_config),
        "VLLM_HOST_IP": HOST,
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": str(EXPORT_EVERY_MS),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if build != "cuda":
        env |= {
            "VLLM_TARGET_DEVICE": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            # Engine and worker in one process, which saves its start and its memory. vLLM forbids
            # it because it cannot set OpenMP's environment for a worker then; here it is set before
            # anything is imported.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, min(4, cores - 1))),
            "GLOO_SOCKET_IFNAME": "lo0" if platform.system() == "Darwin" else "lo",
        }
    return env


def server_env(service: str, model: str) -> dict[str, str]:
    """Return the environment that differs between the servers. A folder needs no model hub."""
    env = {"OTEL_SERVICE_NAME": service}
    return env | {"HF_HUB_OFFLINE": "1"} if Path(model).is_dir() else env


def logging_config() -> str:
    """Return the JSON for VLLM_LOGGING_CONFIG_PATH: all loggers write one JSON object per line."""
    from lab.json_logging import config

    return json.dumps(config(("vllm", "uvicorn", "uvicorn.error")), indent=1)
