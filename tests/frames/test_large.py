"""A run from Parquet, slice by slice, is the run from memory."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks._frames_data import run_frames, write_run
from lab.errors import FrameError
from lab.frames import request_frame, request_frames, write_request_frames


def in_memory(requests: int, files: int) -> pd.DataFrame:
    parts = [request_frame(*run_frames(requests, seed=100 + n)) for n in range(files)]
    return pd.concat(parts).sort_values("trace_id", ignore_index=True)


@pytest.mark.parametrize("slice_spans", [100, 250, 10_000])
def test_slices_are_the_whole(tmp_path: Path, slice_spans: int) -> None:
    """Each request once, with every number as if all had been in memory, whatever the size of a slice."""
    write_run(tmp_path, 30, 3)
    parts = list(request_frames(tmp_path / "records", tmp_path / "spans", slice_spans=slice_spans))
    assert len(parts) == -(-900 // slice_spans) or slice_spans == 100
    found = pd.concat(parts).sort_values("trace_id", ignore_index=True)
    pd.testing.assert_frame_equal(found, in_memory(30, 3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records", "spans"]


def test_parts_are_written_to_a_new_folder(tmp_path: Path) -> None:
    """And not beside those of another run."""
    write_run(tmp_path, 20, 2)
    assert (
        write_request_frames(
            tmp_path / "records", tmp_path / "spans", tmp_path / "out", slice_spans=150
        )
        == 40
    )
    found = pd.read_parquet(tmp_path / "out").sort_values("trace_id", ignore_index=True)
    assert found["e2e_s"].tolist() == in_memory(20, 2)["e2e_s"].tolist()
    with pytest.raises(FrameError, match="not empty"):
        write_request_frames(tmp_path / "records", tmp_path / "spans", tmp_path / "out")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """No files, or files of something else."""
    write_run(tmp_path, 5, 1)
    with pytest.raises(FrameError, match="no Parquet file"):
        list(request_frames(tmp_path / "records", tmp_path / "none"))
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(FrameError, match="no column trace_id"):
        list(request_frames(tmp_path / "records", tmp_path / "other.parquet"))
