"""Prometheus, and what passes for it."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import NoData, NotUp, QueryRejected, StoreError, StoreUnreachable
from lab.settings import load_settings
from lab.stores import Prometheus, Tempo
from lab.stores.prometheus import MAX_POINTS, metric_names_in, pieces
from tests.stores.servers import Reply, telling


def success(data: object) -> Reply:
    return Reply(json.dumps({"status": "success", "data": data}).encode())


def vector(*series: tuple[dict[str, str], float]) -> Reply:
    return success(
        {
            "resultType": "vector",
            "result": [{"metric": m, "value": [1.0, str(v)]} for m, v in series],
        }
    )


def matrix(*series: tuple[dict[str, str], list]) -> Reply:
    return success(
        {"resultType": "matrix", "result": [{"metric": m, "values": v} for m, v in series]}
    )


def test_an_answer_knows_what_was_asked() -> None:
    """Labels as they are, samples untouched, and where it came from."""
    with telling(lambda path, params: vector(({"__name__": "up", "job": "vllm"}, 1))) as server:
        answer = Prometheus(server.url + "/").query("up", at=datetime.fromtimestamp(5, UTC))
    assert [s.labels for s in answer] == [{"__name__": "up", "job": "vllm"}]
    assert bytes(answer.series[0].pieces[0]) == b'[[1.0, "1"]]'
    assert answer.metrics == [{"metric": {"__name__": "up", "job": "vllm"}, "value": [1.0, "1"]}]
    assert answer.provenance.url == server.url and answer.provenance.start == 5.0
    assert server.asked == [("/api/v1/query", {"query": "up", "time": "5.000", "timeout": "30s"})]


def test_a_scalar_is_a_series_without_labels() -> None:
    """`time()` and `1+1` are answers too."""
    with telling(lambda *_: success({"resultType": "scalar", "result": [1.5, "2"]})) as server:
        answer = Prometheus(server.url).query("1+1")
    assert (
        answer.kind == "vector"
        and answer.series[0].labels == {}
        and bytes(answer.series[0].pieces[0]) == b'[[1.5, "2"]]'
    )


def test_a_long_range_is_asked_for_in_pieces_and_joined() -> None:
    """So many points at a time, every point once, series joined by their labels in whatever
    order they come."""

    def answer(_: str, params: dict[str, str]) -> Reply:
        first = float(params["start"])
        series = [({"a": "x"}, [[first, "1"]]), ({"a": "y"}, [[first, "2"]])]
        return matrix(*(series if first == 0 else reversed(series)))

    with telling(answer) as server:
        found = Prometheus(server.url).range("m", 0, 3_000, 1)
    windows = sorted(((p["start"], p["end"]) for _, p in server.asked), key=lambda w: float(w[0]))
    assert windows == [("0.000", "1374.000"), ("1375.000", "2749.000"), ("2750.000", "3000.000")]
    assert {s.labels["a"]: [json.loads(bytes(p)) for p in s.pieces] for s in found} == {
        "x": [[[0.0, "1"]], [[1_375.0, "1"]], [[2_750.0, "1"]]],
        "y": [[[0.0, "2"]], [[1_375.0, "2"]], [[2_750.0, "2"]]],
    }
    assert found.provenance.requests == 3 and (found.provenance.start, found.provenance.end) == (
        0,
        3_000,
    )


def test_what_depends_on_the_whole_range_is_asked_for_at_once_or_refused() -> None:
    """`@ end()` of a piece would be another instant: up to 11,000 points in one question, beyond
    that an error."""
    with telling(lambda *_: matrix()) as server:
        Prometheus(server.url).range("m @ end()", 0, 10_999, 1)
        assert [(p["start"], p["end"]) for _, p in server.asked] == [("0.000", "10999.000")]
        with pytest.raises(StoreError, match="in pieces"):
            Prometheus(server.url).range("m @ end ()", 0, 11_000, 1)


def test_a_stream_is_the_range_part_by_part() -> None:
    """In order of time whatever comes first, each part on its own; a stream of nothing is an
    error, not silence."""

    def answer(_: str, params: dict[str, str]) -> Reply:
        if params["query"] == "none":
            return matrix()
        time.sleep(0.05 if params["start"] == "0.000" else 0.0)
        return matrix(({"a": "x"}, [[float(params["start"]), "1"]]))

    with telling(
        lambda path, params: success(["up"]) if "values" in path else answer(path, params)
    ) as server:
        prometheus = Prometheus(server.url)
        parts = list(prometheus.stream("m", 0, 9_000, 1))
        assert [json.loads(bytes(p.series[0].pieces[0]))[0][0] for p in parts] == [
            1_375.0 * i for i in range(7)
        ]
        assert {p.provenance.step_s for p in parts} == {1.0}
        next(
            prometheus.stream("m", 0, 90_000, 1)
        )  # and no more: what is not wanted is not waited for
        with pytest.raises(NoData, match="none"):
            list(prometheus.stream("none", 0, 9_000, 1))


def test_one_piece_that_fails_fails_the_range() -> None:
    """A range with a hole in it would be a wrong answer."""

    def answer(_: str, params: dict[str, str]) -> Reply:
        return matrix() if params["start"] == "0.000" else Reply(b"gone", 502)

    with telling(answer) as server, pytest.raises(QueryRejected, match="502"):
        Prometheus(server.url).range("m", 0, 6_000, 1)


def test_a_login_in_the_address_is_sent_and_not_shown() -> None:
    """`https://me:secret@host` is how one points at a server behind basic authentication."""
    with telling(lambda *_: vector()) as server:
        prometheus = Prometheus(server.url.replace("//", "//me:secret@"))
        answer = prometheus.query("up")
    assert prometheus.url == server.url and "secret" not in str(answer.provenance)
    assert server.headers[0]["Authorization"] == "Basic bWU6c2VjcmV0"


@given(st.integers(0, 10**9), st.integers(0, 10**8), st.integers(1, 10**6))
def test_the_pieces_hold_every_point_once(start_ms: int, long_ms: int, step_ms: int) -> None:
    """Together the points of the whole range, none twice, no piece too long."""
    long_ms = min(long_ms, step_ms * 40_000)
    found = pieces(start_ms / 1000, (start_ms + long_ms) / 1000, step_ms / 1000)
    counts = [round((b - a) * 1000) // step_ms + 1 for a, b in found]
    assert sum(counts) == long_ms // step_ms + 1 and max(counts) <= MAX_POINTS
    assert [round(a * 1000) for a, _ in found[1:]] == [
        round(b * 1000) + step_ms for _, b in found[:-1]
    ]


def test_raw_samples_reach_back_before_the_window() -> None:
    """A range selector at the end of the window, long enough for the look-back."""
    with telling(lambda *_: matrix()) as server:
        Prometheus(server.url).samples('m{job="x"}', 100, 160, lookback_s=10)
    assert (
        server.asked[0][1]["query"] == 'm{job="x"}[70001ms]'
        and server.asked[0][1]["time"] == "160.000"
    )


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (
            Reply(b'{"status":"error","errorType":"bad_data","error":"no"}', 200),
            QueryRejected,
            "bad_data: no",
        ),
        (
            Reply(b'{"status":"error","errorType":"bad_data","error":"parse error"}', 400),
            QueryRejected,
            "parse error",
        ),
        (
            Reply(b'{"status":"error","errorType":"execution","error":"too many"}', 422),
            QueryRejected,
            "too many",
        ),
        (Reply(b"upstream is gone", 502), QueryRejected, "HTTP 502.*upstream is gone"),
        (Reply(b"", 503), QueryRejected, "without a word"),
        (Reply(b"<html>Sign in</html>"), StoreUnreachable, "not Prometheus"),
        (Reply(b'{"status":"success","data":{"resultType":"vec'), StoreUnreachable, "was cut"),
        (Reply(b'{"status":"success","data":{}}'), StoreUnreachable, "not Prometheus"),
        (Reply(b'{"status":"success"', cut=True), StoreUnreachable, "cannot be reached"),
        (Reply(b""), StoreUnreachable, "empty answer"),
    ],
)
def test_what_is_no_answer_is_an_error_with_the_servers_words(
    reply: Reply, error: type, words: str
) -> None:
    """A refusal carries the query and what the server said; anything else says what came
    instead."""
    with telling(lambda *_: reply) as server, pytest.raises(error, match=words) as caught:
        Prometheus(server.url).query("some_metric")
    assert caught.value.query == "some_metric"


def test_nobody_there_and_too_slow() -> None:
    """A refused connection and a server that does not answer in time are told apart."""
    with telling(lambda *_: Reply(b"late")) as server:
        url = server.url
    with pytest.raises(StoreUnreachable, match="cannot be reached"):
        Prometheus(url).query("up")

    def slow(*_: object) -> Reply:
        time.sleep(0.4)
        return Reply(b"late")

    with telling(slow) as server, pytest.raises(StoreUnreachable, match="in time"):
        Prometheus(server.url, timeout_s=0.1).query("up")


def test_without_an_address_the_way_out_is_named() -> None:
    """No running lab, no setting: the error says which variable to set."""
    with pytest.raises(NotUp, match="LAB_PROMETHEUS_URL"):
        Prometheus(load_settings(prometheus_url=None, state_dir="nowhere"))


def of_a_server(*, names: list[str], down: list[dict[str, str]] = ()):  # type: ignore[assignment]
    def answer(path: str, params: dict[str, str]) -> Reply:
        if path.endswith("/values"):
            return success(names)
        if params.get("query") == "up == 0":
            return vector(*((labels, 0) for labels in down))
        return vector()

    return answer


@pytest.mark.parametrize(
    ("names", "down", "why"),
    [
        (
            ["vllm:num_requests_running"],
            [],
            "vllm:requests_running is absent.*similar names: vllm:num_requests_running",
        ),
        (
            ["vllm:requests_running"],
            [{"job": "vllm", "instance": "h:1"}],
            r"down \(up == 0\).*vllm \(h:1\)",
        ),
        (["vllm:requests_running"], [], "window .* is empty"),
    ],
)
def test_an_empty_answer_says_why_when_something_was_needed(
    names: list, down: list, why: str
) -> None:
    """Absent metric, target down, empty window: the server is asked which."""
    with telling(of_a_server(names=names, down=down)) as server:
        answer = Prometheus(server.url).query("sum(rate(vllm:requests_running[1m]))")
        assert len(answer) == 0
        with pytest.raises(NoData, match=why):
            answer.require()


@pytest.mark.parametrize(
    ("promql", "names"),
    [
        ("up", ["up"]),
        (
            'sum by (le, job) (rate(a_b{job="x_y", le=~"b|c"}[5m])) '
            "/ on(z) group_left(q) b:c > bool 1e3",
            ["a_b", "b:c"],
        ),
        (
            "histogram_quantile(0.95, sum(rate(m[1m])) without (pod)) and "
            "absent(n offset 5m) or Inf",
            ["m", "n"],
        ),
        ('label_replace(m, "dst", "$1", "src", "(.*)")', ["m"]),
    ],
)
def test_metric_names_in_an_expression(promql: str, names: list[str]) -> None:
    """Functions, keywords, labels and texts are no metrics."""
    assert metric_names_in(promql) == names


def test_the_first_name_that_is_there() -> None:
    """For names that differ by version; where none is there, one clear message."""
    with telling(of_a_server(names=["ogx_requests_total"])) as server:
        prometheus = Prometheus(server.url)
        assert (
            prometheus.first_present("llama_stack_requests_total", "ogx_requests_total")
            == "ogx_requests_total"
        )
        with pytest.raises(NoData, match="none of the metrics"):
            prometheus.first_present("a", "b")


def test_a_token_of_the_settings_goes_to_both_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LAB_STORE_HEADERS` is for servers behind a login, such as a cluster's Thanos; the
    settings do not show it."""
    monkeypatch.setenv("LAB_STORE_HEADERS", '{"Authorization": "Bearer abc"}')
    with telling(
        lambda path, _: Reply(b'{"traces":[]}') if path == "/api/search" else vector()
    ) as server:
        settings = load_settings(prometheus_url=server.url, tempo_url=server.url)
        Prometheus(settings).query("up")
        Tempo(settings).search("{}", 0, 1)
    assert [h["Authorization"] for h in server.headers] == ["Bearer abc"] * 2 and "abc" not in repr(
        settings
    )


@pytest.mark.parametrize(
    ("asked", "exported"),
    [
        ("vllm:e2e_request_latency_seconds_bucket", "vllm:e2e_request_latency_seconds_bucket"),
        ("vllm:inter_token_latency_seconds_bucket", "vllm:time_per_output_token_seconds_bucket"),
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        ("llama_stack_requests_total", "ogx_requests_total"),
        (
            "llama_stack_request_duration_seconds_sum",
            "llama_stack_llama_stack_request_duration_seconds_sum",
        ),
        ("llama_stack_llama_stack_requests_total", "ogx_ogx_requests_total"),
    ],
)
def test_a_metric_is_found_under_its_other_versions_names(asked: str, exported: str) -> None:
    """vLLM's renames and Llama Stack's prefixes, also of a histogram's parts; one clear message
    where there is none."""
    with telling(of_a_server(names=["up", exported])) as server:
        assert Prometheus(server.url).present(asked) == exported
    with (
        telling(of_a_server(names=["up"])) as server,
        pytest.raises(NoData, match="none of the metrics"),
    ):
        Prometheus(server.url).present(asked)


def test_instants_need_a_time_zone_and_windows_an_order() -> None:
    """What could mean two things is refused before anything is asked."""
    prometheus = Prometheus("http://127.0.0.1:9")
    with pytest.raises(StoreError, match="time zone"):
        prometheus.query("up", at=datetime(2026, 1, 1))
    with pytest.raises(StoreError, match="ends before it starts"):
        prometheus.range("up", 10, 5, 1)
    with pytest.raises(StoreError, match="millisecond"):
        prometheus.range("up", 0, 5, 0)


def target(job: str, at: str, health: str = "up") -> dict:
    labels = {"job": job, "instance": "h:1"}
    return {
        "labels": labels,
        "health": health,
        "lastScrape": at,
        "lastError": "" if health == "up" else "refused",
    }


def test_waiting_for_a_scrape() -> None:
    """It returns when every target has been scraped since, and says which one was not."""
    times = iter(["1970-01-01T00:00:09.5Z", "1970-01-01T00:00:10.123456789Z"])
    with telling(lambda *_: success({"activeTargets": [target("vllm", next(times))]})) as server:
        assert Prometheus(server.url).wait_for_scrape(10.0, jobs=["vllm"], timeout_s=5) < 5
        assert len(server.asked) == 2
    down = [target("vllm", "1970-01-01T00:00:20Z", "down")]
    with (
        telling(lambda *_: success({"activeTargets": down})) as server,
        pytest.raises(StoreError, match="refused.*node .no such target"),
    ):
        Prometheus(server.url).wait_for_scrape(10.0, jobs=["vllm", "node"], timeout_s=0.01)


def test_native_histograms_are_refused_with_a_way_out() -> None:
    """Their samples are no numbers; the classic parts are."""
    result = [{"metric": {}, "histogram": [1, {"count": "1"}]}]
    with (
        telling(lambda *_: success({"resultType": "vector", "result": result})) as server,
        pytest.raises(StoreError, match="native histograms"),
    ):
        Prometheus(server.url).query("h")


def test_one_native_histogram_does_not_hide_the_other_series() -> None:
    """It is left out by its name, in a warning; the others are read."""
    native = {"metric": {"__name__": "h"}, "histograms": [[1, {"count": "1"}]]}
    plain = {"metric": {"__name__": "x"}, "values": [[1, "5"]]}
    data = {"resultType": "matrix", "result": [native, plain]}
    with telling(lambda *_: success(data)) as server:
        answer = Prometheus(server.url).range("{a='b'}", 0, 10, 1)
    assert [s.labels["__name__"] for s in answer] == ["x"]
    assert answer.provenance.warnings == ("native histograms are left out: h",)
    assert "left out: h" in str(answer.provenance)


def test_what_the_server_adds_to_an_answer_is_kept() -> None:
    """Warnings (Thanos: a store is missing), infos, VictoriaMetrics' partial answers; each once
    for a range."""
    body = {
        "status": "success",
        "isPartial": True,
        "data": {"resultType": "matrix", "result": []},
        "warnings": ["no StoreAPIs matched"],
        "infos": ["metric might not be a counter"],
    }
    with telling(lambda *_: Reply(json.dumps(body).encode())) as server:
        prometheus = Prometheus(server.url)
        answers = [prometheus.query("up"), prometheus.range("up", 0, 3_000, 1)]
    for answer in answers:
        warnings = answer.provenance.warnings
        assert warnings[:2] == ("no StoreAPIs matched", "metric might not be a counter")
        assert len(warnings) == 3 and "partial" in warnings[2]


def test_waiting_for_a_scrape_of_nothing_is_an_error() -> None:
    """A server without targets would be waited for in vain, and the counters would be empty."""
    with (
        telling(lambda *_: success({"activeTargets": []})) as server,
        pytest.raises(StoreError, match="no scrape targets"),
    ):
        Prometheus(server.url).wait_for_scrape(10.0, timeout_s=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300, -1e18, "abc", None, [1]])
def test_times_and_steps_that_are_none_are_refused(bad: object) -> None:
    """Before anything is sent, wherever they are given."""
    prometheus = Prometheus("http://127.0.0.1:9")
    tempo = Tempo("http://127.0.0.1:9")
    calls = [
        lambda: prometheus.range("up", bad, 5, 1),
        lambda: prometheus.range("up", 0, bad, 1),
        lambda: prometheus.samples("up", 0, bad),
        lambda: prometheus.samples("up", 0, 1, lookback_s=bad),
        lambda: next(prometheus.stream("up", 0, 5, bad)),
        lambda: prometheus.wait_for_scrape(bad),
        lambda: tempo.search("{}", bad, 5),
        lambda: tempo.spans("{}", 0, bad),
    ]
    if bad is not None:
        calls += [lambda: prometheus.query("up", bad), lambda: prometheus.range("up", 0, 5, bad)]
    for call in calls:
        with pytest.raises(StoreError, match="finite number|number of seconds"):
            call()


def test_a_range_of_too_many_points_is_refused() -> None:
    """A step of a millisecond over a century would be asked for in millions of pieces."""
    with pytest.raises(StoreError, match="too many points"):
        Prometheus("http://127.0.0.1:9").range("up", 0, 3e9, 0.001)


def test_series_of_several_replicas_are_reported() -> None:
    """Thanos without deduplication has each target once per Prometheus: sums count it twice."""
    series = [({"job": "vllm", "prometheus_replica": str(n)}, 12) for n in (0, 1)]
    with telling(lambda *_: vector(*series)) as server:
        (warning,) = Prometheus(server.url).query("x").provenance.warnings
    assert "2 times" in warning and "max without (prometheus_replica)" in warning
    with telling(lambda *_: vector(*series[:1])) as server:
        assert Prometheus(server.url).query("x").provenance.warnings == ()
