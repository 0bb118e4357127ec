"""The write-ahead log: what was acknowledged is here, or in the database, whatever happens to the process.

A folder of append-only segments `<first sequence number>.wal`. A record is a header (magic, length, CRC-32, sequence
number)
and a payload. Records are written, then one fsync makes a group of them durable. A record that is torn at the end of
the
last segment was never acknowledged: reading stops there.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from lab.tracestore.errors import StoreBroken

_HEADER = struct.Struct(
    "<4sIIQ"
)  # magic, length of the payload, crc32 of sequence number and payload, sequence number
_MAGIC = b"LWL1"
SEGMENT_BYTES = 64 * 2**20


def _crc(seq: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(seq.to_bytes(8, "little")))


class WriteAheadLog:
    """Appends for one writer thread. `bytes` is what lies on disk."""

    def __init__(self, folder: Path, next_seq: int) -> None:
        self.folder = folder
        self.next_seq = next_seq
        self.bytes = 0
        self._segments: list[tuple[int, Path, int]] = []  # first sequence number, path, size
        self._file: int | None = None
        self._size = 0
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.wal")):
            self._segments.append((int(path.stem), path, path.stat().st_size))
            self.bytes += path.stat().st_size

    def append(self, payloads: list[bytes]) -> int:
        """Write these payloads and make them durable; returns the last sequence number.

        Raises StoreBroken (disk full, disk gone); then none of them is in the log.
        """
        if self._file is None or self._size >= SEGMENT_BYTES:
            self._open_segment()
        seq, parts = self.next_seq, []
        for payload in payloads:
            parts += (_HEADER.pack(_MAGIC, len(payload), _crc(seq, payload), seq), payload)
            seq += 1
        block = b"".join(parts)
        try:
            _write_all(self._file, block)
            os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)
        except OSError as e:
            self._cut_back()
            raise StoreBroken(
                "the write-ahead log cannot be written",
                got=f"{e} in {self.folder}",
                fix="free some disk space; nothing acknowledged is lost",
            ) from e
        self._size += len(block)
        self.bytes += len(block)
        self.next_seq = seq
        first, path, _ = self._segments[-1]
        self._segments[-1] = (first, path, self._size)
        return seq - 1

    def _open_segment(self) -> None:
        self.close()
        path = self.folder / f"{self.next_seq:020d}.wal"
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            _sync_folder(self.folder)
        except OSError as e:
            raise StoreBroken(
                "a log segment cannot be created",
                got=f"{e}: {path}",
                fix="check the disk and its rights",
            ) from e
        self._segments = [s for s in self._segments if s[1] != path] + [(self.next_seq, path, 0)]
        self._size = 0

    def _cut_back(self) -> None:
        """After a failed write: leave the segment as it was, or give it up, so that no half record stays in the
        middle."""
        try:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
        except OSError:
            self.close()

    def forget(self, seq: int) -> None:
        """Delete the segments whose records all have sequence numbers up to `seq` (the database has them)."""
        keep = []
        for i, (first, path, size) in enumerate(self._segments):
            last_here = (
                self._segments[i + 1][0] - 1 if i + 1 < len(self._segments) else self.next_seq - 1
            )
            whole = last_here <= seq and (i + 1 < len(self._segments) or size >= SEGMENT_BYTES)
            if whole:
                if i + 1 == len(self._segments):
                    self.close()
                path.unlink(missing_ok=True)
                self.bytes -= size
            else:
                keep.append((first, path, size))
        self._segments = keep

    def clear(self) -> None:
        """Delete every segment: for a clean end, when the database has all of it and the next start need read none."""
        self.close()
        for _, path, _ in self._segments:
            path.unlink(missing_ok=True)
        self._segments, self.bytes = [], 0

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read(folder: Path, after: int) -> Iterator[tuple[int, bytes]]:
    """(sequence number, payload) of every whole record with a sequence number above `after`, in order."""
    for path in sorted(folder.glob("*.wal")):
        with path.open("rb") as f:
            while len(header := f.read(_HEADER.size)) == _HEADER.size:
                magic, length, crc, seq = _HEADER.unpack(header)
                if magic != _MAGIC:
                    break
                payload = f.read(length)
                if len(payload) != length or _crc(seq, payload) != crc:
                    break
                if seq > after:
                    yield seq, payload


def _write_all(file: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
