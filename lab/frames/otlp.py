"""OTLP protobuf (TracesData, one per trace, as Tempo sends it) as a table, whole columns at a time.

Field numbers are OTLP's: opentelemetry/proto/{trace,common,resource}/v1. Resources, values that are
not plain scalars and attributes of mixed types are decoded by the classes of opentelemetry-proto.

The rest is read from protobuf's wire format (`Messages`), from many messages at once: each one's
first field, then the second. A field is a varint (number and wire type), then its value: a varint,
8 bytes, 4 bytes, or a length and as many bytes. A step is a few numpy operations for all messages,
instead of a Python object for every field.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from lab.dialects import EVENTS, FLATTENED, HOST_ATTRIBUTES, flattened
from lab.errors import FrameError
from lab.frames.series import batches
from lab.schema import SPAN_COLUMNS

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")
HOST = HOST_ATTRIBUTES[0]  # the column with the machine that a resource names
EVENT_PREFIX = "gen_ai."
_TEXT = pa.large_string()
_BATCH_BYTES = 2 << 20  # the working set stays in the processor's cache
_STRING, _BOOL, _INT, _DOUBLE = 1, 2, 3, 4  # AnyValue's fields


def span_table(traces: Sequence[bytes], attributes: Sequence[str] | None) -> pa.Table:
    """Return one row per span: SPAN_COLUMNS, then those of the given attributes that occur.

    `attributes` None: all of them. Raises FrameError for anything that is not OTLP.
    """
    try:
        batched = [*batches(traces, _BATCH_BYTES)] or [[]]
        parts = [_spans(Messages(batch), attributes) for batch in batched]
        try:
            return pa.concat_tables(parts, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            # An attribute is a number in one part and a text in another.
            return _spans(Messages(traces), attributes)
    except (DecodeError, ValueError, OverflowError, IndexError) as e:  # Arrow raises ValueErrors
        raise FrameError(
            "a trace is not OTLP protobuf", got=f"{e}; it begins with {traces[0][:60]!r}"
        ) from e


def _spans(messages: Messages, attributes: Sequence[str] | None) -> pa.Table:
    owners = messages.fields(messages.places).of(1)
    owner = messages.fields(owners)
    scopes = owner.of(2)
    spans = messages.fields(scopes).of(2)
    span = messages.fields(spans)
    n_spans = len(spans.start)
    status = messages.fields(span.last(15))
    services, hosts = _resources(messages, owner.last(1))
    of_resource = pa.array(scopes.owner[spans.owner])
    core = (
        _ids(messages, span.last(1), 16, required=True),
        _ids(messages, span.last(2), 8, required=True),
        _ids(messages, span.last(4), 8),
        messages.texts(span.last(5)).cast(_TEXT),
        _words(messages, span.last(6), KINDS),
        services.take(of_resource),
        _times_ns(messages, span.last(7)),
        _times_ns(messages, span.last(8)),
        _words(messages, status.last(3), STATUSES),
        messages.texts(status.last(2)).cast(_TEXT),
    )
    columns = dict(zip(SPAN_COLUMNS, core, strict=True))
    for name, values in _attributes(messages, n_spans, span.of(9), attributes):
        columns.setdefault(name, values)

    if attributes is None or EVENTS in attributes:
        columns |= _events(messages, n_spans, span.of(11))
    if attributes is not None and HOST in attributes and hosts.null_count < len(hosts):
        columns.setdefault(HOST, hosts.take(of_resource))
    return pa.table(columns)


def _resources(messages: Messages, resources: Places) -> tuple[pa.Array, pa.Array]:
    """Return the service.name ('' for none) and the host (null for none) of every resource."""
    encoded = messages.texts(resources).dictionary_encode()
    services = []
    hosts = []
    for body in encoded.dictionary.to_pylist():
        values = {
            pair.key: pair.value.string_value for pair in Resource.FromString(body).attributes
        }
        services.append(values.get("service.name", ""))
        hosts.append(next((values[name] for name in HOST_ATTRIBUTES if values.get(name)), None))

    of_each = encoded.indices
    return pa.array(services, _TEXT).take(of_each), pa.array(hosts, _TEXT).take(of_each)


def _ids(messages: Messages, places: Places, size: int, *, required: bool = False) -> pa.Array:
    """Return ids as hex digits, '' for none and for all zeros.

    Raises ValueError for ids of another length.
    """
    length = places.stop - places.start
    present = length > 0
    if (length[present] != size).any() or (required and not present.all()):
        raise ValueError(f"an id is not {size} bytes long")
    octets = np.column_stack([messages.eights[places.start + i] for i in range(0, size, 8)])
    present &= octets.any(axis=1)
    offsets = np.concatenate(([0], np.cumsum(present * 2 * size)))
    digits = binascii.hexlify(octets if present.all() else octets[present])
    return pa.LargeStringArray.from_buffers(
        len(present), pa.py_buffer(offsets), pa.py_buffer(digits)
    )


def _words(messages: Messages, places: Places, words: Sequence[str]) -> pa.Array:
    """Return enumerations in words, the first for none. Raises ValueError for an unknown one."""
    number = np.where(places.stop > places.start, messages.varints(places.start)[0], 0)
    if ((number < 0) | (number >= len(words))).any():
        raise ValueError(f"a number stands for none of {', '.join(words)}")
    return pa.DictionaryArray.from_arrays(number.astype(np.int8), list(words))


def _times_ns(messages: Messages, places: Places) -> np.ndarray:
    present = places.stop > places.start
    times = np.where(present, messages.eights[places.start], 0).view(np.int64)
    if (times < 0).any():
        raise ValueError("a time is after the year 2262")
    return times


def _attributes(
    messages: Messages, n_spans: int, pairs: Places, attributes: Sequence[str] | None
) -> Iterator[tuple[str, pa.Array]]:
    """Yield (name, its values in all spans) of the attributes that occur."""
    pair = messages.fields(pairs)
    keys = messages.texts(pair.last(1)).dictionary_encode()
    names = keys.dictionary.cast(_TEXT).to_pylist()
    families = [_family(name, attributes) for name in names]
    chosen = zip(names, families, strict=True)
    selected = np.array(
        [attributes is None or name in attributes or bool(family) for name, family in chosen],
        dtype=bool,
    )
    # Short integers are sorted fastest.
    code = np.asarray(keys.indices).astype(np.min_scalar_type(len(names)))
    values = pair.last(2).take(selected[code])
    row = pairs.owner[values.owner]
    code = code[values.owner]
    kind, content = _kinds(messages, values)
    # One name after another, each in the order of its spans.
    order = np.argsort(code, kind="stable")
    order = order[kind[order] > 0]
    edges = np.searchsorted(code[order], np.arange(len(names) + 1))
    row = row[order]
    kind = kind[order]
    start = content.start[order]
    texts = messages.texts(content, order)
    messages_of: dict[str, dict[int, list[tuple[str, str]]]] = {}
    for number in np.flatnonzero(selected):
        part = slice(edges[number], edges[number + 1])
        plain = _plain(messages, kind[part], start[part], texts[part], values, order[part])
        place = np.full(n_spans, -1)
        place[row[part]] = np.arange(len(plain))
        column = plain.take(pa.array(place, mask=place < 0))
        if family := families[number]:
            path = names[number].removeprefix(f"{family}.")
            of_family = messages_of.setdefault(family, {})
            present = row[part]
            for place, text in zip(present.tolist(), column.take(present).to_pylist(), strict=True):
                of_family.setdefault(place, []).append((path, text))
        if attributes is None or not family:
            yield names[number], column

    for family, of_family in messages_of.items():
        rows = {place: flattened(leaves) for place, leaves in of_family.items()}
        yield family, _json_column(n_spans, rows)


def _events(messages: Messages, n_spans: int, places: Places) -> dict[str, pa.Array]:
    """Return {EVENTS: the spans' events that have messages}, or nothing if no span has any."""
    names = messages.texts(messages.fields(places).last(2)).cast(_TEXT)
    chosen = np.flatnonzero(np.asarray(pc.starts_with(names, EVENT_PREFIX)))
    of_span: dict[int, list[dict[str, str]]] = {}
    bodies = messages.texts(places.take(chosen)).to_pylist()
    for row, body in zip(places.owner[chosen].tolist(), bodies, strict=True):
        event = Span.Event.FromString(body)
        fields = {pair.key: _text(pair.value) for pair in event.attributes}
        of_span.setdefault(row, []).append({"event.name": event.name, **fields})
    return {EVENTS: _json_column(n_spans, of_span)} if of_span else {}


def _family(name: str, attributes: Sequence[str] | None) -> str:
    """Return the attribute of FLATTENED of which this one is a leaf, if it is needed; else ''."""
    for family in FLATTENED:
        if name.startswith(f"{family}.") and (attributes is None or family in attributes):
            return family
    return ""


def _json_column(n_spans: int, values: Mapping[int, Any]) -> pa.Array:
    """Return a column with values as JSON in the rows that have one, null in the others."""
    texts: list[str | None] = [None] * n_spans
    for row, value in values.items():
        texts[row] = msgspec.json.encode(value).decode()
    return pa.array(texts, _TEXT)


def _kinds(messages: Messages, values: Places) -> tuple[np.ndarray, Places]:
    """Return (the kind of each AnyValue, 0 for an empty one; the places of their contents)."""
    kind = np.zeros(len(values.start), dtype=np.int64)
    fields = messages.fields(values)
    for number, part in fields.steps:
        kind[part.owner] = number
    return kind, fields.last_of(part for _, part in fields.steps)


def _plain(
    messages: Messages,
    kind: np.ndarray,
    start: np.ndarray,
    texts: pa.Array,
    values: Places,
    order: np.ndarray,
) -> pa.Array:
    """Return the values of one attribute, as texts where their kinds are mixed."""
    kinds = set(pa.array(kind).unique().to_pylist())
    if kinds <= {_INT, _DOUBLE}:
        numbers = messages.eights[start].view(np.float64)
        numbers[kind == _INT] = messages.varints(start[kind == _INT])[0]
        return pa.array(numbers)
    if kinds == {_STRING}:
        return texts.cast(_TEXT)
    if kinds == {_BOOL}:
        return pa.array(messages.octets[start] != 0)
    bodies = messages.texts(values.take(order)).to_pylist()
    return pa.array([_text(AnyValue.FromString(body)) for body in bodies], _TEXT)


def _text(value: AnyValue) -> str:
    """Return a value as text: arrays and lists of pairs as JSON, bytes in base64."""
    kind = str(value.WhichOneof("value"))
    plain = getattr(value, kind)
    if kind in ("array_value", "kvlist_value"):
        return msgspec.json.encode(json_format.MessageToDict(plain)).decode()
    return base64.b64encode(plain).decode() if kind == "bytes_value" else str(plain)


_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_FEW = 32  # messages; so few are read faster one by one
_AHEAD = bytes(32)  # so that looking ahead never leaves the data
_SIZE = np.full(8, -1)  # by wire type; an unknown one makes a field end before it begins
_SIZE[_EIGHT] = 8
_SIZE[_FOUR] = 4


@dataclass(frozen=True)
class Places:
    """Values in order: bytes from `start` to `stop`, each of the message with number `owner`."""

    owner: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def take(self, rows: np.ndarray | slice) -> Places:
        """Return the places at these rows."""
        return Places(self.owner[rows], self.start[rows], self.stop[rows])


class Messages:
    """Messages one after another. Methods may raise ValueError for bytes that are not protobuf."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.bytes = b"".join([*messages, _AHEAD])
        self.octets = np.frombuffer(self.bytes, dtype=np.uint8)
        # From each byte the next eight.
        self.eights = np.ndarray(len(self.octets) - 7, "<u8", self.bytes, strides=(1,))
        length = np.array([len(m) for m in messages], dtype=np.int64)
        stop = np.cumsum(length)
        self.places = Places(np.arange(len(stop)), stop - length, stop)

    def fields(self, messages: Places) -> Fields:
        """Return every field of these messages; their owners are the rows of `messages`."""
        fields = Fields(messages)
        owner = np.arange(len(messages.start))
        place = messages.start
        end = messages.stop
        rest = np.flatnonzero(place < end)
        while len(rest) > _FEW:
            if len(rest) < len(place):
                owner = owner[rest]
                place = place[rest]
                end = end[rest]
            number, start, stop = self._next_fields(place)
            if ((stop < start) | (stop > end)).any():
                raise ValueError("a field is cut, or of an unknown kind")
            fields.steps.append((number, Places(owner, start, stop)))
            place = stop
            rest = np.flatnonzero(place < end)
        single = [
            (number, owner[row], start, stop)
            for row in rest.tolist()
            for number, start, stop in self._fields_of_one(int(place[row]), int(end[row]))
        ]
        if single:
            numbers, *columns = np.array(single).T
            fields.steps.append((numbers, Places(*columns)))
        return fields

    def varints(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (the numbers at these places, their ends); uint8 where all are below 128."""
        octet = self.octets[place]
        stop = place + 1
        more = np.flatnonzero(octet > 127)
        if not len(more):
            return octet, stop
        value = (octet & 127).astype(np.int64)
        shift = 7
        while len(more):
            if shift > 63:
                raise ValueError("a number is too long")
            octet = self.octets[stop[more]]
            value[more] |= (octet & 127).astype(np.int64) << shift
            stop[more] += 1
            more = more[octet > 127]
            shift += 7
        return value, stop

    def texts(self, places: Places, rows: np.ndarray | None = None) -> pa.LargeBinaryArray:
        """Return the bytes at these rows (None: all) of places in order that do not overlap."""
        edges = np.empty(2 * len(places.start) + 1, dtype=np.int64)
        edges[:-1:2] = places.start
        edges[1::2] = places.stop
        edges[-1] = len(self.bytes)
        buffers = [None, pa.py_buffer(edges), pa.py_buffer(self.bytes)]
        with_gaps = pa.Array.from_buffers(pa.large_binary(), len(edges) - 1, buffers)
        rows = np.arange(len(places.start)) if rows is None else rows
        return with_gaps.take(pa.array(2 * rows))

    def _next_fields(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (number, start and stop of the value) of the fields at these places."""
        tag, start = self.varints(place)
        wire_type = tag & 7
        value, after = self.varints(start)
        stop = after + value
        is_length = wire_type == _LENGTH
        if not is_length.all():
            sized = np.where(wire_type == _VARINT, after, start + _SIZE[wire_type])
            stop = np.where(is_length, stop, sized)
            after = np.where(is_length, after, start)
        return tag >> 3, after, stop

    def _fields_of_one(self, place: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (number, start and stop of the value) of the fields of one message."""
        while place < end:
            tag, place = self._varint(place)
            wire_type = tag & 7
            stop = place + int(_SIZE[wire_type])
            if wire_type == _VARINT:
                stop = self._varint(place)[1]
            elif wire_type == _LENGTH:
                length, place = self._varint(place)
                stop = place + length
            if not place <= stop <= end:
                raise ValueError("a field is cut, or of an unknown kind")
            yield tag >> 3, place, stop
            place = stop

    def _varint(self, place: int) -> tuple[int, int]:
        value = shift = 0
        while self.bytes[place] > 127:
            value |= (self.bytes[place] & 127) << shift
            place += 1
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")
        return value | self.bytes[place] << shift, place + 1


class Fields:
    """The fields of `messages` by their number.

    `steps` are (numbers, the fields that have them), of each message the first before the second.
    """

    def __init__(self, messages: Places) -> None:
        self.messages = messages
        self.steps: list[tuple[np.ndarray, Places]] = []

    @cached_property
    def parts(self) -> dict[int, list[Places]]:
        """Return the fields by number, of each message the first before the second."""
        parts: dict[int, list[Places]] = {}
        for number, fields in self.steps:
            while len(number):
                same = number == number[0]
                part = fields if same.all() else fields.take(same)
                parts.setdefault(int(number[0]), []).append(part)
                number = number[~same]
                fields = fields.take(~same)
        return parts

    def of(self, number: int) -> Places:
        """Return all fields with this number, in the order of their place."""
        parts = self.parts.get(number) or [Places(*[np.empty(0, dtype=np.int64)] * 3)]
        if len(parts) == 1:
            return parts[0]
        columns = (
            np.concatenate([getattr(p, c) for p in parts]) for c in ("owner", "start", "stop")
        )
        places = Places(*columns)
        return places.take(np.argsort(places.start, kind="stable"))

    def last(self, number: int) -> Places:
        """Return the last field with this number of every message; an empty place for none."""
        return self.last_of(self.parts.get(number, ()))

    def last_of(self, parts: Iterable[Places]) -> Places:
        """Return the last of these fields of every message; an empty place for none."""
        start = self.messages.start.copy()
        stop = self.messages.start.copy()
        for part in parts:
            start[part.owner] = part.start
            stop[part.owner] = part.stop
        return Places(np.arange(len(start)), start, stop)
