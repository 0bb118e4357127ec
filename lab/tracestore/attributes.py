"""OTLP KeyValues, still serialized, of a whole batch -> columns, with numpy instead of a loop.

A KeyValue is `0A len key 12 len value`, a value `0A len text`, `18 varint`, `21 8 bytes` or `10
bool`. Where all lengths are below 128 (one byte) every part has a place that arithmetic finds; what
does not look like that goes through protobuf, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from lab.tracestore.admission import KEY_VALUE, MAX_KEYS, Allowance, too_many
from lab.tracestore.anyvalue import to_json

STR, INT, DBL, BOOL, JSON = range(5)
_FIELD = {"string_value": STR, "int_value": INT, "double_value": DBL, "bool_value": BOOL}
_SLOW = 255
_encode = msgspec.json.Encoder().encode


@dataclass
class Column:
    """The attributes of one type: their positions in the batch (ascending) and their values."""

    index: np.ndarray
    values: pa.Array


@dataclass
class KeyValues:
    """Of every attribute the code of its key; per type its column. `keys[code]` is the key."""

    codes: np.ndarray
    keys: pa.Array
    columns: dict[int, Column]


def read(blobs: list[bytes]) -> KeyValues:
    """Read serialized KeyValues.

    Raises pa.ArrowInvalid or protobuf's DecodeError for bytes that are not a KeyValue or not UTF-8,
    TooLarge where they hold too many nested values or different keys.
    """
    padded = [*blobs, bytes(16)]  # so that looking ahead never leaves the array
    _, offsets, data = pa.array(padded, pa.binary()).buffers()
    raw = np.frombuffer(data, dtype=np.uint8)
    bounds = np.frombuffer(offsets, dtype=np.int32, count=len(padded)).astype(np.int64)
    starts = bounds[:-1]
    ends = bounds[1:]
    key_length = raw[starts + 1].astype(np.int64)
    value = np.minimum(starts + 2 + key_length, ends)  # the tag of the value
    value_length = raw[value + 1].astype(np.int64)
    regular = (
        (raw[starts] == 0x0A) & (key_length < 128) & (raw[value] == 0x12) & (value_length < 128)
    )
    regular &= value + 2 + value_length == ends
    kind = _kinds(raw, value, value_length, regular)
    slow = np.flatnonzero(kind == _SLOW)
    Allowance().spend_on([blobs[i] for i in slow], KEY_VALUE)
    slow_keys: list[bytes] = []
    slow_of: dict[int, tuple[list[int], list[Any]]] = {number: ([], []) for number in range(5)}
    for i in slow.tolist():  # one at a time: a parsed message takes far more memory than its value
        key, number, plain = _parse(blobs[i])
        kind[i] = number
        slow_keys.append(key)
        slow_of[number][0].append(i)
        slow_of[number][1].append(plain)

    keys = _texts(raw, starts + 2, key_length, slow, slow_keys).dictionary_encode()
    if len(keys.dictionary) > MAX_KEYS:
        raise too_many("different attribute names", MAX_KEYS)
    columns = {}
    for number, reader in enumerate((_strings, _ints, _doubles, _bools, _jsons)):
        index = np.flatnonzero(kind == number)
        if len(index):
            slow_index, slow_values = slow_of[number]
            places = np.searchsorted(index, np.array(slow_index, dtype=np.int64))
            values = reader(raw, value[index], value_length[index], places, slow_values)
            columns[number] = Column(index, values)
    return KeyValues(keys.indices.to_numpy().astype(np.int64), keys.dictionary, columns)


def _parse(blob: bytes) -> tuple[bytes, int, Any]:
    """Return the key, the kind, and the value as the readers of its kind take it."""
    kv = KeyValue.FromString(blob)
    field = kv.value.WhichOneof("value") or ""
    number = _FIELD.get(field, JSON)
    if number == JSON:
        return kv.key.encode(), JSON, _encode(to_json(kv.value)).decode()
    plain = getattr(kv.value, field)
    return kv.key.encode(), number, plain.encode() if number == STR else plain


def _kinds(
    raw: np.ndarray, value: np.ndarray, value_length: np.ndarray, regular: np.ndarray
) -> np.ndarray:
    tag = raw[value + 2]
    first = raw[value + 3]
    kind = np.full(len(value), _SLOW, dtype=np.uint8)
    kind[regular & (tag == 0x0A) & (first == value_length - 2)] = STR
    kind[regular & (tag == 0x18) & (value_length >= 2) & (value_length <= 11)] = INT
    kind[regular & (tag == 0x21) & (value_length == 9)] = DBL
    kind[regular & (tag == 0x10) & (value_length == 2) & (first <= 1)] = BOOL
    ints = np.flatnonzero(
        kind == INT
    )  # a varint ends with the first byte below 128: that must be the last one here
    if len(ints):
        at = value[ints] + 3
        length = value_length[ints] - 1
        ended_early = np.zeros(len(ints), dtype=bool)
        for i in range(9):
            ended_early |= (i < length - 1) & (raw[np.minimum(at + i, len(raw) - 1)] < 128)
        kind[ints[ended_early | (raw[at + length - 1] >= 128)]] = _SLOW
    return kind


def _texts(
    raw: np.ndarray, at: np.ndarray, length: np.ndarray, slow: np.ndarray, slow_texts: list[bytes]
) -> pa.Array:
    """Return a string array of the bytes at these places, or of `slow_texts` at `slow`.

    Checks UTF-8.
    """
    fast = np.delete(np.arange(len(at)), slow)
    bounds = np.stack([at[fast], at[fast] + length[fast]], axis=1).astype(np.int32).ravel()
    # The texts and what lies between them, without a copy; every second one is a text.
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(raw)]
    pieces = pa.Array.from_buffers(pa.binary(), max(len(bounds) - 1, 0), buffers)

    places = np.empty(len(at), dtype=np.int64)
    places[fast] = np.arange(0, len(bounds), 2)
    if len(slow):
        places[slow] = len(pieces) + np.arange(len(slow))
        pieces = pa.concat_arrays([pieces, pa.array(slow_texts, pa.binary())])
    return pieces.take(pa.array(places)).cast(pa.string())


def _strings(
    raw: np.ndarray, value: np.ndarray, length: np.ndarray, places: np.ndarray, slow: list[Any]
) -> pa.Array:
    return _texts(raw, value + 4, length - 2, places, slow)


def _ints(
    raw: np.ndarray, value: np.ndarray, length: np.ndarray, places: np.ndarray, slow: list[Any]
) -> pa.Array:
    result = np.zeros(len(value), dtype=np.uint64)
    at = value + 3
    bytes_left = np.where(length <= 11, length - 1, 0)
    for i in range(10):
        some = np.flatnonzero(bytes_left > i)
        if len(some) == 0:
            break
        result[some] |= (raw[at[some] + i] & 0x7F).astype(np.uint64) << np.uint64(7 * i)
    result = result.view(np.int64)
    result[places] = slow
    return pa.array(result)


def _doubles(
    raw: np.ndarray, value: np.ndarray, length: np.ndarray, places: np.ndarray, slow: list[Any]
) -> pa.Array:
    at = np.minimum(value + 3, len(raw) - 8)
    result = raw[at[:, None] + np.arange(8)].copy().view("<f8").ravel()
    result[places] = slow
    return pa.array(result)


def _bools(
    raw: np.ndarray, value: np.ndarray, length: np.ndarray, places: np.ndarray, slow: list[Any]
) -> pa.Array:
    result = raw[value + 3] == 1
    result[places] = slow
    return pa.array(result)


def _jsons(
    raw: np.ndarray, value: np.ndarray, length: np.ndarray, places: np.ndarray, slow: list[Any]
) -> pa.Array:
    return pa.array(slow, pa.string())
