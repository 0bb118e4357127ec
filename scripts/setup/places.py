"""Where set-up puts things."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lab.errors import SetupError

REPO = Path(__file__).resolve().parents[2]
LOCKS = REPO / "requirements"
VENVS = REPO / ".venvs"
LOGS = VENVS / "logs"
TOOLS_FILE = VENVS / "tools.json"

NEEDED_BYTES = 6 * 1024**3  # both environments unpacked, with uv's cache on the same disk


def make_root(root: Path = VENVS) -> None:
    """Create the folder for everything. Raises SetupError where it cannot be written or the disk is too small."""
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
    """Raises SetupError before a download that would not fit."""
    stat = os.statvfs(root)
    free_bytes = stat.f_bavail * stat.f_frsize
    if free_bytes < needed_bytes:
        raise SetupError(
            "the disk is too full for the two Python environments",
            got=f"{free_bytes / 1024**3:.1f} GiB free below {root}, {needed_bytes / 1024**3:.0f} GiB needed",
            fix="free some space, or clone the repository to a larger disk",
        )


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new text, never a part."""
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(part, path)
