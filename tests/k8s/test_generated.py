"""What is written from another place is what that place says."""

from __future__ import annotations

import json

import pytest
import yaml

from lab.dashboards.rules import ITL_BOUND_S, TTFT_BOUND_S
from lab.stack import vllm_args
from scripts.check_cluster import generate
from scripts.check_cluster.paths import K8S, REPO, versions

pytest.importorskip("grafana_foundation_sdk")


@pytest.mark.parametrize(
    "path", [p for p, _ in generate.files()], ids=lambda p: str(p.relative_to(K8S))
)
def test_a_generated_file_is_current(path) -> None:
    """Flags, configuration, images, rules and dashboards: `make cluster-generate` changes nothing."""
    assert path.read_text() == dict(generate.files())[path], "run `make cluster-generate`"


def test_the_cluster_runs_the_same_vllm_as_the_laptop() -> None:
    """The flags that make telemetry what the notebooks expect are in every form of it."""
    for build in ("cpu", "cuda"):
        args = generate.chat_args(build)
        buckets = json.loads(args[args.index("--custom-histogram-buckets") + 1])
        assert buckets == vllm_args.BUCKETS
        assert {
            "--enable-per-request-metrics",
            "--enable-auto-tool-choice",
            "--otlp-traces-endpoint",
        } <= set(args)
        assert "--middleware" not in args, "the official image has no module of ours"


def test_objectives_are_bounds_of_buckets() -> None:
    """A share within an objective is exact only where the objective is a bucket's bound."""
    assert float(TTFT_BOUND_S) in vllm_args.BUCKETS["time_to_first_token"]
    assert float(ITL_BOUND_S) in vllm_args.BUCKETS["inter_token_latency"]


def test_the_image_is_built_from_the_pinned_base_and_lock_files() -> None:
    """The Dockerfile's base is the pinned one, and what it installs comes from lock files with hashes."""
    text = (K8S / "image/Dockerfile").read_text()
    bases = [line.split()[1] for line in text.splitlines() if line.startswith("FROM")]
    assert set(bases) == {versions()["PYTHON_BASE"]}
    assert text.count("--require-hashes") == 2
    for file in ("lab.txt", "assets.txt"):
        assert (REPO / "requirements" / file).exists()


def test_command_lines_of_our_own_parts_are_those_that_they_take() -> None:
    """Arguments in the manifests are understood by the programs: their own parsers read them."""
    documents = {
        d["metadata"]["name"]: d
        for path in ("base/lab-tools/deployment.yaml", "base/documents/job.yaml", "load/job.yaml")
        for d in yaml.safe_load_all((K8S / path).read_text())
    }
    pytest.importorskip("uvicorn")  # not in the environment of `make check-cluster`
    from lab.tools.__main__ import _arguments

    args = documents["lab-tools"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert _arguments(args).host == "0.0.0.0"


def test_versions_in_helm_files_are_the_pinned_ones() -> None:
    """The commands in the value files install the pinned charts."""
    pinned = versions()
    kps = (K8S / "helm/kube-prometheus-stack.values.yaml").read_text()
    assert f"--version {pinned['KUBE_PROMETHEUS_STACK_CHART']}" in kps
    assert f"--version {pinned['KEDA_CHART']}" in (K8S / "helm/keda.values.yaml").read_text()
