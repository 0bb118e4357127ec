"""Write the files that must agree with the code: `python -m scripts.cluster_generate`.

vLLM's arguments and Llama Stack's configuration come from lab.stack, images from versions.env, and
dashboards and rules from lab.dashboards. A test holds the files equal.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lab.dashboards import DASHBOARDS, grafana_json
from lab.dashboards.rules import prometheus_rule
from lab.files import write_atomically
from lab.settings import Settings
from lab.stack import llama_stack_config, plan, vllm_args
from lab.stack.cluster.kubectl import K8S, versions

OTLP = "http://otel-collector.llm-lab-obs.svc:4318"
LISTEN = "0.0.0.0"  # inside a pod: who may reach it is the network policies' matter
MODEL_FOLDER = "/models/chat"
EMBED_FOLDER = "/models/embed"
PORT = 8000
GPU_MODEL = "Qwen/Qwen3-4B-Instruct-2507"  # components/hub-model fetches it
GPU_CONTEXT = 16384  # the model's 262,144 tokens would need more cache than a GPU of 24 GB has
# Options of the laptop that the official image cannot take, {option: number of its values}.
_ONLY_LOCAL = {"--middleware": 1, "--disable-uvicorn-access-log": 0}  # the image has no `lab`
_HEAD = "# Written by `make cluster-generate` from {}; do not edit.\n"
_IMAGES = (
    "VLLM",
    "VLLM_CPU",
    "VLLM_CPU_ARM64",
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
        _HEAD.format("lab/dashboards/rules.py")
        + _dump(prometheus_rule(versions()["RUNBOOKS_URL"])),
    )
    for name in DASHBOARDS:
        yield K8S / "dashboards" / f"{name}.json", grafana_json(name)


def write() -> list[Path]:
    """Write them, each whole or not at all. Returns those that changed."""
    changed = []
    for path, text in files():
        if not path.exists() or path.read_text() != text:
            write_atomically(path, text)
            changed.append(path)
    return changed


def chat_args(build: str) -> list[str]:
    """Return the chat model's arguments, from the same description that the laptop's plan uses."""
    settings = _settings()
    if build != "cpu":
        update = {"model": GPU_MODEL, "vllm_args": f"--max-model-len {GPU_CONTEXT}"}
        settings = settings.model_copy(update=update)
    server = plan.chat_server(settings, PORT, OTLP, build)
    return _for_container(vllm_args.chat_args(server), MODEL_FOLDER)


def embed_args() -> list[str]:
    """Return the embedding model's arguments, from the description that the laptop's plan uses."""
    server = plan.embed_server(EMBED_FOLDER, PORT, OTLP, "cpu")
    return _for_container(vllm_args.embed_args(server), EMBED_FOLDER)


def _settings() -> Settings:
    """Return the defaults, whatever this checkout's environment and lab.toml say."""
    values = {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
    }
    return Settings.model_construct(**values)


def _for_container(args: list[str], model: str) -> list[str]:
    """Return the arguments with what differs in a pod: listener, model folder, number format."""
    out, rest = [], iter(args)
    for arg in rest:
        if arg in _ONLY_LOCAL:
            for _ in range(_ONLY_LOCAL[arg]):
                next(rest)
        else:
            out.append(arg)
    out[out.index("--model") + 1] = model
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
        _settings().model_name, {"llama_stack": 8321}, url, Path("/state/llama-stack")
    )
    document["server"]["host"] = LISTEN
    return _HEAD.format("lab/stack/llama_stack_config.py") + _dump(document)


def _versions() -> str:
    pinned = versions()
    images = []
    for placeholder in _IMAGES:
        image, at, digest = pinned[placeholder].partition("@")
        new_name, _, tag = image.rpartition(":")
        images.append({"name": placeholder, "newName": new_name, "newTag": f"{tag}{at}{digest}"})
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "images": images,
        "patches": [_operated("Prometheus", pinned), _operated("Alertmanager", pinned)],
    }
    return _HEAD.format("versions.env") + _dump(document)


def _operated(kind: str, pinned: dict[str, str]) -> dict[str, Any]:
    """Return the patch that pins the image of a custom resource, which `images` does not reach."""
    image = pinned[kind.upper()]
    version = image.partition("@")[0].rpartition(":")[2].split("-")[0]
    patch = [
        {"op": "replace", "path": "/spec/image", "value": image},
        {"op": "add", "path": "/spec/version", "value": version},
    ]
    return {"target": {"kind": kind}, "patch": _dump(patch)}


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    print(*(write() or ["nothing to do: all generated files are current"]), sep="\n")
