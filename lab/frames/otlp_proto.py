"""OTLP as protobuf (TracesData, a trace each, as Tempo sends them) as an Arrow table, whole columns at a time.

Field numbers are OTLP's: opentelemetry/proto/{trace,common,resource}/v1. Resources, values that are no plain scalar and
attributes of mixed types are decoded with the classes of opentelemetry-proto.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pyarrow as pa
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from lab.errors import FrameError
from lab.frames.otlp import KINDS, STATUSES
from lab.frames.pieces import batches
from lab.frames.wire import Places, Wire

_TEXT = pa.large_string()
_BATCH_BYTES = 2 << 20  # what is worked on stays in the processor's cache
_STRING, _BOOL, _INT, _DOUBLE = 1, 2, 3, 4  # AnyValue's fields


def proto_table(messages: Sequence[bytes], wanted: Sequence[str] | None) -> pa.Table:
    """One row a span: the columns of the bulk endpoint (`lab.frames.arrow`), `kind` and `status` in words, then those
    of the wanted attributes that occur (None: all). Raises FrameError for what is no OTLP."""
    try:
        parts = [_spans(Wire(batch), wanted) for batch in batches(messages, _BATCH_BYTES)]
        try:
            return pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
        except (
            pa.ArrowInvalid,
            pa.ArrowTypeError,
        ):  # an attribute is a number in one part and a text in another
            return _spans(Wire(messages), wanted)
    except (DecodeError, ValueError) as e:  # of which Arrow's errors are
        raise FrameError(
            "a trace is not OTLP protobuf", got=f"{e}; it begins with {messages[0][:60]!r}"
        ) from e


def _spans(wire: Wire, wanted: Sequence[str] | None) -> pa.Table:
    owners = wire.fields(wire.messages).of(1)
    of_owner = wire.fields(owners)
    scopes = of_owner.of(2)
    spans = wire.fields(scopes).of(2)
    service = _services(wire, of_owner.last(1)).take(pa.array(scopes.owner[spans.owner]))
    span = wire.fields(spans)
    status = wire.fields(span.last(15))
    columns = {
        "trace_id": _ids(wire, span.last(1), 16, needed=True),
        "span_id": _ids(wire, span.last(2), 8, needed=True),
        "parent_span_id": _ids(wire, span.last(4), 8),
        "name": wire.texts(span.last(5)).cast(_TEXT),
        "kind": _word(wire, span.last(6), KINDS),
        "service_name": service,
        "start_time_unix_nano": _time_ns(wire, span.last(7)),
        "end_time_unix_nano": _time_ns(wire, span.last(8)),
        "status": _word(wire, status.last(3), STATUSES),
        "status_message": wire.texts(status.last(2)).cast(_TEXT),
    }
    attributes = dict(_attributes(wire, spans, span.of(9), wanted))
    return pa.table(attributes | columns).select(
        [*columns, *(name for name in attributes if name not in columns)]
    )


def _services(wire: Wire, resources: Places) -> pa.Array:
    """The service.name of every resource, '' where it has none."""
    encoded = wire.texts(resources).dictionary_encode()
    names = []
    for resource in map(Resource.FromString, encoded.dictionary.to_pylist()):
        found = (a.value.string_value for a in resource.attributes if a.key == "service.name")
        names.append(next(found, ""))
    return pa.array(names, _TEXT).take(encoded.indices)


def _ids(wire: Wire, places: Places, size: int, *, needed: bool = False) -> pa.Array:
    """Ids as hex digits; '' for none and for all zeros. Raises ValueError for ids of another length."""
    length = places.stop - places.start
    there = length > 0
    if (length[there] != size).any() or (needed and not there.all()):
        raise ValueError(f"an id is not {size} bytes long")
    octets = np.column_stack([wire.eights[places.start + i] for i in range(0, size, 8)])
    there &= octets.any(axis=1)
    offsets = np.concatenate(([0], np.cumsum(there * 2 * size)))
    digits = binascii.hexlify(octets if there.all() else octets[there])
    return pa.LargeStringArray.from_buffers(len(there), pa.py_buffer(offsets), pa.py_buffer(digits))


def _word(wire: Wire, places: Places, words: Sequence[str]) -> pa.Array:
    """Enumerations in our words, of which the first is for none. Raises ValueError for an unknown one."""
    number = np.where(places.stop > places.start, wire.varints(places.start)[0], 0)
    if ((number < 0) | (number >= len(words))).any():
        raise ValueError(f"a number stands for none of {', '.join(words)}")
    return pa.DictionaryArray.from_arrays(number.astype(np.int8), list(words))


def _time_ns(wire: Wire, places: Places) -> np.ndarray:
    found = np.where(places.stop > places.start, wire.eights[places.start], 0).view(np.int64)
    if (found < 0).any():
        raise ValueError("a time is after the year 2262")
    return found


def _attributes(
    wire: Wire, spans: Places, pairs: Places, wanted: Sequence[str] | None
) -> Iterator[tuple[str, pa.Array]]:
    """(name, its values in all spans) of the attributes that occur."""
    pair = wire.fields(pairs)
    keys = wire.texts(pair.last(1)).dictionary_encode()
    names = keys.dictionary.cast(_TEXT).to_pylist()
    asked = np.array([wanted is None or name in wanted for name in names], dtype=bool)
    code = np.asarray(keys.indices).astype(
        np.min_scalar_type(len(names))
    )  # short ones are sorted fastest
    values = pair.last(2).take(asked[code])
    row, code = pairs.owner[values.owner], code[values.owner]
    kind, content = _kinds(wire, values)
    order = np.argsort(
        code, kind="stable"
    )  # one name after another, each in the order of its spans
    order = order[kind[order] > 0]
    edges = np.searchsorted(code[order], np.arange(len(names) + 1))
    for number in np.flatnonzero(asked):
        own = order[edges[number] : edges[number + 1]]
        yield (
            names[number],
            _column(wire, spans, row[own], kind[own], content.take(own), values.take(own)),
        )


def _kinds(wire: Wire, values: Places) -> tuple[np.ndarray, Places]:
    """(of which kind each AnyValue is, 0 for an empty one; where its content is)."""
    kind, start, stop = (
        np.zeros(len(values.start), dtype=np.int64),
        values.start.copy(),
        values.start.copy(),
    )
    for number, parts in wire.fields(values).found.items():
        for part in parts:
            kind[part.owner], start[part.owner], stop[part.owner] = number, part.start, part.stop
    return kind, Places(values.owner, start, stop)


def _column(
    wire: Wire, spans: Places, row: np.ndarray, kind: np.ndarray, content: Places, values: Places
) -> pa.Array:
    """One attribute of all spans, which those at `row` have: numbers, truths or texts (also of mixed kinds)."""
    kinds = set(kind[:1].tolist()) if (kind == kind[:1]).all() else set(kind.tolist())
    if kinds <= {_INT, _DOUBLE}:
        numbers = wire.eights[content.start].view(np.float64)
        numbers[kind == _INT], _ = wire.varints(content.start[kind == _INT])
        column = np.full(len(spans.start), np.nan)
        column[row] = numbers
        return pa.array(column)
    if kinds == {_STRING}:
        start, stop = (
            spans.start.copy(),
            spans.start.copy(),
        )  # what lies in its span keeps the order
        start[row], stop[row] = content.start, content.stop
        there = np.zeros(len(start), dtype=bool)
        there[row] = True
        return wire.texts(Places(spans.owner, start, stop), there).cast(_TEXT)
    if kinds == {_BOOL}:
        plain = pa.array(wire.raw[content.start] != 0)
    else:
        plain = pa.array(
            [_text(AnyValue.FromString(blob)) for blob in wire.texts(values).to_pylist()], _TEXT
        )
    place = np.full(len(spans.start), -1)
    place[row] = np.arange(len(row))
    return plain.take(pa.array(place, mask=place < 0))


def _text(value: AnyValue) -> str:
    """As `lab.frames.otlp` has it: of arrays and lists of pairs their JSON, of bytes base64."""
    kind = value.WhichOneof("value")
    plain = getattr(value, kind)
    if kind in ("array_value", "kvlist_value"):
        return msgspec.json.encode(json_format.MessageToDict(plain)).decode()
    return base64.b64encode(plain).decode() if kind == "bytes_value" else str(plain)
