"""`make lab`: the stack and JupyterLab, on loopback with its token; Ctrl-C ends both.

It opens the attendee's copies of the notebooks, not those of the repository.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab.command_line import term_as_interrupt
from lab.environment import command_hint
from lab.errors import LabError, NotebookError
from lab.runner import kernel
from lab.runner.session import NOTEBOOKS, choose, stack_for
from lab.runner.show import Show
from lab.settings import REPO, Settings, load_settings

# A login shell, which Jupyter starts where its own output is not a terminal, would set PATH anew.
TERMINAL = {"shell_command": [os.environ.get("SHELL") or "/bin/sh"]}
STOP_S = 20.0
QUIET = {  # JupyterLab's settings: no pop-up that asks about news or updates
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}
}
FIRST = "00_stand_up_the_lab.ipynb"


def main() -> int:
    """Return JupyterLab's exit status; 1 if the stack did not come up."""
    settings = load_settings()
    try:
        make_copies()
        with Show(opens_view=True) as show, stack_for(settings, show):
            show.live_view(load_settings().view_url or "")  # of a lab that was up already
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
    """Write the kernel's specification below `folder`, for this checkout only.

    It is the notebooks' own `python3`, so that one which the user registered does not come first.
    Nothing in the user's home changes.
    """
    spec_dir = folder / "kernels" / "python3"
    spec_dir.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": kernel.ARGV,
        "display_name": kernel.DISPLAY_NAME,
        "language": "python",
        "env": kernel.environment(settings),
    }
    (spec_dir / "kernel.json").write_text(json.dumps(spec, indent=1))
    return spec_dir


def _serve(settings: Settings) -> int:
    folder = settings.state_dir.resolve() / "jupyter"
    register_kernel(folder, settings)
    (folder / "labconfig").mkdir(exist_ok=True)
    (folder / "labconfig/default_setting_overrides.json").write_text(json.dumps(QUIET))
    env = {**os.environ, **kernel.environment(settings), "JUPYTER_PATH": str(folder)}
    config_path = (str(folder), os.environ.get("JUPYTER_CONFIG_PATH", ""))
    env["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, config_path))
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    command = [
        *(sys.executable, "-m", "jupyter", "lab"),
        "--ServerApp.ip=127.0.0.1",
        "--no-browser",
        f"--ServerApp.root_dir={REPO}",
        f"--LabApp.default_url=/lab/tree/{WORK.name}/{FIRST}",
        f"--ServerApp.terminado_settings={TERMINAL}",
        *(["--allow-root"] if is_root else []),
        *sys.argv[1:],
    ]
    server = subprocess.Popen(command, env=env)
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()  # Ctrl-C reached it as well, and it asks; this answers
        return server.wait(STOP_S)
    finally:
        if server.poll() is None:
            server.kill()


WORK = REPO / "work"


def make_copies(source: Path = NOTEBOOKS, folder: Path = WORK) -> list[Path]:
    """Copy the notebooks that `folder` does not have yet, and return the new files.

    Raises NotebookError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [path for path in choose([], source) if not (folder / path.name).exists()]
        return [Path(shutil.copyfile(path, folder / path.name)) for path in missing]
    except OSError as e:
        raise NotebookError(
            f"the notebooks cannot be copied to {folder}",
            got=str(e),
            fix="free some space, or give yourself write access to the checkout",
        ) from e


def reset(names: Sequence[str], source: Path = NOTEBOOKS, folder: Path = WORK) -> Path | None:
    """Replace the copies of these notebooks (all without names) by clean ones.

    Returns the folder with the old ones, None where there was none. Raises NotebookError for a name
    that no notebook has, and as `make_copies` does.
    """
    before = [folder / path.name for path in choose(list(names), source)]
    before = [path for path in before if path.exists()]
    aside = folder / time.strftime("before-%Y%m%d-%H%M%S")
    if before:
        aside.mkdir(exist_ok=True)
    for path in before:
        path.rename(aside / path.name)
    make_copies(source, folder)
    return aside if before else None


if __name__ == "__main__":
    with term_as_interrupt():
        sys.exit(main())
