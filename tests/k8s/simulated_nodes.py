"""Simulate the nodes of a cluster on a real API server.

Pods that are scheduled become ready, the pods of Jobs succeed, claims are bound, and the Prometheus
operator's StatefulSet appears. Everything else, such as scheduling and rollouts, is real.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from kubernetes import client

MONITORING = ("monitoring.coreos.com", "v1")
CUSTOM = {
    MONITORING: {
        "Prometheus": "prometheuses",
        "ServiceMonitor": "servicemonitors",
        "PodMonitor": "podmonitors",
        "PrometheusRule": "prometheusrules",
    },
    ("keda.sh", "v1alpha1"): {"ScaledObject": "scaledobjects"},
}
GPU_NODES = ("gpu-0", "gpu-1")
OTHER_NODES = ("cpu-0", "cpu-1")


class Nodes(threading.Thread):
    """Do what the kubelets of two GPU nodes and two CPU nodes would do, until `ended` is set."""

    def __init__(self, api: client.ApiClient) -> None:
        super().__init__(name="simulated nodes", daemon=True)
        self.core = client.CoreV1Api(api)
        self.apps = client.AppsV1Api(api)
        self.custom = client.CustomObjectsApi(api)
        self.storage = client.StorageV1Api(api)
        self.ended = threading.Event()

    def prepare(self) -> None:
        """Create the operators' resource definitions, a default storage class and the nodes."""
        for (group, version), kinds in CUSTOM.items():
            for kind, plural in kinds.items():
                crd = _definition(group, version, kind, plural)
                self.custom.create_cluster_custom_object(
                    "apiextensions.k8s.io", "v1", "customresourcedefinitions", crd
                )
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        metadata = {"name": "standard", "annotations": default}
        self.storage.create_storage_class(
            {"metadata": metadata, "provisioner": "lab.test/simulated"}
        )
        for name in (*GPU_NODES, *OTHER_NODES):
            gpus = {"nvidia.com/gpu": "1"} if name in GPU_NODES else {}
            labels = {"kubernetes.io/hostname": name} | (
                {"nvidia.com/gpu.present": "true"} if gpus else {}
            )
            self.core.create_node({"metadata": {"name": name, "labels": labels}})
            room = {"cpu": "8", "memory": "32Gi", "pods": "50"} | gpus
            ready = {
                "type": "Ready",
                "status": "True",
                "reason": "Simulated",
                "message": "",
                "lastHeartbeatTime": _now(),
            }
            conditions = [ready | {"lastTransitionTime": _now()}]
            status = {"capacity": room, "allocatable": room, "conditions": conditions}
            self.core.patch_node_status(name, {"status": status})
            self.core.patch_node(name, {"spec": {"taints": []}})

    def run(self) -> None:
        while not self.ended.wait(0.5):
            for pod in self.core.list_pod_for_all_namespaces().items:
                self._pod(pod)
            for claim in self.core.list_persistent_volume_claim_for_all_namespaces().items:
                self._claim(claim)
            prometheuses = self.custom.list_cluster_custom_object(*MONITORING, "prometheuses")
            for prometheus in prometheuses["items"]:
                self._operator(prometheus)

    def _pod(self, pod: Any) -> None:
        meta = pod.metadata
        where = (meta.name, meta.namespace)
        if meta.deletion_timestamp:
            with _may_be_gone():
                self.core.delete_namespaced_pod(*where, grace_period_seconds=0)
            return
        is_job = any(o.kind == "Job" for o in meta.owner_references or [])
        done = is_job and time.time() - meta.creation_timestamp.timestamp() > 2
        phase = "Succeeded" if done else "Running"
        if not pod.spec.node_name or pod.status.phase in (phase, "Succeeded"):
            return
        types = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        conditions = [
            {
                "type": t,
                "status": str(not done or t == "PodScheduled"),
                "lastTransitionTime": _now(),
            }
            for t in types
        ]
        state = (
            {"terminated": {"exitCode": 0, "finishedAt": _now()}}
            if done
            else {"running": {"startedAt": _now()}}
        )
        containers = [
            {
                "name": c.name,
                "image": c.image,
                "imageID": c.image,
                "ready": not done,
                "restartCount": 0,
                "state": state,
            }
            for c in pod.spec.containers
        ]
        status = {"phase": phase, "conditions": conditions, "containerStatuses": containers}
        with _may_be_gone():
            self.core.patch_namespaced_pod_status(*where, {"status": status})

    def _claim(self, claim: Any) -> None:
        if claim.status.phase == "Bound":
            return
        meta = claim.metadata
        spec = claim.spec
        volume = {
            "capacity": {"storage": spec.resources.requests["storage"]},
            "accessModes": spec.access_modes,
            "storageClassName": spec.storage_class_name,
            "hostPath": {"path": "/simulated"},
            "claimRef": {"namespace": meta.namespace, "name": meta.name, "uid": meta.uid},
        }
        with _may_be_gone():
            self.core.create_persistent_volume(
                {"metadata": {"name": f"pv-{meta.uid}"}, "spec": volume}
            )

    def _operator(self, prometheus: dict[str, Any]) -> None:
        meta = prometheus["metadata"]
        spec = prometheus["spec"]
        owner = {
            "apiVersion": "/".join(MONITORING),
            "kind": "Prometheus",
            "name": meta["name"],
            "uid": meta["uid"],
        }
        labels = {"app.kubernetes.io/name": "prometheus"}
        pod = {
            "containers": [
                {"name": "prometheus", "image": spec["image"], "resources": spec["resources"]}
            ]
        }
        template = {"metadata": {"labels": labels | spec["podMetadata"]["labels"]}, "spec": pod}
        stateful_set = {
            "metadata": {"name": f"prometheus-{meta['name']}", "ownerReferences": [owner]},
            "spec": {
                "replicas": spec["replicas"],
                "serviceName": "prometheus-operated",
                "selector": {"matchLabels": labels},
                "template": template,
            },
        }
        with _may_be_gone():
            self.apps.create_namespaced_stateful_set(meta["namespace"], stateful_set)


def _definition(group: str, version: str, kind: str, plural: str) -> dict[str, Any]:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything, "status": anything}}
    versions = [
        {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    ]
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": versions}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": spec,
    }


@contextlib.contextmanager
def _may_be_gone() -> Iterator[None]:
    """Ignore objects that changed, exist already or are being deleted until the next pass."""
    try:
        yield
    except client.ApiException as e:
        if e.status not in (403, 404, 409):
            raise


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
