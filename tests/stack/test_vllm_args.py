"""vLLM's command line has the flags that the lab needs."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from lab.stack.vllm_args import (
    BUCKETS,
    VllmServer,
    base_env,
    chat_args,
    cpu_dtype,
    embed_args,
    log_spaced,
    logging_config,
    server_env,
)


def server(build: str = "cpu", **more) -> VllmServer:
    return VllmServer("/models/m", "lab-model", 8000, "http://127.0.0.1:4318", build, **more)


def value(args: list[str], flag: str) -> str:
    return args[args.index(flag) + 1]


def test_chat_on_a_cpu_has_the_flags_of_the_lab():
    """Tool calls, traces, per-request metrics, cached tokens and fine buckets are on."""
    args = chat_args(server(max_context=2048))
    assert value(args, "--tool-call-parser") == "hermes"
    assert value(args, "--host") == "127.0.0.1"
    assert value(args, "--otlp-traces-endpoint") == "http://127.0.0.1:4318/v1/traces"
    assert value(args, "--max-model-len") == "2048"
    assert json.loads(value(args, "--custom-histogram-buckets")) == BUCKETS
    assert {
        "--enable-auto-tool-choice",
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        "--enable-per-request-metrics",
        "--enable-mfu-metrics",
        "--enforce-eager",
    } <= set(args)


def test_usage_is_not_forced_into_every_chunk():
    """Llama Stack adds up the usage in every chunk, so its totals would be far too high."""
    assert "--enable-force-include-usage" not in chat_args(server())


def test_a_long_context_is_limited_on_a_cpu_only():
    """A laptop lacks the memory for the KV cache of 128 k tokens; on a GPU vLLM decides."""
    assert value(chat_args(server(max_context=131_072)), "--max-model-len") == "8192"
    assert "--max-model-len" not in chat_args(server("cuda", max_context=131_072))


def test_on_a_gpu_vllm_chooses_the_number_format_and_compiles():
    """The parts run the same way with fewer flags."""
    args = chat_args(server("cuda"))
    assert not {"--enforce-eager", "--dtype", "--kv-cache-memory-bytes"} & set(args)
    assert {"--enable-auto-tool-choice", "--enable-per-request-metrics"} <= set(args)


def test_the_users_arguments_come_last():
    """argparse uses the last value of a flag, so LAB_VLLM_ARGS wins."""
    args = chat_args(server(extra="--tool-call-parser llama3_json --max-num-seqs 4"))
    assert args[-4:] == ["--tool-call-parser", "llama3_json", "--max-num-seqs", "4"]


def test_message_parts_are_passed_to_a_template_that_joins_them():
    """vLLM would join the parts of a search result with line breaks unknown from training."""
    assert value(chat_args(server(text_parts=True)), "--chat-template-content-format") == "openai"
    assert "--chat-template-content-format" not in chat_args(server())


def test_no_traces_without_a_receiver():
    """vLLM does not get an endpoint that does not exist."""
    assert "--otlp-traces-endpoint" not in chat_args(VllmServer("m", "n", 1, None, "cpu"))


def test_embeddings_reserve_almost_no_kv_cache():
    """By default the CPU build reserves most of the memory and fails next to another vLLM."""
    args = embed_args(server())
    assert value(args, "--runner") == "pooling"
    assert int(value(args, "--kv-cache-memory-bytes")) <= 64 * 1024**2


@pytest.mark.parametrize(
    ("flags", "machine", "dtype"),
    [
        ("fpu avx avx2", "x86_64", "float32"),
        ("fpu avx512f avx512_bf16", "x86_64", "bfloat16"),
        ("fpu amx_bf16", "x86_64", "bfloat16"),
        ("", "aarch64", "auto"),
    ],
)
def test_the_number_format_fits_the_cpu(flags, machine, dtype):
    """bfloat16 is used only where the CPU has instructions for it."""
    assert cpu_dtype(f"processor : 0\nflags\t\t: {flags}\n", machine) == dtype


def test_buckets_are_logarithmic_and_increasing():
    """Ten bounds per decade give quantiles within 13 %, and vLLM requires increasing bounds."""
    for bounds in BUCKETS.values():
        assert all(1.0 < b / a <= 3 for a, b in pairwise(bounds))
    assert log_spaced(0.001, 1)[::10] == [0.001, 0.01, 0.1, 1.0]


def test_spans_are_exported_within_a_second():
    """Every analysis of a run waits for vLLM's spans; OpenTelemetry's default delay is 5 s."""
    env = base_env("cpu", Path("/cache"), Path("/log.json"))
    assert 0 < int(env["OTEL_BSP_SCHEDULE_DELAY"]) <= 1000


def test_engine_and_worker_share_a_process_on_a_cpu_only():
    """OpenMP's threads are set from outside, and one core is left to the API server."""
    env = base_env("cpu", Path("/cache"), Path("/log.json"), cores=4)
    assert env["OMP_NUM_THREADS"] == "3" and env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert base_env("cpu", Path("/cache"), Path("/log.json"), cores=1)["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in base_env("cuda", Path("/cache"), Path("/log.json"), cores=4)


def test_a_folder_is_served_without_the_hub(tmp_path):
    """A model by name may be fetched; a folder never uses the network."""
    assert server_env("vllm", str(tmp_path))["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in server_env("vllm", "Qwen/Qwen3-0.6B")


def test_python_accepts_the_logging_config():
    """vLLM reads it when it is imported, and a mistake would stop it."""
    import logging.config

    logging.config.dictConfig(json.loads(logging_config()))
