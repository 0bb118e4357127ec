"""One trace in every form in which stores and files have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab.errors import FrameError
from lab.frames import spans_frame
from lab.stores import SpansAnswer, Tempo, read_otlp_json
from lab.stores.otlp import JSON, PROTOBUF
from lab.tracestore.rebuild import trace_by_id_response
from tests.stores.servers import Reply, telling

TRACE_ID = "00000000abcdef0123456789abcdef01"  # some tools drop the zeros
KINDS = {"SPAN_KIND_INTERNAL": 1, "SPAN_KIND_SERVER": 2, "SPAN_KIND_CLIENT": 3}
ATTRIBUTES = ["gen_ai.request.model", "tokens", "stream", "stop"]


def traces() -> TracesData:
    """A gateway's span and vLLM's below it."""
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


def owners() -> list[dict[str, Any]]:
    return json_format.MessageToDict(traces())["resourceSpans"]


def otlps_own(*, digits: int = 32) -> list[dict[str, Any]]:
    """As OTLP's rules for JSON have it: ids in hex, enums as numbers, big numbers as numbers or
    texts."""
    made = owners()
    for number, owner in enumerate(made, 1):
        (span,) = owner["scopeSpans"][0]["spans"]
        span |= {"traceId": TRACE_ID[-digits:].upper(), "spanId": f"{number:0{digits // 2}x}"}
        span |= {"parentSpanId": f"{number - 1:016x}", "kind": KINDS[span["kind"]]}
        span["startTimeUnixNano"] = int(span["startTimeUnixNano"])
        span["status"]["code"] = number
        span["links"][0] |= {"traceId": b"l".hex() * 16, "spanId": b"l".hex() * 8}
    return made


def older() -> list[dict[str, Any]]:
    """As OTLP had it until 0.15."""
    return [
        {"resource": o["resource"], "instrumentationLibrarySpans": o["scopeSpans"]}
        for o in owners()
    ]


FORMS: dict[str, Callable[[], Any]] = {
    "Tempo's second API": lambda: {"trace": {"resourceSpans": owners()}},
    "and with metrics": lambda: {"trace": {"resourceSpans": owners()}, "metrics": {}},
    "Tempo's first API": lambda: {"batches": owners()},
    "protobuf's own JSON": lambda: {"resourceSpans": owners()},
    "OTLP's own JSON": lambda: {"resourceSpans": otlps_own()},
    "ids without leading zeros": lambda: {"resourceSpans": otlps_own(digits=24)},
    "libraries for scopes": lambda: {"resourceSpans": older()},
    "unknown fields": lambda: {"resourceSpans": [{**o, "later": [1]} for o in owners()]},
}


def frame_of(answer: SpansAnswer) -> pd.DataFrame:
    return spans_frame(answer, attributes=ATTRIBUTES)


EXPECTED = frame_of(read_otlp_json(json.dumps({"resourceSpans": owners()})))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_trace(form: str) -> None:
    """From a file, and through a Tempo of that form, which is queried with and without the
    zeros."""
    body = json.dumps(FORMS[form]()).encode()
    pd.testing.assert_frame_equal(frame_of(read_otlp_json(body)), EXPECTED)
    assert EXPECTED.trace_id.tolist() == [TRACE_ID] * 2
    assert EXPECTED.service.tolist() == ["gateway", "vllm"]
    assert EXPECTED.kind.tolist() == ["internal", "server"] and EXPECTED.tokens[0] == 2**53
    with telling(lambda *_: Reply(body, content_type=JSON)) as server:
        for trace_id in (TRACE_ID, TRACE_ID.lstrip("0"), TRACE_ID.upper()):
            pd.testing.assert_frame_equal(frame_of(Tempo(server.url).trace(trace_id)), EXPECTED)
    assert {path.rsplit("/", 1)[1] for path, _ in server.asked} == {TRACE_ID}


def test_lines_of_a_collectors_file() -> None:
    """One JSON object per line, of which each has some of the spans; several files are one
    answer."""
    lines = [json.dumps({"resourceSpans": [owner]}) for owner in otlps_own()]
    for documents in (["\n".join(lines) + "\n"], lines):
        pd.testing.assert_frame_equal(frame_of(read_otlp_json(*documents)), EXPECTED)


def test_a_partial_trace_of_a_file_says_so() -> None:
    """As Tempo reports it, with the id of the trace."""
    body = json.dumps({"trace": {"resourceSpans": owners()[1:]}, "status": "PARTIAL"})
    assert read_otlp_json(body).partial == (TRACE_ID,)
    assert read_otlp_json(json.dumps({"trace": {"resourceSpans": owners()}})).partial == ()


@pytest.mark.parametrize("protobuf", [True, False])
def test_an_old_tempo_has_only_the_first_api(protobuf: bool) -> None:
    """Its protobuf is the trace itself, its JSON has batches; an unknown trace stays unknown."""

    def answer(path: str, _: dict[str, str]) -> Reply:
        if path == "/api/search":
            return Reply(b'{"traces":[],"metrics":{}}')
        if path == f"/api/traces/{TRACE_ID}" and protobuf:
            return Reply(traces().SerializeToString(), content_type=PROTOBUF)
        if path == f"/api/traces/{TRACE_ID}":
            return Reply(json.dumps({"batches": owners()}).encode(), content_type=JSON)
        text = b"trace not found" if path.startswith("/api/traces/") else b"404 page not found"
        return Reply(text, 404)

    with telling(answer) as server:
        found = Tempo(server.url).traces(["e" * 32, TRACE_ID, "f" * 32])
    pd.testing.assert_frame_equal(frame_of(found), EXPECTED)


def test_tempos_second_protobuf() -> None:
    """The trace inside of an envelope."""
    body = trace_by_id_response(traces())
    with telling(lambda *_: Reply(body, content_type=PROTOBUF)) as server:
        pd.testing.assert_frame_equal(frame_of(Tempo(server.url).trace(TRACE_ID)), EXPECTED)


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
    """The error shows how it begins."""
    with pytest.raises(FrameError, match="not OTLP JSON"):
        read_otlp_json(bad)
