"""Stamps: an environment is ready while what it was built from is still current."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lab.files import write_atomically
from scripts.setup.places import REPO

NAME = ".ready.json"


def digest(files: list[Path], *facts: str) -> str:
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
    stamp = read(folder)
    has_python = "python" not in stamp or (folder / "bin/python").exists()
    return stamp.get("digest") == digest and has_python


def read(folder: Path) -> dict[str, str]:
    """Return the stamp, empty where there is none."""
    try:
        return dict(json.loads((folder / NAME).read_text()))
    except (OSError, ValueError):
        return {}


def write(folder: Path, digest: str, **facts: str) -> None:
    """Write the stamp, as the last step of building."""
    write_atomically(folder / NAME, json.dumps({"digest": digest, **facts}, indent=1))
