"""Pages of servers as their sources write them, and what the fleet must say of each.

Names and labels are from the sources in lab/engines/names.toml; models and numbers are invented.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lab.doctor.pages import read_page
from lab.errors import NoData
from lab.fleet import look_at


@dataclass(frozen=True)
class Page:
    """A page, and values by engine; None is 'not known'."""

    text: str
    rows: dict[str, dict[str, float | None]]
    prefix: str = ""


SGLANG = """
sglang:num_running_reqs{model_name="m",tp_rank="0",priority=""} 6
sglang:num_running_reqs{model_name="m",tp_rank="0",priority="0"} 4
sglang:num_running_reqs{model_name="m",tp_rank="0",priority="1"} 2
sglang:num_queue_reqs{model_name="m",tp_rank="0",priority=""} 3
sglang:num_queue_reqs{model_name="m",tp_rank="0",priority="1"} 3
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m",tp_rank="0"} 1000
# TYPE sglang:cached_tokens_total counter
sglang:cached_tokens_total{model_name="m",tp_rank="0",cache_source="device"} 300
sglang:cached_tokens_total{model_name="m",tp_rank="0",cache_source="host"} 100
"""
TRTLLM = """
trtllm_num_requests_running{model_name="m",engine_type="trtllm"} 5
trtllm_kv_cache_utilization{model_name="m",engine_type="trtllm"} 0.6
# TYPE trtllm_prompt_tokens_total counter
trtllm_prompt_tokens_total{model_name="m",engine_type="trtllm"} 900
# TYPE trtllm_prompt_cached_tokens_total counter
trtllm_prompt_cached_tokens_total{model_name="m",engine_type="trtllm"} 640
# TYPE trtllm_num_requests_completed_total counter
trtllm_num_requests_completed_total{model_name="m",engine_type="trtllm"} 12
"""
NIM = """
num_requests_running{model_name="m"} 3
num_requests_waiting{model_name="m"} 1
gpu_cache_usage_perc{model_name="m"} 0.2
# TYPE prompt_tokens_total counter
prompt_tokens_total{model_name="m"} 100
# TYPE generation_tokens_total counter
generation_tokens_total{model_name="m"} 50
"""
# A worker of Dynamo: its engine's metrics with Dynamo's labels, beside its own.
DYNAMO = """
vllm:num_requests_running{model_name="m",engine="0",dynamo_component="backend"} 4
vllm:kv_cache_usage_perc{model_name="m",engine="0",dynamo_component="backend"} 0.3
dynamo_component_inflight_requests{dynamo_component="backend",dynamo_endpoint="generate"} 4
dynamo_component_gpu_cache_usage_percent{dynamo_component="backend",model="m"} 0.3
"""
PAGES = {
    "sglang": Page(
        SGLANG,
        {"SGLang": {"running_mean": 6, "waiting_mean": 3, "cached_tokens": 400, "hit_ratio": 0.4}},
    ),
    "trtllm": Page(TRTLLM, {"TensorRT-LLM": {"cached_tokens": 640, "requests": 12}}),
    "nim": Page(NIM, {"vLLM": {"running_mean": 3, "kv_mean": 0.2, "prompt_tokens": 100}}, "vllm="),
    "dynamo": Page(
        DYNAMO,
        {
            "vLLM": {"running_mean": 4, "kv_mean": 0.3},
            "NVIDIA Dynamo's frontend": {"running_mean": None, "kv_mean": 0.3},
        },
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_says(name: str) -> None:
    """Each kind of server has one row; its numbers are counted once."""
    case = PAGES[name]
    engines = look_at(read_page(case.text, name), 0.0, 60.0, prefix=case.prefix).engines
    assert sorted(engines["server"]) == sorted(case.rows)
    for server, expected in case.rows.items():
        row = engines[engines["server"] == server].iloc[0]
        for column, value in expected.items():
            assert row[column] == value or (value is None and row[column] != row[column]), column


def test_names_without_a_prefix_are_suggested_as_a_setting() -> None:
    """NIM's names could be those of any program, so they are not taken for vLLM's unasked."""
    with pytest.raises(NoData, match="LAB_METRIC_PREFIX=vllm=, with which 4 names"):
        look_at(read_page(NIM, "nim"), 0.0, 60.0)
