"""Find Prometheus, promtool, node exporter and Alertmanager: on PATH or in Debian's packages."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from lab.errors import SetupError
from scripts.setup import debian
from scripts.setup.places import VENVS
from scripts.setup.progress import say

# tool -> (names of the program, Debian package)
TOOLS = {
    "prometheus": (("prometheus",), "prometheus"),
    "promtool": (("promtool",), "prometheus"),
    "node_exporter": (("node_exporter", "prometheus-node-exporter"), "prometheus-node-exporter"),
    "alertmanager": (("alertmanager", "prometheus-alertmanager"), "prometheus-alertmanager"),
}
OPTIONAL = ("alertmanager",)  # without it, Prometheus still evaluates and shows the alerts
# Debian keeps the scripts and fonts of Prometheus' web pages in packages of their own.
WEB_PACKAGES = ("libjs-", "fonts-")
UNUSED = "./usr/share/javascript/moment-timezone/data"  # 200 MB of files that no page loads
# Debian's Alertmanager reads templates from a fixed folder, which an unpacked package lacks.
# The path in the program is replaced by one as long, from the folder of the checkout, where all
# parts run: as conda does to the prefix in its programs.
TEMPLATES = b"/usr/share/prometheus/alertmanager"
OWN_TEMPLATES = b"/proc/self/cwd/.venvs/am-templates"
ELSEWHERE = ":/opt/homebrew/bin:/usr/local/bin"  # often not on PATH


def find_tools(root: Path = VENVS) -> dict[str, str]:
    """Return the path of each tool, fetched if necessary; empty for an optional one without it.

    Raises SetupError where another one cannot be had.
    """
    tools = {}
    for tool in TOOLS:
        try:
            tools[tool] = _look(tool, root) or _fetch(tool, root)
        except SetupError as e:
            if tool not in OPTIONAL:
                raise
            tools[tool] = ""
            say("prometheus", f"WARNING: {e.happened}; the lab works without it: {e.got}")
    if not has_web_pages(tools["prometheus"]):
        try:
            _fetch("prometheus", root)
        except SetupError as e:
            say("prometheus", f"WARNING: its web pages lack their scripts: {e.got}")
    return tools


def is_complete(known: dict[str, str]) -> bool:
    """Return whether all tools of an earlier set-up, and the web pages, still exist."""
    needed = [tool for tool in TOOLS if tool not in OPTIONAL or known.get(tool) != ""]
    exist = all(Path(known.get(tool, "")).is_file() for tool in needed)
    return exist and has_web_pages(known["prometheus"])


def has_web_pages(prometheus: str) -> bool:
    """Return whether the web pages of this Prometheus have their scripts.

    Only an unpacked Debian package can lack them: it links to files of other packages. All other
    builds contain their pages.
    """
    share = Path(prometheus).resolve().parents[1] / "share"
    links = [p for p in (share / "prometheus/web").rglob("*") if p.is_symlink()]
    return (share / "javascript").is_dir() or all(link.exists() for link in links)


def check_available(root: Path = VENVS) -> None:
    """Raise SetupError for a tool that is not on this machine and cannot be fetched either."""
    for tool in (t for t in TOOLS if t not in OPTIONAL):
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
        debian.unpack(
            package,
            root / package,
            part="prometheus",
            companions=WEB_PACKAGES,
            exclude=UNUSED,
        )
    except SetupError as e:
        raise _missing(tool, f"{e.happened} ({e.got})") from e
    if tool == "alertmanager":
        _relocate_templates(root)
    path = _look(tool, root)
    if path is None:
        raise _missing(tool, f"Debian's package {package} does not contain it")
    return path


def _relocate_templates(root: Path) -> None:
    """Have the unpacked Alertmanager read its templates from below `root`."""
    package = root / TOOLS["alertmanager"][1]
    program = package / "usr/bin/prometheus-alertmanager"
    program.write_bytes(program.read_bytes().replace(TEMPLATES, OWN_TEMPLATES))
    link = root / Path(OWN_TEMPLATES.decode()).name
    link.unlink(missing_ok=True)
    link.symlink_to(package.name + TEMPLATES.decode())


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
