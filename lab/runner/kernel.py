"""The kernel that runs notebooks: this very interpreter, whatever kernels are registered on the machine."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from traitlets import Unicode

from lab.environment import bypass_proxies_on_loopback, search_path
from lab.settings import REPO, Settings

NAME = "lab"
DISPLAY_NAME = "LLM Observability Lab"


def argv() -> list[str]:
    """The command line that starts the kernel."""
    return [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


def environment(settings: Settings) -> dict[str, str]:
    """Return what a kernel needs: its lab's state folder, the `lab` package and command, and no proxy on loopback."""
    modules = os.pathsep.join(p for p in (str(REPO), os.environ.get("PYTHONPATH", "")) if p)
    env = {
        "LAB_STATE_DIR": str(settings.state_dir.resolve()),
        "PYTHONPATH": modules,
        "PATH": search_path(),
    }
    env |= {name: os.environ[name] for name in ("NO_PROXY", "no_proxy") if name in os.environ}
    bypass_proxies_on_loopback(env)
    return env


def manager_class(env: dict[str, str], folder: Path, log: Path) -> type[AsyncKernelManager]:
    """A kernel manager for nbclient that looks up no name: a `python3` registered by the user would win otherwise.

    It talks over sockets in `folder` (own_folders), which nobody else can open; what the kernel says goes to `log`.
    """

    class LabKernelManager(AsyncKernelManager):
        transport = Unicode("ipc")
        ip = Unicode(str(folder / "k"))  # short: a socket's path may have about 100 characters

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=argv(), display_name=DISPLAY_NAME, language="python", env=env)

        async def start_kernel(self, **kwargs: Any) -> None:
            with open(log, "ab") as out:
                await super().start_kernel(**{**kwargs, "stdout": out, "stderr": out})

    return LabKernelManager


@contextlib.contextmanager
def own_folders() -> Iterator[Path]:
    """Jupyter's and IPython's folders in a temporary one: no home folder needed, no start-up files of the user run."""
    names = ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        os.environ.update({name: os.path.join(folder, name.lower()) for name in names})
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
