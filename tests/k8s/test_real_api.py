"""Every overlay rolls out, scales and comes down on a real API server with simulated nodes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from lab.settings import Settings, load_settings
from lab.stack import cluster as driver
from lab.stack.cluster import kubectl, rollout
from tests.k8s.checks.render import OVERLAYS
from tests.k8s.control_plane import control_plane, program

COMPLETE = all(
    program(p) for p in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not COMPLETE,
        reason="KUBEBUILDER_ASSETS names no folder with a control plane (lab/k8s/README.md)",
    ),
]
SECRETS = {
    "tempo-s3": ("endpoint", "bucket", "access_key", "secret_key"),
    "prometheus-remote-write": ("username", "password"),
    "alert-receiver": ("url",),
}
# OpenShift's kinds (Routes, builds) are served by OpenShift only.
ON_KUBERNETES = tuple(name for name in OVERLAYS if name != "openshift")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the kubeconfig of an API server with four simulated nodes."""
    from kubernetes import config

    from tests.k8s.simulated_nodes import Nodes

    with control_plane(tmp_path_factory.mktemp("control-plane")) as kubeconfig:
        nodes = Nodes(config.new_client_from_config(str(kubeconfig)))
        nodes.prepare()
        nodes.start()
        yield kubeconfig
        nodes.ended.set()
        nodes.join(30)


@pytest.fixture
def run_kubectl(real: Path) -> Callable[..., str]:
    """Return a function that runs kubectl against the API server and returns its output."""

    def run(*arguments: str, stdin: str | None = None) -> str:
        command = ["kubectl", "--kubeconfig", str(real), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
        return done.stdout + "".join(
            x for x in done.stderr.splitlines(True) if not x.startswith("Warning:")
        )

    return run


@pytest.fixture
def settings(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_kubectl: Callable[..., str]
) -> Settings:
    """Return settings as inside the cluster: simulated nodes cannot forward ports."""
    monkeypatch.setenv("KUBECONFIG", str(real))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setattr(rollout, "POLL_S", 0.3)
    if "policy/v1\n" not in run_kubectl("api-versions"):  # before 1.21
        monkeypatch.setattr(
            kubectl, "render", lambda *a, render=kubectl.render: _with_old_budgets(render(*a))
        )
    return load_settings(state_dir=tmp_path / "state", place="cluster")


def _with_old_budgets(documents: list[dict]) -> list[dict]:
    return [
        d | {"apiVersion": "policy/v1beta1"} if d["apiVersion"] == "policy/v1" else d
        for d in documents
    ]


@pytest.mark.parametrize("overlay", ON_KUBERNETES)
def test_an_overlay_rolls_out_scales_and_comes_down(
    overlay: str, settings: Settings, run_kubectl: Callable[..., str]
) -> None:
    """An overlay rolls out unchanged, applies twice, scales, survives a drain and is removed."""
    for name, keys in SECRETS.items() if overlay.startswith("cluster") else ():
        run_kubectl("create", "namespace", "llm-lab-obs")
        run_kubectl("label", "namespace", "llm-lab-obs", "app.kubernetes.io/part-of=llm-lab")
        run_kubectl(
            "--namespace",
            "llm-lab-obs",
            "create",
            "secret",
            "generic",
            name,
            *(f"--from-literal={k}=x" for k in keys),
        )
    driver.up(settings, "real", overlay, wait_s=180)
    # The driver writes the overlay's name on the namespaces.
    documents = [d for d in kubectl.render(overlay) if d["kind"] != "Namespace"]
    text = yaml.safe_dump_all(documents)
    options = ("--server-side", "--force-conflicts", "--field-manager=llm-lab", "-f", "-")
    assert run_kubectl("diff", *options, stdin=text) == ""
    driver.up(settings, "real", overlay, wait_s=180)
    assert all(row.ready for row in driver.status(settings, "real"))

    run_kubectl("--namespace", "llm-lab", "scale", "deployment/vllm", "--replicas=3")
    if overlay.startswith("cluster"):
        vllm = _wait_until(
            lambda: _vllm(settings), lambda row: row.progress == "2 of 3 ready" and row.why
        )
        assert "Insufficient nvidia.com/gpu" in vllm.why
        run_kubectl("apply", *options, stdin=text)
        assert _vllm(settings).progress.endswith("of 3 ready"), (
            "an apply must not undo what KEDA scaled"
        )
        run_kubectl("--namespace", "llm-lab", "scale", "deployment/vllm", "--replicas=1")
    else:
        run_kubectl("apply", *options, stdin=text)
    _wait_until(lambda: _vllm(settings), lambda row: row.progress == "1 of 1 ready")

    drained = run_kubectl(
        "drain",
        "cpu-0",
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        "--timeout=60s",
    )
    assert "drained" in drained
    run_kubectl("uncordon", "cpu-0")
    _wait_until(lambda: driver.status(settings, "real"), lambda rows: all(r.ready for r in rows))

    removed = driver.down(settings, "real", wait_s=180)
    assert {"namespaces/llm-lab", "namespaces/llm-lab-obs"} <= set(removed)
    kinds = "namespaces,clusterroles,clusterrolebindings"
    assert (
        run_kubectl("get", kinds, "--selector=app.kubernetes.io/part-of=llm-lab", "--output=name")
        == ""
    )


def _vllm(settings: Settings):
    """Return the status row of vLLM."""
    return next(r for r in driver.status(settings, "real") if r.name == "vllm")


def _wait_until(poll: Callable, condition: Callable, limit_s: float = 120.0):
    """Poll until the condition holds and return the last value."""
    limit = time.monotonic() + limit_s
    while not condition(value := poll()):
        assert time.monotonic() < limit, value
        time.sleep(0.5)
    return value
