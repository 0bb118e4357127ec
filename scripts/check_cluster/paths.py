"""The places of the files that are checked."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
K8S = REPO / "lab" / "k8s"
OVERLAYS = (
    "minikube-cpu",
    "minikube-cpu-arm64",
    "minikube-gpu",
    "cluster",
    "cluster-existing-prometheus",
    "openshift",
)
RECORDED_METRICS = REPO / "data" / "recorded" / "metrics"


def versions(path: Path = K8S / "versions" / "versions.env") -> dict[str, str]:
    """Return the versions of versions.env by name."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}
