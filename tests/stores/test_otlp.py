"""One trace reads the same in every format that stores and files have."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab.errors import FrameError
from lab.frames import spans_frame
from lab.stores import SpansAnswer, Tempo, read_otlp_json
from lab.stores.otlp import JSON, PROTOBUF
from lab.tracestore.rebuild import trace_by_id_response
from tests.stores.servers import Reply, serving

TRACE_ID = "00000000abcdef0123456789abcdef01"  # some tools drop the leading zeros
KINDS = {"SPAN_KIND_INTERNAL": 1, "SPAN_KIND_SERVER": 2, "SPAN_KIND_CLIENT": 3}
ATTRIBUTES = ["gen_ai.request.model", "tokens", "stream", "stop"]


def traces() -> TracesData:
    """Return the span of a gateway and the span of vLLM below it."""
    made = TracesData()
    for service, number in (("gateway", 1), ("vllm", 2)):
        owner = made.resource_spans.add()
        owner.resource.attributes.add(key="service.name").value.string_value = service
        span = owner.scope_spans.add().spans.add(
            trace_id=bytes.fromhex(TRACE_ID),
            span_id=number.to_bytes(8, "big"),
            parent_span_id=(number - 1).to_bytes(8, "big") if number > 1 else b"",
            name=f"{service}'s",
            kind=number,
            start_time_unix_nano=1_764_300_000_000_000_000 + number,
            end_time_unix_nano=1_764_300_000_620_000_000,
        )
        span.status.code = number
        span.links.add(trace_id=b"l" * 16, span_id=b"l" * 8)
        span.attributes.add(key="gen_ai.request.model").value.string_value = "m"
        span.attributes.add(key="tokens").value.int_value = 2**53
        span.attributes.add(key="stream").value.bool_value = True
        span.attributes.add(key="stop").value.array_value.values.add().string_value = "."
    return made


def resource_spans() -> list[dict[str, Any]]:
    return json_format.MessageToDict(traces())["resourceSpans"]


def otlp_json(*, digits: int = 32) -> list[dict[str, Any]]:
    """Return the trace by OTLP's rules for JSON.

    Ids are hexadecimal, enums are numbers, and large numbers are numbers or strings.
    """
    made = resource_spans()
    for number, owner in enumerate(made, 1):
        (span,) = owner["scopeSpans"][0]["spans"]
        span |= {"traceId": TRACE_ID[-digits:].upper(), "spanId": f"{number:0{digits // 2}x}"}
        span |= {"parentSpanId": f"{number - 1:016x}", "kind": KINDS[span["kind"]]}
        span["startTimeUnixNano"] = int(span["startTimeUnixNano"])
        span["status"]["code"] = number
        span["links"][0] |= {"traceId": b"l".hex() * 16, "spanId": b"l".hex() * 8}
    return made


def before_0_15() -> list[dict[str, Any]]:
    """Return the trace in the layout that OTLP had until 0.15."""
    return [
        {"resource": o["resource"], "instrumentationLibrarySpans": o["scopeSpans"]}
        for o in resource_spans()
    ]


FORMS: dict[str, Callable[[], Any]] = {
    "Tempo's second API": lambda: {"trace": {"resourceSpans": resource_spans()}},
    "and with metrics": lambda: {"trace": {"resourceSpans": resource_spans()}, "metrics": {}},
    "Tempo's first API": lambda: {"batches": resource_spans()},
    "protobuf's own JSON": lambda: {"resourceSpans": resource_spans()},
    "OTLP's own JSON": lambda: {"resourceSpans": otlp_json()},
    "ids without leading zeros": lambda: {"resourceSpans": otlp_json(digits=24)},
    "libraries for scopes": lambda: {"resourceSpans": before_0_15()},
    "unknown fields": lambda: {"resourceSpans": [{**o, "later": [1]} for o in resource_spans()]},
}


def frame_of(answer: SpansAnswer) -> pd.DataFrame:
    return spans_frame(answer, attributes=ATTRIBUTES)


EXPECTED = frame_of(read_otlp_json(json.dumps({"resourceSpans": resource_spans()})))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_trace(form: str) -> None:
    """Files and Tempos of each format give the same frame, also for ids without leading zeros."""
    body = json.dumps(FORMS[form]()).encode()
    pd.testing.assert_frame_equal(frame_of(read_otlp_json(body)), EXPECTED)
    assert EXPECTED.trace_id.tolist() == [TRACE_ID] * 2
    assert EXPECTED.service.tolist() == ["gateway", "vllm"]
    assert EXPECTED.kind.tolist() == ["internal", "server"] and EXPECTED.tokens[0] == 2**53
    with serving(lambda *_: Reply(body, content_type=JSON)) as server:
        for trace_id in (TRACE_ID, TRACE_ID.lstrip("0"), TRACE_ID.upper()):
            pd.testing.assert_frame_equal(frame_of(Tempo(server.url).trace(trace_id)), EXPECTED)
    assert {path.rsplit("/", 1)[1] for path, _ in server.requests} == {TRACE_ID}


def fill(message: Message) -> None:
    """Set every field, and add an attribute for every type of value."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "attributes":
            attributes = message.attributes
            attributes.add(key="text").value.string_value = "ü"
            attributes.add(key="truth").value.bool_value = True
            attributes.add(key="smallest").value.int_value = -(2**63)
            attributes.add(key="double").value.double_value = 0.1
            attributes.add(key="infinite").value.double_value = float("-inf")
            attributes.add(key="bytes").value.bytes_value = b"\0\xff"
            attributes.add(key="nothing").value.SetInParent()
            values = attributes.add(key="list").value.array_value.values
            values.add().array_value.values.add().int_value = 1
            values.add().kvlist_value.values.add(key="pair").value.bool_value = False
        elif field.message_type:
            child = getattr(message, field.name)
            fill(child.add() if field.is_repeated else child)
        elif field.type == FieldDescriptor.TYPE_BYTES:
            setattr(
                message, field.name, bytes(range(200, 216 if field.name == "trace_id" else 208))
            )
        elif field.type == FieldDescriptor.TYPE_STRING:
            getattr(message, field.name).append("x") if field.is_repeated else setattr(
                message, field.name, field.name
            )
        else:
            setattr(message, field.name, 2)


def with_unknown_fields(value: Any) -> Any:
    """Return JSON with fields added to every object that OTLP does not have."""
    if isinstance(value, dict):
        known = {name: with_unknown_fields(child) for name, child in value.items()}
        return known | {"later": [{"x": 1}], "nothing": None}
    return [with_unknown_fields(child) for child in value] if isinstance(value, list) else value


@pytest.mark.parametrize("change", [lambda value: value, with_unknown_fields])
def test_every_field_is_kept(change: Callable[[Any], Any]) -> None:
    """The reader gives the protobuf that protobuf's own library gives, byte for byte."""
    made = TracesData()
    fill(made)
    (entity,) = made.resource_spans[0].resource.entity_refs
    assert entity.id_keys and made.resource_spans[0].scope_spans[0].spans[0].links[0].trace_state
    body = json.dumps(change(json_format.MessageToDict(made)))
    expected = json_format.Parse(body, TracesData(), ignore_unknown_fields=True)
    assert expected == made
    assert read_otlp_json(body).protobufs == (made.SerializeToString(),)


def with_span(**fields: Any) -> dict[str, Any]:
    """Return a trace in protobuf's JSON whose second span has other fields."""
    made = resource_spans()
    made[1]["scopeSpans"][0]["spans"][0] |= fields
    return {"resourceSpans": made}


@pytest.mark.parametrize(
    "value",
    [
        *({"intValue": number} for number in ("5", 5, 5.0, -(2**63), str(2**63 - 1), None)),
        *({"doubleValue": n} for n in (5, "0.5", 1e300, "Infinity", "-Infinity", "NaN", None)),
        *({"boolValue": False}, {"stringValue": ""}, {"bytesValue": "AP8="}, {}, None),
    ],
    ids=json.dumps,
)
def test_values_are_those_of_protobuf(value: Any) -> None:
    """Numbers may be texts, null is nothing, and empty values are kept apart from none."""
    body = json.dumps(with_span(attributes=[{"key": "a", "value": value}]))
    expected = json_format.Parse(body, TracesData())
    assert read_otlp_json(body).protobufs == (expected.SerializeToString(),)


@pytest.mark.parametrize(
    ("given", "kind"),
    [("SPAN_KIND_CLIENT", 3), (3, 3), ("3", 3), ("SPAN_KIND_LATER", 0), (None, 0), (77, 77)],
)
def test_kinds_are_names_or_numbers(given: Any, kind: int) -> None:
    """A name that is not known yet is left out."""
    (body,) = read_otlp_json(json.dumps(with_span(kind=given))).protobufs
    assert TracesData.FromString(body).resource_spans[1].scope_spans[0].spans[0].kind == kind


def test_nan_without_quotes() -> None:
    """Python's json module writes NaN, which JSON does not have."""
    attribute = {"key": "tokens", "value": {"doubleValue": float("nan")}}
    body = json.dumps(with_span(attributes=[attribute]))
    assert ": NaN}" in body
    assert frame_of(read_otlp_json(body)).tokens.isna().tolist() == [False, True]


def test_lines_of_a_collectors_file() -> None:
    """One JSON object per line, in one file or in several, is read as one trace."""
    lines = [json.dumps({"resourceSpans": [owner]}) for owner in otlp_json()]
    for documents in (["\n".join(lines) + "\n"], lines):
        pd.testing.assert_frame_equal(frame_of(read_otlp_json(*documents)), EXPECTED)


def test_a_partial_trace_of_a_file_is_marked() -> None:
    """The id of a trace that Tempo marked as partial is kept."""
    body = json.dumps({"trace": {"resourceSpans": resource_spans()[1:]}, "status": "PARTIAL"})
    assert read_otlp_json(body).partial == (TRACE_ID,)
    complete = json.dumps({"trace": {"resourceSpans": resource_spans()}})
    assert read_otlp_json(complete).partial == ()


@pytest.mark.parametrize("protobuf", [True, False])
def test_an_old_tempo_has_only_the_first_api(protobuf: bool) -> None:
    """The first API's protobuf and JSON are read, and an unknown trace stays unknown."""

    def respond(path: str, _: dict[str, str]) -> Reply:
        if path == "/api/search":
            return Reply(b'{"traces":[],"metrics":{}}')
        if path == f"/api/traces/{TRACE_ID}" and protobuf:
            return Reply(traces().SerializeToString(), content_type=PROTOBUF)
        if path == f"/api/traces/{TRACE_ID}":
            return Reply(json.dumps({"batches": resource_spans()}).encode(), content_type=JSON)
        text = b"trace not found" if path.startswith("/api/traces/") else b"404 page not found"
        return Reply(text, 404)

    with serving(respond) as server:
        answer = Tempo(server.url).traces(["e" * 32, TRACE_ID, "f" * 32])
    pd.testing.assert_frame_equal(frame_of(answer), EXPECTED)


def test_protobuf_of_tempos_second_api() -> None:
    """The trace is read from the envelope around it."""
    body = trace_by_id_response(traces())
    with serving(lambda *_: Reply(body, content_type=PROTOBUF)) as server:
        pd.testing.assert_frame_equal(frame_of(Tempo(server.url).trace(TRACE_ID)), EXPECTED)


def nested(depth: int) -> dict[str, Any]:
    """Return lists inside of each other as an attribute's value."""
    return {"arrayValue": {"values": [nested(depth - 1)]}} if depth else {"intValue": "1"}


WRONG_VALUES: list[Any] = [
    *({"intValue": value} for value in ("x", "", 0.5, True, 2**63, -(2**63) - 1, [], {})),
    *({"doubleValue": value} for value in ("x", True, [])),
    *({"boolValue": value} for value in ("true", "x", [])),
    *({"stringValue": value} for value in (1, True, [], "\ud800")),
    *({"bytesValue": value} for value in (1, "A")),
    *({"arrayValue": value} for value in (5, {"values": 5}, {"values": [5]}, {"values": [None]})),
    *(nested(depth) for depth in (60, 250)),
    *("x", 5, [1]),
]
WRONG_SPANS: list[dict[str, Any]] = [
    *({"attributes": [{"key": "a", "value": value}]} for value in WRONG_VALUES),
    *({"startTimeUnixNano": value} for value in (-1, 2**64, "x", 0.5, True)),
    *({"name": 5}, {"kind": []}, {"kind": 2**31}, {"flags": 2**32}, {"flags": -1}),
    *({"status": 5}, {"status": {"code": []}}, {"events": [None]}, {"links": 5}),
    *({"traceId": value} for value in (None, 5, "", "zz", "AAA=", "1" * 33)),
    *({"parentSpanId": value} for value in (5, "zz", "1" * 17)),
]


@pytest.mark.parametrize("fields", WRONG_SPANS, ids=lambda fields: json.dumps(fields)[:60])
def test_a_span_with_a_wrong_value_is_refused(fields: dict[str, Any]) -> None:
    """No value of another type, or out of range, is taken for something else."""
    with pytest.raises(FrameError, match="not OTLP JSON"):
        read_otlp_json(json.dumps(with_span(**fields)))


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "[]",
        '{"resourceSpans": 5}',
        '{"other": []}',
        '{"resourceSpans":[]} x',
        '{"resourceSpans":[]}\n{',
        '{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"zz","spanId":"01"}]}]}]}',
        b"\xff{}",
        "[" * 100_000,
    ],
)
def test_a_file_of_something_else_is_refused(bad: str | bytes) -> None:
    """The error shows how the file begins."""
    with pytest.raises(FrameError, match="not OTLP JSON"):
        read_otlp_json(bad)
