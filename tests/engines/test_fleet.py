"""Engines side by side, by a real Prometheus that scraped the supplied pages and others.

All cases are jobs of one Prometheus; each test looks at its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab import fleet
from lab.cli.fleet import main
from lab.errors import NoData
from lab.fleet import Fleet
from lab.settings import Settings, load_settings
from tests.engines.pages import DATA, page, scraped, window
from tests.stores.servers import Reply, serving

PAIRS = {
    "m02": ("m02_vllm_first_bucket", "m02_vllm_first_bucket"),
    "m03": ("m03_vllm_default_buckets.t0", "m03_vllm_default_buckets.t1"),
    "m03x4": ("m03_vllm_default_buckets.t0", "m03_vllm_default_buckets_prefill_x4.t1"),
    "m04": ("m04_vllm_0.10_both_names", "m04_vllm_0.10_both_names"),
    "m06": ("m06_vllm_dp8.t0", "m06_vllm_dp8.t1"),
    "team-a/chat": ("m07_kserve_vllm.t0", "m07_kserve_vllm.t1"),
    "m11": ("m11_vllm_aborts.t0", "m11_vllm_aborts.t1"),
    "m13": ("m13_vllm_pd_decode.t0", "m13_vllm_pd_decode.t1"),
    "m16": ("m16_sglang_tp4.t0", "m16_sglang_tp4.t1"),
}
# A vLLM page; RUNNING, KV and TOKENS are replaced.
ENGINE = """
vllm:num_requests_running{model_name="m",engine="0"} RUNNING
vllm:num_requests_waiting{model_name="m",engine="0"} 0
vllm:kv_cache_usage_perc{model_name="m",engine="0"} KV
vllm:prompt_tokens_total{model_name="m",engine="0"} TOKENS
"""
ROUTER = """
vllm:num_requests_running{server="http://10.0.1.1:8000"} 3
vllm:num_requests_running{server="http://10.0.1.2:8000"} 5
vllm:healthy_pods_total{server="http://10.0.1.1:8000"} 1
vllm:current_qps{server="http://10.0.1.1:8000"} 2
"""
OLD_ENGINE = """
vllm:num_requests_running{model_name="m"} 2
vllm:num_requests_swapped{model_name="m"} 0
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
vllm:prompt_tokens_total{model_name="m"} 700
"""
SGLANG_DP = """
sglang:num_running_reqs{model_name="m",tp_rank="0",dp_rank="0"} 4
sglang:num_running_reqs{model_name="m",tp_rank="1",dp_rank="0"} 4
sglang:num_running_reqs{model_name="m",tp_rank="0",dp_rank="1"} 7
sglang:num_running_reqs{model_name="m",tp_rank="1",dp_rank="1"} 7
sglang:token_usage{model_name="m",tp_rank="0",dp_rank="0"} 0.2
sglang:token_usage{model_name="m",tp_rank="0",dp_rank="1"} 0.9
sglang:prompt_tokens_total{model_name="m"} TOKENS
sglang:num_retracted_requests_total{model_name="m",tp_rank="0",dp_rank="1"} TOKENS
sglang:num_retracted_requests_total{model_name="m",tp_rank="1",dp_rank="1"} TOKENS
"""
RAY = """
ray_vllm_num_requests_running{model_name="m",WorkerId="w1",ReplicaId="r1"} 1
ray_vllm_num_requests_running{model_name="m",WorkerId="w2",ReplicaId="r2"} 2
ray_vllm_prompt_tokens{model_name="m",WorkerId="w1",ReplicaId="r1"} TOKENS
ray_vllm_prompt_tokens_total{model_name="m",WorkerId="w1",ReplicaId="r1"} TOKENS
ray_vllm_prompt_tokens{model_name="m",WorkerId="w2",ReplicaId="r2"} TOKENS
ray_vllm_prompt_tokens_total{model_name="m",WorkerId="w2",ReplicaId="r2"} TOKENS
"""
TGI = """
tgi_batch_current_size 3
tgi_queue_size 2
tgi_request_success TOKENS
tgi_request_input_length_sum TOKENS
tgi_request_input_length_count TOKENS
tgi_request_duration_bucket{le="1"} TOKENS
tgi_request_duration_bucket{le="+Inf"} TOKENS
tgi_request_duration_sum 0.5
tgi_request_duration_count TOKENS
"""
TRITON = """
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 5
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 256
nv_trt_llm_kv_cache_block_metrics{model="tensorrt_llm",kv_cache_block_type="fraction"} 0.4
nv_trt_llm_kv_cache_block_metrics{model="tensorrt_llm",kv_cache_block_type="max"} 6239
"""
TRTLLM = """
trtllm_num_requests_running{model_name="m"} 5
trtllm_kv_cache_utilization{model_name="m"} 0.62
trtllm_kv_cache_reused_blocks_total{model_name="m"} TOKENS
trtllm_kv_cache_missed_blocks_total{model_name="m"} TOKENS
"""
SEVERAL_ANSWERS = """
vllm:request_params_n_sum{model_name="m",engine="0"} TOKENS
vllm:request_params_n_count{model_name="m",engine="0"} 10
vllm:prompt_tokens_total{model_name="m",engine="0"} TOKENS
"""
PIDS = """
vllm:num_requests_running{model_name="m",pid="7"} 9
vllm:num_requests_running{model_name="m",pid="8"} RUNNING
vllm:num_requests_waiting{model_name="m",pid="7"} 1
vllm:num_requests_waiting{model_name="m",pid="8"} 2
vllm:prompt_tokens_total{model_name="m",pid="7"} 100
vllm:prompt_tokens_total{model_name="m",pid="8"} TOKENS
"""
TWO_BOUNDS = """
vllm:e2e_request_latency_seconds_bucket{engine="0",le="1.0"} TOKENS
vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf"} TOKENS
vllm:e2e_request_latency_seconds_sum{engine="0"} TOKENS
vllm:e2e_request_latency_seconds_count{engine="0"} TOKENS
vllm:e2e_request_latency_seconds_bucket{engine="1",le="2.0"} TOKENS
vllm:e2e_request_latency_seconds_bucket{engine="1",le="+Inf"} TOKENS
vllm:e2e_request_latency_seconds_sum{engine="1"} 50
vllm:e2e_request_latency_seconds_count{engine="1"} TOKENS
"""
DYNAMO = """
dynamo_frontend_inflight_requests{model="m"} 6
dynamo_frontend_requests_total{model="m",status="success"} TOKENS
"""


def filled(text: str, tokens: int = 0, running: int = 0, kv: float = 0.0) -> str:
    text = text.replace("TOKENS", str(tokens)).replace("RUNNING", str(running))
    return text.replace("KV", str(kv))


def target(job: str, instance: str = "10.0.0.1:8000", **more: str) -> dict[str, str]:
    return {"job": job, "instance": instance, **more}


def growing(text: str, before: int = 0, after: int = 100) -> tuple[str, str]:
    return filled(text, before), filled(text, after)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    pairs = [(target(job, f"{job}:8000"), page(a), page(b)) for job, (a, b) in PAIRS.items()]
    engine = (filled(ENGINE, 0, 3, 0.4), filled(ENGINE, 1000, 3, 0.4))
    other = (filled(ENGINE, 0, 5, 0.6), filled(ENGINE, 500, 5, 0.6))
    twice = growing(ENGINE, 40, 140)
    m03 = page("m03_vllm_default_buckets.t1")
    x4 = page("m03_vllm_default_buckets_prefill_x4.t1")
    with scraped(
        *pairs,
        (target("routed", "10.0.1.1:8000"), *engine),
        (target("routed", "10.0.1.2:8000"), *other),
        (target("routed", "10.0.1.9:9000"), ROUTER, ROUTER),
        (target("router-only", "10.0.2.9:9000"), ROUTER, ROUTER),
        (target("upgrade", "10.0.3.1:8000"), OLD_ENGINE, OLD_ENGINE),
        (target("upgrade", "10.0.3.2:8000"), *engine),
        (target("sglang-dp"), *growing(SGLANG_DP)),
        (target("ray"), *growing(RAY)),
        (target("tgi"), *growing(TGI)),
        (target("triton"), TRITON, TRITON),
        (target("trtllm"), *growing(TRTLLM)),
        (target("several"), *growing(SEVERAL_ANSWERS, 10, 30)),
        (target("pids"), filled(PIDS, 0, 2), filled(PIDS, 50, 4)),
        (target("bounds"), *growing(TWO_BOUNDS, 0, 10)),
        (target("dynamo"), *growing(DYNAMO)),
        (target("ha", prometheus_replica="a"), *engine),
        (target("ha", prometheus_replica="b"), *engine),
        (target("twice", "10.0.4.1:8000", pod="p"), *twice),
        (target("twice", "10.0.4.1:8000", pod="p", namespace="again"), *twice),
        (target("phase", "10.0.5.1:8000"), *growing(ENGINE, 0, 1000)),
        (target("phase", "10.0.5.1:8000", namespace="again"), *growing(ENGINE, 0, 1010)),
        (target("alike", "10.0.6.1:8000"), page("m03_vllm_default_buckets.t0"), m03),
        (target("alike", "10.0.6.1:8000", namespace="b"), page("m03_vllm_default_buckets.t0"), x4),
        folder=tmp_path_factory.mktemp("fleet"),
    ) as settings:
        yield settings


def look(store: Settings, job: str) -> Fleet:
    return fleet.look(store, window(), job=job)


def truth(case: str) -> dict:
    return json.loads((DATA / f"{case}_truth.json").read_text())


def kinds(shown: Fleet) -> set[str]:
    return {remark.kind for remark in shown.remarks}


def test_m02_a_histogram_whose_sum_is_0_has_no_quantile(store: Settings) -> None:
    """All in the first bucket: a defect of the exporter, not 0.9 ms."""
    shown = look(store, "m02")
    ttft = shown.latency[shown.latency["what"] == "ttft"].iloc[0]
    assert ttft[["mean_s", "p50_high_s", "p95_low_s", "p95_high_s"]].isna().all()
    assert "defect" in kinds(shown)
    assert any("208 durations" in str(remark) for remark in shown.remarks)


@pytest.mark.parametrize(("job", "prefill_s"), [("m03", 0.01753), ("m03x4", 0.0701)])
def test_m03_one_bucket_gives_the_mean_and_no_quantile(
    store: Settings, job: str, prefill_s: float
) -> None:
    """Quantiles would be the same with prefill four times as slow; the mean and TTFT are not."""
    table = look(store, job).latency.set_index("what")
    prefill = table.loc["prefill"]
    assert prefill["mean_s"] == pytest.approx(prefill_s, rel=0.001)
    assert "no quantile is known" in prefill["why_not"]
    assert (prefill["p95_low_s"], prefill["p95_high_s"]) == (0.0, 0.3)
    right = truth("m03")["prefill_x4" if job == "m03x4" else "prefill"]["p95"]
    assert prefill["p95_low_s"] <= right <= prefill["p95_high_s"]
    assert table.loc["ttft", "why_not"] == ""
    assert table.loc["ttft", "p50_high_s"] < 0.1


def test_m04_of_both_names_one_counts(store: Settings) -> None:
    """Never their sum, and `_created` is never a count."""
    (row,) = look(store, "m04").engines.to_dict("records")
    assert row["kv_mean"] == truth("m04")["kv_cache"]
    assert row["hit_ratio_since_start"] == truth("m04")["hit_ratio"]
    assert row["prompt_tokens"] == 0


def test_m06_one_full_engine_of_eight_is_named(store: Settings) -> None:
    """A row per engine; a share is never above 1."""
    shown = look(store, "m06")
    right = truth("m06")
    assert len(shown.engines) == 8
    assert (shown.engines["kv_max"] <= 1).all()
    (outlier,) = [remark for remark in shown.remarks if remark.kind == "outlier"]
    assert outlier.where == right["culprit"]
    assert "97%" in outlier.text and "190" in outlier.text and "260" in outlier.text
    total = shown.totals().loc["vLLM"]
    assert (total["waiting_mean"], total["kv_max"]) == (right["waiting"], right["kv_cache_max"])


def test_m07_openshift_ais_names(store: Settings) -> None:
    """The same metrics under kserve_vllm:, in a job with a slash."""
    shown = look(store, "team-a/chat")
    (row,) = shown.engines.to_dict("records")
    right = truth("m07")
    for column in ("prompt_tokens", "generation_tokens", "cached_tokens", "requests"):
        assert row[column] == right[column]
    assert row["model"] == "acme-chat"
    assert shown.finished["finished_reason"].tolist() == ["stop"]


def test_m11_work_for_nobody_is_shown(store: Settings) -> None:
    """Prompt tokens without a request; how many requests is not known."""
    shown = look(store, "m11")
    (remark,) = [remark for remark in shown.remarks if remark.kind == "aborted"]
    assert f"{truth('m11')['prompt_tokens_unbilled']:,} prompt tokens" in remark.text
    assert "how many requests they were is not known" in remark.text
    assert shown.engines["requests"].tolist() == [0]
    assert "aborted" in set(shown.unknown["question"])


def test_m13_a_transfer_is_not_a_saving(store: Settings) -> None:
    """What the prefill instance computed is not cached, though the engine says so."""
    shown = look(store, "m13")
    (row,) = shown.engines.to_dict("records")
    assert row["cached_tokens"] == truth("m13")["cache_savings"]
    assert row["transferred_tokens"] == 99_900
    assert "transfer" in kinds(shown)


def test_m16_ranks_that_repeat_a_value_count_once(store: Settings) -> None:
    """6 running requests, not 24."""
    shown = look(store, "m16")
    (row,) = shown.engines.to_dict("records")
    right = truth("m16")
    assert row["server"] == "SGLang"
    assert (row["running_mean"], row["prompt_tokens"]) == (right["running"], right["prompt_tokens"])
    assert (row["waiting_mean"], row["kv_max"]) == (1, 0.44)
    assert "copies" in kinds(shown)


def test_a_router_does_not_double_its_engines(store: Settings) -> None:
    """It re-exports their gauges with the address of each; alone, its copies are all there is."""
    shown = look(store, "routed")
    assert shown.totals().loc["vLLM", ["engines", "running_mean"]].tolist() == [2, 8]
    assert "router" in kinds(shown)
    alone = look(store, "router-only")
    assert alone.totals().loc["vLLM", "running_mean"] == 8


def test_engines_of_two_versions_are_both_shown(store: Settings) -> None:
    """During an upgrade one has the old name and one the new."""
    shown = look(store, "upgrade")
    assert shown.engines["kv_mean"].tolist() == [0.5, 0.4]


def test_data_parallel_ranks_are_engines_and_tensor_parallel_ranks_are_not(
    store: Settings,
) -> None:
    """Counters without a rank are of the whole server."""
    shown = look(store, "sglang-dp")
    total = shown.totals().loc["SGLang"]
    assert (total["running_mean"], total["prompt_tokens"], total["preemptions"]) == (11, 100, 100)
    by_name = shown.engines.set_index("engine")
    assert by_name.loc["dp_rank 1", "kv_max"] == 0.9
    assert by_name.loc["dp_rank 1", "preemptions"] == 100
    assert by_name.loc["all dp_ranks", "prompt_tokens"] == 100


def test_rays_counters_have_two_names(store: Settings) -> None:
    """Without and with `_total`, for old dashboards: the same counter."""
    shown = look(store, "ray")
    assert shown.totals().loc["vLLM", ["engines", "prompt_tokens"]].tolist() == [2, 200]
    assert shown.engines["engine"].tolist() == ["r1 w1", "r2 w2"]


def test_other_engines_answer_what_they_can(store: Settings) -> None:
    """And the rest is not known, with the reason."""
    tgi = look(store, "tgi")
    (row,) = tgi.engines.to_dict("records")
    assert (row["running_mean"], row["waiting_mean"], row["prompt_tokens"]) == (3, 2, 100)
    assert "kv_usage" in set(tgi.unknown["question"])
    (row,) = look(store, "triton").engines.to_dict("records")
    assert (row["running_mean"], row["waiting_mean"], row["kv_mean"]) == (5, 2, 0.4)
    (row,) = look(store, "trtllm").engines.to_dict("records")
    assert (row["kv_mean"], row["hit_ratio"]) == (0.62, 0.5)
    dynamo = look(store, "dynamo")
    assert dynamo.engines["in_flight_mean"].tolist() == [6]
    assert dynamo.engines["running_mean"].isna().all()
    why = dynamo.unknown.set_index("question")["why"]
    assert "includes prefill" in why["waiting"]


def test_several_answers_per_request_are_said(store: Settings) -> None:
    assert "sequences" in kinds(look(store, "several"))


def test_gauges_of_dead_processes_do_not_count(store: Settings) -> None:
    """Of one that changes and one that does not, the first lives; of two constants: not known."""
    shown = look(store, "pids")
    (row,) = shown.engines.to_dict("records")
    assert row["running_max"] == 4
    assert row["waiting_mean"] != row["waiting_mean"]
    assert row["prompt_tokens"] == 50
    assert "waiting" in set(shown.unknown["question"])


def test_buckets_of_two_versions_are_not_added_up(store: Settings) -> None:
    """Each engine has its own quantiles; together they are not known."""
    table = look(store, "bounds").latency.set_index("engine")
    assert "different bucket bounds" in table.loc["all", "why_not"]
    assert table.loc["engine 0", "p50_high_s"] == 1.0


def test_a_sum_that_the_buckets_do_not_allow_is_a_defect(store: Settings) -> None:
    """Ten requests below 2 s cannot have taken 50 s; here the sum did not move at all."""
    table = look(store, "bounds").latency.set_index("engine")
    assert "sum of 10 durations is 0" in table.loc["engine 1", "why_not"]


def test_two_prometheus_servers_do_not_double_an_engine(store: Settings) -> None:
    """HA pairs scrape the same target twice."""
    shown = look(store, "ha")
    (row,) = shown.engines.to_dict("records")
    assert (row["running_mean"], row["prompt_tokens"], row["kv_max"]) == (3, 1000, 0.4)


def test_a_target_of_two_monitors_is_one_engine(store: Settings) -> None:
    """A ServiceMonitor and a PodMonitor both select it."""
    shown = look(store, "twice")
    assert shown.totals().loc["vLLM", ["engines", "prompt_tokens"]].tolist() == [1, 100]
    assert "twice" in kinds(shown)


def test_two_scrapes_of_one_engine_differ_and_two_engines_differ_more(store: Settings) -> None:
    """Two jobs scrape at other instants; of two engines at one address some counter is apart."""
    assert look(store, "phase").totals().loc["vLLM", "engines"] == 1
    assert look(store, "alike").totals().loc["vLLM", "engines"] == 2


def test_a_store_of_many_kinds_of_servers_is_shown_whole(store: Settings) -> None:
    """Without a job: every kind by itself, none added to another."""
    shown = fleet.look(store, window())
    servers = set(shown.engines["server"])
    assert {"vLLM", "SGLang", "Text Generation Inference", "TensorRT-LLM"} < servers
    assert (shown.engines["kv_max"].dropna() <= 1).all()
    assert shown.totals().loc["SGLang", "prompt_tokens"] == 52_100
    assert (shown.engines["engine"].str.startswith("m06 ")).sum() == 8
    assert not shown.engines["engine"].str.startswith("m02 all").any()
    why = shown.unknown[(shown.unknown["server"] == "SGLang")].set_index("question")["why"]
    assert "running" not in why


def test_the_command_prints_tables_and_json(
    store: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Prometheus alone; nothing is started."""
    monkeypatch.setattr("lab.stack.up", lambda *_, **__: pytest.fail("a lab was stood up"))
    url = store.endpoint("prometheus")
    arguments = ["--prometheus", url, "--window", window(), "--job", "m06"]
    assert main([*arguments, "--usd-per-hour", "8"]) == 0
    printed = capsys.readouterr().out
    assert "vLLM V1: 8 engines" in printed
    assert "! engine 5: KV cache usage 97%" in printed
    assert "(5, 10]" in printed
    assert "vLLM: not known, since its tokens are not" in printed
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["engines"]) == 8
    assert content["remarks"][0]["where"] == "engine 5"


def test_an_answer_of_which_a_storage_node_is_missing_says_so() -> None:
    """VictoriaMetrics marks an answer without series as partial: no engine is not 'no data'."""
    names = ["vllm:num_requests_running", "vllm:prompt_tokens_total"]
    empty = {"resultType": "matrix", "result": []}

    def answer(path: str, _query: dict[str, str]) -> Reply:
        if path.endswith("/values"):
            return Reply(json.dumps({"status": "success", "data": names}).encode())
        body = {"status": "success", "isPartial": True, "data": empty, "warnings": None}
        return Reply(json.dumps(body).encode())

    with serving(answer) as server:
        settings = load_settings(place="recorded", prometheus_url=server.url)
        with pytest.raises(NoData) as error:
            fleet.look(settings, "last 15m")
    assert "partial" in str(error.value)
