"""Download and unpack a Debian package without installing it, with or without root."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab.errors import SetupError
from scripts.setup.places import LOGS
from scripts.setup.progress import attempt, base_environment, run, say


def available() -> bool:
    """Return whether this system has Debian's tools."""
    return bool(shutil.which("apt-get") and shutil.which("dpkg-deb"))


def unpack(package: str, folder: Path, *, part: str) -> Path:
    """Unpack `package` to `folder`, completely or not at all.

    Installing would start a service on a fixed port; unpacking needs no root and starts nothing.
    Raises SetupError without apt, or without such a package.
    """
    if not available():
        raise SetupError(
            f"{part}: the Debian package {package} cannot be downloaded",
            got="no apt-get or dpkg-deb here",
        )
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    debs = work / "deb"
    debs.mkdir(parents=True)
    log = LOGS / f"{package}.log"
    env = base_environment()

    say(part, f"fetching Debian's package {package}")
    code, _ = attempt(part, ["apt-get", "download", package], log=log, env=env, cwd=debs)
    if code != 0:
        # The machine's package lists are empty or stale: use lists of our own.
        apt = ["apt-get", *_own_lists(work / "apt")]
        fix = f"check the network to your Debian mirror ({log}), or install {package} yourself"
        for command in (["update"], ["download", package]):
            run(part, [*apt, *command], log=log, env=env, cwd=debs, fix=fix)
    for deb in debs.glob("*.deb"):
        run(part, ["dpkg-deb", "-x", str(deb), str(work / "root")], log=log, env=env)

    shutil.rmtree(folder, ignore_errors=True)
    (work / "root").rename(folder)
    shutil.rmtree(work, ignore_errors=True)
    return folder


def _own_lists(state: Path) -> list[str]:
    """Return apt's options for package lists in a folder that this user may write."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    places = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state / "cache",
        "Dir::State::status": "/var/lib/dpkg/status",
    }
    return [word for name, path in places.items() for word in ("-o", f"{name}={path}")]
