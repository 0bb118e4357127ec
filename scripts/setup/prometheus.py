"""Find Prometheus, promtool and the node exporter: on PATH, from an earlier set-up, or out of Debian's packages."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from lab.errors import SetupError
from scripts.setup.debian import unpack
from scripts.setup.places import VENVS

# tool -> (names it goes by, Debian package)
TOOLS = {
    "prometheus": (("prometheus",), "prometheus"),
    "promtool": (("promtool",), "prometheus"),
    "node_exporter": (("node_exporter", "prometheus-node-exporter"), "prometheus-node-exporter"),
}
ELSEWHERE = ":/opt/homebrew/bin:/usr/local/bin"  # where people's PATH may not reach


def find_tools(root: Path = VENVS) -> dict[str, str]:
    """The path of each tool. Raises SetupError that says how to get one where it is not to be had."""
    found = {}
    for tool, (names, package) in TOOLS.items():
        path = _look(names, root / package)
        if path is None:
            path = _fetch(tool, names, package, root)
        found[tool] = path
    return found


def check_available(root: Path = VENVS) -> None:
    """Raise SetupError for a tool that is not on this machine and cannot be fetched either."""
    can_fetch = shutil.which("apt-get") and shutil.which("dpkg-deb")
    for tool, (names, package) in TOOLS.items():
        if not can_fetch and _look(names, root / package) is None:
            raise SetupError(
                f"{tool} was not found, and could not be fetched",
                got=f"no {' or '.join(names)} on PATH; no apt-get or dpkg-deb here",
                fix=_how(package),
            )


def _look(names: tuple[str, ...], unpacked: Path) -> str | None:
    for name in names:
        path = shutil.which(name) or shutil.which(name, path=f"{unpacked}/usr/bin{ELSEWHERE}")
        if path:
            return path
    return None


def _fetch(tool: str, names: tuple[str, ...], package: str, root: Path) -> str:
    try:
        unpack(package, root / package, part="prometheus")
    except SetupError as e:
        raise SetupError(
            f"{tool} was not found, and could not be fetched", got=_had(e, names), fix=_how(package)
        ) from e
    path = _look(names, root / package)
    if path is None:
        raise SetupError(
            f"Debian's package {package} has no {names[0]}",
            got=str(root / package),
            fix=_how(package),
        )
    return path


def _had(error: SetupError, names: tuple[str, ...]) -> str:
    return f"no {' or '.join(names)} on PATH; {error.happened} ({error.got})"


def _how(package: str) -> str:
    if platform.system() == "Darwin":
        return f"`brew install {'node_exporter' if 'node' in package else 'prometheus'}`, then run the command again"
    return (
        f"install it with your system's package manager (Debian, Ubuntu: `apt-get install {package}`), or put the "
        "program from the Prometheus project's release page on PATH, then run the command again"
    )
