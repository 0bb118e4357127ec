"""What the preflight finds, and that each miss comes with its fix."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from lab.errors import SettingsError, StackError
from lab.settings import Settings
from lab.stack import cluster as driver
from lab.stack.cluster import kubectl, preflight_checks
from lab.stack.cluster.kubectl import versions
from lab.stack.cluster.preflight_checks import quantity
from tests.stack_cluster.fake_cluster import FakeCluster


def test_a_cluster_that_has_everything_passes(cluster: FakeCluster, settings: Settings) -> None:
    """Every finding is good."""
    cluster.healthy()
    assert [f for f in driver.preflight(settings, "fake", "minikube-cpu") if not f.ok] == []


FAULTS: dict[str, tuple[Callable[[FakeCluster], object], str]] = {
    "default storage class": (
        lambda c: c.objects.pop("apis/storage.k8s.io/v1/storageclasses/standard"),
        "addons enable",
    ),
    "monitoring.coreos.com/v1": (
        lambda c: c.objects.pop("apis/monitoring.coreos.com/v1"),
        "bundle.yaml",
    ),
    "namespace llm-lab": (lambda c: c.put("api/v1/namespaces/llm-lab"), "kubectl delete namespace"),
    "room": (
        lambda c: c.objects["api/v1/nodes/one"]["status"]["allocatable"].update(memory="2Gi"),
        "--memory=",
    ),
    "network policies": (
        lambda c: c.objects.pop("apis/apps/v1/namespaces/kube-system/daemonsets/calico-node"),
        "--cni=calico",
    ),
    "the lab's image": (
        lambda c: c.objects["api/v1/nodes/one"]["status"].pop("images"),
        "minikube image build",
    ),
    "Kubernetes": (lambda c: c.objects["version"].update(minor="27"), "minikube start"),
}


@pytest.mark.parametrize("miss", FAULTS)
def test_a_miss_is_found_with_its_fix(miss: str, cluster: FakeCluster, settings: Settings) -> None:
    """One thing is missing: exactly that is said, and what to type."""
    cluster.healthy()
    spoil, fix = FAULTS[miss]
    spoil(cluster)
    bad = [f for f in driver.preflight(settings, "fake", "minikube-cpu") if not f.ok]
    assert [f.name for f in bad] == [miss]
    assert fix in bad[0].fix


def test_a_gpu_overlay_wants_a_gpu(cluster: FakeCluster, settings: Settings) -> None:
    """Too few GPUs, and no labelled node."""
    cluster.healthy()
    bad = {f.name: f for f in driver.preflight(settings, "fake", "minikube-gpu") if not f.ok}
    assert (
        "--gpus=all" in bad["GPUs"].fix
        and "kubectl label node" in bad["GPU nodes are labelled"].fix
    )
    cluster.healthy(gpus=1)
    assert [f for f in driver.preflight(settings, "fake", "minikube-gpu") if not f.ok] == []


def test_the_cluster_overlay_asks_for_keda_and_for_the_users_secrets(
    cluster: FakeCluster, settings: Settings
) -> None:
    """Object storage and remote write have credentials that only the user knows."""
    cluster.healthy(gpus=8)
    bad = {f.name: f for f in driver.preflight(settings, "fake", "cluster") if not f.ok}
    assert {"keda.sh/v1alpha1", "Secret tempo-s3", "Secret prometheus-remote-write"} <= bad.keys()
    assert "create secret generic tempo-s3" in bad["Secret tempo-s3"].fix


def test_another_overlay_is_not_stood_up_on_top(cluster: FakeCluster, settings: Settings) -> None:
    """What only the former one has would stay: the preflight names it, and how to take it down."""
    cluster.healthy()
    for overlay, fine in (("minikube-cpu", True), ("cluster", False)):
        cluster.put("api/v1/namespaces/llm-lab", metadata={
            "name": "llm-lab", "labels": {"app.kubernetes.io/part-of": "llm-lab"},
            "annotations": {"llm-lab/overlay": overlay}})  # fmt: skip
        bad = [f for f in driver.preflight(settings, "fake", "minikube-cpu") if not f.ok]
        assert [f.name for f in bad] == ([] if fine else ["overlay in llm-lab"])
    assert "lab down --place cluster" in bad[0].fix


def test_a_volume_for_many_nodes_needs_a_class_that_can(
    cluster: FakeCluster, settings: Settings
) -> None:
    """Replicas on all nodes read the model; a block device serves one node."""
    cluster.healthy(gpus=8)
    cluster.objects["apis/storage.k8s.io/v1/storageclasses/standard"]["provisioner"] = (
        "ebs.csi.aws.com"
    )
    bad = {f.name: f for f in driver.preflight(settings, "fake", "cluster") if not f.ok}
    assert "ReadWriteMany" in bad["shared volume"].found and "EFS" in bad["shared volume"].fix


@pytest.mark.parametrize("context", ["", "production"])
def test_a_context_that_was_not_named_is_refused(
    context: str, cluster: FakeCluster, settings: Settings
) -> None:
    """No verb takes the current context, or one that does not exist; the server gets no request."""
    for verb in (driver.preflight, driver.up):
        with pytest.raises(SettingsError, match="context"):
            verb(settings, context, "minikube-cpu")
    for verb in (driver.status, driver.down):
        with pytest.raises(SettingsError, match="context"):
            verb(settings, context)
    assert cluster.asked == []


def test_an_overlay_that_does_not_exist_is_refused(
    cluster: FakeCluster, settings: Settings
) -> None:
    """With the names of those that do."""
    with pytest.raises(SettingsError, match="minikube-cpu"):
        driver.preflight(settings, "fake", "minikube")


@pytest.mark.parametrize(
    ("status", "advice"), [(403, "right"), (401, "right"), (500, "wait"), (503, "wait")]
)
def test_a_refusal_says_what_the_server_said(
    status: int, advice: str, cluster: FakeCluster, settings: Settings
) -> None:
    """403 and 500 are StackErrors with the server's words and with what to do."""
    cluster.healthy()
    cluster.refuse[("GET", "api/v1/nodes")] = status
    with pytest.raises(StackError, match="no GET for you") as e:
        driver.preflight(settings, "fake", "minikube-cpu")
    assert advice in e.value.fix


def test_a_server_that_does_not_answer_is_a_clear_error(
    cluster: FakeCluster, settings: Settings
) -> None:
    """Nobody listens: the context is named, and what to look at."""
    cluster.close()
    with pytest.raises(StackError, match="does not answer") as e:
        driver.status(settings, "fake")
    assert "minikube status" in e.value.fix


OPENSHIFT = "apis/route.openshift.io/v1"
MONITORING = "api/v1/namespaces/openshift-monitoring/configmaps/cluster-monitoring-config"


def _openshift(cluster: FakeCluster) -> None:
    """A cluster that has what the overlay openshift asks for."""
    cluster.healthy()
    cluster.objects[OPENSHIFT] = {"resources": [], "metadata": {}}
    cluster.put(MONITORING, data={"config.yaml": "enableUserWorkload: true\n"})
    daemonsets = "apis/apps/v1/namespaces"
    cluster.objects.pop(f"{daemonsets}/kube-system/daemonsets/calico-node")
    ovn = f"{daemonsets}/openshift-ovn-kubernetes/daemonsets/ovnkube-node"
    cluster.put(ovn, spec={"template": {}})
    images = [{"names": [versions()["LAB_OPENSHIFT"]]}]
    cluster.objects["api/v1/nodes/one"]["status"]["images"] = images


def test_openshift_passes_with_its_own_overlay(cluster: FakeCluster, settings: Settings) -> None:
    """Its plug-in enforces policies, user workload monitoring is on; no operator is wanted."""
    _openshift(cluster)
    assert [f for f in driver.preflight(settings, "fake", "openshift") if not f.ok] == []


@pytest.mark.parametrize(
    ("overlay", "spoil", "miss", "words"),
    [
        ("minikube-cpu", lambda c: None, "platform", "use the overlay openshift"),
        (
            "openshift",
            lambda c: c.put(MONITORING, data={"config.yaml": "# enableUserWorkload: true\n"}),
            "user workload monitoring",
            "enableUserWorkload: true",
        ),
        ("openshift", lambda c: c.objects.pop(OPENSHIFT), "platform", "another overlay"),
    ],
)
def test_openshift_is_told_from_kubernetes(
    overlay: str, spoil: Callable, miss: str, words: str, cluster: FakeCluster, settings: Settings
) -> None:
    """Its admission refuses fixed users, and only it has Routes: found before any apply."""
    _openshift(cluster)
    spoil(cluster)
    bad = {f.name: f for f in driver.preflight(settings, "fake", overlay) if not f.ok}
    assert words in bad[miss].fix and bad[miss].required


def test_what_other_pods_request_is_no_room(cluster: FakeCluster, settings: Settings) -> None:
    """16 CPUs, of which others have 13: a load pod would stay Pending for ever."""
    cluster.healthy()
    container = {"resources": {"requests": {"cpu": "13", "memory": "1Gi"}}}
    cluster.put(
        "api/v1/namespaces/other/pods/big",
        spec={"containers": [container]},
        status={"phase": "Running"},
    )
    bad = [f for f in driver.preflight(settings, "fake", "minikube-cpu") if not f.ok]
    assert [f.name for f in bad] == ["room"] and "3.0 CPUs" in bad[0].found
    cluster.objects["api/v1/namespaces/other/pods/big"]["status"]["phase"] = "Succeeded"
    assert [f for f in driver.preflight(settings, "fake", "minikube-cpu") if not f.ok] == []


def test_the_preflights_load_is_the_load_jobs() -> None:
    """Pods and requests are those of lab/k8s/load."""
    job = next(d for d in kubectl.render("load", kubectl.K8S) if d["kind"] == "Job")
    assert job["spec"]["completions"] == preflight_checks.LOAD_PODS
    for resource, value in preflight_checks.LOAD_REQUESTS.items():
        assert preflight_checks.requested(job, resource) == value


def test_arm_nodes_need_vllms_image_for_them(cluster: FakeCluster, settings: Settings) -> None:
    """The one for x86 does not start there."""
    cluster.healthy()
    cluster.objects["api/v1/nodes/one"]["status"]["nodeInfo"] = {"architecture": "arm64"}
    bad = [f for f in driver.preflight(settings, "fake", "minikube-cpu") if not f.ok]
    assert [f.name for f in bad] == ["processors"] and "minikube-cpu-arm64" in bad[0].fix
    assert [f for f in driver.preflight(settings, "fake", "minikube-cpu-arm64") if not f.ok] == []


def test_a_secret_that_ends_with_a_line_end_is_found(
    cluster: FakeCluster, settings: Settings
) -> None:
    """`--from-file` takes the editor's last line end for a part of the password."""
    cluster.healthy(gpus=8)
    path = "api/v1/namespaces/llm-lab-obs/secrets/tempo-s3"
    cluster.put(path, data={"endpoint": _base64("s3:9000"), "bucket": _base64("traces\n")})
    bad = {f.name: f for f in driver.preflight(settings, "fake", "cluster") if not f.ok}
    assert "printf %s" in bad["Secret tempo-s3, bucket"].fix
    assert "Secret tempo-s3" not in bad and "Secret tempo-s3, endpoint" not in bad
    assert "Secret alert-receiver" in bad


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_quantities() -> None:
    """Kubernetes' spellings of numbers."""
    assert [quantity(q) for q in ("500m", "2", "1Gi", "1k", "0")] == [0.5, 2.0, 2**30, 1000.0, 0.0]
