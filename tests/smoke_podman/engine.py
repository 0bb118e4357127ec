"""podman, with an image store, a network and a configuration of its own."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.errors import SetupError, StackError

# {program: Debian package}; podman's default runtime, crun, refuses mixed versions of cgroups.
PROGRAMS = {"podman": "podman", "runc": "runc", "debootstrap": "debootstrap"}
NETWORK = "llm-lab-smoke"
SUBNET = "10.89.214"
_CONFIGURATION = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
pids_limit = 0
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def missing_programs() -> list[str]:
    """Return what this machine lacks, each with how to get it; empty if podman can be used."""
    names = [name for name in PROGRAMS if _program(name) is None]
    missing = []
    if names:
        packages = " ".join(PROGRAMS[name] for name in names)
        missing.append(f"not installed: {', '.join(names)} (Debian: apt-get install {packages})")
    if os.geteuid() != 0:
        missing.append("not run as root, which debootstrap and the bridge network need (sudo -E)")
    return missing


@dataclass(frozen=True)
class Engine:
    """podman with everything below `folder`."""

    folder: Path
    podman: str

    @classmethod
    def prepare(cls, folder: Path) -> Engine:
        """Make the folder and podman's configuration.

        Raises SetupError naming what the machine lacks.
        """
        if missing := missing_programs():
            raise SetupError(
                "containers cannot be run here", got="; ".join(missing), fix="install what is named"
            )
        folder.mkdir(parents=True, exist_ok=True)
        # podman's own defaults are higher; without CAP_SYS_RESOURCE no limit may be raised.
        files = _at_most(65536, resource.RLIMIT_NOFILE)
        processes = _at_most(16384, resource.RLIMIT_NPROC)
        text = _CONFIGURATION.format(files=files, processes=processes)
        (folder / "containers.conf").write_text(text)
        return cls(folder, _program("podman") or "podman")

    def run(
        self, *arguments: str, timeout_s: float = 600.0, log: Path | None = None, check: bool = True
    ) -> str:
        """Run podman and return its standard output. Raises StackError with its last words."""
        command = [self.podman, *self._options(), *arguments]
        environment = {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, env=environment
            )
        except subprocess.TimeoutExpired as e:
            raise StackError(
                f"`podman {arguments[0]}` did not end within {timeout_s:.0f} s",
                got=" ".join(arguments)[:300],
                fix=f"look at {log}" if log else "run it by hand",
            ) from e
        if log is not None:
            log.write_text(done.stdout + done.stderr)
        if check and done.returncode:
            raise StackError(
                f"`podman {arguments[0]}` failed",
                got=(done.stderr or done.stdout).strip()[-1500:],
                fix=f"read {log}" if log else f"run it by hand: podman {' '.join(arguments)[:300]}",
            )
        return done.stdout

    def has_image(self, name: str) -> bool:
        """Whether an image of that name is in the store."""
        return bool(self.run("images", "--quiet", name).strip())

    def start_network(self) -> None:
        """Create the pods' network, without names but those that pods are given.

        Not an internal one: netavark gives the machine no address on it, from which probes could
        come.
        """
        self.run("network", "rm", "--force", NETWORK, check=False)
        options = ["--disable-dns", "--subnet", f"{SUBNET}.0/24"]
        self.run("network", "create", *options, NETWORK)

    def take_down(self) -> list[str]:
        """Remove containers, volumes and the network; return the names of what is still there."""
        self.run("rm", "--all", "--force", "--time", "2", check=False)
        shutil.rmtree(self.folder / "volumes", ignore_errors=True)
        self.run("network", "rm", "--force", NETWORK, check=False)
        left = self.run("ps", "--all", "--format", "{{.Names}}").split()
        networks = self.run("network", "ls", "--format", "{{.Name}}").split()
        return left + [name for name in networks if name == NETWORK]

    def _options(self) -> list[str]:
        return [
            *("--root", str(self.folder / "storage")),
            *("--runroot", str(self.folder / "run")),
            *("--tmpdir", str(self.folder / "tmp")),
            *("--network-config-dir", str(self.folder / "networks")),
            *("--storage-driver", "overlay"),
        ]


def _at_most(limit: int, kind: int) -> int:
    _, hard = resource.getrlimit(kind)
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def _program(name: str) -> str | None:
    """Return the path of a program, also where a plain user's PATH does not reach."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
