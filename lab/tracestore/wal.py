"""The write-ahead log: a payload is acknowledged only once it is durable here.

The log is a folder of append-only segments `<first sequence number>.wal`. A record is a header
(magic, length, CRC-32, sequence number) and a payload. A group of records is written, then one
fsync makes it durable.

A record that is torn at the end of the last segment was never acknowledged, so `read` ends there.
Any other bad record is damage: `read` goes on at the next whole record and counts what is missing.
An existing segment is never truncated.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from lab.tracestore.disk import make_folder, set_aside
from lab.tracestore.errors import StoreBroken

log = logging.getLogger("lab.tracestore.wal")

# magic, length of the payload, CRC-32 of sequence number and payload, sequence number
_HEADER = struct.Struct("<4sIIQ")
_MAGIC = b"LWL1"
SEGMENT_BYTES = 64 * 2**20


@dataclass
class Damage:
    """What `read` could not read: acknowledged records, bytes, and the segments with the bytes."""

    records: int = 0
    bytes: int = 0
    segments: list[Path] = field(default_factory=list)

    def add(self, path: Path, size: int) -> None:
        """Count `size` unreadable bytes of a segment."""
        self.bytes += size
        if path not in self.segments:
            self.segments.append(path)


def _crc(seq: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(seq.to_bytes(8, "little")))


def segments_of(folder: Path) -> list[tuple[int, Path]]:
    """Return (first sequence number, path) of every segment, in order; other files are ignored."""
    found = []
    for path in folder.glob("*.wal"):
        if path.stem.isascii() and path.stem.isdecimal() and path.is_file():
            found.append((int(path.stem), path))
    return sorted(found)


class WriteAheadLog:
    """Appends records for one writer thread. `bytes` is the size of all segments on disk.

    The first record gets `next_seq`, or the number after the highest segment name where that is
    larger.
    """

    def __init__(self, folder: Path, next_seq: int) -> None:
        """Open the log in `folder`; the next record has the number `next_seq`."""
        self.folder = folder
        self.bytes = 0
        self._segments: list[tuple[int, Path, int]] = []  # first sequence number, path, size
        self._segments_lock = threading.Lock()  # the flusher forgets segments meanwhile
        self._file: int | None = None
        self._size = 0

        make_folder(folder)
        for first, path in segments_of(folder):
            size = path.stat().st_size
            self._segments.append((first, path, size))
            self.bytes += size
            next_seq = max(next_seq, first + 1)
        self.next_seq = next_seq

    def append(self, payloads: list[bytes]) -> int:
        """Write these payloads and make them durable; return the last sequence number.

        Raises StoreBroken where the disk is full or gone; then none of them is in the log.
        """
        file = self._file
        if file is None or self._size >= SEGMENT_BYTES:
            file = self._open_segment()

        seq = self.next_seq
        parts: list[bytes] = []
        for payload in payloads:
            parts += (_HEADER.pack(_MAGIC, len(payload), _crc(seq, payload), seq), payload)
            seq += 1
        block = b"".join(parts)

        try:
            if os.fstat(file).st_nlink == 0:
                raise FileNotFoundError("the open segment was deleted")
            _write_all(file, block)
            _sync(file)
        except OSError as e:
            self._cut_back(file)
            raise StoreBroken(
                "the write-ahead log cannot be written",
                got=f"{e} in {self.folder}",
                fix="free some disk space; nothing acknowledged is lost",
            ) from e

        self._size += len(block)
        self.next_seq = seq
        with self._segments_lock:
            self.bytes += len(block)
            first, path, _ = self._segments[-1]
            self._segments[-1] = (first, path, self._size)
        return seq - 1

    def _open_segment(self) -> int:
        """Create the next segment. An existing file is left alone, and its number is not used."""
        self.close()
        try:
            while True:
                path = self.folder / f"{self.next_seq:020d}.wal"
                try:
                    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    break
                except FileExistsError:
                    self.next_seq += 1
            _sync_folder(self.folder)
        except OSError as e:
            raise StoreBroken(
                "a log segment cannot be created",
                got=f"{e}: {path}",
                fix="check the disk and its rights",
            ) from e

        self._file = file
        with self._segments_lock:
            self._segments.append((self.next_seq, path, 0))
        self._size = 0
        return file

    def _cut_back(self, file: int) -> None:
        """Remove a half-written group, or close the segment: no half record stays in the middle."""
        try:
            os.ftruncate(file, self._size)
            os.lseek(file, self._size, os.SEEK_SET)
        except OSError:
            self.close()

    def forget(self, seq: int) -> None:
        """Delete the segments whose records the database has, that is up to number `seq`.

        The last segment stays: it may be open in the thread that appends.
        """
        with self._segments_lock:
            keep = []
            for segment, (following, _, _) in pairwise(self._segments):
                if following - 1 > seq:
                    keep.append(segment)
                    continue
                _, path, size = segment
                path.unlink(missing_ok=True)
                self.bytes -= size
            self._segments = keep + self._segments[-1:]

    def begin(self, next_seq: int, damage: Damage) -> None:
        """Start a new segment at `next_seq` or later, when the database has all readable records.

        Damaged segments are set aside, whole ones are deleted.
        """
        for _, path, _ in self._segments:
            try:
                if path in damage.segments:
                    log.error("a damaged log segment is kept", extra={"path": str(set_aside(path))})
                else:
                    path.unlink(missing_ok=True)
            except OSError as e:  # it is read once more at the next start
                log.warning("a log segment stays", extra={"path": str(path), "error": str(e)})
        self._segments = []
        self.bytes = 0
        self.next_seq = max(next_seq, self.next_seq)

    def clear(self) -> None:
        """Delete every segment, when the database has all records."""
        self.close()
        for _, path, _ in self._segments:
            path.unlink(missing_ok=True)
        self._segments = []
        self.bytes = 0

    def close(self) -> None:
        """Close the open segment; the next append creates another."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read(folder: Path, after: int, damage: Damage | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield (sequence number, payload) of every whole record with a number above `after`, in order.

    Records and bytes that cannot be read are added to `damage`.
    """
    damage = Damage() if damage is None else damage
    expected = after + 1
    segments = segments_of(folder)
    for i, (first, path) in enumerate(segments):
        if i + 1 < len(segments) and segments[i + 1][0] <= after + 1:
            continue  # the database has all of it

        try:
            content = path.read_bytes()
        except OSError as e:
            log.error("a log segment cannot be read", extra={"path": str(path), "error": str(e)})
            damage.add(path, path.stat().st_size)
            continue

        is_last = i + 1 == len(segments)
        position = 0
        least = first
        while position < len(content):
            record = _record(content, position)
            if record is None:
                following = _next_record(content, position, least)
                if following < len(content) or not is_last or not _is_torn(content, position):
                    damage.add(path, following - position)
                position = following
                continue
            seq, payload, position = record
            least = seq + 1
            damage.records += max(0, seq - expected)
            expected = max(expected, seq + 1)
            if seq > after:
                yield seq, payload


def _record(content: bytes, position: int) -> tuple[int, bytes, int] | None:
    """Return (sequence number, payload, end) of a whole record at `position`, or None."""
    start = position + _HEADER.size
    if len(content) < start:
        return None
    magic, length, crc, seq = _HEADER.unpack_from(content, position)
    end = start + length
    if magic != _MAGIC or len(content) < end:
        return None
    if _crc(seq, memoryview(content)[start:end]) != crc:
        return None
    return seq, content[start:end], end


def _is_torn(content: bytes, position: int) -> bool:
    """Return whether the bytes from `position` on may be one record that was being written."""
    if len(content) - position < _HEADER.size:
        return True
    magic, length, _, _ = _HEADER.unpack_from(content, position)
    return magic != _MAGIC or position + _HEADER.size + length > len(content)


def _next_record(content: bytes, bad: int, least_seq: int) -> int:
    """Return where the next whole record begins; the end where there is none.

    Its sequence number is at least `least_seq`.
    """
    if len(content) >= bad + _HEADER.size:
        magic, length, _, _ = _HEADER.unpack_from(content, bad)
        end = bad + _HEADER.size + length
        # Where the header is right, look behind the payload: the payload may itself hold records.
        if magic == _MAGIC and (end == len(content) or _record(content, end) is not None):
            return end

    position = content.find(_MAGIC, bad + 1)
    while position >= 0:
        record = _record(content, position)
        if record is not None and record[0] >= least_seq:
            return position
        position = content.find(_MAGIC, position + 1)
    return len(content)


def _write_all(file: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(file, view) :]


def _sync(file: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(file)
    else:
        os.fsync(file)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
