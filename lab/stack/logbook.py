"""Reads the parts' logs: one, all in time order, or what all of them say of one trace."""

from __future__ import annotations

import heapq
import json
import re
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.errors import NotUp, StackError

_TRACE_ID = re.compile(r"^[0-9a-f]{16,32}$")  # searches show trace ids without leading zeros
_ERROR_LINE = re.compile(r"^\s*[\w.]*(Error|Exception|Failure)\b[^:]*: \S")
_TIME_KEYS = ("ts", "timestamp", "time")
_EPOCH = datetime.fromtimestamp(0, UTC)


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
        trace_id = trace_id.rjust(32, "0")
    paths = {p.stem: p for p in sorted((state_dir / "logs").glob("*.log"))}
    if not paths:
        raise NotUp(f"there are no logs in {state_dir / 'logs'}", fix="start the lab with `lab up`")
    if part is not None:
        if part not in paths:
            raise StackError(
                f"there is no log of {part!r}", fix=f"choose one of {', '.join(paths)}"
            )
        paths = {part: paths[part]}
    return _entries(paths, trace_id, follow, last)


def last_lines(path: Path, count: int = 15) -> list[str]:
    """The messages of the last lines of a log, for an error message."""
    try:
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - 65_536))
            lines = f.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
    return [str(_parse(line, "").get("message", line)).rstrip()[:300] for line in lines]


def causes(path: Path, count: int = 3) -> list[str]:
    """Lines near the end of a log that name an error, first the oldest: where one follows from another, the cause."""
    found = dict.fromkeys(line for line in last_lines(path, 300) if _ERROR_LINE.search(line))
    return [line.strip() for line in found][-2 * count :][:count]


def _entries(
    paths: dict[str, Path], trace_id: str | None, follow: bool, last: int
) -> Iterator[dict[str, Any]]:
    files = {name: path.open("rb") for name, path in paths.items()}
    try:
        present = heapq.merge(*(_lines(f, n, trace_id) for n, f in files.items()), key=moment)
        yield from deque(present, maxlen=last) if last else present
        while follow:
            new = sorted((e for n, f in files.items() for e in _lines(f, n, trace_id)), key=moment)
            yield from new
            if not new:
                time.sleep(0.3)
    finally:
        for f in files.values():
            f.close()


def _lines(file: Any, part: str, trace_id: str | None) -> Iterator[dict[str, Any]]:
    wanted = trace_id.encode() if trace_id else b""
    before = _EPOCH.isoformat()
    while line := file.readline():
        if not line.endswith(b"\n"):  # being written just now
            file.seek(-len(line), 1)
            return
        if wanted in line:
            entry = _parse(line.decode(errors="replace"), part)
            before = entry["ts"] = (
                moment(entry).isoformat(timespec="milliseconds") if has_time(entry) else before
            )
            yield entry


def _parse(line: str, part: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        if not isinstance(entry, dict):
            raise ValueError
    except ValueError:
        entry = {"message": line.rstrip("\n")}
    entry.setdefault("message", entry.get("msg") or entry.get("event") or "")
    return {"part": part, **entry}


def has_time(entry: dict[str, Any]) -> bool:
    """Whether it says when it was written."""
    return moment(entry) is not _EPOCH


def moment(entry: dict[str, Any]) -> datetime:
    """When it was written, whatever the part calls that field; the epoch if it does not say."""
    for key in _TIME_KEYS:
        value = entry.get(key)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            try:
                parsed = datetime.fromisoformat(value)
            except ValueError:
                continue
            return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return _EPOCH
