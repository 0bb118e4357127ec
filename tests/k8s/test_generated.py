"""Generated files agree with the source that they are generated from."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import typer
import yaml

from lab.dashboards.rules import ITL_BOUND_S, TTFT_BOUND_S
from lab.settings import load_settings
from lab.stack import plan, vllm_args
from lab.stack.ports import PREFERRED
from lab.stack.toolbox import Toolbox
from scripts import cluster_generate as generate
from tests.k8s.checks import render
from tests.k8s.checks.render import K8S, REPO, versions

pytest.importorskip("grafana_foundation_sdk")


@pytest.mark.parametrize(
    "path", [p for p, _ in generate.files()], ids=lambda p: str(p.relative_to(K8S))
)
def test_a_generated_file_is_current(path) -> None:
    """`make cluster-generate` changes no file: flags, configuration, images, rules, dashboards."""
    assert path.read_text() == dict(generate.files())[path], "run `make cluster-generate`"


def test_the_cluster_runs_the_same_vllm_as_the_laptop() -> None:
    """Every build has the flags that the telemetry in the notebooks depends on."""
    for build in ("cpu", "cuda"):
        args = generate.chat_args(build)
        buckets = json.loads(args[args.index("--custom-histogram-buckets") + 1])
        assert buckets == vllm_args.BUCKETS
        assert {
            "--enable-per-request-metrics",
            "--enable-auto-tool-choice",
            "--otlp-traces-endpoint",
        } <= set(args)
        assert "--middleware" not in args, "the official image has none of the lab's modules"


# {option: why its value, or the option itself, differs between a laptop and a pod}
POD_ARGS = {
    "--model": "a pod has the model in a volume",
    "--host": "a laptop's servers listen on loopback",
    "--port": "a laptop's ports are chosen free",
    "--otlp-traces-endpoint": "the collector's Service",
    "--middleware": "the official image has none of the lab's modules",
    "--disable-uvicorn-access-log": "its replacement is that module",
    "--dtype": "a laptop's depends on its processor",
}
# {path in Llama Stack's configuration: why it differs}
POD_LLAMA_STACK = {
    "server.host": "a laptop's servers listen on loopback",
    "server.port": "a laptop's ports are chosen free",
    "storage.backends.kv_default.db_path": "the state folder",
    "storage.backends.sql_default.db_path": "the state folder",
    "providers.files.0.config.storage_dir": "the state folder",
    "providers.inference.0.config.base_url": "vLLM's Service",
    "providers.inference.1.config.base_url": "the Service of the vLLM for embeddings",
    "providers.inference.2": "the canary is served beside the lab model on a laptop only",
    "registered_resources.models.2": "the canary, again",
}
LAPTOP_JOBS = {
    "node": "a cluster has its own node exporter",
    "tracestore": "Tempo takes its place",
}
CLUSTER_JOBS = {
    "otel-collector": "a laptop's parts send spans to the store itself",
    "span-metrics": "made by the collector",
    "tempo": "the trace store replaces it on a laptop",
    "grafana": "a laptop has none",
}


@pytest.fixture
def laptop(tmp_path) -> plan.Plan:
    """Return the plan of a laptop without a GPU, made from the defaults."""
    folder = tmp_path / "embedder"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).symlink_to((REPO / "data/lab-model" / name).resolve())
    tools = Toolbox("py", "vpy", "prometheus", "node", str(folder), str(tmp_path))
    defaults = load_settings(state_dir=tmp_path / "state", data_dir=REPO / "data", model="")
    defaults = defaults.model_copy(update={"vllm_args": "", "model_name": "lab-model"})
    return plan.make_plan(defaults, tools, dict(PREFERRED), {})


@pytest.mark.parametrize(
    ("part", "path"),
    [("vllm", "components/vllm-cpu/args.yaml"), ("vllm-embed", "base/vllm-embed/args.yaml")],
)
def test_a_pods_vllm_has_the_laptops_arguments(part: str, path: str, laptop: plan.Plan) -> None:
    """The complete lists are compared: every option outside POD_ARGS is equal."""
    argv = next(p.argv for p in laptop.parts if p.name == part)
    container = yaml.safe_load((K8S / path).read_text())["spec"]["template"]["spec"]["containers"]
    laptop_values = _options(list(argv))
    pod_values = _options(container[0]["args"])
    different = {
        k
        for k in laptop_values.keys() | pod_values.keys()
        if laptop_values.get(k) != pod_values.get(k)
    }
    assert different <= POD_ARGS.keys()


# {variable: why a pod has another value, or none}
POD_ENV = {
    "PYTHONPATH": "the official image has none of the lab's modules",
    "VLLM_LOGGING_CONFIG_PATH": "its formatter is one of the lab's modules",
    "VLLM_CACHE_ROOT": "a folder in the pod",
    "VLLM_HOST_IP": "a laptop's servers listen on loopback",
    "GLOO_SOCKET_IFNAME": "a laptop's interface",
    "VLLM_TARGET_DEVICE": "the image's build decides",
    "CUDA_VISIBLE_DEVICES": "the image's build decides",
    "OMP_NUM_THREADS": "a laptop's depends on its cores",
}


@pytest.mark.parametrize("name", ["vllm", "vllm-embed"])
def test_a_pods_vllm_has_the_laptops_environment(name: str, tmp_path) -> None:
    """Each variable of the laptop's vLLM has the same value in the pod, except those in POD_ENV."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    laptop_values = vllm_args.base_env("cpu", tmp_path, tmp_path / "logging.json")
    deployment = next(
        d
        for d in render.overlay("minikube-cpu")
        if (d["kind"], d["metadata"]["name"]) == ("Deployment", name)
    )
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    pod_values = {e["name"]: e.get("value") for e in env}
    different = {k for k, v in laptop_values.items() if pod_values.get(k) != v}
    assert different <= POD_ENV.keys()


def test_a_pods_context_length_is_at_most_the_models() -> None:
    """The maximum length is within the model's configuration, as vLLM exits otherwise."""
    config = json.loads((REPO / "data/lab-model/config.json").read_text())
    args = _options(generate.chat_args("cpu"))
    assert int(args["--max-model-len"][0]) <= config["max_position_embeddings"]
    assert args["--chat-template-content-format"] == ["openai"]


def test_a_pods_llama_stack_has_the_laptops_configuration(laptop: plan.Plan) -> None:
    """Every value is compared: every path outside POD_LLAMA_STACK is equal."""
    text = next(text for path, text in laptop.files.items() if path.name == "llama-stack.yaml")
    laptop_values = dict(_leaves(yaml.safe_load(text)))
    pod = yaml.safe_load((K8S / "base/llama-stack/config/config.yaml").read_text())
    pod_values = dict(_leaves(pod))
    different = {
        k
        for k in laptop_values.keys() | pod_values.keys()
        if laptop_values.get(k) != pod_values.get(k)
    }
    unexplained = {
        path
        for path in different
        if not any(path == p or path.startswith(f"{p}.") for p in POD_LLAMA_STACK)
    }
    assert unexplained == set()


def test_prometheus_scrapes_the_laptops_jobs(laptop: plan.Plan) -> None:
    """The monitors set the job names that the queries use."""
    text = next(text for path, text in laptop.files.items() if path.name == "prometheus.yml")
    laptop_values = {job["job_name"] for job in yaml.safe_load(text)["scrape_configs"]} - {
        "on-demand"
    }
    pod_values = set()
    for path in (K8S / "base/monitors").glob("llm-lab*.yaml"):
        for monitor in yaml.safe_load_all(path.read_text()):
            spec = monitor["spec"]
            for endpoint in spec.get("endpoints", []) + spec.get("podMetricsEndpoints", []):
                pod_values |= {r["replacement"] for r in endpoint["relabelings"]}
    assert laptop_values - pod_values == LAPTOP_JOBS.keys()
    assert pod_values - laptop_values == CLUSTER_JOBS.keys()


def test_generated_files_do_not_depend_on_the_checkouts_settings(monkeypatch) -> None:
    """A LAB_MODEL in the shell applies to the laptop only."""
    monkeypatch.setenv("LAB_MODEL", "some/other-model")
    monkeypatch.setenv("LAB_VLLM_ARGS", "--seed 1")
    assert load_settings().model == "some/other-model"
    path = K8S / "components/vllm-cpu/args.yaml"
    assert dict(generate.files())[path] == path.read_text()


def _options(args: list[str]) -> dict[str, list[str]]:
    """Return {option: its values}."""
    options: dict[str, list[str]] = {}
    for arg in args:
        if arg.startswith("--"):
            name = arg
            options[name] = []
        else:
            options[name].append(arg)
    return options


def _leaves(node, path: str = ""):
    """Yield (path, value) of every value in nested dictionaries and lists."""
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    else:
        yield path, node
        return
    for key, child in children:
        yield from _leaves(child, f"{path}.{key}" if path else str(key))


def test_the_image_copies_what_is_there_and_its_context_is_small() -> None:
    """Each COPY source is in the build context, which `.dockerignore` keeps to a few megabytes."""
    text = (K8S / "image/Dockerfile").read_text()
    sources = [
        source
        for line in text.splitlines()
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert sources
    ignored = (REPO / ".dockerignore").read_text().splitlines()
    included = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored, "use an allow-list, so that new files in a checkout stay out"
    for source in sources:
        assert (REPO / source).exists(), source
        assert any(k == source or k.startswith(f"{source}/") for k in included), source
    for name in re.findall(r"-r (requirements/\S+)", text):
        assert name in included and (REPO / name).exists()


def test_objectives_are_bounds_of_buckets() -> None:
    """Objectives are bucket bounds, as the share within an objective is exact only there."""
    assert float(TTFT_BOUND_S) in vllm_args.BUCKETS["time_to_first_token"]
    assert float(ITL_BOUND_S) in vllm_args.BUCKETS["inter_token_latency"]


def test_the_image_is_built_from_the_pinned_base_and_lock_files() -> None:
    """The Dockerfile uses the pinned base and installs from lock files with hashes."""
    text = (K8S / "image/Dockerfile").read_text()
    bases = [line.split()[1] for line in text.splitlines() if line.startswith("FROM")]
    assert set(bases) == {versions()["PYTHON_BASE"]}
    assert text.count("--require-hashes") == 3
    for file in ("uv.txt", "lab.txt", "assets.txt"):
        assert (REPO / "requirements" / file).exists()


def test_command_lines_of_the_labs_parts_are_accepted_by_their_parsers() -> None:
    """The arguments in the manifests are accepted by the argument parsers of the programs."""
    documents = {
        d["metadata"]["name"]: d
        for path in ("base/lab-tools/deployment.yaml", "base/documents/job.yaml", "load/job.yaml")
        for d in yaml.safe_load_all((K8S / path).read_text())
    }
    pytest.importorskip("uvicorn")  # not in the environment of `make check-cluster`
    from lab.tools.__main__ import serve

    program = typer.Typer()
    program.command()(serve)
    args = documents["lab-tools"]["spec"]["template"]["spec"]["containers"][0]["args"]
    context = typer.main.get_command(program).make_context("lab.tools", list(args))
    assert context.params["host"] == "0.0.0.0"


def test_versions_in_helm_files_are_the_pinned_ones() -> None:
    """The commands in the value files install the pinned charts."""
    pinned = versions()
    kps = (K8S / "helm/kube-prometheus-stack.values.yaml").read_text()
    assert f"--version {pinned['KUBE_PROMETHEUS_STACK_CHART']}" in kps
    assert f"--version {pinned['KEDA_CHART']}" in (K8S / "helm/keda.values.yaml").read_text()
