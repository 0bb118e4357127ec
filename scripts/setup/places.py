"""Where set-up puts things."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from lab.errors import SetupError

REPO = Path(__file__).resolve().parents[2]
LOCKS = REPO / "requirements"
VENVS = REPO / ".venvs"
LOGS = VENVS / "logs"
TOOLS_FILE = VENVS / "tools.json"

GIB = 1024**3
NEEDED_BYTES = 6 * GIB  # both environments (4 GiB) and what uv caches on the same disk
LIGHT_BYTES = 3 * GIB  # the same for a light set-up, of 1.7 GiB


def make_root(root: Path = VENVS) -> None:
    """Create the folder for everything. Raises SetupError where it cannot be written."""
    try:
        (root / "logs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as e:
        raise SetupError(
            f"{root} cannot be written",
            got=str(e),
            fix="give yourself write access to the checkout, or clone it to a folder of your own",
        ) from e


def check_space(root: Path = VENVS, needed_bytes: int = NEEDED_BYTES) -> None:
    """Raise SetupError before a download that would not fit."""
    free_bytes = shutil.disk_usage(root).free
    if free_bytes < needed_bytes:
        raise SetupError(
            "the disk is too full for the Python environments",
            got=f"{free_bytes / GIB:.1f} GiB free below {root}, {needed_bytes / GIB:.0f} needed",
            fix="free some space, or clone the repository to a larger disk",
        )
