"""The lab goes up in the fake cluster and comes down again."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

from lab.errors import PartFailed, SetupError, StackError
from lab.settings import Settings, load_settings
from lab.stack import cluster as driver
from lab.stack import ports, state
from lab.stack.cluster import kubectl, port_forwards, rollout
from lab.stack.cluster.api import PART_OF, Api
from tests.stack_cluster.fake_cluster import FakeCluster, applied

pytestmark = pytest.mark.slow  # starts processes
LAB_LABELS = dict([PART_OF.split("=")])


def test_up_applies_in_two_steps_waits_and_opens_port_forwards(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """Namespaces are applied first, in the named context, and every port forward answers."""
    cluster.healthy()
    cluster.roll_out(kubectl.render("minikube-cpu"))
    try:
        urls = driver.up(settings, "fake", "minikube-cpu", wait_s=60)
        assert (
            urls.keys() == port_forwards.SERVICES.keys()
            and urls["mcp"] == port_forwards.TOOLS_INSIDE
        )
        assert all(
            port_forwards.answers(int(u.rpartition(":")[2])) for n, u in urls.items() if n != "mcp"
        )
        assert load_settings(state_dir=settings.state_dir).endpoint("grafana") == urls["grafana"]
        calls = [
            line for line in (tmp_path / "calls.log").read_text().splitlines() if " apply " in line
        ]
        assert len(calls) == 2 and all("--context fake apply --server-side" in c for c in calls)
        kinds = [d["kind"] for d in applied(tmp_path)]
        assert kinds.index("Namespace") == 0 and "Namespace" not in kinds[2:]
        secret = cluster.objects["api/v1/namespaces/llm-lab-obs/secrets/grafana-admin"]
        assert len(secret["stringData"]["password"]) >= 20
        assert secret["stringData"]["password"] not in (tmp_path / "calls.log").read_text()
    finally:
        driver.down(settings, "fake", wait_s=60)
    assert not (settings.state_dir / "endpoints.json").exists()


def test_up_stops_before_it_changes_anything(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """The error contains what the preflight missed, and nothing is applied."""
    cluster.healthy()
    cluster.objects.pop("apis/monitoring.coreos.com/v1")
    with pytest.raises(StackError, match="bundle.yaml"):
        driver.up(settings, "fake", "minikube-cpu")
    assert not (tmp_path / "applied.yaml").exists()
    assert all(method == "GET" for method, _ in cluster.requests)


def test_an_apply_that_is_rejected_is_an_error(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """The error contains kubectl's message."""
    cluster.healthy()
    (tmp_path / "refuse").write_text("Error from server (Forbidden): namespaces is forbidden")
    with pytest.raises(StackError, match="namespaces is forbidden"):
        driver.up(settings, "fake", "minikube-cpu")


def _vllm(cluster: FakeCluster, **pod_status: object) -> None:
    cluster.healthy()
    cluster.roll_out(kubectl.render("minikube-cpu"))
    cluster.objects["apis/apps/v1/namespaces/llm-lab/deployments/vllm"]["status"] = {
        "readyReplicas": 0
    }
    labels = {"app.kubernetes.io/name": "vllm"}
    meta = {"name": "vllm-1", "labels": labels}
    cluster.put("api/v1/namespaces/llm-lab/pods/vllm-1", metadata=meta, status=pod_status)


def test_a_pod_that_cannot_start_ends_the_wait_at_once(
    cluster: FakeCluster, settings: Settings
) -> None:
    """An image that can never be pulled fails at once, with the commands to look closer."""
    waiting = {"waiting": {"reason": "ErrImageNeverPull", "message": "image is not present"}}
    _vllm(cluster, containerStatuses=[{"name": "vllm", "ready": False, "state": waiting}])
    with pytest.raises(PartFailed, match="ErrImageNeverPull") as e:
        driver.up(settings, "fake", "minikube-cpu", wait_s=600)
    assert e.value.part == "vllm" and "describe deployment vllm" in e.value.fix


def test_a_pod_that_waits_for_a_gpu_is_reported_in_the_schedulers_words(
    cluster: FakeCluster, settings: Settings
) -> None:
    """A pending pod is waited for, and the timeout error contains the scheduler's reason."""
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    }
    _vllm(cluster, conditions=[unschedulable])
    with pytest.raises(PartFailed, match="Insufficient nvidia.com/gpu"):
        driver.up(settings, "fake", "minikube-cpu", wait_s=0.1)


def _waiting(reason: str, message: str, **more: object) -> dict[str, object]:
    """Return the status of a container that waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": "vllm", "ready": False, "state": state, **more}


SLOW = {
    "an image that is not there": (
        {"containerStatuses": [_waiting("ErrImagePull", "llm-lab/lab:0.1.0: not found")]},
        "ErrImagePull: vllm llm-lab/lab:0.1.0: not found",
    ),
    "the same, backed off": (
        {"containerStatuses": [_waiting("ImagePullBackOff", "Back-off pulling image")]},
        "ImagePullBackOff: vllm Back-off pulling image",
    ),
    "an init container's image": (
        {"initContainerStatuses": [_waiting("ErrImagePull", "pull access denied")]},
        "pull access denied",
    ),
    "a server that exits": (
        {
            "containerStatuses": [
                _waiting(
                    "CrashLoopBackOff",
                    "back-off 20s restarting failed container",
                    lastState={"terminated": {"exitCode": 1, "reason": "Error"}},
                )
            ]
        },
        "exit status 1",
    ),
    "a pod without room": (
        {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/1 nodes are available: 1 Insufficient cpu.",
                }
            ]
        },
        "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.",
    ),
}


@pytest.mark.parametrize("fault", SLOW)
def test_a_pod_that_is_stuck_is_reported_within_a_minute(
    fault: str, cluster: FakeCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the workload and the cluster's reason, although the pod might recover."""
    assert rollout.PATIENCE_S <= 55
    monkeypatch.setattr(rollout, "PATIENCE_S", 0.3)
    status, words = SLOW[fault]
    _vllm(cluster, **status)
    cluster.logs["vllm-1"] = "ValueError: User-specified max_model_len (8192) is greater"
    with pytest.raises(PartFailed, match="Deployment vllm has not got ready for 0 s") as e:
        driver.up(settings, "fake", "minikube-cpu", wait_s=600)
    assert e.value.part == "vllm" and words in e.value.got
    assert ("max_model_len" in e.value.got) == (fault == "a server that exits")


def test_a_pod_for_which_a_cluster_autoscaler_adds_a_node_is_waited_for(
    cluster: FakeCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a TriggeredScaleUp event, only the total time limit ends the wait."""
    monkeypatch.setattr(rollout, "PATIENCE_S", 0.0)
    _vllm(cluster, **SLOW["a pod without room"][0])
    cluster.put(
        "api/v1/namespaces/llm-lab/events/e",
        reason="TriggeredScaleUp",
        involvedObject={"name": "vllm-1"},
    )
    with pytest.raises(PartFailed, match=r"not ready after 0 s"):
        driver.up(settings, "fake", "minikube-cpu", wait_s=0.3)


def test_a_job_whose_pods_crash_until_their_server_is_up_is_waited_for(
    cluster: FakeCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crashes of a Job's pods are waited for, as the Job limits its own retries."""
    monkeypatch.setattr(rollout, "PATIENCE_S", 0.0)
    cluster.healthy()
    cluster.roll_out(kubectl.render("minikube-cpu"))
    job = cluster.objects["apis/batch/v1/namespaces/llm-lab/jobs/documents"]
    job["status"] = {"succeeded": 0}
    labels = {"app.kubernetes.io/name": "documents", "app.kubernetes.io/component": "task"}
    labels |= LAB_LABELS
    crashes = {**_waiting("CrashLoopBackOff", "back-off"), "name": "documents"}
    cluster.put(
        "api/v1/namespaces/llm-lab/pods/documents-1",
        metadata={"name": "documents-1", "labels": labels},
        status={"containerStatuses": [crashes]},
    )
    with pytest.raises(PartFailed, match="documents was not ready after"):
        driver.up(settings, "fake", "minikube-cpu", wait_s=0.3)


@pytest.mark.parametrize(
    ("minor", "fits"), [("20", False), ("26", False), ("27", True), ("34+", True)]
)
def test_a_kubectl_that_is_too_old_is_refused(
    minor: str, fits: bool, cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """A release that cannot render the overlays, such as Debian 12's, is refused with a link."""
    (tmp_path / "minor").write_text(minor)
    if fits:
        assert kubectl.named("fake")
        return
    for verb in (driver.preflight, driver.up):
        with pytest.raises(SetupError, match=r"1\.27 or newer") as e:
            verb(settings, "fake", "minikube-cpu")
        assert "https://kubernetes.io/docs/tasks/tools/" in e.value.fix
        assert "apt-get" not in e.value.fix


def test_without_an_operator_prometheus_never_starts(
    cluster: FakeCluster, settings: Settings
) -> None:
    """The custom resource alone creates no pod, and the error names the operator."""
    cluster.healthy()
    cluster.roll_out(kubectl.render("minikube-cpu"))
    cluster.objects.pop("apis/apps/v1/namespaces/llm-lab-obs/statefulsets/prometheus-lab")
    with pytest.raises(StackError, match="operator"):
        driver.up(settings, "fake", "minikube-cpu", wait_s=0.1)


def test_a_failed_job_is_an_error(cluster: FakeCluster) -> None:
    """A failed Job ends the wait."""
    cluster.put(
        "apis/batch/v1/namespaces/llm-lab/jobs/documents",
        metadata={"name": "documents", "namespace": "llm-lab", "labels": LAB_LABELS},
        spec={"template": {"metadata": {"labels": {}}}},
        status={"conditions": [{"type": "Failed", "status": "True"}]},
    )
    with pytest.raises(PartFailed, match="documents cannot get ready"):
        rollout.wait(Api("fake"), {("Job", "llm-lab", "documents")}, 60, None)


def test_status_shows_each_workload(cluster: FakeCluster, settings: Settings) -> None:
    """Only workloads with the lab's label are shown."""
    cluster.roll_out(kubectl.render("minikube-cpu"))
    cluster.put("apis/apps/v1/namespaces/other/deployments/nginx", spec={"template": {}})
    rows = {s.name: s for s in driver.status(settings, "fake")}
    assert {"vllm", "llama-stack", "lab-tools", "tempo", "grafana", "otel-collector"} <= rows.keys()
    assert "nginx" not in rows and rows["vllm"].progress == "1 of 1 ready"


def test_down_removes_only_objects_of_the_lab(cluster: FakeCluster, settings: Settings) -> None:
    """Namespaces and cluster-wide objects with the lab's label go; similar names stay."""
    cluster.put("api/v1/namespaces/llm-lab", metadata={"name": "llm-lab", "labels": LAB_LABELS})
    cluster.put("api/v1/namespaces/llm-lab-old", metadata={"name": "llm-lab-old"})
    rbac = "apis/rbac.authorization.k8s.io/v1"
    role_name = "llm-lab-otel-collector"
    cluster.put(
        f"{rbac}/clusterroles/{role_name}", metadata={"name": role_name, "labels": LAB_LABELS}
    )
    cluster.put(f"{rbac}/clusterroles/admin")
    meta = {"name": "llm-lab-prometheus", "namespace": "gpu-operator", "labels": LAB_LABELS}
    cluster.put(f"{rbac}/namespaces/gpu-operator/roles/llm-lab-prometheus", metadata=meta)
    removed = driver.down(settings, "fake", wait_s=60)
    assert set(removed) == {
        "namespaces/llm-lab",
        "clusterroles/llm-lab-otel-collector",
        "roles/llm-lab-prometheus",
    }
    assert set(cluster.objects) == {"api/v1/namespaces/llm-lab-old", f"{rbac}/clusterroles/admin"}
    assert driver.down(settings, "fake", wait_s=60) == []


def test_down_reports_what_does_not_go(cluster: FakeCluster, settings: Settings) -> None:
    """A namespace that a finalizer keeps is an error."""
    cluster.put("api/v1/namespaces/llm-lab", metadata={"name": "llm-lab", "labels": LAB_LABELS})
    cluster.sticky.add("api/v1/namespaces/llm-lab")
    with pytest.raises(StackError, match="still there"):
        driver.down(settings, "fake", wait_s=0.1)


def test_a_port_forward_that_dies_is_restarted_and_ends_on_request(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    """A killed kubectl port-forward is started again, and none is left behind."""
    state.prepare(tmp_path)
    port = ports.choose()["vllm"]
    command = kubectl.named("fake").forward_command("llm-lab", "vllm", port, 8000)
    process = psutil.Process(port_forwards._start(tmp_path, {"x": command}).pid)
    try:
        _wait_until(lambda: port_forwards.answers(port))
        first = process.children()[0]
        first.kill()
        _wait_until(lambda: first not in process.children() and port_forwards.answers(port))
    finally:
        port_forwards.close_forwards(tmp_path)
    assert not port_forwards.answers(port) and not process.is_running()


def test_a_port_forward_that_never_opens_is_an_error_and_leaves_nothing(
    cluster: FakeCluster, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error shows the command to try, and no process stays."""
    cluster.healthy()
    cluster.roll_out(kubectl.render("minikube-cpu"))
    program = tmp_path / "kubectl"
    text = program.read_text().replace(
        'if "port-forward" in args:\n', 'if "port-forward" in args:\n    sys.exit(1)\n'
    )
    program.write_text(text)
    monkeypatch.setattr(port_forwards, "FORWARDS_UP_S", 1.0)
    with pytest.raises(StackError, match="no way to"):
        driver.up(settings, "fake", "minikube-cpu", wait_s=60)
    assert not (settings.state_dir / "cluster.json").exists()


def test_inside_a_cluster_no_port_forward_is_needed(
    cluster: FakeCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook in a pod uses the names of the Services."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    documents = kubectl.render("minikube-cpu")
    urls = port_forwards.open_forwards(kubectl.named("fake"), settings, "minikube-cpu", documents)
    assert urls["tempo"] == "http://tempo.llm-lab-obs.svc:3200"
    assert json.loads((settings.state_dir / "endpoints.json").read_text()) == urls


def test_a_port_forward_follows_an_external_name() -> None:
    """A Service of type ExternalName is forwarded to the Service that it names."""
    services = port_forwards._services(kubectl.render("cluster-existing-prometheus"))
    assert services["prometheus"] == ("monitoring", "kps-kube-prometheus-stack-prometheus", 9090)


def test_openshift_has_no_prometheus_to_forward() -> None:
    """All parts are forwarded except Prometheus, which is queried through Thanos' Route."""
    services = port_forwards._services(kubectl.render("openshift"))
    assert port_forwards.SERVICES.keys() - services.keys() == {"prometheus"}


def _wait_until(condition, limit_s: float = 120.0) -> None:
    """Poll until the condition holds; fail after `limit_s` seconds."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "the condition did not hold in time"
        time.sleep(0.05)
