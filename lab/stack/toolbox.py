"""Where the programs are that the stack is made of. `make setup` writes them down in `.venvs/tools.json`."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Toolbox:
    """Paths of programs and of data that packages carry; `vllm_build` is 'cpu', 'cuda' or 'source'."""

    python_lab: str
    python_vllm: str
    prometheus: str
    node_exporter: str
    embedding_model_dir: str
    tiktoken_cache_dir: str
    vllm_build: str = "cpu"
    promtool: str = ""

    @property
    def cache_dir(self) -> Path:
        """Caches that belong to the installed programs, shared by all labs of this checkout."""
        return TOOLS_FILE.parent / "cache"


def find_tools(path: Path | None = None, *, needs: Sequence[str] | None = None) -> Toolbox:
    """What `make setup` found, missing programs looked up on PATH. `LAB_TOOLS` names another file.

    `needs` are those that must be there (default: all but the optional ones). Raises SetupError naming every program
    that is missing.
    """
    path = path or Path(os.environ.get("LAB_TOOLS", TOOLS_FILE))
    known = _read(path)
    found = {
        "python_lab": known.get("python_lab") or sys.executable,
        "python_vllm": known.get("python_vllm", ""),
        "prometheus": known.get("prometheus") or shutil.which("prometheus") or "",
        "promtool": known.get("promtool") or shutil.which("promtool") or "",
        "node_exporter": known.get("node_exporter")
        or shutil.which("prometheus-node-exporter")
        or "",
        "embedding_model_dir": known.get("embedding_model_dir", ""),
        "tiktoken_cache_dir": known.get("tiktoken_cache_dir", ""),
        "vllm_build": known.get("vllm_build") or "cpu",
    }
    optional = ("promtool", "vllm_build")
    wanted = (
        needs if needs is not None else [f.name for f in fields(Toolbox) if f.name not in optional]
    )
    missing = [name for name in wanted if not Path(found[name] or "?").exists()]
    if missing:
        raise SetupError(
            f"the stack lacks {', '.join(missing)}",
            got=f"{path} {'says ' + json.dumps({m: found[m] for m in missing}) if known else 'does not exist'}",
            fix="run `make setup`",
        )
    return Toolbox(**found)


def _read(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise SetupError(
            f"{path} cannot be read", got=str(e), fix="run `make setup` to write it anew"
        ) from e
