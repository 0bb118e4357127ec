"""`lab up`, `status` and `down` with --place cluster, as typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.cli import cluster as cli
from lab.errors import SettingsError
from lab.stack.cluster import kubectl
from tests.stack_cluster.fake_cluster import FakeCluster


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state folder of its own."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path / "state"))


def test_the_way_of_a_lab_through_a_cluster(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every finding is said, then the addresses; a line a workload; what went."""
    cluster.healthy()
    cluster.roll_out(kubectl.render("minikube-cpu"))
    cluster.put("api/v1/namespaces/llm-lab", metadata={
        "name": "llm-lab", "labels": {"app.kubernetes.io/part-of": "llm-lab"}})  # fmt: skip
    cli.stand_up("fake", "minikube-cpu")
    said = capsys.readouterr().out
    assert (
        "good default storage class: standard" in said
        and "llama_stack" in said
        and "http://127.0.0.1:" in said
    )
    assert cli.show_status("fake") == 0
    assert "vllm" in capsys.readouterr().out
    cli.take_down("fake")
    assert "removed namespaces/llm-lab" in capsys.readouterr().out


def test_a_miss_is_said_with_its_fix_and_an_empty_cluster_is_no_success(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is only careful does not stop; nothing there is exit status 1."""
    cluster.healthy()
    cluster.objects.pop("apis/monitoring.coreos.com/v1")
    with pytest.raises(Exception, match="bundle.yaml"):
        cli.stand_up("fake", "minikube-cpu")
    assert "missing monitoring.coreos.com/v1" in capsys.readouterr().out
    assert cli.show_status("fake") == 1
    assert "no lab is in that cluster" in capsys.readouterr().out


def test_the_settings_may_name_the_context(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAB_CLUSTER_CONTEXT instead of --context; without either, none is taken."""
    with pytest.raises(SettingsError, match="no Kubernetes context was named"):
        cli.show_status("")
    monkeypatch.setenv("LAB_CLUSTER_CONTEXT", "fake")
    assert cli.show_status("") == 1
