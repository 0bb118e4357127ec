"""`make lock`: resolve every requirements file anew, for all systems at once, with hashes and without addresses."""

from __future__ import annotations

import subprocess
import sys

from lab.errors import LabError
from scripts.setup.getuv import get_uv
from scripts.setup.places import LOCKS, REPO, make_root
from scripts.setup.progress import base_environment

COMMON = [
    "--universal",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--custom-compile-command",
    "make lock",
    "--quiet",
]
# Packages that an override keeps out are not written down as "never" either.
LEFT_OUT = ["torch", "torchvision", "torchaudio", "torchcodec", "triton", "rfc3987-syntax"]


def _overrides(name: str) -> list[str]:
    left_out = [f"--no-emit-package={package}" for package in LEFT_OUT]
    return ["--override", f"requirements/{name}.overrides.txt", *left_out]


# output -> (lowest Python, inputs and options)
FILES = {
    "uv.txt": ("3.9", ["requirements/uv.in"]),
    "assets.txt": ("3.11", ["requirements/assets.in", "--no-deps"]),
    "lab.txt": (
        "3.12",
        ["pyproject.toml", "--extra", "stack", "--extra", "dev", *_overrides("lab")],
    ),
    "vllm-cpu.txt": ("3.11", ["requirements/vllm-cpu.in", *_overrides("vllm-cpu")]),
    "vllm-cuda.txt": ("3.11", ["requirements/vllm-cuda.in"]),
    "checkov.txt": ("3.12", ["requirements/checkov.in"]),
    "bench.txt": ("3.12", ["requirements/bench.in", *_overrides("bench")]),
}


def main() -> int:
    """Each lock in turn; --upgrade takes newer releases than the present locks hold."""
    make_root()
    try:
        uv = get_uv()
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    for name, (python, arguments) in FILES.items():
        command = [
            uv,
            "pip",
            "compile",
            *COMMON,
            "--python-version",
            python,
            *arguments,
            *sys.argv[1:],
            "-o",
            f"requirements/{name}",
        ]
        if subprocess.run(command, cwd=REPO, env=base_environment()).returncode:
            print(f"{name} could not be resolved; it is as it was", file=sys.stderr)
            return 1
        print(f"{(LOCKS / name).relative_to(REPO)} resolved")
    return 0


if __name__ == "__main__":
    sys.exit(main())
