"""The fast attribute reader gives protobuf's values and refuses what protobuf refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from lab.tracestore import attributes
from lab.tracestore.anyvalue import to_json
from lab.tracestore.decode import SpanBatch
from lab.tracestore.errors import BadRequest
from tests.tracestore.corpus import random_spans, request_of
from tests.tracestore.hypotheses import QUICK
from tests.tracestore.test_otlp import values

_TEXT = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=10),
    st.sampled_from(("", "x" * 125, "x" * 126, "x" * 127, "é" * 80)),
)
PAIRS = st.builds(
    lambda k, v: KeyValue(key=k, value=v),
    _TEXT,
    st.one_of(values(), _TEXT.map(lambda t: AnyValue(string_value=t))),
)


def by_protobuf(blob: bytes) -> tuple[str, Any]:
    kv = KeyValue.FromString(blob)
    return kv.key, to_json(kv.value)


def by_arithmetic(blobs: list[bytes]) -> list[tuple[str, Any]]:
    columns = attributes.read(blobs)
    keys = columns.keys.take(pa.array(columns.codes)).to_pylist()
    field = {
        attributes.STR: "stringValue",
        attributes.INT: "intValue",
        attributes.DBL: "doubleValue",
        attributes.BOOL: "boolValue",
    }
    result: list[Any] = [None] * len(blobs)
    for number, column in columns.columns.items():
        for i, value in zip(column.index.tolist(), column.values.to_pylist(), strict=True):
            shown = (
                msgspec.json.decode(value)
                if number == attributes.JSON
                else {field[number]: str(value) if number == attributes.INT else value}
            )
            result[i] = (keys[i], shown)
    return result


def as_text(pairs: list[tuple[str, Any]]) -> str:
    """Return pairs as text, which compares equal also for NaN and infinities."""
    words = {"inf": '"Infinity"', "-inf": '"-Infinity"', "nan": '"NaN"'}
    return repr(
        [
            (k, {f: words.get(repr(v), repr(v)).replace("'", '"') for f, v in value.items()})
            for k, value in pairs
        ]
    )


@QUICK
@given(pairs=st.lists(PAIRS, max_size=6))
def test_the_same_as_protobuf(pairs: list[KeyValue]) -> None:
    """Values of every kind and length are equal."""
    blobs = [kv.SerializeToString() for kv in pairs]
    assert as_text(by_arithmetic(blobs)) == as_text([by_protobuf(b) for b in blobs])


@QUICK
@given(data=st.data(), pair=PAIRS)
def test_damaged_bytes_are_judged_as_protobuf_judges_them(
    data: st.DataObject, pair: KeyValue
) -> None:
    """With a changed, missing or added byte, the values are equal or both refuse."""
    blob = bytearray(pair.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, max(len(blob) - 1, 0)))
        blob[position : position + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    neighbours = [KeyValue(key="a", value=AnyValue(int_value=300)).SerializeToString()]
    blobs = [*neighbours, bytes(blob), *neighbours]
    try:
        expected = as_text([by_protobuf(b) for b in blobs])
    except DecodeError:
        with pytest.raises((DecodeError, pa.ArrowInvalid)):
            by_arithmetic(blobs)
        return
    assert as_text(by_arithmetic(blobs)) == expected


@QUICK
@given(data=st.data())
def test_a_damaged_request_is_accepted_or_refused(data: st.DataObject) -> None:
    """Any bytes give as many rows as were accepted, or BadRequest."""
    body = bytearray(
        request_of(random_spans(data.draw(st.integers(0, 5)), traces=1)).SerializeToString()
    )
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, len(body) - 1))
        body[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    batch = SpanBatch()
    try:
        accepted, _, _ = batch.add(bytes(body))
        spans, resources, _ = batch.tables()
    except BadRequest:
        return
    assert spans.num_rows == accepted
    assert set(spans.column("res_id").to_pylist()) <= set(resources.column("id").to_pylist())
