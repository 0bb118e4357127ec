"""Spans as a tidy frame: one row a span."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from lab.errors import FrameError
from lab.frames import otlp
from lab.frames.arrow import CORE, arrow_frame, attribute_column, core_columns, whole
from lab.frames.otlp_arrow import NotPlain, span_table
from lab.frames.otlp_proto import proto_table
from lab.frames.sparse import sparse_column
from lab.schema import SPAN_ATTRIBUTES, SPAN_FRAME


class SpansLike(Protocol):
    """An answer of `lab.stores.Tempo`, or anything of its shape: OTLP as JSON or protobuf, or an Arrow stream."""

    @property
    def documents(self) -> Sequence[bytes]: ...
    @property
    def protobufs(self) -> Sequence[bytes]: ...
    @property
    def arrow(self) -> bytes | None: ...


def spans_frame(
    answer: SpansLike, *, attributes: Sequence[str] | None = SPAN_ATTRIBUTES
) -> pd.DataFrame:
    """One row a span: the columns of `lab.schema.SPAN_FRAME`, then one column an attribute under its own name.

    `attributes` are those that get a column (None: every attribute that occurs); a span without it has NaN or None.
    Numbers are float64, whole ones too, since most spans lack most attributes (exact up to 2**53); texts are `str`,
    booleans `boolean`. Spans that the store holds twice come once. Rows are in the order of their arrival.

    Raises FrameError for an answer that is neither OTLP nor the lab's Arrow stream.
    """
    if answer.arrow is not None:
        return without_repeats(arrow_frame(answer.arrow, attributes))
    if answer.protobufs:
        return without_repeats(_from_table(proto_table(answer.protobufs, attributes), attributes))
    return without_repeats(_from_json(answer.documents, attributes))


def without_repeats(frame: pd.DataFrame) -> pd.DataFrame:
    """Each span once: exporters send again what was not acknowledged, and not every store notices."""
    if frame[
        "span_id"
    ].is_unique:  # 64 random bits: unique over traces too, unless something came twice
        return frame
    return frame[~frame.duplicated(["trace_id", "span_id"])].reset_index(drop=True)


def check_spans(frame: pd.DataFrame) -> None:
    """Raises FrameError unless the frame has the columns of SPAN_FRAME."""
    missing = [c.name for c in SPAN_FRAME if c.name not in frame]
    if missing:
        raise FrameError(
            f"a frame of spans lacks {', '.join(missing)}", fix="make it with spans_frame()"
        )


def _from_json(documents: Sequence[bytes], attributes: Sequence[str] | None) -> pd.DataFrame:
    if attributes is not None and documents:
        try:
            table = span_table(documents, attributes)
            if len(table):
                return _from_table(table, attributes)
        except NotPlain:
            pass  # they are walked, or refused with words
    return _walked(documents, attributes)


def _from_table(table: pa.Table, attributes: Sequence[str] | None) -> pd.DataFrame:
    if not len(table):
        return _walked((), attributes)
    column = {name: whole(table.column(name)) for name in table.column_names}
    columns = core_columns(column)
    for name in table.column_names[len(CORE) :] if attributes is None else attributes:
        columns[name] = (
            attribute_column(column[name]) if name in column else np.full(len(table), np.nan)
        )
    return pd.DataFrame(columns, copy=False)


def _walked(documents: Sequence[bytes], attributes: Sequence[str] | None) -> pd.DataFrame:
    found = otlp.columns_of(documents, attributes)
    start_ns = np.array(found.start_ns, dtype=np.int64)
    end_ns = np.array(found.end_ns, dtype=np.int64)
    columns: dict[str, Any] = {
        "trace_id": pd.array(found.trace_id, dtype="str"),
        "span_id": pd.array(found.span_id, dtype="str"),
        "parent_id": pd.array(found.parent_id, dtype="str"),
        "service": pd.Categorical(found.service),
        "name": pd.Categorical(found.name),
        "kind": pd.Categorical(found.kind, categories=otlp.KINDS),
        "start_at": pd.DatetimeIndex(start_ns.view("datetime64[ns]"), tz="UTC"),
        "duration_s": np.maximum(end_ns - start_ns, 0) / 1e9,
        "status": pd.Categorical(found.status, categories=otlp.STATUSES),
        "status_message": pd.array(found.status_message, dtype="str"),
    }
    size = len(start_ns)
    columns.update(
        {
            name: sparse_column(rows, values, size)
            for name, (rows, values) in found.attributes.items()
        }
    )
    return pd.DataFrame(columns, copy=False)
