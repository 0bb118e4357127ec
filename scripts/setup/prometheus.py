"""Find Prometheus, promtool and the node exporter: on PATH or in Debian's packages."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from lab.errors import SetupError
from scripts.setup import debian
from scripts.setup.places import VENVS

# tool -> (names of the program, Debian package)
TOOLS = {
    "prometheus": (("prometheus",), "prometheus"),
    "promtool": (("promtool",), "prometheus"),
    "node_exporter": (("node_exporter", "prometheus-node-exporter"), "prometheus-node-exporter"),
}
ELSEWHERE = ":/opt/homebrew/bin:/usr/local/bin"  # often not on PATH


def find_tools(root: Path = VENVS) -> dict[str, str]:
    """Return the path of each tool, fetched if necessary. Raises SetupError without one."""
    return {tool: _look(tool, root) or _fetch(tool, root) for tool in TOOLS}


def check_available(root: Path = VENVS) -> None:
    """Raise SetupError for a tool that is not on this machine and cannot be fetched either."""
    for tool in TOOLS:
        if not debian.available() and not _look(tool, root):
            raise _missing(tool, "no apt-get or dpkg-deb here")


def _look(tool: str, root: Path) -> str | None:
    names, package = TOOLS[tool]
    unpacked = f"{root / package}/usr/bin{ELSEWHERE}"
    paths = (shutil.which(name) or shutil.which(name, path=unpacked) for name in names)
    return next(filter(None, paths), None)


def _fetch(tool: str, root: Path) -> str:
    package = TOOLS[tool][1]
    try:
        debian.unpack(package, root / package, part="prometheus")
    except SetupError as e:
        raise _missing(tool, f"{e.happened} ({e.got})") from e
    path = _look(tool, root)
    if path is None:
        raise _missing(tool, f"Debian's package {package} does not contain it")
    return path


def _missing(tool: str, reason: str) -> SetupError:
    names, package = TOOLS[tool]
    fix = (
        f"install it with your system's package manager (Debian: `apt-get install {package}`), or "
        "put the program from the Prometheus project's release page on PATH, then run this again"
    )
    if platform.system() == "Darwin":
        fix = f"`brew install {names[0]}`, then run the command again"
    return SetupError(
        f"{tool} was not found, and could not be fetched",
        got=f"no {' or '.join(names)} on PATH; {reason}",
        fix=fix,
    )
