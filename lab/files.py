"""Write files atomically: a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes | str, mode: int | None = None) -> None:
    """Replace `path` by `content`, completely or not at all. Text is encoded as UTF-8.

    The file gets the permissions `mode`, by default those that the process's umask leaves of 0o666.
    Raises OSError if the folder cannot be written; the file is then as it was before.
    """
    if isinstance(content, str):
        content = content.encode()

    draft_fd, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(draft_fd, "wb") as file:
            file.write(content)
        os.chmod(draft, 0o666 & ~_umask() if mode is None else mode)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the dict (or list) in a JSON file; an empty one where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        if isinstance(content, kind):
            return content
    return kind()


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
