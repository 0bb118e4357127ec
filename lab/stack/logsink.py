"""A part's log file: every line that the part writes becomes one JSON object; the file of the run before is kept."""

from __future__ import annotations

import contextlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

LIMIT_BYTES = 64 * 1024**2  # then the file is turned over
_LEVEL = re.compile(rb"\b(DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL)\b")


class LogSink:
    """Takes chunks as they come from the part's pipe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        self._rest = b""
        self._open_new()

    def _open_new(self) -> None:
        if self.path.exists() and self.path.stat().st_size:
            os.replace(self.path, self.path.with_name(self.path.name + ".1"))
        self._file = self.path.open("ab", buffering=0)
        self._written = 0

    def feed(self, chunk: bytes) -> None:
        """Write the whole lines in what has come so far."""
        if self.closed:
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        out = b"".join(as_json_line(line) for line in lines if line.strip())
        # On a full disk the lines are lost; an error here would close the part's standard output.
        with contextlib.suppress(OSError):
            if self._written + len(out) > LIMIT_BYTES:
                self._file.close()
                self._open_new()
            self._file.write(out)
            self._written += len(out)

    def note(self, message: str, level: str = "info") -> None:
        """Write a line of the supervisor's own about the part."""
        self.feed(_wrap(message, level, logger="lab.stack") + b"\n")

    def close(self) -> None:
        """Write what is left and close the file."""
        self.feed(b"\n" if self._rest else b"")
        self._file.close()
        self.closed = True


def as_json_line(line: bytes) -> bytes:
    """The line itself if it is a JSON object, else an object around it, with the level that it seems to have."""
    if line.startswith(b"{"):
        try:
            json.loads(line)
            return line + b"\n"
        except ValueError:
            pass
    level = _LEVEL.search(line[:120])
    name = level[1].decode().lower() if level else "info"
    return (
        _wrap(line.decode(errors="replace").rstrip(), {"warn": "warning"}.get(name, name)) + b"\n"
    )


def _wrap(message: str, level: str, **more: str) -> bytes:
    entry = {
        "ts": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        **more,
        "message": message,
    }
    return json.dumps(entry, ensure_ascii=False).encode()
