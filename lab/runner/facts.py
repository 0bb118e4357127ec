"""The machine and the versions of a run: without them a latency is just a number."""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from lab.files import read_json
from lab.settings import REPO, Settings

TOOLS = REPO / ".venvs" / "tools.json"
PACKAGES = ("llama-stack", "mcp", "opentelemetry-sdk", "pandas", "papermill", "duckdb")


def collect(settings: Settings) -> dict[str, str]:
    """Return {what: value} in reading order, without what is unknown."""
    tools = read_json(TOOLS)
    memory_gib = psutil.virtual_memory().total / 1024**3
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "place": settings.place,
        "model": settings.model or f"{settings.model_name} (the lab's own)",
        "machine": f"{_cpu_name()}, {psutil.cpu_count()} logical cores, {memory_gib:.0f} GiB",
        "processor features": ", ".join(tools.get("cpu_flags", [])),
        "system": platform.platform(),
        "python": platform.python_version(),
        "vllm": _vllm_version(tools),
        "prometheus": _prometheus_version(tools),
        **{name: _version(name) for name in PACKAGES},
        "load average before": f"{os.getloadavg()[0]:.1f}",
        "commit": _output_of("git", "describe", "--always", "--dirty"),
    }
    return {name: value for name, value in facts.items() if value}


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        if match := re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()):
            return match[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def _vllm_version(tools: dict[str, Any]) -> str:
    """Return it from the other environment's package folders, without starting its interpreter."""
    site = Path(tools.get("python_vllm", "?")).parent.parent
    for info in sorted(site.glob("lib/python*/site-packages/vllm*.dist-info")):
        if match := re.match(r"vllm(?:_cpu)?-(.+)\.dist-info", info.name):
            return f"{match[1]} ({tools.get('vllm_build', '')} build)"
    return ""


def _prometheus_version(tools: dict[str, Any]) -> str:
    output = _output_of(tools.get("prometheus", "prometheus"), "--version")
    match = re.search(r"version (\S+)", output)
    return match[1].rstrip(",") if match else ""


def _output_of(*command: str) -> str:
    """Return what a command prints; empty if it fails."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=10)
        if done.returncode == 0:
            return (done.stdout or done.stderr).strip()
    return ""
