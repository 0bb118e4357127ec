"""Prometheus and compatible servers are queried correctly, or raise a clear error."""

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
from tests.stores.servers import Reply, serving


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


def test_an_answer_keeps_its_query() -> None:
    """Labels and samples are unchanged, and the answer knows where it came from."""
    with serving(lambda path, params: vector(({"__name__": "up", "job": "vllm"}, 1))) as server:
        answer = Prometheus(server.url + "/").query("up", at=datetime.fromtimestamp(5, UTC))
    assert [s.labels for s in answer] == [{"__name__": "up", "job": "vllm"}]
    assert bytes(answer.series[0].pieces[0]) == b'[[1.0, "1"]]'
    assert answer.metrics == [{"metric": {"__name__": "up", "job": "vllm"}, "value": [1.0, "1"]}]
    assert answer.provenance.url == server.url and answer.provenance.start == 5.0
    assert server.requests == [
        ("/api/v1/query", {"query": "up", "time": "5.000", "timeout": "30s"})
    ]


def test_a_scalar_is_a_series_without_labels() -> None:
    """`time()` and `1+1` are answers too."""
    with serving(lambda *_: success({"resultType": "scalar", "result": [1.5, "2"]})) as server:
        answer = Prometheus(server.url).query("1+1")
    assert (
        answer.kind == "vector"
        and answer.series[0].labels == {}
        and bytes(answer.series[0].pieces[0]) == b'[[1.5, "2"]]'
    )


def test_a_long_range_is_queried_in_pieces_and_joined() -> None:
    """Every point arrives once, and series are joined by their labels in any order."""

    def respond(_: str, params: dict[str, str]) -> Reply:
        first = float(params["start"])
        series = [({"a": "x"}, [[first, "1"]]), ({"a": "y"}, [[first, "2"]])]
        return matrix(*(series if first == 0 else reversed(series)))

    with serving(respond) as server:
        answer = Prometheus(server.url).range("m", 0, 3_000, 1)
    windows = sorted(
        ((p["start"], p["end"]) for _, p in server.requests), key=lambda w: float(w[0])
    )
    assert windows == [("0.000", "1374.000"), ("1375.000", "2749.000"), ("2750.000", "3000.000")]
    assert {s.labels["a"]: [json.loads(bytes(p)) for p in s.pieces] for s in answer} == {
        "x": [[[0.0, "1"]], [[1_375.0, "1"]], [[2_750.0, "1"]]],
        "y": [[[0.0, "2"]], [[1_375.0, "2"]], [[2_750.0, "2"]]],
    }
    assert answer.provenance.requests == 3
    assert (answer.provenance.start, answer.provenance.end) == (0, 3_000)


def test_a_query_that_depends_on_the_whole_range_is_sent_at_once_or_refused() -> None:
    """`@ end()` differs per piece: up to 11,000 points are one request, more are an error."""
    with serving(lambda *_: matrix()) as server:
        Prometheus(server.url).range("m @ end()", 0, 10_999, 1)
        assert [(p["start"], p["end"]) for _, p in server.requests] == [("0.000", "10999.000")]
        with pytest.raises(StoreError, match="in pieces"):
            Prometheus(server.url).range("m @ end ()", 0, 11_000, 1)


def test_a_stream_yields_the_range_part_by_part() -> None:
    """Parts arrive in order of time, and a stream without any sample is an error."""

    def respond(_: str, params: dict[str, str]) -> Reply:
        if params["query"] == "none":
            return matrix()
        time.sleep(0.05 if params["start"] == "0.000" else 0.0)
        return matrix(({"a": "x"}, [[float(params["start"]), "1"]]))

    with serving(
        lambda path, params: success(["up"]) if "values" in path else respond(path, params)
    ) as server:
        prometheus = Prometheus(server.url)
        parts = list(prometheus.stream("m", 0, 9_000, 1))
        assert [json.loads(bytes(p.series[0].pieces[0]))[0][0] for p in parts] == [
            1_375.0 * i for i in range(7)
        ]
        assert {p.provenance.step_s for p in parts} == {1.0}
        # Only the first part is needed: closing the stream must not wait for the others.
        next(prometheus.stream("m", 0, 90_000, 1))
        with pytest.raises(NoData, match="none"):
            list(prometheus.stream("none", 0, 9_000, 1))


def test_one_piece_that_fails_fails_the_range() -> None:
    """A range with a gap would be a wrong answer."""

    def respond(_: str, params: dict[str, str]) -> Reply:
        return matrix() if params["start"] == "0.000" else Reply(b"gone", 502)

    with serving(respond) as server, pytest.raises(QueryRejected, match="502"):
        Prometheus(server.url).range("m", 0, 6_000, 1)


def test_a_login_in_the_address_is_sent_and_not_shown() -> None:
    """`https://me:secret@host` sends basic authentication."""
    with serving(lambda *_: vector()) as server:
        prometheus = Prometheus(server.url.replace("//", "//me:secret@"))
        answer = prometheus.query("up")
    assert prometheus.url == server.url and "secret" not in str(answer.provenance)
    assert server.headers[0]["Authorization"] == "Basic bWU6c2VjcmV0"


@given(st.integers(0, 10**9), st.integers(0, 10**8), st.integers(1, 10**6))
def test_the_pieces_contain_every_point_once(start_ms: int, length_ms: int, step_ms: int) -> None:
    """The pieces together have the points of the range, none twice, and none is too long."""
    length_ms = min(length_ms, step_ms * 40_000)
    windows = pieces(start_ms / 1000, (start_ms + length_ms) / 1000, step_ms / 1000)
    counts = [round((b - a) * 1000) // step_ms + 1 for a, b in windows]
    assert sum(counts) == length_ms // step_ms + 1 and max(counts) <= MAX_POINTS
    assert [round(a * 1000) for a, _ in windows[1:]] == [
        round(b * 1000) + step_ms for _, b in windows[:-1]
    ]


def test_raw_samples_include_the_lookback() -> None:
    """The query is a range selector at the end of the window, longer by the lookback."""
    with serving(lambda *_: matrix()) as server:
        Prometheus(server.url).samples('m{job="x"}', 100, 160, lookback_s=10)
    assert (
        server.requests[0][1]["query"] == 'm{job="x"}[70001ms]'
        and server.requests[0][1]["time"] == "160.000"
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
def test_an_error_contains_the_servers_message(reply: Reply, error: type, words: str) -> None:
    """A rejection contains the query and the message; other errors describe the response."""
    with serving(lambda *_: reply) as server, pytest.raises(error, match=words) as caught:
        Prometheus(server.url).query("some_metric")
    assert caught.value.query == "some_metric"


def test_a_pattern_that_is_no_regular_expression_is_refused_by_the_server() -> None:
    """Names are looked for by a pattern only where it is one."""
    refused = Reply(b'{"status":"error","errorType":"bad_data","error":"missing closing )"}', 400)

    def respond(path: str, _: dict[str, str]) -> Reply:
        return success(["vllm:num_requests_running"]) if "label" in path else refused

    with serving(respond) as server, pytest.raises(QueryRejected, match="missing closing"):
        Prometheus(server.url).query('{__name__=~"vllm(.*"}')


def test_unreachable_and_slow_servers_are_distinguished() -> None:
    """A refused connection and a timeout raise different messages."""
    with serving(lambda *_: Reply(b"late")) as server:
        url = server.url
    with pytest.raises(StoreUnreachable, match="cannot be reached"):
        Prometheus(url).query("up")

    def slow(*_: object) -> Reply:
        time.sleep(0.4)
        return Reply(b"late")

    with serving(slow) as server, pytest.raises(StoreUnreachable, match="in time"):
        Prometheus(server.url, timeout_s=0.1).query("up")


def test_without_an_address_the_error_names_the_setting() -> None:
    """Without a running lab and a setting, the error names the variable to set."""
    with pytest.raises(NotUp, match="LAB_PROMETHEUS_URL"):
        Prometheus(load_settings(prometheus_url=None, state_dir="nowhere"))


def metrics_server(*, names: list[str], down: list[dict[str, str]] = ()):  # type: ignore[assignment]
    def respond(path: str, params: dict[str, str]) -> Reply:
        if path.endswith("/values"):
            return success(names)
        if params.get("query") == "up == 0":
            return vector(*((labels, 0) for labels in down))
        return vector()

    return respond


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
def test_an_empty_answer_is_explained_when_data_is_required(
    names: list, down: list, why: str
) -> None:
    """The server is queried for the cause: absent metric, target down or empty window."""
    with serving(metrics_server(names=names, down=down)) as server:
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
    """Functions, keywords, labels and strings are not metrics."""
    assert metric_names_in(promql) == names


def test_the_first_name_that_exists() -> None:
    """The first existing name is returned; if none exists, one error names them all."""
    with serving(metrics_server(names=["ogx_requests_total"])) as server:
        prometheus = Prometheus(server.url)
        assert (
            prometheus.first_present("llama_stack_requests_total", "ogx_requests_total")
            == "ogx_requests_total"
        )
        with pytest.raises(NoData, match="none of the metrics"):
            prometheus.first_present("a", "b")


def test_a_token_in_the_settings_is_sent_to_both_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LAB_STORE_HEADERS` is sent to servers behind a login, and the settings do not show it."""
    monkeypatch.setenv("LAB_STORE_HEADERS", '{"Authorization": "Bearer abc"}')
    with serving(
        lambda path, _: Reply(b'{"traces":[]}') if path == "/api/search" else vector()
    ) as server:
        settings = load_settings(prometheus_url=server.url, tempo_url=server.url)
        Prometheus(settings).query("up")
        Tempo(settings).search("{}", 0, 1)
    assert [h["Authorization"] for h in server.headers] == ["Bearer abc"] * 2
    assert "abc" not in repr(settings)


@pytest.mark.parametrize(
    ("metric", "exported"),
    [
        ("vllm:e2e_request_latency_seconds_bucket", "vllm:e2e_request_latency_seconds_bucket"),
        ("vllm:inter_token_latency_seconds_bucket", "vllm:time_per_output_token_seconds_bucket"),
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        ("vllm:kv_cache_usage_perc", "kserve_vllm:kv_cache_usage_perc"),
        ("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
        ("llama_stack_requests_total", "ogx_requests_total"),
        (
            "llama_stack_request_duration_seconds_sum",
            "llama_stack_llama_stack_request_duration_seconds_sum",
        ),
        ("llama_stack_llama_stack_requests_total", "ogx_ogx_requests_total"),
    ],
)
def test_a_metric_is_found_under_its_names_in_other_versions(metric: str, exported: str) -> None:
    """vLLM's renames and Llama Stack's prefixes are found, also for parts of a histogram."""
    with serving(metrics_server(names=["up", exported])) as server:
        assert Prometheus(server.url).present(metric) == exported
    with (
        serving(metrics_server(names=["up"])) as server,
        pytest.raises(NoData, match="none of the metrics"),
    ):
        Prometheus(server.url).present(metric)


def test_timestamps_need_a_time_zone_and_windows_an_order() -> None:
    """Ambiguous arguments are refused before any request is sent."""
    prometheus = Prometheus("http://127.0.0.1:9")
    with pytest.raises(StoreError, match="time zone"):
        prometheus.query("up", at=datetime(2026, 1, 1))
    with pytest.raises(StoreError, match="ends before it starts"):
        prometheus.range("up", 10, 5, 1)
    with pytest.raises(StoreError, match="millisecond"):
        prometheus.range("up", 0, 5, 0)


def target(job: str, last_scrape: str, health: str = "up") -> dict:
    labels = {"job": job, "instance": "h:1"}
    return {
        "labels": labels,
        "health": health,
        "lastScrape": last_scrape,
        "lastError": "" if health == "up" else "refused",
    }


def test_waiting_for_a_scrape() -> None:
    """It returns once every target has been scraped, and names the targets that were not."""
    times = iter(["1970-01-01T00:00:09.5Z", "1970-01-01T00:00:10.123456789Z"])
    with serving(lambda *_: success({"activeTargets": [target("vllm", next(times))]})) as server:
        assert Prometheus(server.url).wait_for_scrape(10.0, jobs=["vllm"], timeout_s=60) < 60
        assert len(server.requests) == 2
    down = [target("vllm", "1970-01-01T00:00:20Z", "down")]
    with (
        serving(lambda *_: success({"activeTargets": down})) as server,
        pytest.raises(StoreError, match="refused.*node .no such target"),
    ):
        Prometheus(server.url).wait_for_scrape(10.0, jobs=["vllm", "node"], timeout_s=0.01)


def test_native_histograms_are_refused_with_an_alternative() -> None:
    """Their samples are not numbers; the error points to the classic series."""
    result = [{"metric": {}, "histogram": [1, {"count": "1"}]}]
    with (
        serving(lambda *_: success({"resultType": "vector", "result": result})) as server,
        pytest.raises(StoreError, match="native histograms"),
    ):
        Prometheus(server.url).query("h")


def test_a_native_histogram_without_a_name_does_not_hide_the_other_series() -> None:
    """A warning names what was left out, and the other series are read."""
    native = {"metric": {"job": "h"}, "histograms": [[1, {"count": "1"}]]}
    plain = {"metric": {"__name__": "x"}, "values": [[1, "5"]]}
    data = {"resultType": "matrix", "result": [native, plain]}
    with serving(lambda *_: success(data)) as server:
        answer = Prometheus(server.url).range("{a='b'}", 0, 10, 1)
    assert [s.labels["__name__"] for s in answer] == ["x"]
    (warning,) = answer.provenance.warnings
    assert "without a name are left out" in warning and "'job': 'h'" in warning


def test_warnings_of_the_server_are_kept() -> None:
    """Warnings, infos and partial answers are kept, each once per range."""
    body = {
        "status": "success",
        "isPartial": True,
        "data": {"resultType": "matrix", "result": []},
        "warnings": ["no StoreAPIs matched"],
        "infos": ["metric might not be a counter"],
    }
    with serving(lambda *_: Reply(json.dumps(body).encode())) as server:
        prometheus = Prometheus(server.url)
        answers = [prometheus.query("up"), prometheus.range("up", 0, 3_000, 1)]
    for answer in answers:
        warnings = answer.provenance.warnings
        assert warnings[:2] == ("no StoreAPIs matched", "metric might not be a counter")
        assert len(warnings) == 3 and "partial" in warnings[2]


def test_waiting_for_a_scrape_of_nothing_is_an_error() -> None:
    """Without targets and `up` series the wait is an error: no counter would ever be recorded."""

    def respond(path: str, _: dict[str, str]) -> Reply:
        nothing = {"resultType": "vector", "result": []}
        return success({"activeTargets": []} if path.endswith("targets") else nothing)

    with (
        serving(respond) as server,
        pytest.raises(StoreError, match="no scrape targets"),
    ):
        Prometheus(server.url).wait_for_scrape(10.0, timeout_s=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300, -1e18, "abc", None, [1]])
def test_invalid_times_and_steps_are_refused(bad: object) -> None:
    """Every function refuses them before any request is sent."""
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
    """A step of a millisecond over a century would need millions of requests."""
    with pytest.raises(StoreError, match="too many points"):
        Prometheus("http://127.0.0.1:9").range("up", 0, 3e9, 0.001)


def test_series_of_several_replicas_are_reported() -> None:
    """Series that Thanos returns once per Prometheus raise a warning, as sums count them twice."""
    series = [({"job": "vllm", "prometheus_replica": str(n)}, 12) for n in (0, 1)]
    with serving(lambda *_: vector(*series)) as server:
        (warning,) = Prometheus(server.url).query("x").provenance.warnings
    assert "2 times" in warning and "max without (prometheus_replica)" in warning
    with serving(lambda *_: vector(*series[:1])) as server:
        assert Prometheus(server.url).query("x").provenance.warnings == ()
