"""The model's tests run torch in a process of its own: the environment that runs pytest need not
have it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def with_torch() -> Command:
    """Runs python with the arguments, in the environment that has torch."""
    python = REPO / ".venvs" / "vllm" / "bin" / "python"
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        python = Path(sys.executable)
    elif not python.exists():
        pytest.skip(
            "no environment has torch and transformers: neither this nor .venvs/vllm (make setup)"
        )

    env = os.environ | {
        "OMP_NUM_THREADS": "1"
    }  # on a busy machine threads that wait for each other cost minutes

    def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(python), *map(str, arguments)]
        return subprocess.run(
            command, cwd=REPO, env=env, input=stdin, capture_output=True, text=True, timeout=280
        )

    return run


@pytest.fixture(scope="session")
def train_lab_model(with_torch: Command) -> Command:
    """Runs `python -m scripts.train_lab_model` with the arguments."""
    return lambda *arguments, stdin="": with_torch(
        "-m", "scripts.train_lab_model", *arguments, stdin=stdin
    )
