"""An environment counts as ready when its stamp says what it was built from, and that is still what is wanted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from scripts.setup.places import REPO, write_whole

NAME = ".ready.json"


def digest(files: list[Path], *facts: str) -> str:
    """One hash over files' contents and other facts (such as the folder, since environments cannot be moved)."""
    h = hashlib.sha256(str(REPO).encode())
    for fact in facts:
        h.update(b"\0" + fact.encode())
    for path in files:
        h.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return h.hexdigest()


def is_ready(folder: Path, wanted: str) -> bool:
    """Whether `folder` was completely built from `wanted` and its interpreter is still there."""
    found = read(folder)
    return found.get("digest") == wanted and (
        "python" not in found or (folder / "bin/python").exists()
    )


def read(folder: Path) -> dict:
    """The stamp, empty where there is none."""
    try:
        return json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        return {}


def remove(folder: Path) -> None:
    """From here on the folder does not count as ready."""
    (folder / NAME).unlink(missing_ok=True)


def write(folder: Path, wanted: str, **facts: str) -> None:
    """The last step of building."""
    write_whole(folder / NAME, json.dumps({"digest": wanted, **facts}, indent=1))
