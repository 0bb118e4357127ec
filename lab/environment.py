"""Environment of the lab's processes: the `lab` command on PATH, no proxy on loopback.

Set-up uses this too, so it needs Python 3.9 and the standard library only.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import MutableMapping
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROGRAMS = Path(sys.executable).parent  # of this environment; not resolved, which would leave it


def bypass_proxies_on_loopback(environ: MutableMapping[str, str] = os.environ) -> None:
    """Add this machine to NO_PROXY and no_proxy.

    The lab's servers are on 127.0.0.1, where no proxy can reach them. HTTP clients read these
    variables when they are created. What the variables name already stays.
    """
    names = ("NO_PROXY", "no_proxy")
    known = next((environ[name] for name in names if environ.get(name)), "")

    for name in names:
        hosts = [h.strip() for h in (environ.get(name) or known).split(",") if h.strip()]
        hosts += [host for host in LOOPBACK if host not in hosts]
        environ[name] = ",".join(hosts)


def search_path(path: str | None = None) -> str:
    """Return `path` (default: this process's PATH) with the lab's own programs first."""
    path = os.environ.get("PATH", os.defpath) if path is None else path
    others = [folder for folder in path.split(os.pathsep) if folder and folder != str(PROGRAMS)]
    return os.pathsep.join([str(PROGRAMS), *others])


def command_hint(programs: Path = PROGRAMS) -> str:
    """Return the line that puts `lab` on a shell's PATH; empty if it is there already."""
    command = shutil.which("lab")
    if command and Path(command).parent == programs:
        return ""
    return f'To use the `lab` command in this shell: export PATH="{programs}:$PATH"'
