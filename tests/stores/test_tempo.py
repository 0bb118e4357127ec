"""Tempo, the lab's own store beside it, and waiting for what has not arrived."""

from __future__ import annotations

import base64
import json

import pyarrow as pa
import pytest
from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab.errors import IncompleteTraces, NoData, QueryRejected, StoreError, StoreUnreachable
from lab.stores import Tempo
from lab.stores.otlp import span_ids
from lab.stores.tempo import BULK_COLUMNS
from lab.tracestore.rebuild import trace_by_id_response
from tests.stores.servers import Reply, telling


def spans_of(trace: int, *ids_and_parents: tuple[int, int]) -> dict:
    """A trace as Tempo's v2 API answers."""

    def one(span: int, parent: int) -> dict:
        made = {"traceId": _b64(trace, 16), "spanId": _b64(span, 8), "name": "s"}
        return {**made, "parentSpanId": _b64(parent, 8)} if parent else made

    spans = [one(span, parent) for span, parent in ids_and_parents]
    return {"trace": {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]} if spans else {}}


def _b64(number: int, size: int) -> str:
    return base64.b64encode(number.to_bytes(size, "big")).decode()


def a_tempo(traces: dict[int, dict], *, found: list[int] = ()):  # type: ignore[assignment]
    """A Tempo that knows these traces."""

    def answer(path: str, params: dict[str, str]) -> Reply:
        if path == "/api/search":
            hits = [
                {
                    "traceID": f"{i:x}",
                    "rootServiceName": "svc",
                    "startTimeUnixNano": "1500000000",
                    "durationMs": 7,
                    "spanSets": [{"matched": 2}],
                }
                for i in found
            ]
            return Reply(
                json.dumps({"traces": hits[: int(params["limit"])], "metrics": {}}).encode()
            )
        if path.startswith("/api/v2/traces/"):
            return Reply(
                json.dumps(traces.get(int(path.rsplit("/", 1)[1], 16), spans_of(0))).encode()
            )
        return Reply(b"404 page not found", 404)

    return answer


def test_a_search_gives_summaries() -> None:
    """Ids whole (Tempo drops leading zeros), times in seconds, and whether there may be more."""
    with telling(a_tempo({}, found=[0xAB, 2])) as server:
        found = Tempo(server.url).search("{ status = error }", 10.5, 20.5, limit=2)
    assert found.trace_ids == (f"{0xAB:032x}", f"{2:032x}") and found.limited
    assert (found.traces[0].start, found.traces[0].duration_s, found.traces[0].matched) == (
        1.5,
        0.007,
        2,
    )
    assert server.asked[0][1] == {
        "q": "{ status = error }",
        "start": "10",
        "end": "21",
        "limit": "2",
    }


def test_a_search_that_finds_nothing() -> None:
    """Empty is an answer; where something was needed, the error says what was asked."""
    with telling(a_tempo({})) as server:
        found = Tempo(server.url).search("{ name = `x` }", 0, 1)
    assert len(found) == 0 and not found.limited
    with pytest.raises(NoData, match="name = `x`"):
        found.require()


def test_a_trace_by_id() -> None:
    """The whole document; an unknown id is NoData, also where Tempo answers with an empty trace."""
    with telling(a_tempo({7: spans_of(7, (1, 0), (2, 1))})) as server:
        tempo = Tempo(server.url)
        assert [s for _, s, _ in span_ids(tempo.trace(f"{7:032x}"))] == [f"{1:016x}", f"{2:016x}"]
        with pytest.raises(NoData, match="does not know"):
            tempo.trace(f"{8:032x}")


def test_a_cut_trace_is_marked() -> None:
    """Tempo says PARTIAL when a trace was too large: the answer keeps that."""
    with telling(
        a_tempo({7: {**spans_of(7, (1, 0)), "status": "PARTIAL"}, 8: spans_of(8, (1, 0))})
    ) as server:
        answer = Tempo(server.url).traces([f"{7:032x}", f"{8:032x}", f"{9:032x}"])
    assert answer.partial == (f"{7:032x}",) and len(answer.documents) == 2


def test_a_real_tempo_is_searched_and_asked_for_each_trace() -> None:
    """Where there is no bulk endpoint: the same spans, only slower, and the limit is visible."""
    traces = {i: spans_of(i, (i, 0)) for i in range(1, 6)}
    with telling(a_tempo(traces, found=list(traces))) as server:
        tempo = Tempo(server.url)
        answer = tempo.spans("{}", 0, 10, max_traces=5)
    assert not tempo.streams and answer.limited and answer.provenance.requests == 6
    assert sorted(t for t, _, _ in span_ids(answer)) == [f"{i:032x}" for i in range(1, 6)]


def as_protobuf(answer: dict) -> Reply:
    """The same answer by id in Tempo's protobuf."""
    trace = json_format.ParseDict(answer["trace"], TracesData())
    partial = answer.get("status") == "PARTIAL"
    return Reply(trace_by_id_response(trace, partial=partial), content_type="application/protobuf")


def test_many_spans_of_a_real_tempo_come_as_protobuf() -> None:
    """Asked for with exactly the Accept that Tempo compares with; cut and unknown traces are as
    visible as in JSON."""
    traces = {i: spans_of(i, (i, 0), (9, i)) for i in range(1, 4)} | {4: spans_of(4)}
    traces[2]["status"] = "PARTIAL"
    by_json = a_tempo(traces, found=list(traces))

    def answer(path: str, params: dict[str, str]) -> Reply:
        return (
            as_protobuf(traces[int(path[-32:], 16)]) if "traces" in path else by_json(path, params)
        )

    with telling(answer) as server:
        found = Tempo(server.url).spans("{}", 0, 10, max_traces=5)
        accepted = [
            h["Accept"]
            for (path, _), h in zip(server.asked, server.headers, strict=True)
            if "traces/" in path
        ]
    assert (
        accepted == ["application/protobuf"] * 4
        and len(found.protobufs) == len(found.documents) == 3
    )
    assert sorted(span_ids(found)) == sorted(
        (f"{t:032x}", f"{s:016x}", f"{p:016x}" if p else "")
        for t in (1, 2, 3)
        for s, p in ((t, 0), (9, t))
    )
    assert found.partial == (f"{2:032x}",) and found.provenance.received_bytes > sum(
        map(len, found.protobufs)
    )


def test_a_store_that_knows_no_protobuf_is_read_as_json() -> None:
    """Whether it never does, or for some traces only: each trace is read in the form in which it
    came."""
    traces = {i: spans_of(i, (i, 0)) for i in range(1, 4)}
    by_json = a_tempo(traces, found=list(traces))
    with telling(by_json) as server:
        assert len(Tempo(server.url).spans("{}", 0, 10, max_traces=5).documents) == 3
        assert sum("traces/" in path for path, _ in server.asked) == 3

    def mixed(path: str, params: dict[str, str]) -> Reply:
        is_first = path.endswith(f"{1:032x}")
        return as_protobuf(traces[1]) if is_first else by_json(path, params)

    with telling(mixed) as server:
        found = Tempo(server.url).spans("{}", 0, 10, max_traces=5)
    assert len(found.documents) == 3
    assert sorted(t for t, _, _ in span_ids(found)) == [f"{i:032x}" for i in traces]


def test_protobuf_that_is_none_is_an_error() -> None:
    """The address is not a Tempo's, or the answer was cut."""
    by_json = a_tempo({}, found=[1])

    def answer(path: str, params: dict[str, str]) -> Reply:
        return (
            Reply(b"\x0a\xff", content_type="application/protobuf")
            if "traces/" in path
            else by_json(path, params)
        )

    with telling(answer) as server, pytest.raises(StoreUnreachable, match="not Tempo"):
        Tempo(server.url).spans("{}", 0, 10, max_traces=5)


def stream(*rows: tuple[str, str, str], **more: list) -> bytes:
    """An Arrow stream with these (trace, span, parent) ids."""
    ids = dict(
        zip(
            ("trace_id", "span_id", "parent_span_id"),
            zip(*rows, strict=True) if rows else ([], [], []),
            strict=True,
        )
    )
    columns = {
        name: pa.array(list(ids.get(name, [""] * len(rows))), pa.string()) for name in BULK_COLUMNS
    }
    table = pa.table({**columns, **more})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_the_labs_own_store_streams() -> None:
    """One question for all, whole traces, and only the columns that were wanted."""
    body = stream(
        ("t", "s", ""),
        attributes=["{}"],
        events=[""],
        resource=["{}"],
        **{"tool_name": [""], "user.id": [""]},
    )
    with telling(lambda *_: Reply(body)) as server:
        tempo = Tempo(server.url)
        answer = tempo.spans("{}", 0, 10, attributes=["tool_name"])
        tempo.spans("{}", 0, 10, attributes=["tool_name", "other"])
        tempo.spans("{}", 0, 10, attributes=None)
    assert span_ids(answer) == [("t", "s", "")]
    asked = [params for path, params in server.asked if path == "/api/lab/spans"][1:]
    assert asked[0]["whole_traces"] == "true"
    extra = [set(p["columns"].split(",")) - set(BULK_COLUMNS) for p in asked]
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
def test_what_is_no_answer_is_an_error_with_the_servers_words(
    reply: Reply, error: type, words: str
) -> None:
    """As with Prometheus; a server that answers 200 to everything is not taken for the lab's own
    store."""
    with telling(lambda *_: reply) as server:
        tempo = Tempo(server.url)
        with pytest.raises(error, match=words):
            tempo.search("{", 0, 1)
        with pytest.raises(error):
            tempo.spans("{", 0, 1)


def test_waiting_ends_when_traces_are_whole_and_have_stopped_growing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trace that gains a span between two questions is still arriving; one whose parent lacks
    is not whole."""
    monkeypatch.setattr("lab.stores.tempo.POLL_S", 0.01)
    steps = iter(
        [spans_of(1, (2, 1)), spans_of(1, (2, 1), (1, 0)), spans_of(1, (2, 1), (1, 0), (3, 1))]
    )
    now = {"trace": next(steps)}

    def answer(path: str, params: dict[str, str]) -> Reply:
        body = json.dumps(now["trace"]).encode()
        now["trace"] = next(steps, now["trace"])
        return Reply(body)

    with telling(answer) as server:
        arrival = Tempo(server.url).wait_for_traces([f"{1:032x}"], timeout_s=5)
    assert (
        arrival.complete == (f"{1:032x}",)
        and arrival.complete_ratio == 1
        and len(server.asked) == 4
    )
    assert arrival.require() is arrival


def test_waiting_is_bounded_and_names_what_lacks() -> None:
    """After the time is up, each incomplete trace has its reason; what the caller's rule says
    counts too."""
    traces = {1: spans_of(1, (2, 1)), 2: spans_of(2, (1, 0)), 4: spans_of(4, (2, 3), (1, 0))}
    ids = [f"{i:032x}" for i in (1, 2, 3, 4)]
    with telling(a_tempo(traces)) as server:
        arrival = Tempo(server.url).wait_for_traces(ids, timeout_s=0.05)
        assert arrival.waited_s < 5
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
    """No trace, no question."""
    arrival = Tempo("http://127.0.0.1:9").wait_for_traces([], timeout_s=5)
    assert not arrival.complete and not arrival.incomplete


def test_an_unfinished_search_says_so() -> None:
    """Tempo answers with what it has when its time is over; as many as the limit allows are
    enough."""
    body = {
        "traces": [{"traceID": "ab", "rootServiceName": "<root span not yet received>"}],
        "metrics": {"completedJobs": 1, "totalJobs": 4, "inspectedBytes": "123"},
    }
    with telling(lambda *_: Reply(json.dumps(body).encode())) as server:
        answer = Tempo(server.url).search("{}", 0, 1, limit=20)
        assert len(answer) == 1 and "1 of 4 of its jobs" in answer.provenance.warnings[0]
        assert Tempo(server.url).search("{}", 0, 1, limit=1).provenance.warnings == ()


def test_a_wrong_address_is_not_a_tempo_without_traces() -> None:
    """A server that answers 404 to everything would know no trace, and be waited for in vain."""
    with telling(lambda *_: Reply(b"404 page not found\n", 404)) as server:
        tempo = Tempo(server.url)
        for call in (
            lambda: tempo.traces(["1", "2"]),
            lambda: tempo.wait_for_traces(["1"], timeout_s=5),
            lambda: tempo.spans("{}", 0, 1),
        ):
            with pytest.raises(StoreUnreachable, match="not Tempo"):
                call()


def test_ids_are_padded_and_checked() -> None:
    """Some tools drop leading zeros; what is no id is refused before anything is asked."""
    with telling(a_tempo({7: spans_of(7, (1, 0))})) as server:
        tempo = Tempo(server.url)
        assert tempo.traces(["7", f"{7:032x}"]).provenance.requests == 1
        assert tempo.wait_for_traces([" 07"], timeout_s=5).complete == (f"{7:032x}",)
        for bad in ("", "xyz", "../search", "1" * 33, "1 2"):
            with pytest.raises(StoreError, match="not a trace id"):
                tempo.trace(bad)
