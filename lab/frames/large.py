"""Request frames of runs that do not fit into memory: Parquet in, Parquet out, a slice of the traces at a time.

A trace belongs wholly to one slice, so each slice's frame is exact, and all together are the frame of the whole run.
What is asked of the result can be asked of the files:
`duckdb.sql("SELECT kind, quantile_cont(e2e_s, 0.95) FROM 'out/*.parquet' GROUP BY kind")`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lab.errors import FrameError
from lab.frames.requests import request_frame

SLICE_SPANS = 1_000_000  # of which a request frame takes about a second and half a gigabyte
BATCH_ROWS = 131_072
_DIGITS = 4  # of a trace id, which are random: 65,536 kinds to be dealt out


def request_frames(
    records: Path, spans: Path, *, slice_spans: int = SLICE_SPANS
) -> Iterator[pd.DataFrame]:
    """`lab.frames.request_frame` of a run in Parquet, in parts of about `slice_spans` spans.

    `records` and `spans` are a file or a folder of `*.parquet`: client records (lab.schema.CLIENT_RECORD), and frames
    that `spans_frame` made. Both are first dealt out by trace id into a temporary folder beside `spans`, which needs as
    much disk as they have. Rows of a part are in the order of their records. Raises FrameError where there are no
    files, or they lack columns.
    """
    sources = {"records": _files(records), "spans": _files(spans)}
    count = max(
        1, -(-sum(pq.ParquetFile(f).metadata.num_rows for f in sources["spans"]) // slice_spans)
    )
    with tempfile.TemporaryDirectory(dir=Path(spans).parent, prefix=".slices-") as name:
        folder = Path(name)
        for what, files in sources.items():
            _deal(files, folder / what, min(count, 16**_DIGITS))
        for part in range(min(count, 16**_DIGITS)):
            mine = pd.read_parquet(folder / "records" / f"{part}.parquet")
            if len(mine):
                yield request_frame(mine, pd.read_parquet(folder / "spans" / f"{part}.parquet"))
            for what in sources:
                (folder / what / f"{part}.parquet").unlink()


def write_request_frames(
    records: Path, spans: Path, out: Path, *, slice_spans: int = SLICE_SPANS
) -> int:
    """The same, each part a file `part-N.parquet` of the folder `out`; returns how many requests.

    Raises as `request_frames`, and FrameError where `out` holds files already.
    """
    if out.exists() and any(out.iterdir()):
        raise FrameError(
            f"{out} is not empty", fix="name a new folder: parts of two runs do not mix"
        )
    out.mkdir(parents=True, exist_ok=True)
    total = 0
    for number, frame in enumerate(request_frames(records, spans, slice_spans=slice_spans)):
        frame.to_parquet(out / f"part-{number}.parquet", index=False, compression="zstd")
        total += len(frame)
    return total


def _files(path: Path) -> list[Path]:
    found = sorted(Path(path).glob("*.parquet")) if Path(path).is_dir() else [Path(path)]
    if not found or not found[0].is_file():
        raise FrameError(
            f"there is no Parquet file at {path}", fix="save frames with DataFrame.to_parquet"
        )
    return found


def _deal(files: Sequence[Path], folder: Path, count: int) -> None:
    """Deal the rows out by their trace id: a file a slice."""
    folder.mkdir()
    schema = _without_index(pq.read_schema(files[0]))
    if "trace_id" not in schema.names:
        raise FrameError(f"{files[0]} has no column trace_id", got=", ".join(schema.names))
    with ExitStack() as stack:
        paths = [folder / f"{n}.parquet" for n in range(count)]
        writers = [
            stack.enter_context(pq.ParquetWriter(path, schema, compression="lz4")) for path in paths
        ]
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=schema.names):
                table = pa.Table.from_batches([batch]).cast(schema)
                part = _slice_of(table.column("trace_id"), count)
                order = np.argsort(part, kind="stable")
                edges = np.searchsorted(part[order], np.arange(count + 1))
                dealt = table.take(pa.array(order))
                for n, writer in enumerate(writers):
                    if edges[n + 1] > edges[n]:
                        writer.write_table(dealt.slice(edges[n], edges[n + 1] - edges[n]))


def _slice_of(trace_ids: pa.ChunkedArray, count: int) -> np.ndarray:
    """Which slice each trace belongs to: by the last digits of its id, which are random in every implementation."""
    last = pc.utf8_slice_codeunits(trace_ids.cast(pa.large_string()), -_DIGITS)
    codes = last.combine_chunks().dictionary_encode()
    numbers = np.array([int(text, 16) for text in codes.dictionary.to_pylist()], dtype=np.int64)
    return numbers[np.asarray(codes.indices)] % count


def _without_index(schema: pa.Schema) -> pa.Schema:
    names = [n for n in schema.names if not n.startswith("__index_level_")]
    return pa.schema([schema.field(n) for n in names], metadata=schema.metadata)
