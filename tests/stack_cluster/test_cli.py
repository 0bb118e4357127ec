"""`lab up`, `lab status` and `lab down` work with --place cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.cli import show as cli
from lab.errors import SettingsError
from lab.stack.cluster import kubectl
from tests.stack_cluster.fake_cluster import FakeCluster


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a separate state folder."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path / "state"))


def test_a_lab_goes_up_reports_its_status_and_goes_down(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Findings and addresses, a status line per workload and the removed objects are printed."""
    cluster.healthy()
    cluster.roll_out(kubectl.render("minikube-cpu"))
    labels = {"app.kubernetes.io/part-of": "llm-lab"}
    cluster.put("api/v1/namespaces/llm-lab", metadata={"name": "llm-lab", "labels": labels})
    cli.stand_up_cluster("fake", "minikube-cpu")
    output = capsys.readouterr().out
    assert "good default storage class: standard" in output
    assert "llama_stack" in output
    assert "http://127.0.0.1:" in output
    assert cli.show_cluster("fake") == 0
    assert "vllm" in capsys.readouterr().out
    cli.take_down_cluster("fake")
    assert "removed namespaces/llm-lab" in capsys.readouterr().out


def test_a_missing_requirement_is_printed_and_an_empty_cluster_is_a_failure(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing requirement is printed with its fix, and an empty cluster exits with status 1."""
    cluster.healthy()
    cluster.objects.pop("apis/monitoring.coreos.com/v1")
    with pytest.raises(Exception, match="bundle.yaml"):
        cli.stand_up_cluster("fake", "minikube-cpu")
    assert "missing monitoring.coreos.com/v1" in capsys.readouterr().out
    assert cli.show_cluster("fake") == 1
    assert "no lab is in that cluster" in capsys.readouterr().out


def test_the_settings_may_name_the_context(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAB_CLUSTER_CONTEXT replaces --context; without either, no context is used."""
    with pytest.raises(SettingsError, match="no Kubernetes context was named"):
        cli.show_cluster("")
    monkeypatch.setenv("LAB_CLUSTER_CONTEXT", "fake")
    assert cli.show_cluster("") == 1
