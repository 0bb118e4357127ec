"""Write files atomically: a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.errors import LabError


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


def save(
    path: str | Path, content: bytes | str, error: type[LabError], mode: int | None = None
) -> Path:
    """Write a file as `write_atomically` does, in folders that it makes, and return its path.

    Raises an error of this kind if it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, mode)
    except OSError as e:
        raise error(
            f"{path} cannot be written",
            got=str(e),
            fix="choose a folder that can be written, on a disk with room",
        ) from e
    return path


@contextlib.contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """Make a temporary folder beside `target`, which the caller renames to it when it is complete.

    A draft that was not renamed is deleted. Only its owner can read it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", ignore_cleanup_errors=True
    ) as draft:
        yield Path(draft)


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
