"""The disk below the data folder: a reserve for when it is full, and damaged files."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from lab.tracestore.errors import StoreBroken

log = logging.getLogger("lab.tracestore.disk")

RESERVE_BYTES = 64 * 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """A file that only takes up room, for when the disk is full.

    It is released so that acknowledged spans can reach the database. Spans are accepted only while
    the reserve is held: nothing else may take the room that the database needs.
    """

    def __init__(self, folder: Path, size: int | None = None) -> None:
        """Name the file in `folder`; `size` is in bytes, `RESERVE_BYTES` by default."""
        self.path = folder / "reserve"
        self.size = RESERVE_BYTES if size is None else size
        self.held = False

    def hold(self) -> bool:
        """Take the room, where there is enough; return whether the reserve is held."""
        if self.held:
            return True
        try:
            if size_of(self.path) < self.size:
                self._allocate()
            self.held = True
        except OSError as e:
            if e.errno in _FULL:
                self.path.unlink(missing_ok=True)
            else:  # such as a limit on the size of files: then there is none to hold
                log.warning("no room is reserved", extra={"error": str(e)})
                self.held = True
        return self.held

    def _allocate(self) -> None:
        with self.path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, self.size)
            else:
                file.write(bytes(self.size))
                file.flush()
                os.fsync(file.fileno())

    def release(self) -> bool:
        """Free the room for the next write; return whether that freed any."""
        self.held = False
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as e:
            log.warning("the reserve cannot be deleted", extra={"error": str(e)})
            return False
        return True

    def refusal(self) -> StoreBroken:
        """Build the error for a sender while the reserve is not held."""
        return StoreBroken(
            "the disk is full: no spans are accepted",
            got=f"{free_bytes(self.path.parent) >> 20} MiB free",
            fix=f"free {self.size >> 20} MiB or more; it goes on by itself",
        )


def make_folder(folder: Path) -> None:
    """Create a folder for its owner only. Raises StoreBroken where that is not possible."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise StoreBroken(
            f"the data folder {folder} cannot be created",
            got=str(e),
            fix="give another folder with --data, or check its rights",
        ) from e


def free_bytes(folder: Path) -> int:
    """Return the free bytes of a folder's file system; 0 where that is not known."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def size_of(path: Path) -> int:
    """Return the bytes of a file; 0 where there is none: DuckDB deletes its log at a checkpoint."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `<name>.damaged`, or `.damaged-2` and so on; return its new path."""
    number = 1
    target = path.with_name(f"{path.name}.damaged")
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(target)
    return target


def damaged_files(folder: Path) -> list[Path]:
    """Return the files below a data folder that were set aside."""
    return sorted([*folder.glob("*.damaged*"), *folder.glob("wal/*.damaged*")])
