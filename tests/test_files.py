"""Files are written completely or not at all, with the requested permissions."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lab.files import read_json, write_atomically


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_content_is_replaced_and_no_temporary_file_stays(tmp_path):
    """Text is UTF-8, bytes are kept, and the folder contains nothing else afterwards."""
    path = tmp_path / "a.json"
    write_atomically(path, "früher")
    write_atomically(path, b"\xff now")
    assert path.read_bytes() == b"\xff now"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_follow_the_umask_or_the_argument(tmp_path):
    """A file with secrets is never readable by others, not even briefly before chmod."""
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "open", "")
        write_atomically(tmp_path / "secret", "", mode=0o600)
    finally:
        os.umask(before)
    assert _mode(tmp_path / "open") == 0o644
    assert _mode(tmp_path / "secret") == 0o600


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """When the disk is full, the old content stays and the temporary file is removed."""
    path = tmp_path / "a"
    path.write_text("old")

    def no_space(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[1]", b"null", b"5"])
def test_a_damaged_json_file_is_an_empty_one(content, tmp_path):
    """So is one that is missing, or that holds another type."""
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) == {}
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    assert read_json(path, list) == []
