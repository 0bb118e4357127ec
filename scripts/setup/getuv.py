"""Get uv: from PATH, from an earlier set-up, or the pinned release through pip, in any form."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from lab.errors import SetupError
from scripts.setup.debian import unpack
from scripts.setup.interpreters import output_of
from scripts.setup.places import LOCKS, LOGS, VENVS
from scripts.setup.progress import attempt, base_environment, say

OLDEST = (0, 8)  # the first release with every option used here
FOLDER = VENVS / "uv"


def get_uv() -> str:
    """Return the path of a uv that is new enough. Raises SetupError where none can be had."""
    home = Path.home()
    candidates = [
        shutil.which("uv"),
        FOLDER / "bin/uv",
        home / ".local/bin/uv",
        home / ".cargo/bin/uv",
        *sorted(home.glob(".pyenv/versions/*/bin/uv")),  # pyenv's shim fails when inactive
    ]
    for uv in candidates:
        version = re.match(r"uv (\d+)\.(\d+)", output_of(str(uv), "--version") if uv else "")
        if version and tuple(map(int, version.groups())) >= OLDEST:
            return str(uv)
    return _install()


def _install() -> str:
    """Install the pinned release with a venv's pip, this Python's pip, or Debian's pip wheel."""
    say("uv", "not found; installing the pinned release")
    lock = ["--require-hashes", "--only-binary", ":all:", "-r", str(LOCKS / "uv.txt")]
    install = ["install", "--quiet", *lock]
    to_folder = [*install, "--target", str(FOLDER)]
    python = sys.executable
    ways = (
        lambda: [
            [python, "-m", "venv", str(FOLDER)],
            [str(FOLDER / "bin/python"), "-m", "pip", *install],
        ],
        lambda: [[python, "-m", "pip", *to_folder]],
        lambda: [[python, str(_debian_pip() / "pip"), *to_folder]],
    )

    log = LOGS / "uv.log"
    output = ""
    for way in ways:
        shutil.rmtree(FOLDER, ignore_errors=True)
        code: int | None = 0
        try:
            for command in way():
                if code == 0:
                    code, output = attempt("uv", command, log=log, env=base_environment())
        except SetupError as e:
            code, output = 1, str(e)
        if code == 0:
            return str(FOLDER / "bin/uv")
    shutil.rmtree(FOLDER, ignore_errors=True)

    last = output.strip().splitlines()[-1:] or ["no answer"]
    raise SetupError(
        "uv, which installs everything else, is not here and could not be installed",
        got=f"no uv on PATH; this Python ({python}) has no usable venv or pip: {last[0].strip()}",
        fix="install uv by one of `pipx install uv`, `pip install uv`, `brew install uv` "
        "(or on Debian `apt-get install python3-venv`), then run the command again; "
        f"details in {log}",
    )


def _debian_pip() -> Path:
    """Return a pip that runs from its own file: Debian's Python may come without one."""
    root = unpack("python3-pip-whl", VENVS / "debian-pip", part="uv")
    return next(iter(sorted(root.glob("usr/share/python-wheels/pip-*.whl"))), root)
