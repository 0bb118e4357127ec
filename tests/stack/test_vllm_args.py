"""The command lines that vLLM is started with."""

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


def test_chat_on_a_cpu_has_what_the_lab_needs():
    """Tool calls, traces, per-request metrics, cached tokens, fine buckets, all on loopback."""
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
    """Llama Stack adds up what every chunk reports.

    Its token totals would be many times the truth.
    """
    assert "--enable-force-include-usage" not in chat_args(server())


def test_a_long_context_is_cut_on_a_cpu_only():
    """A model of 128 k tokens would not find its KV cache's memory on a laptop.

    On a GPU vLLM decides.
    """
    assert value(chat_args(server(max_context=131_072)), "--max-model-len") == "8192"
    assert "--max-model-len" not in chat_args(server("cuda", max_context=131_072))


def test_on_a_gpu_vllm_chooses_the_number_format_and_compiles():
    """Same path, fewer flags."""
    args = chat_args(server("cuda"))
    assert not {"--enforce-eager", "--dtype", "--kv-cache-memory-bytes"} & set(args)
    assert {"--enable-auto-tool-choice", "--enable-per-request-metrics"} <= set(args)


def test_the_users_arguments_come_last():
    """argparse takes the last of two: LAB_VLLM_ARGS wins."""
    args = chat_args(server(extra="--tool-call-parser llama3_json --max-num-seqs 4"))
    assert args[-4:] == ["--tool-call-parser", "llama3_json", "--max-num-seqs", "4"]


def test_message_parts_go_to_a_template_that_joins_them():
    """What file search found comes in parts.

    Put together by vLLM it would have line breaks that nobody trained on.
    """
    assert value(chat_args(server(text_parts=True)), "--chat-template-content-format") == "openai"
    assert "--chat-template-content-format" not in chat_args(server())


def test_no_traces_without_a_receiver():
    """vLLM is not told of an endpoint that does not exist."""
    assert "--otlp-traces-endpoint" not in chat_args(VllmServer("m", "n", 1, None, "cpu"))


def test_embeddings_take_no_kv_cache_worth_speaking_of():
    """Without a size, the CPU build reserves most of the machine's memory and refuses to start
    beside the first.
    """
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
    """bfloat16 only where the CPU has instructions for it."""
    assert cpu_dtype(f"processor : 0\nflags\t\t: {flags}\n", machine) == dtype


def test_buckets_are_even_in_the_logarithm_and_rise():
    """Ten a decade: a quantile is known to 13 % either way.

    VLLM refuses bounds that do not rise.
    """
    for bounds in BUCKETS.values():
        assert all(1.0 < b / a <= 3 for a, b in pairwise(bounds))
    assert log_spaced(0.001, 1)[::10] == [0.001, 0.01, 0.1, 1.0]


def test_engine_and_worker_share_a_process_on_a_cpu_only():
    """OpenMP's threads are set from outside there; one core is left to the API server."""
    env = base_env("cpu", Path("/cache"), Path("/log.json"), cores=4)
    assert env["OMP_NUM_THREADS"] == "3" and env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert base_env("cpu", Path("/cache"), Path("/log.json"), cores=1)["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in base_env("cuda", Path("/cache"), Path("/log.json"), cores=4)


def test_a_folder_is_served_without_the_hub(tmp_path):
    """A model by name may be fetched; a folder never asks the network."""
    assert server_env("vllm", str(tmp_path))["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in server_env("vllm", "Qwen/Qwen3-0.6B")


def test_the_logging_config_is_one_that_python_takes():
    """vLLM reads it when it is imported; a mistake would stop it there."""
    import logging.config

    logging.config.dictConfig(json.loads(logging_config()))
