"""Which engine exported these names, and what it calls each answer."""

from __future__ import annotations

import re

import pytest

from lab import engines
from lab.errors import NoData, SettingsError
from lab.schema import Metric
from tests.engines.pages import DATA, page

VLLM = ("num_requests_running", "prompt_tokens_total", "e2e_request_latency_seconds_count")


def names_of_page(name: str) -> list[str]:
    lines = [line for line in page(name).splitlines() if line and not line.startswith("#")]
    return sorted({re.split(r"[{\s]", line)[0] for line in lines})


def test_every_name_answers_a_question_that_exists() -> None:
    """A misspelt question would never be answered."""
    for engine in engines.engines().values():
        assert set(engine.names) <= set(engines.questions()), engine.key
        assert set(engine.why_not) <= set(engines.questions()), engine.key
        assert engine.source


def test_the_labs_own_names_are_the_newest_vllms() -> None:
    """lab.schema.Metric and names.toml cannot drift apart."""
    own = [name for key, name in vars(Metric).items() if key.isupper()]
    exported = [f"{name}_count" for name in own] + own
    for name in own:
        assert str(engines.actual_name(name, exported, "")) == name


@pytest.mark.parametrize(
    ("stem", "prefix"),
    [
        ("vllm:", ""),
        ("vllm_", ""),
        ("kserve_vllm:", "kserve_"),
        ("ray_vllm_", "ray_"),
        ("otel_collector_vllm_", "otel_collector_"),
    ],
)
def test_any_prefix_is_recognised(stem: str, prefix: str) -> None:
    """KServe and Ray put one before the name, collectors replace the colon."""
    dialect = engines.recognise(["up", *(stem + name for name in VLLM)])[0]
    assert (dialect.engine.key, dialect.stem, dialect.prefix) == ("vllm", stem, prefix)
    assert str(dialect.name_of("prompt_tokens")) == f"{stem}prompt_tokens_total"
    assert str(engines.actual_name("vllm:e2e_request_latency_seconds_count", [stem + VLLM[2]])) == (
        f"{stem}e2e_request_latency_seconds_count"
    )


@pytest.mark.parametrize(
    "name",
    [
        "job:vllm:num_requests_running",
        "vllm:prompt_tokens_created",
        "vllm:unheard_of",
        "novllm",
        "myvllm:num_requests_running",
    ],
)
def test_what_only_looks_like_an_engine_is_not_one(name: str) -> None:
    """A recording rule, the instant at which a counter was created, another word."""
    assert engines.recognise([name]) == []


@pytest.mark.parametrize(
    ("names", "question", "answer"),
    [
        (["vllm:gpu_cache_usage_perc"], "kv_usage", "vllm:gpu_cache_usage_perc"),
        (
            ["vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"],
            "kv_usage",
            "vllm:kv_cache_usage_perc",
        ),
        (
            ["ray_vllm_prompt_tokens", "ray_vllm_prompt_tokens_total"],
            "prompt_tokens",
            "ray_vllm_prompt_tokens_total",
        ),
        (["ray_vllm_prompt_tokens"], "prompt_tokens", "ray_vllm_prompt_tokens"),
        (["sglang:token_usage"], "kv_usage", "sglang:token_usage"),
        (["sglang:queue_time_seconds_count"], "queue", "sglang:queue_time_seconds"),
        (["tgi_request_duration_count"], "e2e", "tgi_request_duration"),
        (["trtllm_kv_cache_utilization"], "kv_usage", "trtllm_kv_cache_utilization"),
        (
            ["nv_trt_llm_request_metrics"],
            "waiting",
            'nv_trt_llm_request_metrics{request_type="waiting"}',
        ),
        (
            ["dynamo_frontend_time_to_first_token_seconds_count"],
            "ttft",
            "dynamo_frontend_time_to_first_token_seconds",
        ),
        (["llamacpp:requests_deferred"], "waiting", "llamacpp:requests_deferred"),
    ],
)
def test_each_engine_answers_by_its_own_name(names: list[str], question: str, answer: str) -> None:
    """Of old and new names at once the new one, never both."""
    dialect = engines.recognise(names)[0]
    assert str(dialect.name_of(question)) == answer


@pytest.mark.parametrize(
    ("names", "question", "why"),
    [
        (["tgi_queue_size"], "kv_usage", "no usage of its KV cache"),
        (["tgi_queue_size"], "ttft", "no histogram of first tokens"),
        (["trtllm_num_requests_running"], "itl", "no histogram of gaps"),
        (["dynamo_frontend_inflight_requests"], "waiting", "includes prefill"),
        (["vllm:num_requests_running"], "cached_tokens", "does not count cached"),
        (["sglang:num_running_reqs", "sglang:num_retracted_reqs"], "preemptions", "only a gauge"),
    ],
)
def test_what_an_engine_cannot_answer_has_a_reason(
    names: list[str], question: str, why: str
) -> None:
    """Never another metric in its place."""
    dialect = engines.recognise(names)[0]
    assert why in dialect.reason(question)
    with pytest.raises(NoData, match=why):
        dialect.name_of(question)


def test_a_native_histogram_is_selected_by_its_own_name() -> None:
    """Its parts have no series; `_created` and other metrics do not make a histogram."""
    names = ["vllm:num_requests_running", "vllm:e2e_request_latency_seconds"]
    name = engines.actual_name("vllm:e2e_request_latency_seconds_bucket", names)
    assert name is not None and name.native
    assert name.selector('job="x"', part="_sum") == 'vllm:e2e_request_latency_seconds{job="x"}'


def test_a_prefix_that_cannot_be_guessed_is_a_setting() -> None:
    """The engine that fits best, or the one that is named."""
    names = ["acme_llm_num_running_reqs", "acme_llm_num_queue_reqs", "acme_llm_prompt_tokens_total"]
    assert engines.recognise(names) == []
    (dialect,) = engines.recognise(names, "acme_llm_")
    assert dialect.engine.key == "sglang"
    (named,) = engines.recognise(names, "vllm=acme_llm_")
    assert (named.engine.key, list(named.names)) == ("vllm", ["prompt_tokens"])
    with pytest.raises(SettingsError, match="there is no engine 'nim'(.|\n)*sglang"):
        engines.recognise(names, "nim=acme_llm_")


@pytest.mark.parametrize(
    ("case", "text"),
    [
        (
            "m04_vllm_0.10_both_names",
            "vLLM V1, old and new names at once (0.10 to 0.12)",
        ),
        ("m07_kserve_vllm.t0", "vLLM V1, 0.15 or newer, prefixed 'kserve_'"),
        ("m16_sglang_tp4.t0", "SGLang"),
    ],
)
def test_the_supplied_pages_are_recognised(case: str, text: str) -> None:
    assert [str(dialect) for dialect in engines.recognise(names_of_page(case))] == [text]


def test_every_supplied_page_has_a_known_origin() -> None:
    """The README names each file's thread."""
    readme = (DATA / "README.md").read_text()
    for path in DATA.glob("*.prom"):
        assert f"`{path.name[:3]}_*`" in readme
