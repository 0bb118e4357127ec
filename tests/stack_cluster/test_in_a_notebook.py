"""Notebooks can use the place `cluster`: `lab.stand_up("cluster")`, its parts and its tools."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import lab
from lab import places
from lab.errors import NotUp, SettingsError
from lab.settings import REPO, Settings, load_settings
from lab.stack import cluster as driver
from lab.stack import ports, state
from lab.stack.cluster import kubectl, port_forwards
from lab.stack.ports import HOST
from tests.stack_cluster.fake_cluster import FakeCluster, applied

pytestmark = pytest.mark.slow  # starts processes
LAB_LABELS = {"app.kubernetes.io/part-of": "llm-lab"}


def _pod(cluster: FakeCluster, part: str, restarts: int = 0, **status: object) -> None:
    name = f"{part}-7d9-x"
    status.setdefault("conditions", [{"type": "Ready", "status": "True"}])
    status.setdefault("phase", "Running")
    status.setdefault(
        "containerStatuses", [{"name": part, "ready": True, "restartCount": restarts, "state": {}}]
    )
    metadata = {
        "name": name,
        "namespace": "llm-lab",
        "labels": LAB_LABELS | {"app.kubernetes.io/name": part},
    }
    cluster.put(f"api/v1/namespaces/llm-lab/pods/{name}", status=status, metadata=metadata)


def _connected(settings: Settings, **reachable: str) -> Settings:
    state.prepare(settings.state_dir)
    about = {"context": "fake", "overlay": "minikube-cpu", "reachable": reachable}
    state.write_json(settings.state_dir / port_forwards.CLUSTER_FILE, about)
    return load_settings(state_dir=settings.state_dir, place="cluster")


def test_a_notebook_does_not_choose_a_cluster_by_itself(
    cluster: FakeCluster, tmp_path: Path, monkeypatch
) -> None:
    """Without a named cluster, an error explains how to name one and no request is sent."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path / "state"))
    with pytest.raises(SettingsError, match="no cluster was named") as e:
        lab.stand_up("cluster")
    assert "LAB_CLUSTER_CONTEXT" in e.value.fix and cluster.requests == []


def test_a_notebook_stands_the_named_cluster_up_once(
    cluster: FakeCluster, tmp_path: Path, monkeypatch
) -> None:
    """The lab is applied once, reused the second time, and applied again if a part is not ready."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LAB_CLUSTER_CONTEXT", "fake")
    monkeypatch.setenv("LAB_CLUSTER_OVERLAY", "minikube-cpu")
    cluster.healthy()
    cluster.roll_out(kubectl.render("minikube-cpu"))
    try:
        settings = lab.stand_up("cluster")
        assert settings.place == "cluster" and settings.endpoint("llama_stack").startswith(
            "http://127.0.0.1:"
        )
        assert settings.endpoint("mcp") == port_forwards.TOOLS_INSIDE
        n = len(applied(tmp_path))
        assert lab.stand_up("cluster").endpoint("tempo") == settings.endpoint("tempo")
        assert len(applied(tmp_path)) == n
        vllm = cluster.objects["apis/apps/v1/namespaces/llm-lab/deployments/vllm"]
        vllm["metadata"]["generation"] = 1
        vllm["status"]["observedGeneration"] = 0
        with pytest.raises(Exception, match="vllm"):
            monkeypatch.setattr(driver.up, "__defaults__", (None, 0.1))
            lab.stand_up("cluster")
        assert len(applied(tmp_path)) > n
    finally:
        driver.down(load_settings(place="cluster"), "fake", wait_s=60)


def test_the_parts_of_a_cluster_are_a_frame(cluster: FakeCluster, settings: Settings) -> None:
    """There is one row per pod: state or reason, restarts, local port, memory."""
    connected = _connected(settings, vllm="http://127.0.0.1:18000")
    _pod(cluster, "vllm", restarts=3)
    _pod(cluster, "documents", phase="Succeeded", conditions=[])
    back_off = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    _pod(
        cluster,
        "tempo",
        conditions=[],
        phase="Pending",
        containerStatuses=[{"name": "tempo", "restartCount": 1, "state": back_off}],
    )
    usage = {"containers": [{"usage": {"memory": "300Mi"}}, {"usage": {"memory": "1Gi"}}]}
    cluster.put("apis/metrics.k8s.io/v1beta1", resources=[])
    metadata = {"name": "vllm-7d9-x", "namespace": "llm-lab", "labels": {}}
    path = "apis/metrics.k8s.io/v1beta1/namespaces/llm-lab/pods/vllm-7d9-x"
    cluster.put(path, **usage, metadata=metadata)
    frame = places.status_frame(connected).set_index("part")
    assert frame.state.to_dict() == {"documents": "done", "tempo": "pending", "vllm": "ready"}
    assert frame.loc["vllm", ["port", "rss_mib", "restarts"]].tolist() == ["18000", 1324, 3]
    assert "CrashLoopBackOff" in frame.loc["tempo", "what"] and frame.rss_mib.isna().sum() == 2
    assert frame.rss_mib.idxmax() == "vllm" and frame.rss_mib.sum() == 1324


def test_without_a_metrics_server_memory_comes_from_the_parts_metrics(
    cluster: FakeCluster, settings: Settings
) -> None:
    """Memory comes from Prometheus where a process exports it, and is missing elsewhere."""
    connected = _connected(settings).model_copy(update={"prometheus_url": cluster.url})
    _pod(cluster, "vllm")
    _pod(cluster, "grafana")
    labels = {"__name__": "process_resident_memory_bytes", "job": "vllm", "pod": "vllm-7d9-x"}
    series = [{"metric": labels, "value": [1.0, str(5 * 2**20)]}]
    data = {"resultType": "vector", "result": series}
    cluster.objects["api/v1/query"] = {"status": "success", "data": data, "metadata": {}}
    frame = places.status_frame(connected).set_index("part")
    assert frame.rss_mib["vllm"] == 5 and frame.rss_mib.isna()["grafana"]


def test_an_empty_cluster_has_no_frame(cluster: FakeCluster, settings: Settings) -> None:
    """An empty cluster raises NotUp instead of returning an empty table."""
    with pytest.raises(NotUp, match="no cluster is connected"):
        places.status_frame(load_settings(state_dir=settings.state_dir, place="cluster"))
    with pytest.raises(NotUp, match="no pod of the lab"):
        places.status_frame(_connected(settings))


@pytest.fixture(scope="module")
def tool_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real tool server and yield its address."""
    port = ports.choose()["mcp"]
    folder = tmp_path_factory.mktemp("tools")
    arguments = [f"--host={HOST}", f"--port={port}", f"--db={folder / 'world.sqlite'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.tools", *arguments], cwd=REPO, stdout=log, stderr=log
        )
    try:
        limit = time.monotonic() + 240
        while True:
            try:
                httpx.get(f"http://{HOST}:{port}/healthz", timeout=60).raise_for_status()
                break
            except httpx.HTTPError:
                text = (folder / "log").read_text()
                assert time.monotonic() < limit and process.poll() is None, text
                time.sleep(0.1)
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(60)


def test_the_tools_are_read_over_the_port_forward(tool_server: str, settings: Settings) -> None:
    """The settings keep the address inside the cluster, and the table uses the forwarded port."""
    connected = _connected(settings, mcp=tool_server).model_copy(
        update={"mcp_url": port_forwards.TOOLS_INSIDE}
    )
    tools = places.tools_frame(connected)
    assert (
        len(tools) > 5
        and tools.writes.sum() >= 1
        and connected.endpoint("mcp") == port_forwards.TOOLS_INSIDE
    )
