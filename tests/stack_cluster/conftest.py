"""Provide a fake cluster, the context `fake` in its own kubeconfig, and settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.settings import Settings, load_settings
from lab.stack.cluster import kubectl, rollout
from tests.stack_cluster.fake_cluster import FakeCluster, fake_kubectl, kubeconfig


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which rendered overlays are kept for the session."""
    return tmp_path_factory.mktemp("rendered")


@pytest.fixture
def cluster(
    tmp_path: Path, rendered: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeCluster]:
    """Start the fake API server, put the fake `kubectl` on PATH and yield the server."""
    real = shutil.which("kubectl")
    if real is None:
        pytest.skip("kubectl is not installed")
    fake = FakeCluster()
    kubeconfig(tmp_path / "kubeconfig", fake.url)
    fake_kubectl(tmp_path, real, rendered)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    kubectl._client_version.cache_clear()
    yield fake
    fake.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with an empty state folder."""
    return load_settings(state_dir=tmp_path / "state")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all polling intervals: waiting changes nothing in the fake cluster."""
    monkeypatch.setattr(rollout, "POLL_S", 0.02)
    monkeypatch.setattr(rollout.wait, "__defaults__", (0.02,))
