"""The kernel that runs notebooks: this interpreter, not a kernel registered on the machine."""

import os
import sys
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from traitlets import Unicode

from lab.environment import bypass_proxies_on_loopback, search_path
from lab.settings import REPO, Settings

NAME = "lab"
DISPLAY_NAME = "LLM Observability Lab"
ARGV = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


def environment(settings: Settings) -> dict[str, str]:
    """Return a kernel's variables: the lab's state folder, package and command, no proxy."""
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
    """Return a kernel manager for nbclient that looks up no name.

    A `python3` that the user registered would win otherwise. Its files are in `folder`, which only
    this user can open: the sockets by which it connects, and Jupyter's and IPython's own, so that
    no home folder is needed and no start-up file of the user runs. The kernel's own output goes to
    `log`.
    """
    env = env | {name: str(folder / name) for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}

    class LabKernelManager(AsyncKernelManager):
        transport = Unicode("ipc")
        # Short, because of the sockets beside it: their paths may have about 100 characters.
        connection_file = Unicode(str(folder / "k.json"))

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=ARGV, display_name=DISPLAY_NAME, language="python", env=env)

        async def start_kernel(self, **kwargs: Any) -> None:  # type: ignore[override]
            with open(log, "ab") as out:
                await super().start_kernel(**{**kwargs, "stdout": out, "stderr": out})

    return LabKernelManager
