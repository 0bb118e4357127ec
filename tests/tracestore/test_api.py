"""Tempo's HTTP API and the lab's endpoints: formats, defaults, limits and error codes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from tests.tracestore.conftest import Running, start, stop
from tests.tracestore.corpus import T0, random_spans, request_of
from tests.tracestore.hypotheses import QUICK
from tests.tracestore.queries import pipelines
from tests.tracestore.slow_traceql import Corpus, Span

WINDOW = {"start": str(T0 // 10**9 - 10), "end": str(T0 // 10**9 + 60)}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, list[Span]]]:
    """Yield a running store with some random traces, which tests only read."""
    parts = start(tmp_path_factory.mktemp("api"))
    spans = random_spans(11, traces=12)
    assert parts[0].export(request_of(spans).SerializeToString()).status_code == 200
    yield parts[0], spans
    stop(*parts)


@pytest.fixture
def tempo(loaded: tuple[Running, list[Span]]) -> object:
    return loaded[0].tempo


@pytest.fixture
def spans(loaded: tuple[Running, list[Span]]) -> list[Span]:
    return loaded[1]


def test_small_endpoints(tempo) -> None:
    """The endpoints for Grafana's `Save & test`, a supervisor and a scraper answer."""
    assert (tempo.get("/ready").text, tempo.get("/api/echo").text) == ("ready", "echo")
    assert tempo.get("/api/status/buildinfo").json()["version"]
    assert "tracestore_spans_accepted_total" in tempo.get("/metrics").text
    assert tempo.get("/api/nothing").status_code == 404


def test_trace_by_id_v2(tempo, spans: list[Span]) -> None:
    """The trace is JSON with base64 ids, or protobuf by Accept; an unknown id is an empty trace."""
    first = spans[0]
    url = f"/api/v2/traces/{first.trace:032x}"
    answer = tempo.get(url).json()
    answered = [
        s for rs in answer["trace"]["resourceSpans"] for ss in rs["scopeSpans"] for s in ss["spans"]
    ]
    ids = {int.from_bytes(base64.b64decode(s["spanId"]), "big") for s in answered}
    assert ids == {s.id for s in spans if s.trace == first.trace}
    assert all(isinstance(s["startTimeUnixNano"], str) for s in answered)
    body = tempo.get(url, headers={"Accept": "application/protobuf"})
    assert body.headers["content-type"] == "application/protobuf"
    assert body.content[0] == 0x0A  # field 1: the trace
    assert tempo.get("/api/v2/traces/deadbeef").json()["trace"] == {}


def test_trace_by_id_v1(tempo, spans: list[Span]) -> None:
    """The trace is `batches` or a protobuf Trace, 404 for an unknown id, 400 for an invalid one."""
    url = f"/api/traces/{spans[0].trace:x}"
    assert tempo.get(url).json()["batches"]
    trace = TracesData.FromString(
        tempo.get(url, headers={"Accept": "application/protobuf"}).content
    )
    count = sum(len(ss.spans) for rs in trace.resource_spans for ss in rs.scope_spans)
    assert count == sum(1 for s in spans if s.trace == spans[0].trace)
    assert tempo.get("/api/traces/deadbeef").status_code == 404
    for wrong in ("xyz", "0" * 33):
        assert tempo.get(f"/api/traces/{wrong}").status_code == 400


def test_a_trace_has_every_message_that_tempo_sends(running: Running) -> None:
    """Resource, scope and status are always present, as clients do not check for them."""
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id = bytes(15) + b"\x07", b"\x08" * 8
    span.name, span.start_time_unix_nano, span.end_time_unix_nano = "bare", T0, T0 + 1
    assert running.export(request.SerializeToString()).status_code == 200

    for path, field in (("/api/traces/7", "batches"), ("/api/v2/traces/7", "trace")):
        answer = running.tempo.get(path).json()[field]
        (resource_spans,) = answer["resourceSpans"] if field == "trace" else answer
        assert resource_spans["resource"] == {}
        (scope_spans,) = resource_spans["scopeSpans"]
        assert scope_spans["scope"] == {}
        assert scope_spans["spans"][0]["status"] == {}

    body = running.tempo.get("/api/traces/7", headers={"Accept": "application/protobuf"}).content
    trace = TracesData.FromString(body)
    assert trace.resource_spans[0].HasField("resource")
    assert trace.resource_spans[0].scope_spans[0].HasField("scope")
    assert trace.resource_spans[0].scope_spans[0].spans[0].HasField("status")


def test_search_has_tempos_fields(tempo, spans: list[Span]) -> None:
    """Every field has Tempo's type: 64-bit numbers are strings, durationMs is a number."""
    answer = tempo.get(
        "/api/search",
        params={"q": "{ .foo != nil } | select(.foo)", "limit": "3", "spss": "1"} | WINDOW,
    ).json()
    assert 0 < len(answer["traces"]) <= 3
    for trace in answer["traces"]:
        assert {
            "traceID",
            "rootServiceName",
            "rootTraceName",
            "startTimeUnixNano",
            "durationMs",
        } <= set(trace)
        assert not trace["traceID"].startswith("0")
        assert (type(trace["startTimeUnixNano"]), type(trace["durationMs"])) == (str, int)
        assert trace["spanSet"] == trace["spanSets"][0]
        (shown,) = trace["spanSet"]["spans"]
        assert {"spanID", "name", "startTimeUnixNano", "durationNanos", "attributes"} <= set(shown)
        assert (len(shown["spanID"]), type(shown["durationNanos"])) == (16, str)
        assert "foo" in {a["key"] for a in shown["attributes"]}
        members = [s for s in spans if f"{s.trace:x}" == trace["traceID"]]
        assert sum(s["spanCount"] for s in trace["serviceStats"].values()) == len(members)
        assert trace["startTimeUnixNano"] == str(min(s.start for s in members))
    assert "inspectedTraces" in answer["metrics"]


def test_search_is_newest_first_and_limited(tempo, spans: list[Span]) -> None:
    """The default limit is 20 traces, and the newest come first."""
    traces = tempo.get("/api/search").json()["traces"]
    newest = {f"{s.trace:x}": 0 for s in spans}
    for s in spans:
        newest[f"{s.trace:x}"] = max(newest[f"{s.trace:x}"], s.start)
    assert [t["traceID"] for t in traces] == sorted(newest, key=lambda t: -newest[t])[:20]


def test_matched_counts_all_spans_not_only_the_returned(tempo, spans: list[Span]) -> None:
    """`matched` is the number of matching spans, whatever spss is."""
    for trace in tempo.get("/api/search", params={"q": "{}", "spss": "1"}).json()["traces"]:
        assert trace["spanSet"]["matched"] == sum(
            1 for s in spans if f"{s.trace:x}" == trace["traceID"]
        )


def test_grouped_search(tempo, spans: list[Span]) -> None:
    """by() returns one named spanset per group, and count() its number of spans."""
    traces = tempo.get(
        "/api/search", params={"q": "{} | by(name) | count() > 1", "limit": "50"}
    ).json()["traces"]
    corpus = Corpus(spans)
    for trace in traces:
        members = corpus.traces[int(trace["traceID"], 16)]
        names = {
            n: c for n in {s.name for s in members} if (c := sum(s.name == n for s in members)) > 1
        }
        counts = {}
        for spanset in trace["spanSets"]:
            values = {a["key"]: next(iter(a["value"].values())) for a in spanset["attributes"]}
            counts[values["by(name)"]] = int(values["count()"])
        assert counts == names


def test_a_window_limits_the_search(tempo, spans: list[Span]) -> None:
    """Traces outside [start, end] are excluded, and the others are evaluated completely."""
    start, end = T0 // 10**9 + 5, T0 // 10**9 + 10
    answered = tempo.get(
        "/api/search", params={"q": "{}", "start": start, "end": end, "limit": 100}
    ).json()["traces"]
    traces = Corpus(spans).traces
    overlapping = {
        f"{trace:x}": len(members)
        for trace, members in traces.items()
        if min(s.start for s in members) <= end * 10**9
        and max(s.end for s in members) >= start * 10**9
    }
    assert 0 < len(overlapping) < len(traces)
    assert {t["traceID"]: t["spanSet"]["matched"] for t in answered} == overlapping


def test_legacy_search(tempo, spans: list[Span]) -> None:
    """The parameters from before TraceQL work: tags in logfmt, minDuration, maxDuration."""
    traces = tempo.get(
        "/api/search", params={"tags": 'service.name=vllm name="chat"', "limit": 100}
    ).json()["traces"]
    expected = {f"{s.trace:x}" for s in spans if s.service == "vllm" and s.name == "chat"}
    assert {t["traceID"] for t in traces} == expected
    assert tempo.get("/api/search", params={"tags": "a=b c"}).status_code == 400
    longest = tempo.get("/api/search", params={"minDuration": "1000h"}).json()["traces"]
    assert longest == []


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "262145"},
        {"limit": "x"},
        {"spss": "101"},
        {"start": "10", "end": "5"},
        {"start": "0", "end": "700000"},
        {"q": "{ .a == 1 }"},
        {"q": "{ name = 1 }"},
        {"q": "{ parent.a = 1 }"},
        {"q": "{} | rate()"},
        {"start": "x", "end": "5"},
        {"minDuration": "soon"},
        {"q": "{ .a > nil }"},
    ],
)
def test_search_refuses_invalid_parameters(tempo, params: dict[str, str]) -> None:
    """Values out of bounds and invalid queries are answered with 400 and a sentence."""
    answer = tempo.get("/api/search", params=params)
    assert (answer.status_code, len(answer.text) > 10) == (400, True)


def test_tags(tempo, spans: list[Span]) -> None:
    """Names are grouped by scope, restricted by scope, and available in the older format."""
    scopes = {s["name"]: s["tags"] for s in tempo.get("/api/v2/search/tags").json()["scopes"]}
    assert set(scopes["span"]) == {k for s in spans for k in s.attributes}
    assert set(scopes["resource"]) == {k for s in spans for k in s.resource}
    assert scopes["event"] == ["e"]
    assert "duration" in scopes["intrinsic"]
    assert [
        s["name"]
        for s in tempo.get("/api/v2/search/tags", params={"scope": "resource"}).json()["scopes"]
    ] == ["resource"]
    assert tempo.get("/api/v2/search/tags", params={"scope": "x"}).status_code == 400
    assert "foo" in tempo.get("/api/search/tags").json()["tagNames"]


def test_tag_values(tempo, spans: list[Span]) -> None:
    """Values have types and are restricted by a query, which may be incomplete or invalid."""

    def values(tag: str, **params: str) -> set[tuple[str, str]]:
        answer = tempo.get(f"/api/v2/search/tag/{tag}/values", params=params)
        assert answer.status_code == 200
        return {(v["type"], v["value"]) for v in answer.json()["tagValues"]}

    services = {("string", s.service) for s in spans if s.service}
    assert values("resource.service.name") == values(".service.name") == services
    assert values("name") == {("string", s.name) for s in spans}
    assert values("status") == {("keyword", v) for v in ("ok", "error", "unset")}
    chats = {("string", s.service) for s in spans if s.name == "chat" and s.service}
    for q in (
        '{ name = "chat" }',
        '{ name = "chat" && ',
        '{ name = "chat" && .x = }',
        '{ name = "chat"',
    ):
        assert values("resource.service.name", q=q) == chats
    assert values("resource.service.name", q="}{ nonsense") == services
    ints = {("int", str(v[1])) for s in spans if (v := s.attributes.get("foo")) and v[0] == "int"}
    assert ints <= values("span.foo")
    assert values("span.never") == set()
    assert set(tempo.get("/api/search/tag/service.name/values").json()["tagValues"]) == {
        v for _, v in services
    }


def metrics(tempo, kind: str, q: str, **params: str) -> dict:
    answer = tempo.get(f"/api/metrics/{kind}", params={"q": q} | WINDOW | params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def labels(series: dict) -> dict[str, object]:
    return {label["key"]: next(iter(label["value"].values())) for label in series["labels"]}


def test_rate_over_a_range(tempo, spans: list[Span]) -> None:
    """Intervals are aligned to the step, right-closed, stamped with their end, and have zeros."""
    (series,) = metrics(tempo, "query_range", "{} | count_over_time()", step="10s")["series"]
    assert labels(series) == {"__name__": "count_over_time"}
    step, first = 10 * 10**9, (T0 // 10**9 - 10) // 10 * 10 * 10**9
    stamps = [int(s["timestampMs"]) * 10**6 for s in series["samples"]]
    assert stamps[0] == first  # start - step + step
    assert all(b - a == step for a, b in zip(stamps, stamps[1:], strict=False))
    for stamp, sample in zip(stamps, series["samples"], strict=True):
        assert sample["value"] == sum(1 for s in spans if stamp - step < s.start <= stamp)
    (rate,) = metrics(tempo, "query_range", "{} | rate()", step="10s")["series"]
    assert [s["value"] * 10 for s in rate["samples"]] == pytest.approx(
        [s["value"] for s in series["samples"]]
    )


def test_values_over_time(tempo, spans: list[Span]) -> None:
    """min, max, avg and sum are grouped, durations are in seconds, empty groups are left out."""
    for op, function in (
        ("min", min),
        ("max", max),
        ("sum", sum),
        ("avg", lambda v: sum(v) / len(v)),
    ):
        result = metrics(tempo, "query", f"{{}} | {op}_over_time(duration) by (name)")["series"]
        values = {labels(s)["name"]: s["value"] for s in result}
        truth = {
            n: function([(s.end - s.start) / 1e9 for s in spans if s.name == n])
            for n in {s.name for s in spans}
        }
        assert values == pytest.approx(truth)
    assert metrics(tempo, "query", "{} | max_over_time(span.never)")["series"] == []


def test_grouping_drops_nil_but_says_so_where_all_are(tempo, spans: list[Span]) -> None:
    """A span without the attribute is in a series of its own, labelled nil."""
    result = metrics(tempo, "query", "{} | count_over_time() by (span.gen_ai.request.model)")[
        "series"
    ]
    values = {labels(s)["span.gen_ai.request.model"]: s["value"] for s in result}
    truth: dict[str, int] = {}
    for s in spans:
        value = s.attributes.get("gen_ai.request.model", ("str", "nil"))[1]
        truth[value] = truth.get(value, 0) + 1
    assert values == truth


def test_quantiles_are_tempos(tempo, spans: list[Span]) -> None:
    """Power-of-two buckets are interpolated exponentially, unless exact quantiles are requested.

    The label is p, and floats have no quantiles.
    """
    from lab.tracestore.series import log2_quantile

    result = metrics(tempo, "query", "{} | quantile_over_time(duration, 0.5, 0.9)")["series"]
    buckets: dict[float, int] = {}
    for s in spans:
        if (d := s.end - s.start) >= 2:
            upper = float(1 << (d - 1).bit_length()) / 1e9
            buckets[upper] = buckets.get(upper, 0) + 1
    assert {labels(s)["p"]: s["value"] for s in result} == pytest.approx(
        {q: log2_quantile(q, sorted(buckets.items())) for q in (0.5, 0.9)}
    )
    histogram = metrics(tempo, "query", "{} | histogram_over_time(duration)")["series"]
    assert {labels(s)["__bucket"]: s["value"] for s in histogram} == pytest.approx(buckets)
    floats = "{ span.bar != nil } | quantile_over_time(span.gen_ai.latency.e2e, 0.5)"
    assert metrics(tempo, "query", floats)["series"] == []
    exact = metrics(tempo, "query", "{} | quantile_over_time(duration, 0.5)", exact="true")
    assert labels(exact["series"][0])["exact"] is True
    assert "exact" in exact["message"]


def test_second_stage(tempo, spans: list[Span]) -> None:
    """topk and comparisons work on series."""
    by_name = {n: sum(s.name == n for s in spans) for n in {s.name for s in spans}}
    top = metrics(tempo, "query", "{} | count_over_time() by (name) | topk(1)")["series"]
    assert [s["value"] for s in top] == [max(by_name.values())]
    over = metrics(tempo, "query", "{} | count_over_time() by (name) > 5")["series"]
    assert {labels(s)["name"] for s in over} == {n for n, c in by_name.items() if c > 5}


def test_metrics_of_a_structural_query(tempo, spans: list[Span]) -> None:
    """Only spans that the pipeline selects are counted."""
    (series,) = metrics(tempo, "query", '{ name = "chat" } >> {} | count_over_time()')["series"]
    corpus = Corpus(spans)
    chats = {s.id for s in spans if s.name == "chat"}
    assert series["value"] == sum(1 for s in spans if corpus.ancestors(s) & chats)


@pytest.mark.parametrize(
    "params",
    [
        {"q": "{}"},
        {"q": ""},
        {"q": "{} | rate()", "step": "x"},
        {"q": "{} | rate()", "start": "5", "end": "4"},
        {"q": "{} | rate()", "start": "1", "end": "90000"},
        {"q": "{} | rate()", "step": "1ms"},
        {"q": "{} | rate()", "start": "yesterday"},
        {"q": "{} | compare({status=error}, 0)"},
        {"q": "{} | rate()", "step": "0"},
        {"q": "({} | rate()) / ({} | rate())"},
        {"q": "{} | rate()", "since": "2d"},
    ],
)
def test_metrics_refuse_invalid_parameters(tempo, params: dict[str, str]) -> None:
    """Invalid queries and parameters are answered with 400 and a sentence."""
    answer = tempo.get("/api/metrics/query_range", params=params)
    assert (answer.status_code, len(answer.text) > 10) == (400, True)


def test_times_may_be_seconds_nanoseconds_or_rfc3339(tempo) -> None:
    """The three notations give the same window."""
    answers = []
    for begin, end in (
        ("1700000000", "1700000060"),
        (str(T0), str(T0 + 60 * 10**9)),
        ("2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z"),
    ):
        answer = tempo.get(
            "/api/metrics/query_range",
            params={"q": "{} | rate()", "start": begin, "end": end, "step": "30s"},
        )
        answers.append(answer.json()["series"])
    assert answers[0] == answers[1] == answers[2]


def bulk(tempo, **params: str) -> pa.Table:
    answer = tempo.get("/api/lab/spans", params=params)
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    return pa.ipc.open_stream(answer.content).read_all()


def test_bulk(tempo, spans: list[Span]) -> None:
    """Matching spans are returned as a table, with whole_traces all spans of their traces."""
    table = bulk(tempo, q='{ name = "chat" }')
    assert set(table.column("span_id").to_pylist()) == {
        f"{s.id:016x}" for s in spans if s.name == "chat"
    }
    complete = bulk(tempo, q='{ name = "chat" }', whole_traces="true", columns="span_id,name")
    traces = {s.trace for s in spans if s.name == "chat"}
    assert set(complete.column("span_id").to_pylist()) == {
        f"{s.id:016x}" for s in spans if s.trace in traces
    }
    assert complete.column_names == ["span_id", "name"]
    everything = bulk(tempo)
    by_id = {int(r["span_id"], 16): r for r in everything.to_pylist()}
    for s in spans:
        row = by_id[s.id]
        assert row["start_time_unix_nano"] == s.start and row["duration_nano"] == s.end - s.start
        assert row["service_name"] == (s.service or "")
        assert json.loads(row["resource"]).get("service.name") == s.service
        attributes = json.loads(row["attributes"])
        for key, (kind, value) in s.attributes.items():
            if kind in ("str", "int", "dbl", "bool"):
                held = row.get(key) if row.get(key) is not None else attributes.get(key)
                assert held == value
    assert tempo.get("/api/lab/spans", params={"columns": "nope"}).status_code == 400
    assert tempo.get("/api/lab/spans", params={"q": "{"}).status_code == 400


def test_bulk_of_nothing_is_an_empty_table(tempo) -> None:
    """Without a match the stream has the columns and no row."""
    table = bulk(tempo, q='{ name = "nobody" }')
    assert (table.num_rows, "trace_id" in table.column_names) == (0, True)


@QUICK
@given(
    path=st.sampled_from(
        (
            "/api/search",
            "/api/metrics/query_range",
            "/api/metrics/query",
            "/api/v2/search/tag/.foo/values",
            "/api/lab/spans",
        )
    ),
    q=st.one_of(st.text(max_size=40), pipelines(), pipelines().map(lambda p: p + " | rate()")),
    more=st.dictionaries(
        st.sampled_from(("start", "end", "limit", "spss", "step", "since", "tags")),
        st.text(max_size=8),
        max_size=2,
    ),
)
def test_no_query_is_a_server_error(
    loaded: tuple[Running, list[Span]], path: str, q: str, more: dict[str, str]
) -> None:
    """Every query is answered with a result or with 400."""
    answer = loaded[0].tempo.get(path, params={"q": q} | more)
    assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize(
    "evil",
    ["'; DROP TABLE spans; --", '"; DROP TABLE spans; --', "\\", "\x00", "$p0", "a' OR '1'='1"],
)
def test_nothing_is_injected(tempo, spans: list[Span], evil: str) -> None:
    """Values and names are bound as parameters, never inserted into SQL."""
    quoted = '"' + evil.replace("\\", "\\\\").replace('"', '\\"') + '"'
    for q in (
        f"{{ name = {quoted} }}",
        f"{{ span.{quoted} = 1 }}",
        f"{{}} | by(span.{quoted})",
        f"{{ event.{quoted} = 1 }}",
    ):
        answer = tempo.get("/api/search", params={"q": q})
        assert answer.status_code in (200, 400), answer.text
    assert len(bulk(tempo)) == len(spans)
