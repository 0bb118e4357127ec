"""The parts' logs: written as JSON lines, read in time order, also those of one trace."""

import contextlib
import heapq
import json
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from lab.errors import NotUp, StackError

LIMIT_BYTES = 64 * 1024**2  # of a log file; then a new one is begun
FOLLOW_S = 0.3
_LEVEL = re.compile(rb"\b(DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL)\b")
# Leading zeros may be missing, as in Tempo's answers.
_TRACE_ID = re.compile(r"^[0-9a-f]{16,32}$")
_ERROR_LINE = re.compile(r"^\s*[\w.]*(Error|Exception|Failure)\b[^:]*: \S")
_TIME_KEYS = ("ts", "timestamp", "time")
_EPOCH = datetime.fromtimestamp(0, UTC)


# -- writing -----------------------------------------------------------------------------------


class LogSink:
    """A part's log file, fed with chunks from its pipe. The file of the run before is kept."""

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
        """Write the complete lines in what has arrived so far."""
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
        """Write a line of the supervisor's about the part."""
        self.feed(_wrap(message, level, logger="lab.stack") + b"\n")

    def close(self) -> None:
        """Write what is left and close the file."""
        self.feed(b"\n" if self._rest else b"")
        self._file.close()
        self.closed = True


def as_json_line(line: bytes) -> bytes:
    """Return the line if it is a JSON object, else an object around it with the level it names."""
    if line.startswith(b"{"):
        with contextlib.suppress(ValueError):
            json.loads(line)
            return line + b"\n"

    match = _LEVEL.search(line[:120])
    level = match[1].decode().lower() if match else "info"
    level = {"warn": "warning"}.get(level, level)
    return _wrap(line.decode(errors="replace").rstrip(), level) + b"\n"


def _wrap(message: str, level: str, **more: str) -> bytes:
    ts = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = {"ts": ts, "level": level, **more, "message": message}
    return json.dumps(entry, ensure_ascii=False).encode()


# -- reading -----------------------------------------------------------------------------------


def read(
    state_dir: Path,
    part: str | None = None,
    trace_id: str | None = None,
    follow: bool = False,
    last: int = 0,
) -> Iterator[dict[str, Any]]:
    """Return entries in time order; see lab.stack.logs.

    Arguments are checked at once, not when the iterator is used.
    """
    if trace_id is not None:
        trace_id = trace_id.lower()
        if not _TRACE_ID.match(trace_id):
            raise StackError(
                "this is not a trace id", got=trace_id, fix="use 16 to 32 hexadecimal digits"
            )
        trace_id = trace_id.zfill(32)

    paths = {p.stem: p for p in sorted((state_dir / "logs").glob("*.log"))}
    if not paths:
        raise NotUp(f"there are no logs in {state_dir / 'logs'}", fix="start the lab with `lab up`")
    if part is not None and part not in paths:
        raise StackError(f"there is no log of {part!r}", fix=f"use one of {', '.join(paths)}")
    if part is not None:
        paths = {part: paths[part]}
    return _entries(paths, trace_id, follow, last)


def last_lines(path: Path, count: int = 15) -> list[str]:
    """Return the messages of the last lines of a log, for an error message."""
    try:
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - 65_536))
            lines = f.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
    return [str(_parse(line, "").get("message", line)).rstrip()[:300] for line in lines]


def causes(path: Path, count: int = 3) -> list[str]:
    """Return lines near the end of a log that name an error, the oldest first.

    Where one error follows from another, the oldest is the cause.
    """
    lines = dict.fromkeys(line for line in last_lines(path, 300) if _ERROR_LINE.search(line))
    return [line.strip() for line in lines][-2 * count :][:count]


def _entries(
    paths: dict[str, Path], trace_id: str | None, follow: bool, last: int
) -> Iterator[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(path.open("rb")) for name, path in paths.items()}
        logs = [_lines(f, name, trace_id) for name, f in files.items()]
        present = heapq.merge(*logs, key=moment)
        yield from deque(present, maxlen=last) if last else present

        while follow:
            logs = [_lines(f, name, trace_id) for name, f in files.items()]
            new = sorted((entry for log in logs for entry in log), key=moment)
            yield from new
            if not new:
                time.sleep(FOLLOW_S)


def _lines(file: BinaryIO, part: str, trace_id: str | None) -> Iterator[dict[str, Any]]:
    """Yield a log's entries from the file's position on, each with a time.

    One without a time gets that of the entry before, so a traceback stays with its error.
    """
    searched = trace_id.encode() if trace_id else b""
    before = _EPOCH.isoformat()
    while line := file.readline():
        if not line.endswith(b"\n"):  # it is being written just now
            file.seek(-len(line), 1)
            return
        if searched in line:
            entry = _parse(line.decode(errors="replace"), part)
            at = moment(entry)
            before = before if at is _EPOCH else at.isoformat(timespec="milliseconds")
            entry["ts"] = before
            yield entry


def _parse(line: str, part: str) -> dict[str, Any]:
    """Return a line as an entry; parts name the field of the message differently."""
    entry: dict[str, Any] = {"message": line.rstrip("\n")}
    with contextlib.suppress(ValueError):
        content = json.loads(line)
        entry = content if isinstance(content, dict) else entry
    entry.setdefault("message", entry.get("msg") or entry.get("event") or "")
    return {"part": part, **entry}


def moment(entry: dict[str, Any]) -> datetime:
    """Return when an entry was written; the epoch if it has no time."""
    for key in _TIME_KEYS:
        value = entry.get(key)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                parsed = datetime.fromisoformat(value)
                return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return _EPOCH
