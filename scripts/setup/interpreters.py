"""Find a Python: uv's, pyenv's, the system's; else have uv download one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lab.errors import SetupError
from scripts.setup.places import LOGS
from scripts.setup.progress import attempt, say

DOWNLOAD_TIMEOUT_S = 300
SYSTEM_FOLDERS = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin")


def find(uv: str, versions: list[str], env: dict[str, str], part: str) -> Path:
    """Return an interpreter of the first of `versions` ("3.12") that there is.

    Raises SetupError when there is none and uv cannot download one.
    """
    if there := first_working(uv, versions, env):
        return there

    best = versions[0]
    say(part, f"no Python {' or '.join(versions)} on this machine; downloading {best} with uv")
    code, output = attempt(
        part,
        [uv, "python", "install", best, "--no-bin"],
        log=LOGS / "python.log",
        env={**env, "UV_HTTP_TIMEOUT": "30", "UV_HTTP_RETRIES": "1"},
        timeout_s=DOWNLOAD_TIMEOUT_S,
    )
    downloaded = _uv_find(uv, best, env) if code == 0 else None
    if downloaded and works(downloaded, best):
        return downloaded

    last = output.strip().splitlines()[-1:] or ["no answer"]
    raise SetupError(
        f"no Python {' or '.join(versions)} was found, and uv could not download one",
        got=f"looked at PATH, uv's own, pyenv's versions and {', '.join(SYSTEM_FOLDERS)}; "
        f"uv's last line: {last[0].strip()}",
        fix=f"install Python {best} in one of these ways, then run the command again: "
        f"`pyenv install {best}` (builds it), your system's package python{best} where it has one "
        f"(Debian 12 has none newer than 3.11), `conda create -n py python={best}` with its bin "
        f"folder on PATH, or `uv python install {best}` where release downloads are reachable",
    )


def first_working(uv: str, versions: list[str], env: dict[str, str]) -> Path | None:
    """Return an interpreter of the first of `versions` that is on this machine, None without."""
    for version in versions:
        for candidate in installed(uv, version, env):
            if works(candidate, version):
                return candidate
    return None


def installed(uv: str, version: str, env: dict[str, str]) -> list[Path]:
    """Return the interpreters of `version` on this machine.

    pyenv's come by their full path, since its shims fail where a version is inactive.
    """
    roots = [os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv"), output_of("pyenv", "root")]
    pyenv = [
        path
        for root in dict.fromkeys(filter(None, roots))
        for path in Path(root).glob(f"versions/{version}.*/bin/python")
    ]
    paths = [
        _uv_find(uv, version, env),
        *sorted(pyenv, key=_patch, reverse=True),
        *(Path(folder) / f"python{version}" for folder in SYSTEM_FOLDERS),
        Path(sys.executable),
    ]
    return [path for path in paths if path and path.exists()]


def _patch(python: Path) -> tuple[int, ...]:
    """Return the version in a pyenv path as numbers, so that 3.12.10 comes after 3.12.9."""
    return tuple(int(n) for n in python.parts[-3].split(".") if n.isdigit())


def _uv_find(uv: str, version: str, env: dict[str, str]) -> Path | None:
    options = ("--system", "--no-python-downloads", "--no-project")
    path = output_of(uv, "python", "find", *options, version, env=env)
    return Path(path) if path else None


def works(python: Path, version: str) -> bool:
    """Return whether it runs, is of that version, and can make TLS connections and databases."""
    code = "import sys, ssl, sqlite3, ctypes; print('%d.%d' % sys.version_info[:2])"
    return output_of(str(python), "-I", "-c", code) == version


def output_of(*command: str, env: dict[str, str] | None = None) -> str:
    """Return what a command prints; empty if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, env=env
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
