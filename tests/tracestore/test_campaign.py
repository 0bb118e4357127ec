"""A short run of `benchmarks.store_campaign` passes: values at every bound, every endpoint."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from benchmarks import store_campaign
from tests.tracestore.conftest import Running
from tests.tracestore.corpus import random_spans, request_of


@pytest.mark.slow
def test_values_at_every_bound_never_give_a_500(tmp_path: Path) -> None:
    """OTLP fields and parameters at their bounds give 200 or 4xx, and no traceback in the log."""
    result = store_campaign.fuzz(tmp_path, 600, seed=18)
    assert result["failed"] == 0, result["first"]
    assert result["codes"]["write 200"] > 150
    assert result["codes"]["read 200"] > 100


@pytest.mark.slow
def test_bodies_that_expand_are_bounded(tmp_path: Path) -> None:
    """Bodies in which a field is repeated up to millions of times are accepted or refused."""
    result = store_campaign.expand(tmp_path, 4, seed=3)
    assert result["failed"] == 0, result["first"]
    assert sum(result["codes"].values()) == 4
    assert 0 < result["rss_mb"] <= store_campaign.MAX_RSS_MB


LONG = "9" * 5000


@pytest.mark.parametrize("value", ["9" * 20, "9" * 400, LONG, "9" * 30 + "h", "1e30h", "-1", "١٢"])
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/search", "start"),
        ("/api/search", "end"),
        ("/api/search", "minDuration"),
        ("/api/search", "maxDuration"),
        ("/api/search", "limit"),
        ("/api/metrics/query_range", "start"),
        ("/api/metrics/query_range", "end"),
        ("/api/metrics/query_range", "since"),
        ("/api/metrics/query_range", "step"),
        ("/api/lab/spans", "limit"),
    ],
)
def test_numbers_out_of_range_are_a_client_error(
    fuzzed: Running, path: str, name: str, value: str
) -> None:
    """Too many digits, huge units and digits of other scripts give 400 with a sentence."""
    parameters = {"q": "{} | rate()"} if "metrics" in path else {}
    answer = fuzzed.tempo.get(path, params=parameters | {name: value})
    assert answer.status_code == 400
    assert name in answer.text


def test_a_url_that_is_too_long_leaves_no_traceback(
    fuzzed: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the client's error: 400, and one line in the log."""
    answer = fuzzed.tempo.get("/api/search", params={"q": "9" * 20_000})
    assert answer.status_code == 400
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    "query",
    [LONG, f"{{ span.x = {LONG} }}", f"{{ duration > {LONG}s }}", f"{{}} | count() > {LONG}"]
    + ["{ duration > " + "9" * 400 + "h }", f"{{}} | rate() > {LONG}"],
)
def test_numbers_of_any_length_in_a_query_are_a_client_error(fuzzed: Running, query: str) -> None:
    """Python itself refuses to read a number of more than 4,300 digits."""
    for path in ("/api/search", "/api/lab/spans", "/api/metrics/query_range"):
        assert fuzzed.tempo.get(path, params={"q": query}).status_code == 400


@pytest.mark.parametrize(
    "query",
    ["{ span.a - span.b }", "{ -span.a }", "{ 2 " + "^ 9" * 60 + " > 1 }"]
    + ["{} | quantile_over_time(name, .5)", "{ span.a && 1 + 1 }"],
)
def test_types_that_do_not_fit_are_a_client_error(fuzzed: Running, query: str) -> None:
    """A number where a truth value is needed is refused; a quantile of texts has no value."""
    fuzzed.export(request_of(random_spans(1)).SerializeToString())
    for path in ("/api/search", "/api/lab/spans", "/api/metrics/query"):
        answer = fuzzed.tempo.get(path, params={"q": query, "exact": "true"})
        assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize("tag", ["span.app.kubernetes.io/name", 'span."{x}"', "span.a%2Fb"])
def test_tags_with_any_character_have_values(fuzzed: Running, tag: str) -> None:
    """A slash, or braces in quotes, are part of the tag's name, not of the path."""
    for version in ("/api/search", "/api/v2/search"):
        answer = fuzzed.tempo.get(f"{version}/tag/{tag}/values")
        assert answer.status_code == 200


def test_an_aborted_body_leaves_no_traceback(tmp_path: Path) -> None:
    """A client that disconnects during its body is not an error of the store."""
    store = store_campaign.Store(tmp_path)

    def half() -> object:
        yield b"x" * 1000
        raise httpx.WriteError("the sender goes away")

    for _ in range(3):
        with pytest.raises(httpx.WriteError):
            httpx.post(store.otlp, content=half(), headers=store_campaign.PROTOBUF, timeout=60)
    httpx.get(f"{store.tempo}/api/search", timeout=60).raise_for_status()
    tracebacks = store.tracebacks
    store.end()
    assert tracebacks == []


def test_a_pipeline_over_resources_selects_spans(running: Running) -> None:
    """Resource attributes in a pipeline select spans as they do in a filter."""
    running.export(request_of(random_spans(1)).SerializeToString())
    for query in (
        "{ .foo = 1.5 } | count() > 0",
        '{ resource.service.name = "api" } | count() > 0',
    ):
        answer = running.tempo.get("/api/lab/spans", params={"q": query})
        assert answer.status_code == 200, answer.text
