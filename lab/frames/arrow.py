"""Spans from the lab's own store, which streams them as Arrow: nothing to walk, only types to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lab.errors import FrameError
from lab.frames.otlp import KINDS, STATUSES
from lab.frames.sparse import sparse_column

CORE = (
    "trace_id", "span_id", "parent_span_id", "name", "kind", "service_name", "start_time_unix_nano",
    "end_time_unix_nano", "status", "status_message",
)  # fmt: skip
_OTHER = ("attributes", "resource", "events", "duration_nano")  # columns that are no attribute
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def arrow_frame(stream: bytes, wanted: Sequence[str] | None) -> pd.DataFrame:
    """The frame that `spans_frame` promises. Raises FrameError for another stream, a cut one, or one that was asked for
    without a wanted attribute."""
    column = _columns(stream)
    return pd.DataFrame({**core_columns(column), **_attributes(column, wanted)}, copy=False)


def core_columns(column: Mapping[str, pa.Array]) -> dict[str, Any]:
    """The columns of `lab.schema.SPAN_FRAME` from those of the bulk endpoint."""
    start_ns, end_ns = (np.asarray(column[f"{edge}_time_unix_nano"]) for edge in ("start", "end"))
    return {
        "trace_id": _text(column["trace_id"]),
        "span_id": _text(column["span_id"]),
        "parent_id": _text(column["parent_span_id"]),
        "service": _categories(column["service_name"]),
        "name": _categories(column["name"]),
        "kind": _categories(column["kind"]).set_categories(KINDS),
        "start_at": pd.DatetimeIndex(start_ns.view("datetime64[ns]"), tz="UTC"),
        "duration_s": np.maximum(end_ns - start_ns, 0) / 1e9,
        "status": _categories(column["status"]).set_categories(STATUSES),
        "status_message": _text(column["status_message"]),
    }


def _columns(stream: bytes) -> dict[str, pa.Array]:
    try:
        with pa.ipc.open_stream(stream) as reader:
            table = reader.read_all()
    except pa.ArrowInvalid as e:
        raise FrameError(
            "the store's Arrow stream cannot be read", got=str(e), fix="ask again: it may be cut"
        ) from e
    missing = [name for name in CORE if name not in table.column_names]
    if missing:
        raise FrameError(
            f"the store's Arrow stream lacks {', '.join(missing)}",
            fix="use a store of this lab's version",
        )
    return {name: whole(table.column(name)) for name in table.column_names}


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _attributes(column: dict[str, pa.Array], wanted: Sequence[str] | None) -> dict[str, Any]:
    """A column an attribute: from a column of its own, or from the JSON object that holds the others."""
    own = [name for name in column if name not in (*CORE, *_OTHER)]
    loose = [name for name in wanted if name not in own] if wanted is not None else None
    found = {
        name: attribute_column(column[name]) for name in own if wanted is None or name in wanted
    }
    if loose == []:
        return found
    if "attributes" not in column:
        raise FrameError(
            f"this answer was asked for without the attributes {', '.join(loose or ['beyond the promoted ones'])}",
            fix="ask again: Tempo.spans(..., attributes=[...])",
        )
    found.update(_from_objects(column["attributes"], loose))
    return found if wanted is None else {name: found[name] for name in wanted}


def _from_objects(objects: pa.Array, wanted: list[str] | None) -> dict[str, Any]:
    sinks: dict[str, tuple[list[int], list[Any]]] = {name: ([], []) for name in wanted or ()}
    for row, text in enumerate(objects.to_pylist()):
        for key, value in _decode(text).items() if text and text != "{}" else ():
            sink = sinks.get(key) if wanted is not None else sinks.setdefault(key, ([], []))
            if sink is not None:
                sink[0].append(row)
                sink[1].append(
                    value
                    if isinstance(value, (str, int, float))
                    else msgspec.json.encode(value).decode()
                )
    return {
        name: sparse_column(rows, values, len(objects)) for name, (rows, values) in sinks.items()
    }


def _text(array: pa.Array) -> Any:
    return pd.array(array.cast(pa.large_string()), dtype="str")


def _categories(array: pa.Array) -> pd.Categorical:
    encoded = array.dictionary_encode()
    return pd.Categorical.from_codes(
        np.asarray(encoded.indices), categories=encoded.dictionary.to_pylist()
    )


def attribute_column(array: pa.Array) -> Any:
    """float64 with NaN, `boolean` or `str`."""
    if pa.types.is_boolean(array.type):
        return pd.array(array.to_pandas(), dtype="boolean")
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        return np.asarray(pc.fill_null(array.cast(pa.float64(), safe=False), float("nan")))
    return _text(array)
