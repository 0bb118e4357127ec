"""Tempo and the lab's trace store are read correctly, also while traces are arriving."""

from __future__ import annotations

import base64
import json

import pyarrow as pa
import pytest
from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab.errors import (
    FrameError,
    IncompleteTraces,
    NoData,
    QueryRejected,
    StoreError,
    StoreUnreachable,
)
from lab.schema import SPAN_COLUMNS
from lab.stores import Tempo, read_otlp_json
from lab.stores.otlp import span_ids
from lab.tracestore.rebuild import trace_by_id_response
from tests.stores.servers import Reply, serving


def spans_of(trace: int, *ids_and_parents: tuple[int, int]) -> dict:
    """Return a trace as Tempo's v2 API sends it, from (span, parent) numbers."""

    def span_of(span: int, parent: int) -> dict:
        fields = {"traceId": _b64(trace, 16), "spanId": _b64(span, 8), "name": "s"}
        return {**fields, "parentSpanId": _b64(parent, 8)} if parent else fields

    spans = [span_of(span, parent) for span, parent in ids_and_parents]
    return {"trace": {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]} if spans else {}}


def _b64(number: int, size: int) -> str:
    return base64.b64encode(number.to_bytes(size, "big")).decode()


def tempo_with(traces: dict[int, dict], *, matches: list[int] = ()):  # type: ignore[assignment]
    """Respond like a Tempo with these traces, of which a search finds `matches`."""

    def respond(path: str, params: dict[str, str]) -> Reply:
        if path == "/api/search":
            hits = [
                {
                    "traceID": f"{i:x}",
                    "rootServiceName": "svc",
                    "startTimeUnixNano": "1500000000",
                    "durationMs": 7,
                    "spanSets": [{"matched": 2}],
                }
                for i in matches
            ]
            return Reply(
                json.dumps({"traces": hits[: int(params["limit"])], "metrics": {}}).encode()
            )
        if path.startswith("/api/v2/traces/"):
            return Reply(
                json.dumps(traces.get(int(path.rsplit("/", 1)[1], 16), spans_of(0))).encode()
            )
        return Reply(b"404 page not found", 404)

    return respond


def test_a_search_returns_summaries() -> None:
    """Ids are padded, times are in seconds, and it is known whether there may be more."""
    with serving(tempo_with({}, matches=[0xAB, 2])) as server:
        answer = Tempo(server.url).search("{ status = error }", 10.5, 20.5, limit=2)
    assert answer.trace_ids == (f"{0xAB:032x}", f"{2:032x}") and answer.limited
    assert (answer.traces[0].start, answer.traces[0].duration_s, answer.traces[0].matched) == (
        1.5,
        0.007,
        2,
    )
    assert server.requests[0][1] == {
        "q": "{ status = error }",
        "start": "10",
        "end": "21",
        "limit": "2",
    }


def test_a_search_without_results() -> None:
    """An empty answer is valid; where data is required, the error contains the query."""
    with serving(tempo_with({})) as server:
        answer = Tempo(server.url).search("{ name = `x` }", 0, 1)
    assert len(answer) == 0 and not answer.limited
    with pytest.raises(NoData, match="name = `x`"):
        answer.require()


def test_a_trace_by_id() -> None:
    """The complete trace is returned; an unknown id or an empty trace is NoData."""
    with serving(tempo_with({7: spans_of(7, (1, 0), (2, 1))})) as server:
        tempo = Tempo(server.url)
        assert [s for _, s, _ in span_ids(tempo.trace(f"{7:032x}"))] == [f"{1:016x}", f"{2:016x}"]
        with pytest.raises(NoData, match="does not know"):
            tempo.trace(f"{8:032x}")


def test_a_partial_trace_is_marked() -> None:
    """Traces that Tempo marked as PARTIAL, as too large, are listed in the answer."""
    with serving(
        tempo_with({7: {**spans_of(7, (1, 0)), "status": "PARTIAL"}, 8: spans_of(8, (1, 0))})
    ) as server:
        answer = Tempo(server.url).traces([f"{7:032x}", f"{8:032x}", f"{9:032x}"])
    assert answer.partial == (f"{7:032x}",) and len(answer.documents) == 2


def test_a_real_tempo_is_searched_and_queried_for_each_trace() -> None:
    """Without a bulk endpoint the same spans are returned, and the limit is visible."""
    traces = {i: spans_of(i, (i, 0)) for i in range(1, 6)}
    with serving(tempo_with(traces, matches=list(traces))) as server:
        tempo = Tempo(server.url)
        answer = tempo.spans("{}", 0, 10, max_traces=5)
    assert not tempo.streams and answer.limited and answer.provenance.requests == 6
    assert sorted(t for t, _, _ in span_ids(answer)) == [f"{i:032x}" for i in range(1, 6)]


def as_protobuf(answer: dict) -> Reply:
    """Return the same trace in Tempo's protobuf."""
    trace = json_format.ParseDict(answer["trace"], TracesData())
    partial = answer.get("status") == "PARTIAL"
    return Reply(trace_by_id_response(trace, partial=partial), content_type="application/protobuf")


def test_spans_of_a_real_tempo_are_requested_as_protobuf() -> None:
    """The Accept header is the one that Tempo expects; partial and unknown traces are seen."""
    traces = {i: spans_of(i, (i, 0), (9, i)) for i in range(1, 4)} | {4: spans_of(4)}
    traces[2]["status"] = "PARTIAL"
    by_json = tempo_with(traces, matches=list(traces))

    def respond(path: str, params: dict[str, str]) -> Reply:
        return (
            as_protobuf(traces[int(path[-32:], 16)]) if "traces" in path else by_json(path, params)
        )

    with serving(respond) as server:
        answer = Tempo(server.url).spans("{}", 0, 10, max_traces=5)
        accepted = [
            h["Accept"]
            for (path, _), h in zip(server.requests, server.headers, strict=True)
            if "traces/" in path
        ]
    assert accepted == ["application/protobuf"] * 4
    assert len(answer.protobufs) == len(answer.documents) == 3
    assert sorted(span_ids(answer)) == sorted(
        (f"{t:032x}", f"{s:016x}", f"{p:016x}" if p else "")
        for t in (1, 2, 3)
        for s, p in ((t, 0), (9, t))
    )
    assert answer.partial == (f"{2:032x}",)
    assert answer.provenance.received_bytes > sum(map(len, answer.protobufs))


def test_a_store_without_protobuf_is_read_as_json() -> None:
    """Each trace is read in the format in which it came, also when the formats are mixed."""
    traces = {i: spans_of(i, (i, 0)) for i in range(1, 4)}
    by_json = tempo_with(traces, matches=list(traces))
    with serving(by_json) as server:
        assert len(Tempo(server.url).spans("{}", 0, 10, max_traces=5).documents) == 3
        assert sum("traces/" in path for path, _ in server.requests) == 3

    def mixed(path: str, params: dict[str, str]) -> Reply:
        is_first = path.endswith(f"{1:032x}")
        return as_protobuf(traces[1]) if is_first else by_json(path, params)

    with serving(mixed) as server:
        answer = Tempo(server.url).spans("{}", 0, 10, max_traces=5)
    assert len(answer.documents) == 3
    assert sorted(t for t, _, _ in span_ids(answer)) == [f"{i:032x}" for i in traces]


def test_invalid_protobuf_is_an_error() -> None:
    """The server is not a Tempo, or the answer was truncated."""
    by_json = tempo_with({}, matches=[1])

    def respond(path: str, params: dict[str, str]) -> Reply:
        return (
            Reply(b"\x0a\xff", content_type="application/protobuf")
            if "traces/" in path
            else by_json(path, params)
        )

    with serving(respond) as server, pytest.raises(StoreUnreachable, match="not Tempo"):
        Tempo(server.url).spans("{}", 0, 10, max_traces=5)


def stream(*rows: tuple[str, str, str], **more: list) -> bytes:
    """Return an Arrow stream with these (trace, span, parent) ids."""
    ids = dict(
        zip(
            ("trace_id", "span_id", "parent_span_id"),
            zip(*rows, strict=True) if rows else ([], [], []),
            strict=True,
        )
    )
    columns = {
        name: pa.array(list(ids.get(name, [""] * len(rows))), pa.string()) for name in SPAN_COLUMNS
    }
    table = pa.table({**columns, **more})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_the_labs_trace_store_streams() -> None:
    """One request returns all traces complete, with only the columns that were requested."""
    body = stream(
        ("t", "s", ""),
        attributes=["{}"],
        events=[""],
        resource=["{}"],
        **{"tool_name": [""], "user.id": [""]},
    )
    with serving(lambda *_: Reply(body)) as server:
        tempo = Tempo(server.url)
        answer = tempo.spans("{}", 0, 10, attributes=["tool_name"])
        tempo.spans("{}", 0, 10, attributes=["tool_name", "other"])
        tempo.spans("{}", 0, 10, attributes=None)
    assert span_ids(answer) == [("t", "s", "")]
    queries = [params for path, params in server.requests if path == "/api/lab/spans"][1:]
    assert queries[0]["whole_traces"] == "true"
    extra = [set(p["columns"].split(",")) - set(SPAN_COLUMNS) for p in queries]
    assert extra == [
        {"tool_name"},
        {"tool_name", "attributes"},
        {"tool_name", "attributes", "user.id"},
    ]


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (
            Reply(b"invalid TraceQL query: parse error at line 1", 400),
            QueryRejected,
            "parse error at line 1",
        ),
        (Reply(b"<html>", 200), StoreUnreachable, "not Tempo"),
        (Reply(b'{"traces":[', cut=True), StoreUnreachable, "cannot be reached"),
    ],
)
def test_an_error_contains_the_servers_message(reply: Reply, error: type, words: str) -> None:
    """As with Prometheus; a server that answers 200 to everything is not the lab's store."""
    with serving(lambda *_: reply) as server:
        tempo = Tempo(server.url)
        with pytest.raises(error, match=words):
            tempo.search("{", 0, 1)
        with pytest.raises(error):
            tempo.spans("{", 0, 1)


def test_waiting_ends_when_traces_are_complete_and_have_stopped_growing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trace that still gains spans, or lacks a parent, is not complete."""
    monkeypatch.setattr("lab.stores.tempo.POLL_S", 0.01)
    steps = iter(
        [spans_of(1, (2, 1)), spans_of(1, (2, 1), (1, 0)), spans_of(1, (2, 1), (1, 0), (3, 1))]
    )
    current = {"trace": next(steps)}

    def respond(path: str, params: dict[str, str]) -> Reply:
        body = json.dumps(current["trace"]).encode()
        current["trace"] = next(steps, current["trace"])
        return Reply(body)

    with serving(respond) as server:
        arrival = Tempo(server.url).wait_for_traces([f"{1:032x}"], timeout_s=60)
    assert arrival.complete == (f"{1:032x}",)
    assert not arrival.incomplete
    assert len(server.requests) == 4
    assert arrival.require() is arrival


def test_waiting_is_bounded_and_reports_what_is_missing() -> None:
    """At the timeout each incomplete trace has a reason, also from the caller's rule."""
    traces = {1: spans_of(1, (2, 1)), 2: spans_of(2, (1, 0)), 4: spans_of(4, (2, 3), (1, 0))}
    ids = [f"{i:032x}" for i in (1, 2, 3, 4)]
    with serving(tempo_with(traces)) as server:
        arrival = Tempo(server.url).wait_for_traces(ids, timeout_s=0.05)
        assert arrival.waited_s < 60
        assert {i: arrival.incomplete.get(i) for i in ids} == {
            ids[0]: "it has no root span",
            ids[1]: None,
            ids[2]: "no span of it has arrived",
            ids[3]: "1 of its spans name a parent that is not there",
        }
        with pytest.raises(IncompleteTraces, match="3 of 4 traces"):
            arrival.require()
        ruled = Tempo(server.url).wait_for_traces(
            ids[1:2], timeout_s=0.05, problems=lambda a: {ids[1]: "no vLLM"}
        )
    assert ruled.incomplete == {ids[1]: "no vLLM"} and "1 not: no vLLM" in str(ruled)


def test_waiting_for_nothing_ends_at_once() -> None:
    """Without traces no request is sent."""
    arrival = Tempo("http://127.0.0.1:9").wait_for_traces([], timeout_s=60)
    assert not arrival.complete and not arrival.incomplete


def test_an_unfinished_search_is_reported() -> None:
    """An answer that Tempo cut short is marked, unless the limit was reached."""
    body = {
        "traces": [{"traceID": "ab", "rootServiceName": "<root span not yet received>"}],
        "metrics": {"completedJobs": 1, "totalJobs": 4, "inspectedBytes": "123"},
    }
    with serving(lambda *_: Reply(json.dumps(body).encode())) as server:
        answer = Tempo(server.url).search("{}", 0, 1, limit=20)
        assert len(answer) == 1 and "1 of 4 of its jobs" in answer.provenance.warnings[0]
        assert Tempo(server.url).search("{}", 0, 1, limit=1).provenance.warnings == ()


def test_a_wrong_address_is_not_a_tempo_without_traces() -> None:
    """A server that answers 404 to everything is an error, not a store without the traces."""
    with serving(lambda *_: Reply(b"404 page not found\n", 404)) as server:
        tempo = Tempo(server.url)
        for call in (
            lambda: tempo.traces(["1", "2"]),
            lambda: tempo.wait_for_traces(["1"], timeout_s=60),
            lambda: tempo.spans("{}", 0, 1),
        ):
            with pytest.raises(StoreUnreachable, match="not Tempo"):
                call()


def test_ids_are_padded_and_checked() -> None:
    """Ids are padded with zeros, and invalid ids are refused before any request is sent."""
    with serving(tempo_with({7: spans_of(7, (1, 0))})) as server:
        tempo = Tempo(server.url)
        assert tempo.traces(["7", f"{7:032x}"]).provenance.requests == 1
        assert tempo.wait_for_traces([" 07"], timeout_s=60).complete == (f"{7:032x}",)
        for bad in ("", "xyz", "../search", "1" * 33, "1 2"):
            with pytest.raises(StoreError, match="not a trace id"):
                tempo.trace(bad)


NGINX = b"<html><head><title>404 Not Found</title></head><body>nginx</body></html>"


def test_a_gateway_without_the_second_api() -> None:
    """Its own page for an unknown path is not an unknown trace: the first API is tried."""
    by_json = tempo_with({1: spans_of(1, (1, 0))}, matches=[1, 2])

    def respond(path: str, params: dict[str, str]) -> Reply:
        if path.startswith("/api/v2/") or path.startswith("/api/lab/"):
            return Reply(NGINX, 404, content_type="text/html")
        if path.startswith("/api/traces/") and int(path.rsplit("/", 1)[1], 16) != 1:
            return Reply(b"trace not found", 404)
        return by_json(path.replace("/api/traces/", "/api/v2/traces/"), params)

    with serving(respond) as server:
        tempo = Tempo(server.url)
        assert len(tempo.spans("{}", 0, 10).protobufs) == 1
        assert len(tempo.traces(["1"]).protobufs) == 1
    assert server.requests[-1][0].startswith("/api/traces/")


def test_a_lower_limit_of_the_store_holds() -> None:
    """Tempo's max_result_limit (modules/frontend/search_handlers.go) refuses a higher one."""
    by_json = tempo_with({i: spans_of(i, (i, 0)) for i in range(1, 8)}, matches=list(range(1, 8)))

    def respond(path: str, params: dict[str, str]) -> Reply:
        if path == "/api/search" and int(params["limit"]) > 5:
            return Reply(f"limit {params['limit']} exceeds max limit 5".encode(), 400)
        return by_json(path, params)

    with serving(respond) as server:
        answer = Tempo(server.url).spans("{}", 0, 10)
    assert answer.limited and len(answer.protobufs) == 5


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(b"range specified by start and end exceeds 168h0m0s. received start=0", 400),
         "take a shorter window"),
        (Reply(b"Too many requests", 429), "wait a minute"),
        (Reply(b'{"message":"Unauthorized","messageId":"session.token.rotate"}', 401),
         "LAB_STORE_HEADERS"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(reply: Reply, words: str) -> None:
    """Of Tempo's limits, and of a data source behind Grafana's login."""
    with serving(lambda *_: reply) as server:
        tempo = Tempo(f"{server.url}/api/datasources/proxy/uid/tempo")
        with pytest.raises(QueryRejected, match=words):
            tempo.search("{}", 0, 1)


@pytest.mark.parametrize(
    "body", [{"trace": None}, {"status": "COMPLETE"}, {"trace": {}, "metrics": {}}, {}]
)
def test_answers_without_a_trace(body: dict) -> None:
    """Protobuf's JSON leaves out what is empty."""
    by_json = tempo_with({}, matches=[])

    def respond(path: str, params: dict[str, str]) -> Reply:
        if path.startswith("/api/v2/traces/"):
            return Reply(json.dumps(body).encode(), content_type="application/json")
        return by_json(path, params)

    with serving(respond) as server:
        assert Tempo(server.url).traces(["1"]).protobufs == ()


def test_jaegers_own_format_is_named() -> None:
    """Jaeger's /api/traces is not OTLP."""
    jaeger = {"data": [{"traceID": "ab", "spans": [], "processes": {}}], "total": 0}
    with pytest.raises(FrameError, match="Jaeger's own format"):
        read_otlp_json(json.dumps(jaeger))


TOO_LARGE = "trace exceeds max size (max bytes: 5000000)"


def refusing(refused: dict[int, Reply], known: int = 3):
    """Respond like a Tempo that finds traces 1 to `known`, and refuses some of them by id."""
    numbers = range(1, known + 1)
    by_json = tempo_with({i: spans_of(i, (i, 0)) for i in numbers}, matches=list(numbers))

    def respond(path: str, params: dict[str, str]) -> Reply:
        is_trace = path.startswith("/api/v2/traces/")
        number = int(path.rsplit("/", 1)[1], 16) if is_trace else 0
        return refused.get(number) or by_json(path, params)

    return respond


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(TOO_LARGE.encode(), 422), TOO_LARGE),
        (Reply(TOO_LARGE.encode(), 500), TOO_LARGE),
        (Reply(b"", 413), "HTTP 413"),
        (Reply(b"trace not found", 404), "does not know the trace"),
        (Reply(b"\x0a\xff\xff\xff\xff", content_type="application/protobuf"), "not Tempo"),
    ],
)
def test_a_trace_that_is_refused_is_left_out(reply: Reply, words: str) -> None:
    """Tempo 2 refuses a trace that is too large with HTTP 422; a compacted one is unknown."""
    with serving(refusing({2: reply})) as server:
        answer = Tempo(server.url).spans("{}", 0, 10)
    assert len(answer.protobufs) == 2
    assert list(answer.refused) == [f"{2:032x}"] and words in answer.refused[f"{2:032x}"]


def test_traces_that_are_all_refused_are_an_error() -> None:
    """Of many, only the first are requested."""
    too_large = Reply(TOO_LARGE.encode(), 422)
    with serving(refusing(dict.fromkeys(range(1, 1001), too_large), 1000)) as server:
        with pytest.raises(QueryRejected, match="exceeds max size"):
            Tempo(server.url).traces(["1"])
        with pytest.raises(QueryRejected, match="exceeds max size"):
            Tempo(server.url).spans("{}", 0, 10)
    assert len(server.requests) < 500
    with serving(refusing({1: Reply(b"", 404), 2: Reply(b"", 404)}, 2)) as server:
        assert Tempo(server.url).traces(["1", "2"]).refused == {}
        with pytest.raises(NoData, match="does not know the trace"):
            Tempo(server.url).spans("{}", 0, 10)


def test_a_login_that_ends_is_not_a_refused_trace() -> None:
    """The rest would be missing, too."""
    with (
        serving(refusing({2: Reply(b"token expired", 401)})) as server,
        pytest.raises(QueryRejected, match="token expired"),
    ):
        Tempo(server.url).spans("{}", 0, 10)


def test_waiting_reports_a_refused_trace() -> None:
    """The other traces are complete nevertheless."""
    with serving(refusing({2: Reply(TOO_LARGE.encode(), 422)})) as server:
        arrival = Tempo(server.url).wait_for_traces(["1", "2", "3"], timeout_s=0.05)
    assert arrival.complete == (f"{1:032x}", f"{3:032x}")
    assert TOO_LARGE in arrival.incomplete[f"{2:032x}"]
