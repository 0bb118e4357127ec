"""Where set-up puts things, and the stamps of the environments that are ready.

An environment is ready while what it was built from is still current.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from lab.errors import SetupError
from lab.files import read_json, write_atomically

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


STAMP = ".ready.json"


def digest_of(files: list[Path], *facts: str) -> str:
    """Return one hash of the files' contents, of other facts, and of this checkout's folder.

    The folder matters because environments cannot be moved.
    """
    h = hashlib.sha256(str(REPO).encode())
    for fact in facts:
        h.update(b"\0" + fact.encode())
    for path in files:
        h.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return h.hexdigest()


def is_ready(folder: Path, digest: str) -> bool:
    """Return whether `folder` was completely built from this, and still has its interpreter."""
    stamp = read_stamp(folder)
    has_python = "python" not in stamp or (folder / "bin/python").exists()
    return stamp.get("digest") == digest and has_python


def read_stamp(folder: Path) -> dict[str, str]:
    """Return the stamp, empty where there is none."""
    return read_json(folder / STAMP)


def write_stamp(folder: Path, digest: str, **facts: str) -> None:
    """Write the stamp, as the last step of building."""
    write_atomically(folder / STAMP, json.dumps({"digest": digest, **facts}, indent=1))
