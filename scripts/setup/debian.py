"""Take a Debian package without installing it: download and unpack, as root or not, touching nothing of the system."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab.errors import SetupError
from scripts.setup.places import LOGS
from scripts.setup.progress import attempt, base_environment, run, say


def unpack(package: str, folder: Path, *, part: str) -> Path:
    """`package` unpacked in `folder`, whole or not at all. Raises SetupError without apt or without such a package.

    Installing would start a service on a fixed port; unpacking needs no root and starts nothing.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SetupError(
            f"{part}: the Debian package {package} cannot be had", got="no apt-get or dpkg-deb here"
        )
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    (work / "deb").mkdir(parents=True)
    log, env = LOGS / f"{package}.log", base_environment()
    say(part, f"fetching Debian's package {package}")
    if attempt(part, ["apt-get", "download", package], log=log, env=env, cwd=work / "deb")[0] != 0:
        # The machine's package lists are empty or stale: take our own, in a folder that we may write.
        own = _own_lists(work / "apt")
        run(part, ["apt-get", *own, "update"], log=log, env=env, fix=_advice(package, log))
        run(
            part,
            ["apt-get", *own, "download", package],
            log=log,
            env=env,
            cwd=work / "deb",
            fix=_advice(package, log),
        )
    for deb in (work / "deb").glob("*.deb"):
        run(part, ["dpkg-deb", "-x", str(deb), str(work / "root")], log=log, env=env)
    shutil.rmtree(folder, ignore_errors=True)
    (work / "root").rename(folder)
    shutil.rmtree(work, ignore_errors=True)
    return folder


def _own_lists(state: Path) -> list[str]:
    for sub in ("lists/partial", "cache/archives/partial"):
        (state / sub).mkdir(parents=True)
    return [
        "-o",
        f"Dir::State={state}",
        "-o",
        f"Dir::State::lists={state}/lists",
        "-o",
        f"Dir::Cache={state}/cache",
        "-o",
        "Dir::State::status=/var/lib/dpkg/status",
    ]


def _advice(package: str, log: Path) -> str:
    return (
        f"check the network to your Debian mirror (details in {log}), or install {package} yourself"
    )
