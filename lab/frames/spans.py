"""Spans as a tidy frame: one row per span."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lab.dialects import ATTRIBUTES, EVENTS, FLATTENED, flattened
from lab.errors import FrameError
from lab.frames.otlp import EVENT_PREFIX, HOST, KINDS, STATUSES, span_table
from lab.schema import SPAN_ATTRIBUTES, SPAN_COLUMNS, SPAN_FRAME

_NOT_ATTRIBUTES = (*SPAN_COLUMNS, "attributes", "resource", "events", "duration_nano")
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class _Event(msgspec.Struct):
    n: str = ""
    a: dict[str, Any] = {}


class SpansLike(Protocol):
    """An answer of `lab.stores.Tempo`, or any object like it: OTLP protobuf, or an Arrow stream."""

    @property
    def protobufs(self) -> Sequence[bytes]:
        """Return traces as TracesData."""

    @property
    def arrow(self) -> bytes | None:
        """Return the stream of the lab's own store."""


def spans_frame(
    answer: SpansLike, *, attributes: Sequence[str] | None = SPAN_ATTRIBUTES
) -> pd.DataFrame:
    """Return one row per span, in order of arrival.

    The columns are those of `lab.schema.SPAN_FRAME`, then one per attribute under its own name.
    `attributes` are those that get a column (None: every attribute that occurs); a span without the
    attribute has NaN or None. By default the attributes of `lab.dialects` have columns, too, where
    they occur, and so has HOST, the machine that the span's resource names. Numbers are float64,
    integers too, since most spans lack most attributes (exact up to 2**53); texts are `str`,
    booleans `boolean`. Spans that the store holds twice are returned once; `frame.attrs` counts
    them by trace, as `duplicates`, and as `collisions` other spans that had the same id; `partial`
    are the traces that the store itself reports as cut, `refused` is {trace id: the store's words}
    of those that it did not return.

    Raises FrameError for an answer that is neither OTLP nor the lab's Arrow stream, and for a
    stream that was queried without one of the attributes.
    """
    optional = (*ATTRIBUTES, HOST) if attributes is SPAN_ATTRIBUTES else ()
    if answer.arrow is None:
        table = span_table(answer.protobufs, attributes and (*attributes, *optional))
        names = table.column_names[len(SPAN_COLUMNS) :] if attributes is None else attributes
        values = {name: _attribute(table, name) for name in names}
    else:
        table = _read_stream(answer.arrow)
        values = _streamed_attributes(table, attributes)

    occurring = set(table.column_names) - set(values)
    values |= {name: _attribute(table, name) for name in optional if name in occurring}
    start_ns, end_ns = (np.asarray(_whole(table, f"{e}_time_unix_nano")) for e in ("start", "end"))
    frame = pd.DataFrame(
        {
            "trace_id": _text(_whole(table, "trace_id")),
            "span_id": _text(_whole(table, "span_id")),
            "parent_id": _text(_whole(table, "parent_span_id")),
            "service": _categories(_whole(table, "service_name")),
            "name": _categories(_whole(table, "name")),
            "kind": _categories(_whole(table, "kind")).set_categories(KINDS),
            "start_at": pd.DatetimeIndex(start_ns.view("datetime64[ns]"), tz="UTC"),
            "duration_s": np.maximum(end_ns - start_ns, 0) / 1e9,
            "status": _categories(_whole(table, "status")).set_categories(STATUSES),
            "status_message": _text(_whole(table, "status_message")),
            **values,
        },
        copy=False,
    )
    frame = frame if frame["span_id"].is_unique else _without_repeated_ids(frame)
    if cut := getattr(answer, "partial", ()):
        frame.attrs["partial"] = dict.fromkeys(cut, 1)
    if refused := getattr(answer, "refused", {}):
        frame.attrs["refused"] = dict(refused)
    return frame


def _without_repeated_ids(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one span per id: the first, but not one that is its own parent if there is another.

    Exporters repeat what was not acknowledged, and not every store notices. Span ids are 64 random
    bits: unique in all traces, unless a span came twice or a server reuses its caller's id.
    """
    identity = ["trace_id", "span_id"]
    own_parent = (frame["span_id"] == frame["parent_id"]).to_numpy(bool)
    by_rank = frame.iloc[np.argsort(own_parent, kind="stable")]
    kept = frame.loc[np.sort(by_rank.index[~by_rank.duplicated(identity)])]
    dropped = frame.drop(kept.index)

    columns = [*identity, "name", "start_at"]
    same = dropped[columns].merge(kept[columns], on=columns, how="inner")
    duplicates = same["trace_id"].astype(str).value_counts()
    collisions = dropped["trace_id"].astype(str).value_counts().sub(duplicates, fill_value=0)
    kept = kept.reset_index(drop=True)
    kept.attrs["duplicates"] = duplicates.to_dict()
    kept.attrs["collisions"] = collisions[collisions > 0].astype(int).to_dict()
    return kept


def check_spans(frame: pd.DataFrame) -> None:
    """Raise FrameError unless the frame has the columns of SPAN_FRAME."""
    missing = [c.name for c in SPAN_FRAME if c.name not in frame]
    if missing:
        raise FrameError(
            f"a frame of spans lacks {', '.join(missing)}", fix="make it with spans_frame()"
        )


def start_ns(spans: pd.DataFrame) -> np.ndarray:
    """Return the start of every span in nanoseconds since the epoch."""
    return spans["start_at"].dt.as_unit("ns").astype("int64").to_numpy()


def end_ns(spans: pd.DataFrame) -> np.ndarray:
    """Return the end of every span in nanoseconds since the epoch."""
    return start_ns(spans) + np.rint(spans["duration_s"].to_numpy() * 1e9).astype(np.int64)


def codes(spans: pd.DataFrame, column: str) -> np.ndarray:
    """Return a number per span that stands for its text in a column (`service`, `name`)."""
    return spans[column].astype("category").cat.codes.to_numpy()


def numbers(spans: pd.DataFrame, attribute: str) -> np.ndarray:
    """Return an attribute as float64, NaN where a span lacks it."""
    if attribute not in spans:
        return np.full(len(spans), np.nan)
    if spans[attribute].dtype == "float64":
        return spans[attribute].to_numpy()
    # Some libraries write numbers as text.
    return pd.to_numeric(spans[attribute], errors="coerce").to_numpy("float64", na_value=np.nan)


def _read_stream(stream: bytes) -> pa.Table:
    try:
        with pa.ipc.open_stream(stream) as reader:
            table = reader.read_all()
        table.validate(full=True)  # a damaged offset would end the process
        usable = {column.name for column in table.schema if _has_core_type(column)}
    except (pa.ArrowException, OSError, ValueError, MemoryError) as e:
        raise FrameError(
            "the store's Arrow stream cannot be read",
            got=str(e),
            fix="repeat the query: the stream may be cut",
        ) from e
    missing = [name for name in SPAN_COLUMNS if name not in usable]
    if missing:
        raise FrameError(
            f"the store's Arrow stream lacks {', '.join(missing)}",
            fix="use a store of this lab's version",
        )
    return table


def _has_core_type(column: pa.Field) -> bool:
    """Return whether a column has the type that a column of its name has in SPAN_COLUMNS."""
    if column.name.endswith("_nano"):
        return pa.types.is_integer(column.type) and column.type.bit_width == 64
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return is_text or pa.types.is_dictionary(column.type)


def _streamed_attributes(table: pa.Table, attributes: Sequence[str] | None) -> dict[str, Any]:
    """Return one column per attribute: a column of the stream, or values of its JSON objects."""
    streamed = [name for name in table.column_names if name not in _NOT_ATTRIBUTES]
    if attributes is None:
        of_columns = {name: _attribute(table, name) for name in streamed}
        return of_columns | _attributes_in_json(table, None)

    values: dict[str, Any] = dict.fromkeys(attributes)
    values |= {name: _attribute(table, name) for name in attributes if name in streamed}
    others = [name for name in attributes if name not in streamed]
    if others:
        values |= _attributes_in_json(table, others)
    if EVENTS in attributes and "events" in table.column_names:
        texts = _whole(table, "events").to_pylist()
        values[EVENTS] = _column(list(map(_events, texts)))
    return values


def _events(text: str | None) -> list[dict[str, Any]] | None:
    """Return a span's events that have messages, as `lab.frames.otlp` has them, None for none."""
    if not text:
        return None
    try:
        rows = msgspec.json.decode(text, type=list[_Event])
    except (msgspec.DecodeError, RecursionError) as e:
        raise FrameError("the events of a span are not a list of objects", got=str(e)) from e
    events = [{"event.name": row.n, **row.a} for row in rows if row.n.startswith(EVENT_PREFIX)]
    return events or None


def _attributes_in_json(table: pa.Table, names: Sequence[str] | None) -> dict[str, Any]:
    """Return one column per attribute from the spans' JSON objects (names None: all of them)."""
    if "attributes" not in table.column_names:
        raise FrameError(
            "the store was queried without the attributes "
            f"{', '.join(names or ['beyond the promoted ones'])}",
            fix="repeat the query: Tempo.spans(..., attributes=[...])",
        )
    rows = _decode_objects(_whole(table, "attributes"))
    for family in FLATTENED:
        if names is None or family in names:
            _gather(rows, family)
    if names is None:
        names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: _column([row.get(name) for row in rows]) for name in names}


def _decode_objects(texts: pa.Array) -> list[dict[str, Any]]:
    try:
        return [_decode_object(text or "{}") for text in texts.to_pylist()]
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError) as e:
        raise FrameError("the attributes of a span are not a JSON object", got=str(e)) from e


def _gather(rows: list[dict[str, Any]], family: str) -> None:
    """Add the messages of a family of attributes to each row that has some of them."""
    start = f"{family}."
    for row in rows:
        leaves = [(k.removeprefix(start), v) for k, v in row.items() if k.startswith(start)]
        if leaves:
            row.setdefault(family, flattened(leaves))


def _column(values: list[Any]) -> Any:
    """Return values as float64 with NaN, `boolean` or `str` (also for values of mixed types)."""
    types = {type(value) for value in values if value is not None}
    if types <= {int, float}:
        return np.array(values, dtype="float64")
    if types == {bool}:
        return pd.array(values, dtype="boolean")
    return pd.array([_json_text(value) for value in values], dtype="str")


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    is_scalar = isinstance(value, (int, float))
    return str(value) if is_scalar else msgspec.json.encode(value).decode()


def _attribute(table: pa.Table, name: str) -> Any:
    """Return one attribute as float64 with NaN, `boolean` or `str`; NaN where no span has it."""
    if name not in table.column_names or table.column(name).null_count == len(table):
        return np.full(len(table), np.nan)
    array = _whole(table, name)
    if pa.types.is_boolean(array.type):
        return pd.array(array.to_pandas(), dtype="boolean")
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        return np.asarray(pc.fill_null(array.cast(pa.float64(), safe=False), float("nan")))
    return _text(array)


def _whole(table: pa.Table, name: str) -> pa.Array:
    """Return a column in one piece."""
    column = table.column(name)
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _text(array: pa.Array) -> Any:
    try:
        return pd.array(array.cast(pa.large_string()), dtype="str")
    except pa.ArrowException as e:
        raise FrameError("a column of the spans is not text", got=str(array.type)) from e


def _categories(array: pa.Array) -> pd.Categorical:
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    return pd.Categorical.from_codes(
        np.asarray(encoded.indices), categories=encoded.dictionary.to_pylist()
    )
