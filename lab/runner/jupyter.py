"""`make lab`: the stack up and JupyterLab on loopback with its token; Ctrl-C ends both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from lab.environment import command_hint
from lab.errors import LabError
from lab.runner import kernel
from lab.runner.lifecycle import stack_for, term_as_interrupt
from lab.runner.session import NOTEBOOKS
from lab.runner.show import Show
from lab.settings import Settings, load_settings

# A login shell, which Jupyter starts where its own output is not a terminal, would set PATH anew.
TERMINAL = {"shell_command": [os.environ.get("SHELL") or "/bin/sh"]}


def main() -> int:
    """JupyterLab's exit status; 1 if the stack did not come up."""
    settings = load_settings()
    try:
        with Show() as show, stack_for(settings, show):
            show.close()  # the terminal is JupyterLab's now
            if hint := command_hint():
                print(hint, flush=True)
            return _serve(settings)
    except LabError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def register_kernel(folder: Path, settings: Settings) -> Path:
    """Write the kernel's specification below `folder`, for this checkout only; nothing in the user's home changes.

    It is the notebooks' own `python3`, so that one which the user has registered does not come before it.
    """
    spec_dir = folder / "kernels" / "python3"
    spec_dir.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": kernel.argv(),
        "display_name": kernel.DISPLAY_NAME,
        "language": "python",
        "env": kernel.environment(settings),
    }
    (spec_dir / "kernel.json").write_text(json.dumps(spec, indent=1))
    return spec_dir


def _serve(settings: Settings) -> int:
    folder = settings.state_dir.resolve() / "jupyter"
    register_kernel(folder, settings)
    env = {**os.environ, **kernel.environment(settings), "JUPYTER_PATH": str(folder)}
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--ServerApp.ip=127.0.0.1",
        "--no-browser",
        f"--ServerApp.root_dir={NOTEBOOKS.parent}",
        f"--LabApp.default_url=/lab/tree/{NOTEBOOKS.name}",
        f"--ServerApp.terminado_settings={TERMINAL}",
        *sys.argv[1:],
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    child = subprocess.Popen(command, env=env)
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.terminate()  # Ctrl-C reached it as well, and it asks; this answers
        return child.wait(20)
    finally:
        if child.poll() is None:
            child.kill()


if __name__ == "__main__":
    with term_as_interrupt():
        sys.exit(main())
