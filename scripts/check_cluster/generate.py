"""Writes what must not be written twice: vLLM's arguments and Llama Stack's configuration come from lab.stack, images
from versions.env, dashboards from lab.dashboards. `python -m scripts.check_cluster generate`; a test holds them equal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lab.dashboards import DASHBOARDS, grafana_json
from lab.dashboards.rules import prometheus_rule
from lab.stack import llama_stack_config, vllm_args
from scripts.check_cluster.paths import K8S, versions

OTLP = "http://otel-collector.llm-lab-obs.svc:4318"
LISTEN = "0.0.0.0"  # inside a pod: who may reach it is the network policies' matter
SERVED_NAME = "lab-model"
GPU_CONTEXT = (
    16384  # of a model that could do 262,144: a GPU of 24 GB has no room for the cache of that
)
_ONLY_LOCAL = {
    "--middleware": 1,
    "--disable-uvicorn-access-log": 0,
}  # the official image has no `lab`
_HEAD = "# Written by `make cluster-generate` from {}; do not edit.\n"
_IMAGES = (
    "VLLM",
    "VLLM_CPU",
    "LAB",
    "OTEL_COLLECTOR",
    "TEMPO",
    "GRAFANA",
    "VLLM_ROUTER",
    "DCGM_EXPORTER",
    "LOKI",
)


def files() -> Iterator[tuple[Path, str]]:
    """(path, what must be in it) of every generated file."""
    yield K8S / "components/vllm-cpu/args.yaml", _args_patch("vllm", chat_args("cpu"))
    yield K8S / "components/vllm-gpu/args.yaml", _args_patch("vllm", chat_args("cuda"))
    yield K8S / "base/vllm-embed/args.yaml", _args_patch("vllm-embed", embed_args())
    yield K8S / "base/llama-stack/config/config.yaml", _llama_stack()
    yield K8S / "versions/kustomization.yaml", _versions()
    yield (
        K8S / "base/rules/rules.yaml",
        _HEAD.format("lab/dashboards/rules.py") + _dump(prometheus_rule()),
    )
    for name in DASHBOARDS:
        yield K8S / "dashboards" / f"{name}.json", grafana_json(name)


def write() -> list[Path]:
    """Write them, each whole or not at all. Returns those that changed."""
    changed = []
    for path, text in files():
        if not path.exists() or path.read_text() != text:
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_text(text)
            os.replace(temporary, path)
            changed.append(path)
    return changed


def chat_args(build: str) -> list[str]:
    """The local lab's arguments for the chat model, as they are in a container."""
    server = vllm_args.VllmServer("/models/chat", SERVED_NAME, 8000, OTLP, build)
    args = _for_container(vllm_args.chat_args(server))
    return args if build == "cpu" else [*args, "--max-model-len", str(GPU_CONTEXT)]


def embed_args() -> list[str]:
    """The local lab's arguments for the embedding model, as they are in a container."""
    server = vllm_args.VllmServer("/models/embed", vllm_args.EMBED_MODEL, 8000, OTLP, "cpu")
    return _for_container(vllm_args.embed_args(server))


def _for_container(args: list[str]) -> list[str]:
    out, rest = [], iter(args)
    for arg in rest:
        if arg in _ONLY_LOCAL:
            for _ in range(_ONLY_LOCAL[arg]):
                next(rest)
        else:
            out.append(arg)
    out[out.index("--host") + 1] = LISTEN
    if "--dtype" in out:
        out[out.index("--dtype") + 1] = "float32"  # not what this machine's processor would choose
    return out


def _args_patch(deployment: str, args: list[str]) -> str:
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": deployment, "namespace": "llm-lab"},
        "spec": {"template": {"spec": {"containers": [{"name": "vllm", "args": args}]}}},
    }
    return _HEAD.format("lab/stack/vllm_args.py") + _dump(patch)


def _llama_stack() -> str:
    url = {
        "vllm": "http://model-server.llm-lab.svc:8000",
        "vllm_embed": "http://embed-server.llm-lab.svc:8000",
    }
    document = llama_stack_config.document(
        SERVED_NAME, {"llama_stack": 8321}, url, Path("/state/llama-stack")
    )
    document["server"]["host"] = LISTEN
    return _HEAD.format("lab/stack/llama_stack_config.py") + _dump(document)


def _versions() -> str:
    pinned = versions()
    images = []
    for placeholder in _IMAGES:
        new_name, _, tag = pinned[placeholder].rpartition(":")
        images.append({"name": placeholder, "newName": new_name, "newTag": tag})
    prometheus = {"op": "replace", "path": "/spec/image", "value": pinned["PROMETHEUS"]}
    version = {
        "op": "add",
        "path": "/spec/version",
        "value": pinned["PROMETHEUS"].rpartition(":")[2].split("-")[0],
    }
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "images": images,
        "patches": [{"target": {"kind": "Prometheus"}, "patch": _dump([prometheus, version])}],
    }
    return _HEAD.format("versions.env") + _dump(document)


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=120, allow_unicode=True)
