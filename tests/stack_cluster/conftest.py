"""A fake cluster, named `fake` in a kubeconfig of its own, and settings with a state folder."""

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
    """Where rendered overlays are kept for the session."""
    return tmp_path_factory.mktemp("rendered")


@pytest.fixture
def cluster(
    tmp_path: Path, rendered: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeCluster]:
    """The API server; `kubectl` on PATH is the fake one."""
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
    """With an empty state folder."""
    return load_settings(state_dir=tmp_path / "state")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes in the fake cluster by waiting."""
    monkeypatch.setattr(rollout, "POLL_S", 0.02)
    monkeypatch.setattr(rollout.wait, "__defaults__", (0.02,))
