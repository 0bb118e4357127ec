"""Details of Tempo's answers that clients rely on are the same; each once differed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.tracestore.conftest import Running, start, stop
from tests.tracestore.corpus import T0, add_attributes
from tests.tracestore.tempo_cases import corpus_at, now_t0_s

WINDOW = {"start": T0 // 10**9 - 10, "end": T0 // 10**9 + 60}


def request_with(*spans: dict) -> bytes:
    """Return OTLP with one resource and these spans.

    A span has an id, and optionally trace, parent, name, start, length, attributes, events, ...
    """
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    add_attributes(group.resource, {"service.name": ("str", "api")})
    scope = group.scope_spans.add()
    for s in spans:
        span = scope.spans.add(name=s.get("name", "x"), kind=s.get("kind", 1))
        span.trace_id = s.get("trace", 1).to_bytes(16, "big")
        span.span_id = s["id"].to_bytes(8, "big")
        if s.get("parent"):
            span.parent_span_id = s["parent"].to_bytes(8, "big")
        span.start_time_unix_nano = T0 + s.get("start", 0)
        span.end_time_unix_nano = T0 + s.get("start", 0) + s.get("length", 1000)
        span.status.code = s.get("status", 0)
        add_attributes(span, s.get("attributes", {}))
        for attributes in s.get("events", []):
            event = span.events.add(name="e", time_unix_nano=s.get("event_ns", T0))
            add_attributes(event, attributes)
    return request.SerializeToString()


def send(running: Running, *spans: dict) -> None:
    assert running.export(request_with(*spans)).status_code == 200


def matched(tempo: httpx.Client, q: str, **more: object) -> set[int]:
    """Return the span ids that a search matches."""
    answer = tempo.get("/api/search", params={"q": q, "spss": 100, **WINDOW, **more})
    assert answer.status_code == 200, answer.text
    traces = answer.json()["traces"]
    return {int(s["spanID"], 16) for t in traces for g in t["spanSets"] for s in g["spans"]}


def series(tempo: httpx.Client, q: str, **more: object) -> dict[str, float]:
    """Return the values of an instant query by the text of the last label."""
    answer = tempo.get("/api/metrics/query", params={"q": q, **WINDOW, **more})
    assert answer.status_code == 200, answer.text
    return {
        str(next(iter(s["labels"][-1]["value"].values()))): s["value"]
        for s in answer.json()["series"]
    }


# ---- searches


def test_arithmetic_is_not_a_condition(running: Running) -> None:
    """A filter that is a number, or the negated smallest integer, matches nothing."""
    smallest = {"a": ("int", -(2**63)), "b": ("int", 2)}
    send(running, {"id": 1, "attributes": smallest})
    for q in ("{ .a + .b }", "{ span.a - span.b }", "{ -span.a > 0 }", "{ -span.a != 1 }"):
        assert matched(running.tempo, q) == set()
    assert matched(running.tempo, "{ -span.b = -2 }") == {1}


def test_attributes_absent_from_events(running: Running) -> None:
    """`= nil` is true if an event lacks the attribute or there is none, `!= nil` if one has it."""
    e = {"e": ("str", "x")}
    send(
        running,
        {"id": 1},
        {"id": 2, "events": [e]},
        {"id": 3, "events": [e, {}]},
        {"id": 4, "events": [{}]},
    )
    assert matched(running.tempo, "{ event.e = nil }") == {1, 3, 4}
    assert matched(running.tempo, "{ event.e != nil }") == {2, 3}
    assert matched(running.tempo, "{ event.never = nil }") == {1, 2, 3, 4}
    assert matched(running.tempo, "{ event:name != nil }") == {2, 3, 4}


def test_an_event_after_2262_does_not_break_queries(running: Running) -> None:
    """Its time is clamped on arrival, so its offset is centuries long; all spans are answered."""
    send(
        running,
        {"id": 1, "events": [{}], "event_ns": 2**64 - 1},
        {"id": 2, "events": [{}], "event_ns": T0 + 5},
    )
    assert matched(running.tempo, "{ event:timeSinceStart > 1ns }") == {1, 2}
    assert matched(running.tempo, "{ event:timeSinceStart > 1h }") == {1}


def test_an_array_is_shown_with_the_selected_elements(running: Running) -> None:
    """One element is shown as itself, several as an array; a condition selects elements."""
    send(
        running,
        {"id": 1, "attributes": {"tags": ("str[]", ["a", "b"])}},
        {"id": 2, "trace": 2, "attributes": {"tags": ("str[]", ["c"])}},
    )

    def shown(q: str) -> list[object]:
        traces = running.tempo.get("/api/search", params={"q": q, **WINDOW}).json()["traces"]
        spans = [s for t in traces for s in t["spanSet"]["spans"]]
        return sorted((s["attributes"][0]["value"] for s in spans), key=str)

    assert shown('{ span.tags = "a" }') == [{"stringValue": "a"}]
    both = {"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}}
    assert shown("{ span.tags != nil }") == sorted([both, {"stringValue": "c"}], key=str)
    grouped = series(running.tempo, "{ span.tags != nil } | count_over_time() by (span.tags)")
    assert grouped == {"c": 1, "nil": 1}


def test_groups_of_arrays_and_events(running: Running) -> None:
    """by() shows arrays, the element of an array of one, and the first of several events."""
    e = [{"e": ("int", 1)}, {"e": ("int", 2)}]
    send(
        running,
        {"id": 1, "attributes": {"tags": ("int[]", [1, 2])}, "events": e},
        {"id": 2, "attributes": {"tags": ("int[]", [3])}},
    )

    def groups(q: str) -> list[str]:
        (trace,) = running.tempo.get("/api/search", params={"q": q, **WINDOW}).json()["traces"]
        return sorted(json.dumps(s["attributes"][0]["value"]) for s in trace["spanSets"])

    both = {"arrayValue": {"values": [{"intValue": "1"}, {"intValue": "2"}]}}
    assert groups("{ } | by(span.tags)") == [json.dumps(both), '{"intValue": "3"}']
    assert groups("{ } | by(event.e)") == ['{"intValue": "1"}', '{"stringValue": "nil"}']
    assert groups("{ } | by(event:name)") == ['{"stringValue": ""}', '{"stringValue": "e"}']


def test_a_window_selects_traces(running: Running) -> None:
    """A trace that overlaps the window is evaluated with its spans outside it too."""
    hour = 3600 * 10**9
    send(
        running,
        {"id": 1, "name": "root", "length": 2 * hour},
        {"id": 2, "parent": 1, "name": "late", "start": hour},
        {"id": 3, "trace": 2, "name": "late", "start": hour},
    )
    early = {"start": T0 // 10**9 - 1, "end": T0 // 10**9 + 1}
    assert matched(running.tempo, '{ name = "late" }', **early) == {2}
    assert matched(running.tempo, '{ name = "root" } > { name = "late" }', **early) == {2}
    assert matched(running.tempo, "{ } | count() = 2", **early) == {1, 2}


def test_durations_stay_inside_uint32(running: Running) -> None:
    """Tempo's field has 32 bits, and JSON readers of its protobuf refuse more."""
    send(running, {"id": 1, "length": (2**32 + 5) * 10**6})
    (trace,) = running.tempo.get("/api/search", params={"q": "{}"}).json()["traces"]
    assert trace["durationMs"] == 5


def test_ids_with_signs_match_nothing(running: Running) -> None:
    """Text that is not an id is compared as text."""
    send(running, {"id": 1})
    assert matched(running.tempo, '{ span:id = "-000000000000001" }') == set()
    assert matched(running.tempo, '{ span:id = "0000000000000001" }') == {1}


def test_the_bulk_endpoint_supports_nested_sets(running: Running) -> None:
    """The bulk endpoint accepts the same filters."""
    send(running, {"id": 1}, {"id": 2, "parent": 1})
    for q, ids in (("{ nestedSetLeft = 1 }", [1]), ("{ nestedSetParent = 1 }", [2])):
        answer = running.tempo.get("/api/lab/spans", params={"q": q, "columns": "span_id"})
        table = pa.ipc.open_stream(answer.content).read_all()
        assert table.column("span_id").to_pylist() == [f"{i:016x}" for i in ids]


# ---- metrics


def test_exemplars_are_returned_unless_declined(running: Running) -> None:
    """They have the sample's value for counts and the span's for durations, unless declined."""
    send(
        running,
        *({"id": i, "trace": i, "start": i * 10**9, "length": i * 10**6} for i in range(1, 9)),
    )

    def exemplars(q: str, **more: object) -> list[dict]:
        params = {"q": q, "step": "20s", **WINDOW, **more}
        answer = running.tempo.get("/api/metrics/query_range", params=params).json()
        return [e for s in answer["series"] for e in s.get("exemplars", [])]

    (counted,) = exemplars("{} | count_over_time()")
    assert counted["value"] == 8
    traces = [v["value"]["stringValue"] for v in counted["labels"] if v["key"] == "trace:id"]
    assert traces == ["1"] and counted["timestampMs"] == str((T0 + 10**9) // 10**6)
    assert exemplars("{} | rate() with (exemplars=false)") == []
    assert exemplars("{} | rate() with (exemplars=0)") == []
    assert exemplars("{} | histogram_over_time(duration)")[0]["value"] >= 1
    values = {e["value"] for e in exemplars("{} | quantile_over_time(duration, 0.1, 0.9)")}
    assert values <= {i / 1000 for i in range(1, 9)} and values
    assert exemplars("{} | max_over_time(duration)")[0]["value"] == 0.001


def test_buckets_are_exact_at_every_power_of_two(running: Running) -> None:
    """The upper bound of x is the smallest power of two that is not below it, also beyond 2^53."""
    values = [2**k + d for k in range(1, 63) for d in (-1, 0, 1)] + [2**63 - 1]
    values = [v for v in values if v >= 2]
    spans = ({"id": i, "attributes": {"n": ("int", v)}} for i, v in enumerate(values, 1))
    send(running, *spans)

    expected: dict[str, float] = {}
    for v in values:
        bound = str(float(1 << (v - 1).bit_length()))
        expected[bound] = expected.get(bound, 0) + 1
    counted = series(running.tempo, "{} | histogram_over_time(span.n)")
    assert {str(float(bound)): n for bound, n in counted.items()} == expected


def test_more_than_a_thousand_groups_are_not_cut_before_topk(running: Running) -> None:
    """The largest of 1,500 groups is found, and without topk the answer is marked as partial."""
    many = [{"id": i, "attributes": {"user": ("int", i)}} for i in range(1, 1501)]
    most = [{"id": 5000 + i, "attributes": {"user": ("int", 1499)}} for i in range(3)]
    send(running, *many, *most)
    q = "{} | count_over_time() by (span.user)"
    assert series(running.tempo, f"{q} | topk(1)") == {"1499": 4}
    assert series(running.tempo, f"{q} > 3") == {"1499": 4}

    answer = running.tempo.get("/api/metrics/query", params={"q": q, **WINDOW}).json()
    assert answer["status"] == "PARTIAL" and "1000" in answer["message"]
    assert len(answer["series"]) == 1000
    assert (
        "status"
        not in running.tempo.get("/api/metrics/query", params={"q": "{} | rate()", **WINDOW}).json()
    )


def test_equal_values_are_ranked_by_name(running: Running) -> None:
    """Of equal values topk keeps the alphabetically first and bottomk the last."""
    send(running, *({"id": i, "name": n} for i, n in enumerate("bacd", start=1)))
    q = "{} | count_over_time() by (name)"
    assert set(series(running.tempo, f"{q} | topk(2)")) == {"a", "b"}
    assert set(series(running.tempo, f"{q} | bottomk(2)")) == {"c", "d"}


def test_exact_quantiles_of_values_that_are_not_numbers(running: Running) -> None:
    """Without numbers there is no series and no error."""
    send(running, {"id": 1})
    assert series(running.tempo, "{} | quantile_over_time(name, .5)", exact="true") == {}


def test_a_span_at_the_start_of_an_instant_query_is_before_it(running: Running) -> None:
    """The range is open at its start and closed at its end."""
    start_s = WINDOW["start"]
    at_start = start_s * 10**9 - T0
    at_end = WINDOW["end"] * 10**9 - T0
    send(
        running,
        {"id": 1, "start": at_start},
        {"id": 2, "start": at_start + 1},
        {"id": 3, "start": at_end},
    )
    assert series(running.tempo, "{} | count_over_time()") == {"count_over_time": 2}


def test_compare_counts_both_sides(running: Running) -> None:
    """Selected spans are separated from others, within the times, by most frequent values."""
    send(
        running,
        {"id": 1, "status": 2, "attributes": {"a": ("str", "x")}},
        {"id": 2, "status": 2, "start": 10**9, "attributes": {"a": ("str", "x")}},
        {"id": 3, "attributes": {"a": ("str", "x")}},
        {"id": 4, "attributes": {"a": ("str", "y")}},
        {"id": 5, "attributes": {"a": ("str", "y")}},
    )

    def counts(arguments: str) -> dict[tuple[str, object], float]:
        q = f"{{}} | compare({{ status = error }}{arguments})"
        answer = running.tempo.get("/api/metrics/query", params={"q": q, **WINDOW}).json()
        rows = [(s["labels"], s["value"]) for s in answer["series"]]
        return {
            (kind["value"]["stringValue"], label["value"]["stringValue"]): value
            for (kind, label), value in rows
            if label["key"] == "span.a"
        }

    assert counts("") == {
        ("baseline", "x"): 1,
        ("baseline", "y"): 2,
        ("baseline_total", "nil"): 3,
        ("selection", "x"): 2,
        ("selection_total", "nil"): 2,
    }
    assert ("baseline", "x") not in counts(", 1")
    assert counts(f", 10, {T0}, {T0 + 2 * 10**9}")["selection", "x"] == 1


# ---- tags


def test_tag_names_follow_a_query(running: Running) -> None:
    """`q` restricts the keys to matching spans, their resources and their events."""
    send(
        running,
        {"id": 1, "name": "one", "attributes": {"a": ("str", "x")}, "events": [{"e": ("int", 1)}]},
        {"id": 2, "name": "two", "attributes": {"b": ("int", 1)}},
    )

    def tags(q: str) -> dict[str, list[str]]:
        answer = running.tempo.get("/api/v2/search/tags", params={"q": q}).json()
        return {s["name"]: s["tags"] for s in answer["scopes"] if s["name"] != "intrinsic"}

    assert tags('{ name = "one" }') == {"span": ["a"], "resource": ["service.name"], "event": ["e"]}
    assert tags('{ name = "two" }') == {"span": ["b"], "resource": ["service.name"]}
    assert tags("{}")["span"] == ["a", "b"]


@pytest.mark.parametrize("name", ["app.kubernetes.io/name", "a{b}c", "x y"])
def test_values_of_names_with_odd_characters(running: Running, name: str) -> None:
    """Grafana sends slashes unescaped."""
    send(running, {"id": 1, "attributes": {name: ("str", "v")}})
    text = f'"{name}"' if " " in name else name
    path = f"/api/v2/search/tag/span.{quote(text, safe='/')}/values"
    assert running.tempo.get(path).json()["tagValues"] == [{"type": "string", "value": "v"}]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/search/tag/nope/values",
        "/api/v2/search/tag/span:nope/values",
        "/api/v2/search/tag/%7D%20%7C%7C%20%7B/values",
        "/api/v2/search/tag/.a%20=%201/values",
        "/api/search?q=%7B%7D&tags=a%3Db",
        "/api/metrics/query_range?q=%7B%7D%7Crate()&step=0",
        "/api/metrics/query_range?q=%7B%7D%7Crate()&step=1e30h",
        f"/api/metrics/query_range?q=%7B%7D%7Crate()&step={'9' * 400}",
        f"/api/metrics/query_range?q=%7B%7D%7Crate()&since={'9' * 5000}s",
        f"/api/metrics/query?q=%7B%7D%7Crate()&start={'1' * 400}.5",
        f"/api/search?start={'1' * 5000}&end=2",
        f"/api/search?maxDuration={'9' * 20}h",
    ],
)
def test_invalid_requests_are_refused(running: Running, path: str) -> None:
    """Invalid requests are answered with 400 and a sentence."""
    answer = running.tempo.get(path)
    assert (answer.status_code, len(answer.text) > 10) == (400, True)


def test_the_intrinsics_are_listed(running: Running) -> None:
    """Both notations, ids and links are listed; the older endpoint lists them by scope only."""
    (scope,) = running.tempo.get("/api/v2/search/tags?scope=intrinsic").json()["scopes"]
    assert len(scope["tags"]) == 25 and {"link:traceID", "span:parentID", "trace:id"} <= set(
        scope["tags"]
    )
    assert running.tempo.get("/api/search/tags").json()["tagNames"] == []
    listed = running.tempo.get("/api/search/tags?scope=intrinsic").json()["tagNames"]
    assert listed == scope["tags"]


# ---- Traces Drilldown

SIGNALS = ("nestedSetParent<0 && true", "kind=server && true", "status=error && true")
BREAKDOWNS = (
    "resource.service.name",
    "name",
    "span.http.route",
    "nestedSetParent",
    "rootName",
    "kind",
    "status",
)
METRICS = (
    "{SIGNAL && FILTER} | rate()",
    "{SIGNAL && FILTER && status=error} | rate()",
    "{SIGNAL && FILTER} | rate() by(ATTR)",
    "{SIGNAL && FILTER} | rate() by(ATTR) with(sample=true)",
    "{SIGNAL && FILTER} | histogram_over_time(duration) with(sample=true)",
    "{SIGNAL && FILTER} | quantile_over_time(duration, 0.9)",
    "{SIGNAL && FILTER} | quantile_over_time(duration, 0.9, 0.5) by(ATTR)",
    "{SIGNAL && FILTER} | compare({status = error}, 10)",
    "{SIGNAL && FILTER} | compare({status = error}, 10, START, END)",
    "{SIGNAL && FILTER} | compare({duration >= 1ms && duration <= 2s}, 10)",
)
SEARCHES = (
    "({SIGNAL && FILTER} &>> { kind = server }) || ({SIGNAL && FILTER}) | select(status, "
    "resource.service.name, name, nestedSetParent, nestedSetLeft, nestedSetRight)",
    "({SIGNAL && FILTER} &>> { status = error }) || ({SIGNAL && FILTER}) | select(status, "
    "resource.service.name, name, nestedSetParent, nestedSetLeft, nestedSetRight)",
    "({SIGNAL && FILTER} &>> { duration > 1ms }) || ({SIGNAL && FILTER}) | select(status, "
    "resource.service.name, name, nestedSetParent, nestedSetLeft, nestedSetRight)",
    "{SIGNAL && FILTER} | select(ATTR)",
    "{SIGNAL && FILTER && status = error} | select(resource.service.name, "
    "event.exception.message, event.exception.stacktrace, event.exception.type) "
    "with(most_recent=true)",
)


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, int]]:
    """Yield a store with the recorded agent traces, and their start (unix s)."""
    parts = start(tmp_path_factory.mktemp("drilldown"))
    t0_s = now_t0_s()
    body = json.dumps(corpus_at(t0_s * 10**9)).encode()
    assert parts[0].export(body, Content_Type="application/json").status_code == 200
    yield parts[0].tempo, t0_s
    stop(*parts)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(
    "filter_", ["true", "resource.service.name != nil", "span.http.route = `/v1/responses`"]
)
def test_drilldown_is_answered(agents: tuple[httpx.Client, int], signal: str, filter_: str) -> None:
    """Every template of Traces Drilldown is answered, for every signal and breakdown."""
    tempo, t0_s = agents
    window = {"start": t0_s, "end": t0_s + 60}

    def filled(template: str, attribute: str) -> str:
        q = template.replace("SIGNAL", signal).replace("FILTER", filter_)
        q = q.replace("ATTR", attribute)
        return q.replace("START", str(t0_s * 10**9)).replace("END", str((t0_s + 30) * 10**9))

    def queries(templates: tuple[str, ...]) -> list[str]:
        return list(dict.fromkeys(filled(t, a) for t in templates for a in BREAKDOWNS))

    for q in queries(METRICS):
        answer = tempo.get("/api/metrics/query_range", params={"q": q, "step": "10s", **window})
        assert answer.status_code == 200, (q, answer.text)
    for q in queries(SEARCHES):
        answer = tempo.get("/api/search", params={"q": q, "limit": 200, "spss": 20, **window})
        assert answer.status_code == 200, (q, answer.text)
