"""OTLP is accepted without loss, or refused with the right error."""

from __future__ import annotations

import gzip
import json
import math
import threading
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab.tracestore import otlp_http
from lab.tracestore.decode import SpanBatch
from lab.tracestore.errors import Overloaded
from lab.tracestore.ingest import _LARGE_BYTES, Ingest, Limits
from lab.tracestore.otlp_json import as_protobuf_json
from lab.tracestore.rebuild import traces
from lab.tracestore.store import SpanStore
from lab.tracestore.telemetry import Telemetry
from tests.tracestore.conftest import Running
from tests.tracestore.corpus import load, random_spans, request_of
from tests.tracestore.hypotheses import QUICK

_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


def values(depth: int = 2) -> st.SearchStrategy[AnyValue]:
    """Return AnyValues of every kind, including the unset one."""
    leaves = st.one_of(
        _TEXT.map(lambda v: AnyValue(string_value=v)),
        st.integers(-(2**63), 2**63 - 1).map(lambda v: AnyValue(int_value=v)),
        st.floats(allow_nan=False).map(lambda v: AnyValue(double_value=v)),
        st.booleans().map(lambda v: AnyValue(bool_value=v)),
        st.binary(max_size=8).map(lambda v: AnyValue(bytes_value=v)),
        st.just(AnyValue()),
    )
    return st.recursive(leaves, _nested, max_leaves=4)


def _nested(inner: st.SearchStrategy[AnyValue]) -> st.SearchStrategy[AnyValue]:
    def array(items: list[AnyValue]) -> AnyValue:
        value = AnyValue()
        value.array_value.SetInParent()
        value.array_value.values.extend(items)
        return value

    def pairs(items: dict[str, AnyValue]) -> AnyValue:
        value = AnyValue()
        value.kvlist_value.SetInParent()
        for k, v in items.items():
            value.kvlist_value.values.add(key=k, value=v)
        return value

    return st.one_of(
        st.lists(inner, max_size=3).map(array), st.dictionaries(_TEXT, inner, max_size=3).map(pairs)
    )


_KEYS = st.one_of(
    _TEXT,
    st.sampled_from(
        ("gen_ai.usage.input_tokens", "http.route", "gen_ai.latency.e2e", "service.name")
    ),
)
_BAGS = st.dictionaries(_KEYS, values(), max_size=5)
_U32 = st.integers(0, 2**32 - 1)
_NS = st.integers(0, 2**63 - 1)


@st.composite
def requests(draw: st.DrawFn) -> ExportTraceServiceRequest:
    """Return a request with up to three spans that use every field."""
    request = ExportTraceServiceRequest()
    for i in range(draw(st.integers(1, 3))):
        rs = request.resource_spans.add(schema_url=draw(_TEXT))
        _put(rs.resource.attributes, draw(_BAGS))
        rs.resource.dropped_attributes_count = draw(_U32)
        ss = rs.scope_spans.add(schema_url=draw(_TEXT))
        ss.scope.name, ss.scope.version = draw(_TEXT), draw(_TEXT)
        _put(ss.scope.attributes, draw(_BAGS))
        span = ss.spans.add(
            trace_id=bytes([7] * 16),
            span_id=bytes([i + 1] * 8),
            name=draw(_TEXT),
            kind=draw(st.integers(0, 5)),
        )
        span.parent_span_id = draw(st.sampled_from((b"", b"12345678")))
        span.start_time_unix_nano, span.end_time_unix_nano = draw(_NS), draw(_NS)
        span.status.code, span.status.message = draw(st.integers(0, 2)), draw(_TEXT)
        span.trace_state, span.flags = draw(_TEXT), draw(_U32)
        span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count = (
            draw(_U32),
            draw(_U32),
            draw(_U32),
        )
        _put(span.attributes, draw(_BAGS))
        for _ in range(draw(st.integers(0, 2))):
            event = span.events.add(
                time_unix_nano=draw(_NS), name=draw(_TEXT), dropped_attributes_count=draw(_U32)
            )
            _put(event.attributes, draw(_BAGS))
        for _ in range(draw(st.integers(0, 2))):
            link = span.links.add(
                trace_id=draw(st.binary(max_size=16)),
                span_id=b"87654321",
                trace_state=draw(_TEXT),
                flags=draw(_U32),
            )
            _put(link.attributes, draw(_BAGS))
    return request


def _put(attributes: object, bag: dict[str, AnyValue]) -> None:
    for key, value in bag.items():
        attributes.add(key=key, value=value)


def spans_as_text(data: ExportTraceServiceRequest | TracesData) -> list[str]:
    """Return every span with resource and scope, attributes sorted by key, for comparison."""
    lines = []
    for rs in data.resource_spans:
        for ss in rs.scope_spans:
            for span in ss.spans:
                span.attributes.sort(key=lambda kv: kv.key)
                if not span.status.code and not span.status.message:
                    span.ClearField("status")
                for part in (*span.events, *span.links):
                    part.attributes.sort(key=lambda kv: kv.key)
                lines.append(
                    "\n".join(map(str, (rs.resource, rs.schema_url, ss.scope, ss.schema_url, span)))
                )
    return sorted(lines)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SpanStore:
    store = SpanStore(tmp_path_factory.mktemp("otlp"), threads=1)
    yield store
    store.close()


@QUICK
@given(request=requests())
def test_all_fields_of_a_span_survive(store: SpanStore, request: ExportTraceServiceRequest) -> None:
    """Attributes, events, links, scope, resource, counts, state and flags come back as sent."""
    store.delete_before(2**63 - 1)
    with store._transaction() as con:
        con.execute("DELETE FROM spans")
    load(store, request)
    with store.reader() as con:
        back = traces(con, [UUID(bytes=bytes([7] * 16))])
    assert spans_as_text(back) == spans_as_text(request)


@QUICK
@given(request=requests())
def test_json_out_is_protobufs_json(request: ExportTraceServiceRequest) -> None:
    """A trace in JSON equals the JSON of protobuf's library, also for unknown enums and NaN."""
    for rs in request.resource_spans:
        for span in (span for ss in rs.scope_spans for span in ss.spans):
            span.status.code = 9
            span.attributes.add(key="odd").value.double_value = float("nan")
    assert repr(as_protobuf_json(request)) == repr(json_format.MessageToDict(request))


def test_accepted_spans_are_visible_at_once(running: Running) -> None:
    """A query after the 200 returns the spans, and sending them again adds nothing."""
    spans = random_spans(1)
    body = request_of(spans).SerializeToString()
    for _ in range(2):
        answer = running.export(body)
        assert (answer.status_code, answer.headers["content-type"]) == (
            200,
            "application/x-protobuf",
        )
        assert not ExportTraceServiceResponse.FromString(answer.content).HasField("partial_success")
        traces = running.tempo.get("/api/search", params={"limit": 100}).json()["traces"]
        assert sum(s["spanCount"] for t in traces for s in t["serviceStats"].values()) == len(spans)


def test_json_and_gzip_give_the_same_spans(running: Running) -> None:
    """OTLP JSON (with hexadecimal ids) and gzip equal plain protobuf."""
    request = request_of(random_spans(2))
    as_json = json_format.MessageToDict(request)
    for rs in as_json["resourceSpans"]:
        for ss in rs["scopeSpans"]:
            for span in ss["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in span:
                        span[key] = _hex(span[key])
    answer = running.export(json.dumps(as_json).encode(), Content_Type="application/json")
    assert (answer.status_code, answer.json()) == (200, {})
    assert (
        running.export(
            gzip.compress(request.SerializeToString()), Content_Encoding="gzip"
        ).status_code
        == 200
    )
    ids = {s.trace_id for rs in request.resource_spans for ss in rs.scope_spans for s in ss.spans}
    back = running.engine.query(lambda con: traces(con, [UUID(bytes=i) for i in ids]))
    assert spans_as_text(back) == spans_as_text(request)


def test_every_member_of_a_gzip_body_counts(running: Running) -> None:
    """Two members, as pigz writes them, are one body, and garbage after them is refused."""
    first, second = request_of(random_spans(5)), request_of(random_spans(6))
    members = [gzip.compress(r.SerializeToString()) for r in (first, second)]
    answer = running.export(b"".join(members), Content_Encoding="gzip")
    assert answer.status_code == 200
    sent = sum(
        len(ss.spans) for r in (first, second) for rs in r.resource_spans for ss in rs.scope_spans
    )
    assert running.engine.query(
        lambda con: con.execute("SELECT count(*) FROM spans").fetchone()
    ) == (sent,)
    for garbage in (b"garbage", bytes(3), members[0][:-4]):
        assert running.export(members[0] + garbage, Content_Encoding="gzip").status_code == 400


def test_the_limit_applies_to_all_members_together(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members below the limit are refused if their sum is above it."""
    monkeypatch.setattr(otlp_http, "MAX_BODY_BYTES", 10_000)
    member = gzip.compress(bytes(4_000))
    assert running.export(member * 3, Content_Encoding="gzip").status_code == 413
    assert running.export(gzip.compress(b"") * 10_001, Content_Encoding="gzip").status_code == 413


def _hex(base64_text: str) -> str:
    import base64

    return base64.b64decode(base64_text).hex()


def test_partial_success_counts_the_refused_spans(running: Running) -> None:
    """A span with a wrong id is refused with number and reason, and the others are kept."""
    request = request_of(random_spans(3, traces=1))
    bad = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(trace_id=b"short", span_id=b"12345678", name="bad")
    )
    answer = ExportTraceServiceResponse.FromString(
        running.export(request.SerializeToString()).content
    )
    assert answer.partial_success.rejected_spans == 1
    assert "trace id must be 16 bytes" in answer.partial_success.error_message
    assert running.engine.query(
        lambda con: con.execute("SELECT count(*) FROM spans WHERE name = 'bad'").fetchone()
    ) == (0,)
    assert bad.name == "bad"


BOUNDS_32 = (-(2**31), -257, -1, 0, 1, 254, 255, 256, 2**31 - 1)


def test_values_at_every_bound_are_answered(running: Running) -> None:
    """Undefined enums and times and integers at their bounds are answered by every endpoint."""
    span_id = 0
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for kind in BOUNDS_32:
        for code in BOUNDS_32:
            span_id += 1
            span = spans.add(trace_id=bytes([7] * 16), span_id=span_id.to_bytes(8, "big"), name="n")
            span.start_time_unix_nano = 2**63 - 1
            span.end_time_unix_nano = 0
            status = bytes([3 << 3]) + encoded(code)
            wire = bytes([6 << 3]) + encoded(kind) + bytes([15 << 3 | 2, len(status)]) + status
            span.MergeFromString(wire)
            span.events.add(time_unix_nano=2**64 - 1, name="late")
            span.attributes.add(key="x").value.int_value = -(2**63)
            values = span.attributes.add(key="doubles").value.array_value.values
            for number in (1.5, math.inf, -math.inf, math.nan):
                values.add(double_value=number)
    assert running.export(request.SerializeToString()).status_code == 200

    frame = running.tempo.get("/api/lab/spans", params={"columns": "kind,status,span_id"})
    assert frame.status_code == 200, frame.text
    queries = ("{ event:timeSinceStart > 1s }", "{ -span.x != 1 }", "{ kind = client }", "{}")
    by_array = running.tempo.get("/api/search", params={"q": "{} | by(span.doubles)"})
    assert by_array.status_code == 200, by_array.text
    assert '"-Infinity"' in by_array.text
    for query in queries:
        for path in ("/api/search", "/api/metrics/query_range"):
            q = query if path == "/api/search" else f"{query} | rate()"
            answer = running.tempo.get(path, params={"q": q})
            assert answer.status_code == 200, (path, query, answer.text)
    for step in ("7s", "60s", "23h"):  # their grids reach beyond the end
        for q in ("{} | count_over_time()", "{} | quantile_over_time(duration, .5)", "{} | rate()"):
            params = {"q": q, "end": 2**63 - 1, "step": step, "exact": "true"}
            answer = running.tempo.get("/api/metrics/query_range", params=params)
            assert answer.status_code == 200, (params, answer.text)
            assert answer.json()["series"], params
    assert running.tempo.get(f"/api/v2/traces/{'07' * 16}").status_code == 200


def encoded(number: int) -> bytes:
    """Encode a varint as protobuf does an int32."""
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"\xff\xff\xff", {}, 400),
        (b"{", {"Content_Type": "application/json"}, 400),
        (b"[]", {"Content_Type": "application/json"}, 400),
        (
            b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"zz"}]}]}]}',
            {"Content_Type": "application/json"},
            400,
        ),
        (b"x", {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], {"Content_Encoding": "gzip"}, 400),
        (b"x", {"Content_Encoding": "br"}, 400),
        (b"x", {"Content_Type": "text/plain"}, 415),
    ],
)
def test_unreadable_bodies_are_refused(
    running: Running, body: bytes, headers: dict[str, str], code: int
) -> None:
    """The answer is a client error with a Status that has the reason, never a 500."""
    answer = running.export(body, **headers)
    assert answer.status_code == code
    is_json = headers.get("Content_Type") == "application/json"
    message = answer.json()["message"] if is_json else Status.FromString(answer.content).message
    assert len(message) > 10


_KEYS = (
    "resourceSpans",
    "resource_spans",
    "scopeSpans",
    "spans",
    "resource",
    "scope",
    "attributes",
    "traceId",
    "spanId",
    "parentSpanId",
    "name",
    "kind",
    "startTimeUnixNano",
    "endTimeUnixNano",
    "events",
    "links",
    "status",
    "code",
    "key",
    "value",
    "stringValue",
    "intValue",
    "doubleValue",
    "boolValue",
    "bytesValue",
    "arrayValue",
    "kvlistValue",
    "values",
    "timeUnixNano",
    "flags",
    "droppedAttributesCount",
    "x",
)
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    _TEXT,
    st.sampled_from(
        ("0" * 32, "ab" * 16, "cd" * 8, "NaN", "1700000000000000000", "SPAN_KIND_SERVER", "AQ==")
    ),
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


def _as_request(span: object) -> object:
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


@QUICK
@given(document=st.one_of(_JSON, _JSON.map(_as_request)))
def test_any_json_is_accepted_or_refused(fuzzed: Running, document: object) -> None:
    """Any JSON is answered with 200, or with 400 and a sentence."""
    answer = fuzzed.export(json.dumps(document).encode(), Content_Type="application/json")
    assert answer.status_code in (200, 400), (document, answer.text)


@QUICK
@given(body=st.binary(max_size=200), packed=st.booleans(), json_like=st.booleans())
def test_any_bytes_are_accepted_or_refused(
    fuzzed: Running, body: bytes, packed: bool, json_like: bool
) -> None:
    """Any bytes, packed or not, labelled as protobuf or JSON, are answered with 200 or 400."""
    headers = {"Content_Encoding": "gzip"} if packed else {}
    headers |= {"Content_Type": "application/json"} if json_like else {}
    assert fuzzed.export(gzip.compress(body) if packed else body, **headers).status_code in (
        200,
        400,
    )


def test_large_bodies_are_refused_before_they_grow(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body above the limit, or a gzip body that would expand above it, is answered with 413."""
    monkeypatch.setattr(otlp_http, "MAX_BODY_BYTES", 10_000)
    assert running.export(b"x" * 20_000).status_code == 413
    assert (
        running.export(gzip.compress(bytes(1_000_000)), Content_Encoding="gzip").status_code == 413
    )


def test_a_full_queue_is_answered_with_429(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has Retry-After, and nothing of the request is kept."""

    def full(payload: bytes) -> None:
        raise Overloaded("the ingest queue is full", retry_after_s=2)

    monkeypatch.setattr(running.engine.ingest, "submit", full)
    answer = running.export(request_of(random_spans(4)).SerializeToString())
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    """The queue refuses payloads above its bytes, but accepts a single large one."""
    store = SpanStore(tmp_path, threads=1)
    ingest = Ingest(
        store, tmp_path / "wal", Telemetry(), Limits(queue_bytes=100)
    )  # not started, so nothing empties it
    ingest.submit(bytes(200))
    with pytest.raises(Overloaded):
        ingest.submit(bytes(200))
    store.close()


def test_a_small_payload_does_not_wait_for_a_large_one(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is acknowledged while a large payload is being decoded; then both can be queried."""
    ingest = running.engine.ingest
    small = request_of(random_spans(1)).SerializeToString()
    spans = random_spans(2, traces=600)
    large = request_of(spans).SerializeToString()
    assert len(small) < _LARGE_BYTES < len(large)
    may_decode = threading.Event()
    add = SpanBatch.add

    def add_later(batch: SpanBatch, payload: bytes) -> tuple[int, int, str]:
        assert len(payload) < _LARGE_BYTES or may_decode.wait(60)
        return add(batch, payload)

    monkeypatch.setattr(SpanBatch, "add", add_later)
    of_large = ingest.submit(large)
    try:
        assert ingest.submit(small).result(timeout=120).spans
        assert not of_large.done()
    finally:
        may_decode.set()
    assert of_large.result(timeout=120).spans == len(spans)
    assert ingest.wait_visible(ingest.acked_seq, timeout_s=120)


def test_opentelemetry_sdk_exports_to_it(running: Running) -> None:
    """The SDK's OTLP/HTTP exporter works, and its span is found by TraceQL."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    exporter = OTLPSpanExporter(endpoint=f"{running.otlp.base_url}/v1/traces")
    provider = TracerProvider(resource=Resource.create({"service.name": "sdk"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("t").start_as_current_span("work", attributes={"k": 3}) as span:
        trace_id = f"{span.get_span_context().trace_id:032x}"
    provider.shutdown()
    answer: httpx.Response = running.tempo.get(
        "/api/search", params={"q": '{ resource.service.name = "sdk" && span.k = 3 }'}
    )
    assert [t["traceID"].rjust(32, "0") for t in answer.json()["traces"]] == [trace_id]
