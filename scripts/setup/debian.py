"""Download and unpack a Debian package without installing it, with or without root."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from lab.errors import SetupError
from scripts.setup.places import LOGS
from scripts.setup.progress import attempt, base_environment, run, say


def available() -> bool:
    """Return whether this system has Debian's tools."""
    return bool(shutil.which("apt-get") and shutil.which("dpkg-deb"))


# Unpacks $1 to $2 without $3: `dpkg-deb --extract` has no option that leaves something out.
_EXTRACT = 'dpkg-deb --fsys-tarfile "$1" | tar --extract --directory "$2" --exclude "$3"'


def unpack(
    package: str,
    folder: Path,
    *,
    part: str,
    companions: tuple[str, ...] = (),
    exclude: str = "",
) -> Path:
    """Unpack `package` to `folder`, completely or not at all.

    Installing would start a service on a fixed port; unpacking needs no root and starts nothing.
    Dependencies whose name begins with one of `companions` are unpacked into the same folder;
    `exclude` is a path ("./usr/...") to leave out.
    Raises SetupError without apt, or without such a package.
    """
    if not available():
        raise SetupError(
            f"{part}: the Debian package {package} cannot be downloaded",
            got="no apt-get or dpkg-deb here",
        )
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    log = LOGS / f"{package}.log"

    say(part, f"fetching Debian's package {package}")
    fetched: set[str] = set()
    missing = {package}
    root = work / "root"
    root.mkdir(parents=True)
    while missing:
        debs = _download(sorted(missing), work, part, log)
        fetched |= missing
        for deb in debs:
            extract = ["sh", "-c", _EXTRACT, "sh", str(deb), str(root), exclude or "./none"]
            run(part, extract, log=log, env=_environment())
        needed = {name for deb in debs for name in dependencies(deb)}
        missing = {name for name in needed - fetched if name.startswith(companions)}

    shutil.rmtree(folder, ignore_errors=True)
    root.rename(folder)
    shutil.rmtree(work, ignore_errors=True)
    return folder


def dependencies(deb: Path) -> list[str]:
    """Return the names of the packages that `deb` depends on, the first of alternatives."""
    command = ["dpkg-deb", "--field", str(deb), "Depends"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9+.-]*)", listed)


def _download(packages: list[str], work: Path, part: str, log: Path) -> list[Path]:
    """Download packages to a new folder below `work`, and return their files."""
    debs = work / "-".join(["deb", packages[0]])
    debs.mkdir(parents=True)
    lists = work / "apt"
    own_lists = _own_lists(lists)
    env = _environment()

    if not lists.exists():
        code, _ = attempt(part, ["apt-get", "download", *packages], log=log, env=env, cwd=debs)
        if code == 0:
            return sorted(debs.glob("*.deb"))
    # The machine's package lists are empty or stale: use lists of our own.
    fix = f"check the network to your Debian mirror ({log}), or install {packages[0]} yourself"
    for folder in ("lists/partial", "cache/archives/partial"):
        (lists / folder).mkdir(parents=True, exist_ok=True)
    for command in (["update"], ["download", *packages]):
        run(part, ["apt-get", *own_lists, *command], log=log, env=env, cwd=debs, fix=fix)
    return sorted(debs.glob("*.deb"))


def _environment() -> dict[str, str]:
    """Return the environment for apt and dpkg, whose output is read in English."""
    return {**base_environment(), "LC_ALL": "C"}


def _own_lists(state: Path) -> list[str]:
    """Return apt's options for package lists in a folder that this user may write."""
    places = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state / "cache",
        "Dir::State::status": "/var/lib/dpkg/status",
    }
    return [word for name, path in places.items() for word in ("-o", f"{name}={path}")]
