"""Get uv: from PATH, from an earlier set-up, or the pinned release through whatever pip there is."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from lab.errors import SetupError
from scripts.setup.debian import unpack
from scripts.setup.places import LOCKS, LOGS, VENVS
from scripts.setup.progress import attempt, base_environment, say

OLDEST = (0, 8)  # the first with every option used here


def get_uv() -> str:
    """The path of a uv that is new enough. Raises SetupError where none can be had."""
    for candidate in _candidates():
        if _version(candidate) >= OLDEST:
            return candidate
    return _install()


def _candidates() -> list[str]:
    own = [
        VENVS / "uv" / "bin" / "uv",
        Path.home() / ".local/bin/uv",
        Path.home() / ".cargo/bin/uv",
    ]
    pyenv = sorted(
        glob.glob(str(Path.home() / ".pyenv/versions/*/bin/uv"))
    )  # its shim fails when inactive
    return [c for c in [shutil.which("uv"), *map(str, own), *pyenv] if c and os.path.exists(c)]


def _version(uv: str) -> tuple[int, ...]:
    try:
        done = subprocess.run(
            [uv, "--version"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    found = re.match(r"uv (\d+)\.(\d+)", done.stdout)
    return tuple(int(n) for n in found.groups()) if done.returncode == 0 and found else (0,)


def _install() -> str:
    say("uv", "not found; installing the pinned release")
    folder, log, env = VENVS / "uv", LOGS / "uv.log", base_environment()
    shutil.rmtree(folder, ignore_errors=True)
    options = [
        "install",
        "--quiet",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "-r",
        str(LOCKS / "uv.txt"),
    ]
    ways = (
        lambda: [
            [sys.executable, "-m", "venv", str(folder)],
            [str(folder / "bin/python"), "-m", "pip", *options],
        ],
        lambda: [[sys.executable, "-m", "pip", *options, "--target", str(folder)]],
        lambda: [[sys.executable, str(_debian_pip() / "pip"), *options, "--target", str(folder)]],
    )
    said = ""
    for way in ways:
        try:
            for command in way():
                code, said = attempt("uv", command, log=log, env=env)
                if code != 0:
                    break
            else:
                return str(folder / "bin" / "uv")
        except SetupError as e:
            said = str(e)
        shutil.rmtree(folder, ignore_errors=True)
    last = said.strip().splitlines()[-1:] or ["no answer"]
    raise SetupError(
        "uv, which installs everything else, is not here and could not be installed",
        got=f"no uv on PATH; this Python ({sys.executable}) has no usable venv or pip; last words: {last[0].strip()}",
        fix="install uv by one of `pipx install uv`, `pip install uv`, `brew install uv` "
        f"(or on Debian `apt-get install python3-venv`), then run the command again; details in {log}",
    )


def _debian_pip() -> Path:
    """Debian's Python comes without pip; the package python3-pip-whl carries one that runs from its own file."""
    root = unpack("python3-pip-whl", VENVS / "debian-pip", part="uv")
    return next(iter(sorted(root.glob("usr/share/python-wheels/pip-*.whl"))), root)
