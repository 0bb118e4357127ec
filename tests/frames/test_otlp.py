"""The same traces as protobuf and as JSON give the same frame."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab.errors import FrameError
from lab.frames import otlp, spans_frame
from lab.schema import SPAN_ATTRIBUTES, SPAN_FRAME
from tests.frames.telemetry import CLIENT, Answer, agent_request, document, span

_VALUE = st.one_of(
    st.text(max_size=200),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.lists(st.integers(0, 9), max_size=2),
)
_ATTRIBUTES = st.dictionaries(st.sampled_from(["a", "b", "c" * 130, "", "ü"]), _VALUE, max_size=5)
_SPAN = st.tuples(st.integers(1, 2**64 - 1), st.integers(0, 3), st.text(max_size=5), _ATTRIBUTES)


def proto(text: bytes) -> bytes:
    """Convert a document of Tempo's JSON to what Tempo sends as `application/protobuf`."""
    made = json.loads(text, parse_constant=str)  # OTLP writes NaN and infinities as strings
    return json_format.ParseDict(made, TracesData()).SerializeToString()


def as_json(trace: bytes) -> bytes:
    """Convert a trace to protobuf's own JSON."""
    return json.dumps(
        json_format.MessageToDict(TracesData.FromString(trace)), separators=(",", ":")
    ).encode()


def rows_by_walking(traces: tuple[bytes, ...]) -> list[dict[str, Any]]:
    """Return the spans as rows, read one by one with the objects of opentelemetry-proto."""
    rows = []
    for trace in map(TracesData.FromString, traces):
        for owner in trace.resource_spans:
            service = {a.key: a.value.string_value for a in owner.resource.attributes}
            for made in (made for scope in owner.scope_spans for made in scope.spans):
                row = {
                    "trace_id": made.trace_id.hex(),
                    "span_id": made.span_id.hex(),
                    "parent_id": made.parent_span_id.hex() if any(made.parent_span_id) else "",
                    "service": service.get("service.name", ""),
                    "name": made.name,
                    "kind": otlp.KINDS[made.kind],
                    "start_at": pd.Timestamp(made.start_time_unix_nano, unit="ns", tz="UTC"),
                    "duration_s": (made.end_time_unix_nano - made.start_time_unix_nano) / 1e9,
                    "status": otlp.STATUSES[made.status.code],
                    "status_message": made.status.message,
                    "attributes": {a.key: plain(a.value) for a in made.attributes},
                }
                rows.append(row)
    return rows


def plain(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return json.dumps(json_format.MessageToDict(value.array_value), separators=(",", ":"))
    return getattr(value, kind)


def frame_of_all_formats(
    documents: list[bytes], attributes: tuple[str, ...] | None
) -> pd.DataFrame:
    """Return the frame of the documents, after checking that protobuf, JSON and a walk agree."""
    traces = tuple(map(proto, documents))
    by_json = spans_frame(Answer(tuple(map(as_json, traces))), attributes=attributes)
    by_proto = spans_frame(Answer(protobufs=traces), attributes=attributes)
    pd.testing.assert_frame_equal(by_proto, by_json)
    walk = rows_by_walking(traces)
    by_id: dict[tuple[str, str], dict[str, Any]] = {}
    for row in walk:
        by_id.setdefault((row["trace_id"], row["span_id"]), row)
    first = list(by_id.values())
    for column in SPAN_FRAME:
        assert by_proto[column.name].tolist() == [row[column.name] for row in first], column.name
    names = {name for row in walk for name in row["attributes"]}
    if attributes is None:
        assert set(by_proto.columns) == {c.name for c in SPAN_FRAME} | names
    for name in names & set(by_proto.columns):
        types = {type(row["attributes"][name]) for row in walk if name in row["attributes"]}
        values = [row["attributes"].get(name) for row in first]
        if types <= {int, float}:
            expected = pd.Series(values, dtype="float64")
        elif types == {bool}:
            expected = pd.Series(values, dtype="boolean")
        else:
            expected = pd.Series([v if v is None else str(v) for v in values], dtype="str")
        pd.testing.assert_series_equal(by_proto[name], expected, check_names=False)
    return by_proto


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([0, 1000]),
    st.sampled_from([1, 1 << 20]),
    st.lists(st.lists(_SPAN, min_size=1, max_size=6), min_size=1, max_size=3),
)
def test_both_formats_are_equal(few: int, batch_bytes: int, traces: list) -> None:
    """Strings, numbers, booleans, lists and mixed types agree, in one batch and in several."""
    documents = [
        document(
            *(
                span(i, parent, f"svc{i % 3}", name, 0, 1.25, CLIENT, **a)
                for i, parent, name, a in rows
            )
        )
        for rows in traces
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(otlp, "_FEW", few)
        patch.setattr(otlp, "_BATCH_BYTES", batch_bytes)
        frame_of_all_formats(documents, ("a", "c" * 130, "nowhere"))
        frame_of_all_formats(documents, None)


def test_a_real_request() -> None:
    """Complete agent requests agree in all columns and their types."""
    frame = frame_of_all_formats(
        [document(*agent_request(n)) for n in range(1, 50)], SPAN_ATTRIBUTES
    )
    assert len(frame) == 49 * 11 and frame.start_at.dt.tz is not None


def test_every_type_of_value() -> None:
    """Lists, maps and bytes are JSON text, empty values are missing, events are not rows."""
    trace = TracesData()
    made = (
        trace.resource_spans.add().scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    )
    made.events.add(name="token").attributes.add(key="in event").value.int_value = 1
    made.links.add(trace_id=b"o" * 16, span_id=b"o" * 8)
    made.attributes.add(key="nothing").value.SetInParent()
    made.attributes.add(key="bytes").value.bytes_value = b"\0\xff"
    made.attributes.add(key="list").value.array_value.values.add().bool_value = True
    made.attributes.add(key="pairs").value.kvlist_value.values.add(key="k").value.double_value = 0.5
    made.attributes.add(key="int").value.int_value = -1
    made.attributes.add(key="truth").value.bool_value = False
    row = spans_frame(Answer(protobufs=(trace.SerializeToString(),)), attributes=None).iloc[0]
    assert math.isnan(row.nothing)
    assert (row.bytes, row.int, bool(row.truth)) == ("AP8=", -1, False)
    assert json.loads(row.list) == {"values": [{"boolValue": True}]}
    assert json.loads(row.pairs) == {"values": [{"key": "k", "value": {"doubleValue": 0.5}}]}
    assert (row.kind, row.status, row.service, row["name"], row.parent_id) == (
        "unspecified",
        "unset",
        "",
        "",
        "",
    )
    assert "in event" not in row.index


def test_a_type_that_changes_between_traces_becomes_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The type also changes to text when the traces are read in separate batches."""
    monkeypatch.setattr(otlp, "_BATCH_BYTES", 1)
    frame = frame_of_all_formats(
        [
            document(span(n, 0, "s", "x", 0, 1, CLIENT, a=v))
            for n, v in enumerate([1, "one", True], 1)
        ],
        ("a",),
    )
    assert frame.a.tolist() == ["1", "one", "True"]


def test_no_spans_is_the_empty_frame() -> None:
    """A resource without spans gives the empty frame."""
    trace = TracesData()
    trace.resource_spans.add().resource.attributes.add(key="service.name").value.string_value = "s"
    empty = spans_frame(Answer(protobufs=(trace.SerializeToString(),)))
    pd.testing.assert_frame_equal(empty, spans_frame(Answer(())))


def test_unknown_fields_are_ignored() -> None:
    """Fields that a later OTLP adds are ignored, whatever their type, number and position."""
    more = b"\xf8\x7f\x96\x01" + b"\xf9\x7f" + b"8" * 8 + b"\xfd\x7f" + b"4" * 4 + b"\xfa\x7f\x01."
    plain = [document(made) for made in agent_request()]
    fields = [
        TracesData.FromString(proto(text)).resource_spans[0].SerializeToString() for text in plain
    ]
    bodies = [b"\x0a" + _varint(len(more + f + more)) + more + f + more for f in fields]
    frame = spans_frame(Answer(protobufs=(more + b"".join(bodies) + more,)))
    pd.testing.assert_frame_equal(frame, spans_frame(Answer(protobufs=tuple(map(proto, plain)))))


def _varint(number: int) -> bytes:
    return bytes([number & 127 | 128, number >> 7])


@pytest.mark.parametrize("few", [0, 1000])
def test_truncated_and_invalid_protobuf_is_refused(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace truncated anywhere is an error, instead of silently giving fewer spans."""
    monkeypatch.setattr(otlp, "_FEW", few)
    complete = proto(document(agent_request()[5]))
    for length in range(1, len(complete)):
        with pytest.raises(FrameError, match="not OTLP protobuf"):
            spans_frame(Answer(protobufs=(complete[:length],)))
    odd = [TracesData.FromString(complete) for _ in range(3)]
    short, kind, late = (trace.resource_spans[0].scope_spans[0].spans[0] for trace in odd)
    short.span_id = b"short"
    kind.kind = 9
    late.start_time_unix_nano = 2**63
    bad_text = complete.replace(b"llm_request", b"llm\xff\xfeequest")
    others = (b"<html>", b'{"resourceSpans":[]}', bad_text, b"\x0a" + b"\xff" * 12)
    for body in (*others, *(trace.SerializeToString() for trace in odd)):
        with pytest.raises(FrameError, match="not OTLP protobuf"):
            spans_frame(Answer(protobufs=(body,)))
