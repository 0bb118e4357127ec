"""Where the stack's programs are. `make setup` writes their paths to `.venvs/tools.json`."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from lab.errors import SetupError
from lab.settings import REPO

TOOLS_FILE = REPO / ".venvs" / "tools.json"
OPTIONAL = ("promtool", "alertmanager", "grafana", "vllm_build", "python_ogx", "gpu_exporter")


@dataclass(frozen=True)
class Toolbox:
    """Paths of programs and of packages' data; `vllm_build` is 'cpu', 'cuda' or 'source'."""

    python_lab: str
    python_vllm: str
    prometheus: str
    node_exporter: str
    embedding_model_dir: str
    tiktoken_cache_dir: str
    vllm_build: str = "cpu"
    promtool: str = ""
    alertmanager: str = ""
    grafana: str = ""
    python_ogx: str = ""
    gpu_exporter: str = ""

    @property
    def cache_dir(self) -> Path:
        """Return the folder of the programs' caches, shared by all labs of this checkout."""
        return TOOLS_FILE.parent / "cache"


def find_tools(path: Path | None = None, *, needs: Sequence[str] | None = None) -> Toolbox:
    """Return what `make setup` found, with missing programs looked up on PATH.

    `LAB_TOOLS` names another file. `needs` are those that must exist (default: all but the optional
    ones). Raises SetupError naming every one that is missing.
    """
    path = path or Path(os.environ.get("LAB_TOOLS", TOOLS_FILE))
    known = _read(path)
    tools = _with_path(known)

    needed = [n for n in tools if n not in OPTIONAL] if needs is None else needs
    missing = {name: tools[name] for name in needed if not Path(tools[name] or "?").exists()}
    if missing:
        raise SetupError(
            f"the stack lacks {', '.join(missing)}",
            got=f"{path} has {json.dumps(missing)}" if known else f"{path} does not exist",
            fix="run `make setup`",
        )
    return Toolbox(**tools)


def _with_path(known: dict[str, str]) -> dict[str, str]:
    """Return every tool's path, from PATH where it is not known; empty if it is nowhere."""
    on_path = {
        "python_lab": sys.executable,
        "prometheus": shutil.which("prometheus"),
        "promtool": shutil.which("promtool"),
        "node_exporter": shutil.which("prometheus-node-exporter"),
        "alertmanager": shutil.which("prometheus-alertmanager") or shutil.which("alertmanager"),
        "grafana": shutil.which("grafana-server"),
        "vllm_build": "cpu",
    }
    names = [field.name for field in fields(Toolbox)]
    return {name: known.get(name) or on_path.get(name) or "" for name in names}


def _read(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise SetupError(
            f"{path} cannot be read", got=str(e), fix="run `make setup` to write it anew"
        ) from e
