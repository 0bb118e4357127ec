"""Find a Python: uv's, pyenv's, the system's; else let uv download one; else say what to install."""

from __future__ import annotations

import glob
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
    """The first interpreter there is of `versions` ("3.12"), in their order. Raises SetupError when none can be had."""
    for version in versions:
        for candidate in installed(uv, version, env):
            if works(candidate, version):
                return candidate
    say(part, f"no Python {' or '.join(versions)} on this machine; asking uv for {versions[0]}")
    code, output = attempt(
        part,
        [uv, "python", "install", versions[0], "--no-bin"],
        log=LOGS / "python.log",
        env={**env, "UV_HTTP_TIMEOUT": "30", "UV_HTTP_RETRIES": "1"},
        timeout_s=DOWNLOAD_TIMEOUT_S,
    )
    found = _uv_find(uv, versions[0], env) if code == 0 else None
    if found and works(found, versions[0]):
        return found
    raise _none(versions, output)


def installed(uv: str, version: str, env: dict[str, str]) -> list[Path]:
    """Interpreters of `version` that are on this machine; pyenv's by full path, since its shims fail when inactive."""
    places = [_uv_find(uv, version, env)]
    for root in dict.fromkeys(
        [os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv"), _pyenv_root()]
    ):
        if root:
            # Of several patch releases the newest, by number and not by text.
            places += sorted(
                (Path(p) for p in glob.glob(f"{root}/versions/{version}.*/bin/python")),
                key=_patch,
                reverse=True,
            )
    places += [Path(folder) / f"python{version}" for folder in SYSTEM_FOLDERS]
    places.append(Path(sys.executable))
    return [p for p in places if p and p.exists()]


def _patch(python: Path) -> tuple[int, ...]:
    return tuple(int(n) for n in python.parts[-3].split(".") if n.isdigit())


def _uv_find(uv: str, version: str, env: dict[str, str]) -> Path | None:
    done = subprocess.run(
        [uv, "python", "find", "--system", "--no-python-downloads", "--no-project", version],
        capture_output=True,
        text=True,
        env=env,
        stdin=subprocess.DEVNULL,
    )
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None


def _pyenv_root() -> str | None:
    try:
        done = subprocess.run(
            ["pyenv", "root"], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def works(python: Path, version: str) -> bool:
    """Whether it runs, is of that version, and can make TLS connections and SQLite databases."""
    code = "import sys, ssl, sqlite3, ctypes; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", code],
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def _none(versions: list[str], output: str) -> SetupError:
    last = output.strip().splitlines()[-1:] or ["no answer"]
    return SetupError(
        f"no Python {' or '.join(versions)} was found, and uv could not download one",
        got=f"looked at PATH, uv's own, pyenv's versions and {', '.join(SYSTEM_FOLDERS)}; uv said: {last[0].strip()}",
        fix=f"install Python {versions[0]} in one of these ways, then run the command again: "
        f"`pyenv install {versions[0]}` (builds it), your system's package python{versions[0]} where it has one "
        f"(Debian 12 has none newer than 3.11), `conda create -n py python={versions[0]}` with its bin folder on PATH, "
        f"or `uv python install {versions[0]}` where release downloads are reachable",
    )
